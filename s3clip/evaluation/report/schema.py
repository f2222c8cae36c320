"""What `run.json` is made of: benchmarks, the scores on them, and how long they took."""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field

from s3clip.evaluation.report.comparison import Difference, Value

HEADLINES = {"top1": "acc1", "recall": "mean_per_class_recall", "miou": "miou"}
"""The fields of a method's scores by the headlines of benchmarks, which are those of its differences."""

Count = Annotated[int, Field(ge=0, le=2**53)]
Said = list[tuple[str, Count]]
"""Names, such as those of classes that images were taken for, and how often."""


class RecognitionDifferences(Value):
    """A method's scores minus the control's."""

    top1: Difference
    recall: Difference


class RecognitionScores(Value):
    """How a method did on a benchmark of classification; see `MethodScores`."""

    name: str
    acc1: float
    acc5: float
    mean_per_class_recall: float
    differences: RecognitionDifferences
    calibration_error: float
    dropped: float
    seeds: Count
    acc1_spread: float
    mean_per_class_recall_spread: float
    levels: dict[str, float] = Field(default_factory=dict)
    mistake_distance: float | None = None


class PixelDifferences(Value):
    """A method's scores minus the control's."""

    miou: Difference
    pixel_accuracy: Difference


class PixelScores(Value):
    """How a method did on a benchmark of segmentation; `class_iou` is None where none occurs."""

    name: str
    miou: float
    pixel_accuracy: float
    differences: PixelDifferences
    class_iou: list[float | None]
    dropped: float


class Example(Value):
    """An image that was taken for another class; its thumbnail lies in the folder of the run."""

    key: str
    taken_for: str
    thumbnail: str | None


class _WorstClass(Value):
    name: str = Field(alias="class")
    images: Count
    taken_for: Said
    examples: list[Example]


class WorstRecall(_WorstClass):
    """A class that is recognised badly."""

    recall: float


class WorstIou(_WorstClass):
    """A class whose pixels are found badly."""

    iou: float


Own = TypeVar("Own", WorstRecall, WorstIou)


class WorstClasses(Value, Generic[Own]):
    """The classes that one of the methods does worst on."""

    method: str
    classes: list[Own]


class Counts(Value):
    """Images of a benchmark; `of` are those expected, or, where nobody knows, found."""

    scored: Count
    of: Count
    found: Count
    expected: Count | None
    broken: Count
    left_out: Count


class Broken(Value):
    """An image that cannot be scored, and why."""

    key: str
    error: str | None


class _Benchmark(Value):
    name: str
    split: str
    convention: str
    counts: Counts
    classes: Count
    scored_classes: Count
    texts: Count
    templates: list[str]
    configs: dict[str, dict[str, Any]]
    warnings: list[str]
    broken: list[Broken]


class Recognition(_Benchmark):
    """A benchmark of classification, and what was found on it."""

    task: Literal["classification"]
    headline: Literal["top1", "recall"]
    left_out_labels: Said
    scores: list[RecognitionScores]
    worst_classes: WorstClasses[WorstRecall]


class Segmentation(_Benchmark):
    """A benchmark of segmentation, and what was found on it."""

    task: Literal["segmentation"]
    headline: Literal["miou"]
    class_names: list[str]
    pixels: Count
    patch_features: str
    window: Count
    stride: Count
    short_side: Count
    threshold: float | None
    reduce_zero_label: bool
    scores: list[PixelScores]
    worst_classes: WorstClasses[WorstIou]


Scores = RecognitionScores | PixelScores
Benchmark = Annotated[Recognition | Segmentation, Field(discriminator="task")]


class Settings(Value):
    """Of a run; as for `compare`."""

    methods: list[str] | None
    min_images: int
    bootstrap: int
    draws: int
    seed: int
    control: str
    batch_size: int
    near_size: bool = False


class Model(Value):
    """Which model was scored."""

    name: str | None
    revision: str | None
    fingerprint: str
    dtype: str
    compiled: bool = False
    logit_scale: float


class Mean(Value):
    """A method's headline score, the mean over all benchmarks of a task, each of which it was scored on."""

    task: str
    name: str
    headline: float


class Timing(Value):
    """How long a benchmark took; `methods` has the milliseconds of each."""

    name: str
    images_encoded: Count
    encoding_seconds: float
    images_per_second: float | None
    scoring_seconds: float
    methods: dict[str, dict[str, float | None]]


class Measured(Value):
    """What differs from one run to the next; the memory of each process, where it is known."""

    seconds: float
    processes: int
    workers: int
    precision: str | None = None
    device: str
    peak_memory_mib: list[float | None]
    benchmarks: list[Timing]


def scores_of(benchmark: Recognition | Segmentation, method: str) -> Scores | None:
    """Return the scores of a method on a benchmark; None if it was not scored there."""
    return next((scores for scores in benchmark.scores if scores.name == method), None)


def headline_of(benchmark: Recognition | Segmentation, method: str) -> float | None:
    """Return the headline score of a method on a benchmark, in [0, 1]; None if it was not scored there."""
    scores = scores_of(benchmark, method)
    return None if scores is None else getattr(scores, HEADLINES[benchmark.headline])
