"""A benchmark, on disk or on the Hub, opened: its pictures in order, with the class of each or its pixels."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from s3clip.evaluation.benchmarks.classes import class_lookup, match_classes, position_of
from s3clip.evaluation.benchmarks.layouts import open_layout
from s3clip.evaluation.benchmarks.masks import MaskedImage
from s3clip.evaluation.benchmarks.sets import ClassificationSet, SegmentationSet
from s3clip.evaluation.benchmarks.table import Benchmark, Masks
from s3clip.evaluation.scores import IGNORED
from s3clip.files.reach import allowed_places
from s3clip.images.sources import FileShard, Shard
from s3clip.printing import counted
from s3clip.texts.labels import NameIndex
from s3clip.texts.prompts import resolve_templates
from s3clip.texts.synonyms import SynonymSet
from s3clip.texts.templates import DEFAULT_TEMPLATES


def open_benchmark(
    benchmark: Benchmark,
    root: Path | str,
    *,
    convention: str | None = None,
    synonyms: SynonymSet | None = None,
    allow_addresses: str | Iterable[str] = (),
) -> ClassificationSet | SegmentationSet:
    """Open a benchmark of either task: list its pictures and its classes, and compare both with the table.

    Args:
        benchmark: a row of the table or of one's own, from `benchmarks.table.find_benchmark`.
        root: the folder of all data sets, or "hf://datasets" to read from the Hub. A row of one's own is
            looked for in the folder of its file.
        convention: "coop", "clip_benchmark" or "mmseg"; None: the benchmark's first.
        synonyms: other words for the same classes; None: those that the benchmark names.
        allow_addresses: where the paths in lists and tables of pictures may lead beside the folder that they
            begin at; see `s3clip.files.reach.allowed_places`. What a row names is opened wherever it is.

    Raises:
        FileNotFoundError: the set is not there; says what was looked for.
        ValueError: it has no such convention, or what is there contradicts the table: another number of
            classes, or more than masks tell apart, a picture that is listed twice, labels none of which is a
            class, or one that is the name of several.
    """
    name = benchmark.name
    chosen, rules = benchmark.convention(convention)
    on_hub = str(root).startswith("hf://")
    allowed = allowed_places(allow_addresses)
    words = SynonymSet.read(benchmark.synonyms) if synonyms is None else synonyms
    is_class = class_lookup(words, benchmark.aliases).__contains__
    found = open_layout(name, rules, benchmark.folder or (root if on_hub else Path(root)), allowed, is_class)
    problems = list(found.problems)
    if found.class_names is not None:
        words, differences = match_classes(found.class_names, words, benchmark.aliases)
        problems += differences
    classes = len(words.classes)
    if rules.classes not in (None, classes):
        where = "from its files" if found.class_names is not None else "in its synonyms"
        raise ValueError(f"{name}: expected {rules.classes} classes, got {classes} ({where})")
    labels = _listed_labels(found.shards)
    if labels is not None and rules.images not in (None, len(labels)):
        problems.append(f"{counted(len(labels), 'picture')} listed, {rules.images:,} expected")
    about: dict[str, Any] = {
        "name": name,
        "split": rules.split,
        "convention": chosen,
        "synonyms": words,
        "templates": resolve_templates(rules.templates or words.templates or DEFAULT_TEMPLATES),
        "headline": rules.headline,
        "shards": found.shards,
        "expected_images": rules.images,
    }
    if isinstance(found.layout, Masks):
        if classes > IGNORED:
            raise ValueError(
                f"{name}: expected at most {IGNORED} classes, as {IGNORED} in a mask is none, got {classes}"
            )
        return SegmentationSet(**about, problems=tuple(problems), layout=found.layout)
    lookup = class_lookup(words, benchmark.aliases)
    if labels is not None:
        problems += _without_pictures(name, labels, words.class_names, lookup)
    return ClassificationSet(**about, problems=tuple(problems), lookup=lookup)


def _listed_labels(shards: Sequence[Shard]) -> list[int | str | None] | None:
    """Return the label of every picture; None of tars and tables, which are not read for that."""
    if not all(isinstance(shard, FileShard | MaskedImage) for shard in shards):
        return None
    return [sample.label for shard in shards for sample in shard.samples()]


def _without_pictures(
    name: str, labels: Sequence[int | str | None], class_names: Sequence[str], lookup: NameIndex
) -> list[str]:
    """Return which classes have no picture, in words.

    Labels that are none of the classes are no difference: a run leaves such pictures out, and says so.
    """
    there = set()
    counts = Counter(labels)
    for label in counts:
        position = position_of(label, lookup)
        if position is None and class_names.count(str(label)) > 1:
            raise ValueError(
                f"{name}: {label!r} is the name of several classes; label by ids, and give these in the "
                f"synonym file"
            )
        if position is not None and 0 <= position < len(class_names):
            there.add(position)
    if not there:
        raise ValueError(
            f"{name}: none of the labels ({_some(sorted(map(str, counts)))}) is the id or name of a class "
            f"({_some(class_names)}); check the synonym file, or the folder or column of the labels"
        )
    missing = [each for i, each in enumerate(class_names) if i not in there]
    return [f"no picture of {counted(len(missing), 'class')}: {_some(missing)}"] if missing else []


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
