"""The benchmarks: the table in benchmarks.json, the schema of its rows, and rows of one's own.

A row names a set of classes and says, for each convention it is used under, which pictures, prompts and score
that convention has, and in which layouts the pictures are found. A file of one's own holds one such row; its
paths begin at the folder that it lies in.
"""

import os
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from s3clip.arguments import did_you_mean
from s3clip.files.folders import beside
from s3clip.files.json import checked, parse_json
from s3clip.texts.sources import BUILTIN

Headline = Literal["top1", "recall", "miou"]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CoopSplit(_Row):
    """CoOp's `split_zhou_*.json`: `{"test": [[file, label, class name], ...]}`."""

    kind: Literal["coop_split"]
    folder: str
    file: str
    images: str


class AircraftLists(_Row):
    """FGVC-Aircraft's own lists: `images_variant_test.txt` ("0034309 707-320" a line) and `variants.txt`."""

    kind: Literal["aircraft_lists"]
    folder: str


class Folders(_Row):
    """A folder for each class, of its id, its name or, with `labels: positions`, its number.

    Folders may lie in others: the nearest to an image that is called as a class is its class.
    """

    kind: Literal["folders"]
    folder: str
    labels: Literal["names", "positions"] = "names"


class FlatImageNet(_Row):
    """`ILSVRC2012_val_00000001.JPEG` to `..50000.JPEG` in one folder, with a file of labels at `truth`."""

    kind: Literal["flat_imagenet"]
    folder: str
    truth: str


class _Shards(_Row):
    """Shards in a folder, or in a data set of the Hub ("user/name"), or in either."""

    folder: str | None = None
    hub: str | None = None

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.folder is None and self.hub is None:
            raise ValueError("expected a folder, or a data set on the hub")
        return self


class WebDataset(_Shards):
    """Tar shards as CLIP_benchmark has them: `{split}/0.tar` and `nshards.txt`, beside `classnames.txt`."""

    kind: Literal["webdataset"]


class Parquet(_Shards):
    """The parquet files of Hugging Face `datasets`: `{split}-00000-of-00001.parquet`, here or on the Hub."""

    kind: Literal["parquet"]
    image_column: str = "image"
    label_column: str = "label"


class Csv(_Row):
    """A CSV file with a column of paths, which begin at `folder`, and one of labels."""

    kind: Literal["csv"]
    file: str
    folder: str = "."
    file_column: str = "file"
    label_column: str = "label"


class Masks(_Row):
    """Pictures and masks of class numbers, as mmsegmentation prepares them, and how they are segmented.

    Attributes:
        folder: of the set.
        images: the folder of pictures in it.
        masks: the folder of masks, with the same sub-folders: pictures of one channel whose values are
            positions of classes, 255 for pixels that do not count.
        image_suffix: what ends a picture's name; the rest of it is its key.
        mask_suffix: what follows the key in the name of its mask.
        listed: a file of keys, one a line; None takes every picture, sorted.
        reduce_zero_label: whether 0 does not count, 1 is the first class, and so on, instead of 0 the first.
        threshold: probability below which a pixel is of the first class, the background; None without one.
        short_side: pixels that the shorter side of a picture is resized to, as for `head.segment`, and None
            is its default for the model; so are the next two.
        window: pixels.
        stride: pixels.
    """

    kind: Literal["masks"]
    folder: str = "."
    images: str
    masks: str
    image_suffix: str = Field(default=".jpg", min_length=1)
    mask_suffix: str = Field(default=".png", min_length=1)
    listed: str | None = None
    reduce_zero_label: bool = False
    threshold: float | None = Field(default=None, ge=0, le=1)
    short_side: int | None = Field(default=None, gt=0)
    window: int | None = Field(default=None, gt=0)
    stride: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_background(self) -> Self:
        if self.threshold is not None and self.reduce_zero_label:
            raise ValueError("threshold: it makes pixels background, which reduce_zero_label does not count")
        return self


Layout = Annotated[
    CoopSplit | AircraftLists | Folders | FlatImageNet | WebDataset | Parquet | Csv | Masks,
    Field(discriminator="kind"),
]


