"""What commands have in common: options, and how they print what they found."""

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3clip.arguments import did_you_mean
from s3clip.printing import Table, say

if TYPE_CHECKING:
    from s3clip import SynonymousSpaceHead
    from s3clip.config import HeadConfig

DEMO = "demo"
"""What stands for the small CLIP that comes with s3clip, wherever a command takes a model."""


def _known_backbone(name: str | None) -> str | None:
    if name == DEMO and not Path(name).is_dir():
        from s3clip.demo import model_folder

        return str(model_folder())
    return name


def typed_backbone(name: str) -> str:
    """Return a model as it is typed: the small one that comes along by its short name."""
    from s3clip.demo import model_folder

    return DEMO if name == str(model_folder()) and not Path(DEMO).is_dir() else name


_MODEL = (
    "CLIP-like model: a Hub repository (openai/clip-vit-base-patch32), a folder, one of open_clip "
    "(hf-hub:user/name, local-dir:FOLDER, open_clip:ARCHITECTURE/TAG), or demo, the small one that comes "
    "along."
)
BackboneName = Annotated[str, typer.Option(help=_MODEL, callback=_known_backbone)]
OptionalBackbone = Annotated[str | None, typer.Option(help=_MODEL, callback=_known_backbone)]
SavedBackbone = Annotated[
    str | None,
    typer.Option(
        help=f"{_MODEL} Needed only if the model is not where it was when the head was fitted.",
        callback=_known_backbone,
    ),
]

_CLASSES = (
    'Synonym file: JSON such as {"cat": ["feline", "kitty"], "dog": []}, a text file with one class a line, '
    "hf://datasets/user/name/file.json, builtin:food101 (see s3clip synonyms list); or the JSON itself, or "
    'names: "cat,dog".'
)
Classes = Annotated[str, typer.Argument(metavar="CLASSES", help=_CLASSES)]
OptionalClasses = Annotated[str | None, typer.Argument(metavar="CLASSES", help=_CLASSES)]
Values = Annotated[
    str, typer.Option(help='What {"class": [texts]} lists: synonyms, descriptors or prompts (sentences).')
]
Template = Annotated[
    list[str] | None,
    typer.Option(
        help='Prompt such as "a photo of a {}.", given several times for an average, or the name of a '
        "set: openai_imagenet_80, openai_imagenet_7. Default: the file's own."
    ),
]
Config = Annotated[
    str | None,
    typer.Option(
        help='Settings as JSON, or a file of them: {"metric": "center", "scale_rule": null}; `s3clip schema` '
        "says which there are."
    ),
]

LabelledImages = Annotated[
    Path | None,
    typer.Option(
        "--images",
        help="Images: a folder, with --labels where its files lie, else one sub-folder a class; in a tree of "
        "folders the nearest one that is called as a class.",
    ),
]
Labels = Annotated[
    Path | None, typer.Option(help="CSV with a line for each image; files beside it unless --images.")
]
FileColumn = Annotated[str, typer.Option(help="Its column of files.")]
LabelColumn = Annotated[str, typer.Option(help="Its column of class ids or names.")]

_HEAD = "Folder that `s3clip fit` wrote, or a class space on the Hub: user/name."
HeadSource = Annotated[str, typer.Option("--head", help=_HEAD)]
OptionalHead = Annotated[str | None, typer.Option("--head", help=_HEAD)]
HeadArgument = Annotated[str, typer.Argument(help=_HEAD)]
ClassName = Annotated[
    str | None, typer.Option("--class", help="Only the classes of this name, in whatever case.")
]
InsteadOfHead = Annotated[
    str | None,
    typer.Option("--classes", help=f"{_CLASSES} With --backbone, instead of --head."),
]
Revision = Annotated[
    str | None,
    typer.Option(
        help="Branch, tag or commit, on the Hub, of the class space, or of the model where there is none."
    ),
]


def _known_device(name: str | None) -> str | None:
    if name is not None:
        import torch

        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
            raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return name


Device = Annotated[
    str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps.", callback=_known_device)
]


