"""What an opened benchmark is, of either task: its pictures in order, its classes, and what labels them."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from s3clip.evaluation.benchmarks.classes import position_of
from s3clip.evaluation.benchmarks.masks import MaskedImage
from s3clip.evaluation.benchmarks.table import Headline, Masks
from s3clip.images.sources import Record, Sample, Shard
from s3clip.texts.labels import NameIndex
from s3clip.texts.synonyms import SynonymSet


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """The pictures of a benchmark and its classes.

    Attributes:
        name: of the benchmark.
        split: of the pictures: "test", "val".
        convention: "coop", "clip_benchmark", "mmseg", or what a row of one's own calls it.
        synonyms: the classes in the convention's order: its name for each first, then the words of the file.
        templates: of the convention.
        headline: the score that the convention reports: "top1", "recall" (its mean over classes), "miou".
        shards: the pictures, in order.
        expected_images: how many pictures there should be; None where nobody knows.
        problems: what differs from the table, in sentences for people.
    """

    task: ClassVar[str]
    name: str
    split: str
    convention: str
    synonyms: SynonymSet
    templates: tuple[str, ...]
    headline: Headline
    shards: tuple[Shard, ...]
    expected_images: int | None = None
    problems: tuple[str, ...] = ()

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """In the convention's own words; a class is its position here."""
        return tuple(self.synonyms.class_names)


@dataclass(frozen=True, kw_only=True)
class ClassificationSet(EvaluationSet):
    """A set each of whose pictures is of a class.

    Attributes:
        lookup: which class a label means.
    """

    task = "classification"
    lookup: NameIndex = field(default_factory=NameIndex, repr=False)

    def label_of(self, sample: Sample | Record) -> int:
        """Return the position of the sample's class.

        Raises:
            ValueError: its label is no class; the sample is named.
        """
        position, classes = position_of(sample.label, self.lookup), len(self.class_names)
        if position is None:
            raise ValueError(f"{self.name}: {sample.key}: label {sample.label!r} is none of the classes")
        if not 0 <= position < classes:
            raise ValueError(f"{self.name}: {sample.key}: label {position}: expected 0 to {classes - 1}")
        return position


@dataclass(frozen=True, kw_only=True)
class SegmentationSet(EvaluationSet):
    """A set whose pictures have a class for each pixel; each is a shard.

    Folders, label maps and sizes in the table are those of the configurations that SCLIP and NACLIP
    published, which are mmseg's. Pictures are resized with Pillow's bicubic filter here, with OpenCV's
    bilinear one there.

    Attributes:
        layout: how masks are read, and pictures cut.
    """

    task = "segmentation"
    shards: tuple[MaskedImage, ...]
    layout: Masks
