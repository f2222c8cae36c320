"""A benchmark on disk or on the Hub, opened: its pictures, and the class of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from s3clip.evaluation.benchmarks import Benchmark
from s3clip.sources import Record, Sample, Shard
from s3clip.synonyms import SynonymSet


@dataclass(frozen=True)
class EvaluationSet:
    """The pictures of a benchmark and its classes.

    Attributes:
        name: of the benchmark.
        split: "test" or "val".
        convention: "coop", "clip_benchmark", or "own" for a user's set.
        class_names: in the convention's own words; the order of the labels.
        synonyms: the classes in that order: the name of each first, then the words of the builtin set.
        templates: of the convention.
        headline: the score that the convention reports: "top1" or "recall".
        shards: in order.
        expected_images: how many pictures there should be; None where nobody knows.
    """

    name: str
    split: str
    convention: str
    class_names: tuple[str, ...]
    synonyms: SynonymSet
    templates: tuple[str, ...]
    headline: str
    shards: tuple[Shard, ...]
    expected_images: int | None

    def label_of(self, sample: Sample | Record) -> int:
        """Return the position of the sample's class.

        Raises:
            ValueError: its label is no class; the sample is named.
        """
        raise NotImplementedError


def open_benchmark(
    benchmark: Benchmark, root: Path | str, *, convention: str | None = None
) -> EvaluationSet:
    """Open a benchmark.

    Args:
        benchmark: a row of the table, `s3clip.evaluation.benchmarks.find_benchmark(name or path of JSON)`.
        root: the folder of all data sets, or "hf://datasets" to stream from the Hub.
        convention: "coop" or "clip_benchmark"; None: the benchmark's first.

    Raises:
        FileNotFoundError: the set is not there; says what was looked for.
        ValueError: the benchmark has no such convention, or what is there contradicts the table.
    """
    raise NotImplementedError


def shards_of_process(shards: Sequence[Shard], process: int, processes: int) -> list[Shard]:
    """Return the shards that one of several processes reads: every `processes`-th, from number `process` on."""
    return list(shards[process::processes])