class Convention(_Row):
    """How a benchmark is used.

    Attributes:
        split: of the pictures.
        classes: how many; None: as many as the set of classes has.
        images: how many; None where nobody knows.
        templates: prompts, or the name of a set of them; None: those of the set of classes.
        headline: the score that stands for the benchmark: `top1`, `recall` (its mean over classes) or `miou`.
        layouts: where the pictures may be; the first that is there is taken.
    """

    split: str = "test"
    classes: int | None = Field(default=None, gt=0)
    images: int | None = Field(default=None, gt=0)
    templates: str | tuple[str, ...] | None = None
    headline: Headline = "top1"
    layouts: tuple[Layout, ...] = Field(min_length=1)


class Benchmark(_Row):
    """A row of the table.

    Attributes:
        name: on the command line.
        title: what the set is called.
        source: who made it.
        synonyms: its classes: "builtin:food101", a file, or "hf://...".
        aliases: names that a convention has for classes, and what the set of classes calls them.
        conventions: how it is used, by name; the first is the default.
    """

    name: str = Field(pattern=r"^\w[\w.-]*$")
    title: str = ""
    source: str = ""
    synonyms: str
    aliases: dict[str, str] = {}
    conventions: dict[str, Convention] = Field(min_length=1)
    _folder: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _one_task(self) -> Self:
        if len({isinstance(each, Masks) for own in self.conventions.values() for each in own.layouts}) > 1:
            raise ValueError("layouts: masks are for segmentation; a row is of one task")
        for name, convention in self.conventions.items():
            if (convention.headline == "miou") != self.is_segmentation:
                raise ValueError(f"conventions: {name}: headline: miou is of segmentation, its only score")
        return self

    @property
    def is_segmentation(self) -> bool:
        """Whether its pictures have a class for each pixel."""
        return isinstance(next(iter(self.conventions.values())).layouts[0], Masks)

    @property
    def folder(self) -> Path | None:
        """Where the paths of a row of one's own begin; None for the rows of the table."""
        return self._folder

    def convention(self, name: str | None = None) -> tuple[str, Convention]:
        """Return a convention and its name, the first for None.

        Raises:
            ValueError: the benchmark has none of this name.
        """
        chosen = next(iter(self.conventions)) if name is None else name
        if chosen not in self.conventions:
            raise ValueError(
                f"convention: {self.name} has no {chosen!r}; it has {', '.join(self.conventions)}"
            )
        return chosen, self.conventions[chosen]


@cache
def benchmarks() -> dict[str, Benchmark]:
    """Return the rows of the table by name."""
    file = resources.files("s3clip.evaluation.benchmarks") / "benchmarks.json"
    rows = [checked(row, Benchmark, file.name) for row in parse_json(file.read_bytes(), file.name)]
    return {row.name: row for row in rows}


def find_benchmark(name: str | os.PathLike[str]) -> Benchmark:
    """Return the row of this name, or the one in a file that ends in .json.

    Raises:
        ValueError: no row has the name, with the nearest that there are; or the file is no row.
        FileNotFoundError: there is no such file.
    """
    text = os.fspath(name)
    if text.endswith(".json"):
        return _read_row(Path(text))
    if text not in benchmarks():
        near = did_you_mean(text, benchmarks(), f"there are {', '.join(benchmarks())}")
        raise ValueError(f"no benchmark {text!r}; a set of your own is the path of a .json file; {near}")
    return benchmarks()[text]


def _read_row(path: Path) -> Benchmark:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileNotFoundError(
            f"{path}: {error.strerror}; expected the name of a benchmark, or a file with the row of a set of "
            f"your own{beside(path)}"
        ) from error
    try:
        row = checked(parse_json(content, str(path)), Benchmark, str(path))
    except ValueError as error:
        raise ValueError(f"{error}; see docs/benchmarks.md for a row") from error
    if row.name in benchmarks():
        raise ValueError(f"{path}: name: {row.name!r} is a benchmark of the table; take another")
    folder = path.resolve().parent
    if not row.synonyms.startswith((BUILTIN, "hf://")):
        row = row.model_copy(update={"synonyms": str(folder / row.synonyms)})
    row._folder = folder
    return row
