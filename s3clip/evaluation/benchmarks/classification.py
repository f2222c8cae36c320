"""A benchmark on disk or on the Hub, opened: its pictures in order, and the class of each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from s3clip.evaluation.benchmarks.classes import class_lookup, match_classes, words_of
from s3clip.evaluation.benchmarks.layouts import Found, open_layout
from s3clip.evaluation.benchmarks.table import Benchmark, Headline
from s3clip.images.sources import FileShard, Record, Sample, Shard
from s3clip.texts.prompts import resolve_templates
from s3clip.texts.synonyms import SynonymSet
from s3clip.texts.templates import DEFAULT_TEMPLATES


@dataclass(frozen=True)
class EvaluationSet:
    """The pictures of a benchmark and its classes.

    Attributes:
        name: of the benchmark.
        split: of the pictures: "test", "val".
        convention: "coop", "clip_benchmark", or what a row of one's own calls it.
        class_names: in the convention's own words; a class is its position here.
        synonyms: the classes in that order: the name of each first, then the words of the synonym file.
        templates: of the convention.
        headline: the score that the convention reports: "top1", or "recall", its mean over classes.
        shards: in order.
        expected_images: how many pictures there should be; None where nobody knows.
        problems: what differs from the table, in sentences for people.
        lookup: positions of classes by the strings that may label them.
    """

    name: str
    split: str
    convention: str
    class_names: tuple[str, ...]
    synonyms: SynonymSet
    templates: tuple[str, ...]
    headline: Headline
    shards: tuple[Shard, ...]
    expected_images: int | None
    problems: tuple[str, ...] = ()
    lookup: Mapping[str, int] = field(default_factory=dict, repr=False)

    def label_of(self, sample: Sample | Record) -> int:
        """Return the position of the sample's class.

        Raises:
            ValueError: its label is no class; the sample is named.
        """
        label = sample.label
        if isinstance(label, int) and not isinstance(label, bool):
            if 0 <= label < len(self.class_names):
                return label
            raise ValueError(
                f"{self.name}: {sample.key}: label {label}: expected 0 to {len(self.class_names) - 1}"
            )
        position = _position(label, self.lookup) if isinstance(label, str) else None
        if position is None:
            raise ValueError(f"{self.name}: {sample.key}: label {label!r} is none of the classes")
        return position


def open_benchmark(
    benchmark: Benchmark,
    root: Path | str,
    *,
    convention: str | None = None,
    synonyms: SynonymSet | None = None,
) -> EvaluationSet:
    """Open a benchmark: list its pictures and its classes, and compare both with the table.

    Args:
        benchmark: a row of the table or of one's own, from `benchmarks.table.find_benchmark`.
        root: the folder of all data sets, or "hf://datasets" to read from the Hub. A row of one's own is
            looked for in the folder of its file.
        convention: "coop" or "clip_benchmark"; None: the benchmark's first.
        synonyms: other words for the same classes; None: those that the benchmark names.

    Raises:
        FileNotFoundError: the set is not there; says what was looked for.
        ValueError: it has no such convention, or what is there contradicts the table: another number of
            classes, labels none of which is a class, or one that is the name of several.
    """
    if benchmark.is_segmentation:
        raise ValueError(f"{benchmark.name}: expected a benchmark of classification, got one of segmentation")
    chosen, rules = benchmark.convention(convention)
    on_hub = str(root).startswith("hf://")
    found = open_layout(benchmark.name, rules, benchmark.folder or (root if on_hub else Path(root)))
    words = SynonymSet.read(benchmark.synonyms) if synonyms is None else synonyms
    problems = list(found.problems)
    if found.class_names is not None:
        words, differences = match_classes(found.class_names, words, benchmark.aliases)
        problems += differences
    if rules.classes not in (None, len(words.classes)):
        raise ValueError(
            f"{benchmark.name}: expected {rules.classes} classes, got {len(words.classes)} "
            f"({'from its files' if found.class_names is not None else 'in its synonyms'})"
        )
    lookup = class_lookup(words, benchmark.aliases)
    problems += _count(benchmark.name, found, words.class_names, lookup, rules.images)
    return EvaluationSet(
        name=benchmark.name,
        split=rules.split,
        convention=chosen,
        class_names=tuple(words.class_names),
        synonyms=words,
        templates=resolve_templates(rules.templates or words.templates or DEFAULT_TEMPLATES),
        headline=rules.headline,
        shards=found.shards,
        expected_images=rules.images,
        problems=tuple(problems),
        lookup=lookup,
    )


def _position(label: str, lookup: Mapping[str, int]) -> int | None:
    position = lookup.get(label)
    return lookup.get(" ".join(words_of(label))) if position is None else position


def _count(
    name: str, found: Found, class_names: list[str], lookup: Mapping[str, int], expected: int | None
) -> list[str]:
    """Return how the files that are listed differ from the table; tars and parquet are not read for that.

    Labels that are none of the classes are no difference: a run leaves such pictures out, and says so.
    """
    if not all(isinstance(shard, FileShard) for shard in found.shards):
        return []
    counts = Counter(
        file.label for shard in found.shards if isinstance(shard, FileShard) for file in shard.files
    )
    there = set()
    for label in counts:
        position = _position(label, lookup) if isinstance(label, str) else label
        if position is None and class_names.count(str(label)) > 1:
            raise ValueError(
                f"{name}: {label!r} is the name of several classes; label by ids, and give these in the "
                f"synonym file"
            )
        if position is not None and 0 <= position < len(class_names):
            there.add(position)
    if not there:
        raise ValueError(
            f"{name}: none of the labels ({_few(sorted(map(str, counts)))}) is the id or name of a class "
            f"({_few(class_names)}); check the synonym file, or the folder or column of the labels"
        )
    problems = []
    if expected is not None and counts.total() != expected:
        problems.append(f"{counts.total():,} pictures are listed, {expected:,} expected")
    if missing := [each for i, each in enumerate(class_names) if i not in there]:
        problems.append(f"{len(missing)} classes have no picture: {_few(missing)}")
    return problems


def _few(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