class Dtype(StrEnum):
    """In which type an image tower computes."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


ImageDtype = Annotated[
    Dtype | None,
    typer.Option(
        "--dtype",
        help="In what the image tower computes; auto tries the faster type of this machine on the first "
        "images, and says what it took. Default: the model's own.",
    ),
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Let torch.compile make the code of the image tower.")
]
TrialImages = Annotated[
    Path | None,
    typer.Option("--images", help="Images: a folder of those that --dtype auto tries its types with."),
]
NearSize = Annotated[
    bool,
    typer.Option(
        "--near-size",
        help="Decode JPEGs near the size that the model needs, at no less than twice that.",
    ),
]
BatchSize = Annotated[int, typer.Option(help="How many images go through the model at once.")]
BATCH_SIZE = 64
"""Of images, the default of all commands."""
AllowAddresses = Annotated[
    list[str] | None,
    typer.Option(
        help="Where the paths and addresses that stand in a table may lead, beside its own folder: https, "
        "s3, file (all of this machine), or what they begin with, as file:///data/; several times for more."
    ),
]
PatchFeatures = Annotated[
    str | None,
    typer.Option(
        help="Embeddings of patches, for segmentation: patch, maskclip, sclip (the default), naclip or "
        "clearclip."
    ),
]
Views = Annotated[int, typer.Option(help="How many views of an image to adapt to.", min=1)]


Level = Annotated[
    str | None, typer.Option(help="Answer with groups of classes at this level of the synonym file.")
]
Among = Annotated[
    list[str] | None,
    typer.Option(
        help="Answer within this class or group alone: a name, an id, or LEVEL=GROUP; several times for more."
    ),
]


class Format(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


Output = Annotated[Format, typer.Option("--format", help="How to print the result.")]


def print_rows(header: list[str], rows: list[list[Any]], output: Format) -> None:
    """Print a table with its columns aligned, a JSON list of records, or CSV; None is "-" outside of JSON."""
    table = Table(header, rows)
    if output is Format.JSON:
        say(json.dumps(table.records(), indent=1, ensure_ascii=False))
    else:
        say(table.csv().removesuffix("\n") if output is Format.CSV else str(table))


def class_source(given: str) -> Any:
    """Return what `SynonymSet.read` takes for what was given in the place of a synonym file.

    Args:
        given: a file, ``hf://...``, ``builtin:food101`` or ``food101`` alone, what a JSON file would hold, or
            class names between commas; one with a comma of its own stands in double quotes:
            ``cat,"dog, big"``.
    """
    from s3clip.files.json import parse_json
    from s3clip.texts.sets import set_names
    from s3clip.texts.sources import BUILTIN, HUB, SUFFIXES

    path = Path(given)
    if given.startswith((BUILTIN, HUB)) or path.suffix.lower() in SUFFIXES or os.path.exists(path):
        return given
    if given.lstrip().startswith(("{", "[")):
        return parse_json(given, "classes")
    if "," in given:
        return [name.strip() for name in next(csv.reader([given], skipinitialspace=True))]
    return BUILTIN + given if given.partition("/")[0] in set_names() else given


def fitted_head(
    head: str | None, classes: str | None, backbone: str | None, revision: str | None, device: str | None
) -> "SynonymousSpaceHead":
    """Return the saved head that was asked for, or one of the classes that were given in its place."""
    from s3clip import SynonymousSpaceHead

    if (head is None) == (classes is None):
        raise ValueError("expected one of --head and --classes (with --backbone)")
    if head is not None:
        return SynonymousSpaceHead.from_pretrained(
            head, revision=revision, backbone="saved" if backbone is None else backbone, device=device
        )
    if backbone is None:
        raise ValueError("--backbone: needed with --classes, to encode the texts with")
    unfitted = SynonymousSpaceHead.from_backbone(backbone, revision=revision, device=device)
    return unfitted.fit_classes(class_source(str(classes)))


def use_precision(
    head: "SynonymousSpaceHead", dtype: str | None, compiled: bool, images: Sequence[Path | str]
) -> None:
    """Let the image tower of a head compute as --dtype and --compile say, and say what a trial found."""
    from s3clip.prediction.precision import set_precision, trial_inputs

    assert head.backbone is not None  # a head that is loaded for images has one
    backbone = head.backbone
    trial = set_precision(head, dtype, compiled=compiled, inputs=lambda: trial_inputs(backbone, images))
    if trial is not None:
        say(f"dtype: {trial.said}", error=True)


def trial_images(dtype: str | None, images: Path | None) -> list[Path]:
    """Return the images of a trial, where a verb has none of its own when it begins.

    Raises:
        ValueError: "auto" without images, or images that nothing is tried with.
        FileNotFoundError: there are none.
    """
    from s3clip.images.walking import find_images

    if dtype == "auto" and images is None:
        raise ValueError("--dtype auto: tries the types of this machine with some images; give --images too")
    if dtype != "auto" and images is not None:
        raise ValueError("--images: are tried with --dtype auto alone; give both, or neither")
    return [] if images is None else find_images([images])


def named(wanted: str, names: Sequence[str], what: str) -> list[int]:
    """Return the positions of the classes of a name, in whatever case it was written.

    Args:
        wanted: as it was given by --class.
        names: of all classes.
        what: whose classes they are, for the error, which names those that are nearly called so.
    """
    from s3clip.texts.labels import NameIndex

    if found := NameIndex((name, i) for i, name in enumerate(names)).find(wanted):
        return found
    near = did_you_mean(wanted, names, f"it has: {', '.join(names[:10])}")
    raise ValueError(f"--class: {what} has no class {wanted!r}; {near}")


def head_config(given: str) -> "HeadConfig":
    """Read what --config gives: settings as JSON, or the name of a file of them."""
    from s3clip.config import HeadConfig
    from s3clip.files.json import checked

    content, where = given_json(given, "--config")
    return checked(content, HeadConfig, where)


def given_json(given: str, argument: str) -> tuple[Any, str]:
    """Return what a JSON object that is given says, or a file of JSON, and where that stands.

    Args:
        given: the object itself, or the name of the file.
        argument: what gave it, for errors.
    """
    from s3clip.files.json import parse_json, read_json

    if given.lstrip().startswith("{"):
        return parse_json(given, argument), argument
    if not Path(given).is_file():
        from s3clip.files.folders import beside

        raise FileNotFoundError(
            f"{argument}: {given}: no such file; expected JSON, or the name of a file of it{beside(given)}"
        )
    return read_json(given), f"{argument} {given}"


_MODEL_FILES = ("config.json", ".safetensors")


def keep_inputs(inputs: Iterable[Path | str | None], written: Mapping[str, Iterable[Path | None]]) -> None:
    """Refuse to write over what is read, or two results into one file.

    Args:
        inputs: what was given to be read: files, and folders of a head or a model, of which these files are
            read; None, and what is no path of this machine, is nothing.
        written: by option, the files that it would write.
    """
    read: set[str] = set()
    for each in inputs:
        if each is not None:
            read.add(place := os.path.realpath(each))  # unlike `resolve`, also of a link to itself
            if os.path.isdir(place):
                read |= {f"{place}/{name}" for name in os.listdir(place) if name.endswith(_MODEL_FILES)}
    seen: dict[str, str] = {}
    for option, files in written.items():
        for place in (os.path.realpath(file) for file in files if file is not None):
            if place in read:
                raise ValueError(f"{option}: {place} is read, and would be lost; give another place")
            if place in seen:
                raise ValueError(f"{seen[place]}, {option}: both would write {place}; give two places")
            seen[place] = option


def make_folder(option: str, folder: Path) -> None:
    """Make a folder to write into, before the work and not after it."""
    from s3clip.files.folders import check_writable

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # of its kind, but it names no option
        raise OSError(f"--{option}: {folder} cannot be made a folder: {error.strerror}") from error
    check_writable(folder, f"--{option}")
