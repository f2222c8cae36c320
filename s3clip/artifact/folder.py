"""A fitted class space on disk: the raw text embeddings and the settings, never the backbone.

Two files: `space-<16 hex of its sha256>.safetensors`, and `config.json`, which names it with its whole
sha256. The first is written before the second, and both are renamed into place, so that a reader, or the next
run after a kill, sees the old artifact or the new one, whole. Only safetensors and JSON are ever read.

The margins, which a relative scale rule measures edges by, are saved too where they are known: to find them
every text is compared with every class, minutes of 21,000 classes. All else is built when it is loaded.

From format 2 on, the first holds a digest of all else that the second says, so that each vouches for the
other: a byte that changed in either is found. Format 1 had none; of its config.json only what contradicts the
embeddings is found.
"""

import hashlib
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from s3clip.arguments import LARGEST_SCALE, is_scale
from s3clip.backbone.identity import FLOATS, checked_parts
from s3clip.backbone.names import is_public, named_folder
from s3clip.class_space import (
    Activation,
    BackboneFacts,
    BackboneReference,
    Calibration,
    ClassSpace,
    Examples,
    FewShotReport,
    FittedClass,
    LearnedResidual,
)
from s3clip.class_space.state import (
    FURTHER_TENSORS,
    ExamplesState,
    few_shot_of,
    few_shot_settings,
    further_tensors,
)
from s3clip.class_space.value import LARGEST_BIAS, Name, check_negatives, check_settings, row_owners
from s3clip.config import SavedConfig
from s3clip.files.addresses import checked_path, regular_file
from s3clip.files.folders import beside, check_own, check_writable, visible
from s3clip.files.json import checked, parse_json, read_json
from s3clip.files.problems import shown
from s3clip.files.writing import locked_folder, write_atomically
from s3clip.space.synonymous_space import SMALLEST_MARGIN

FORMAT = "s3clip-space/5"
_OLDER = ("s3clip-space/1", "s3clip-space/2", "s3clip-space/3", "s3clip-space/4")
SPACE_FILE = re.compile(r"space-([0-9a-f]{16})\.safetensors")
_MEND = "; save the head again, or fetch the artifact anew"
NUMBERS = ("logit_scale", "logit_bias", "fitted_logit_scale")
_DIGEST = "config_sha256"  # the key in the metadata of the safetensors file
_BESIDE = ("space_file", "space_sha256")  # what it cannot cover: they are of the file that holds it
_PART = re.compile(r"fingerprint\.([a-z_]{1,40})")


class DamagedFileError(ValueError):
    """A file is not as it was written: cut, edited, or no file of ours. Fetched again, it may be whole."""


class _ConfigFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = FORMAT  # `_read_config` asks which, to say so of a newer one
    # By it transformers' `pipeline` knows what it is given; those of before have none.
    model_type: Literal["s3clip"] = "s3clip"
    head: SavedConfig
    backbone: BackboneReference | None
    activation: Activation
    templates: list[Name] | None
    calibration: Calibration | None = None
    class_shares: list[float] | None = None
    few_shot: FewShotReport | None = None
    examples: ExamplesState | None = None
    space_file: str
    space_sha256: str
    classes: list[FittedClass]


def save_artifact(folder: str | os.PathLike[str], space: ClassSpace) -> Path:
    """Write a class space into a folder, which is made if need be; one that was there is replaced.

    What else lies in the folder is left as it is, as transformers does: a README, logs, results.

    Raises:
        ValueError: `folder` holds the config.json of something else, such as a model.
        NotADirectoryError, PermissionError: it is a file, or not to be written to.
    """
    folder = Path(checked_path(folder, "folder"))
    check_writable(folder, "folder")
    if (folder / "config.json").exists() and not is_artifact(folder / "config.json"):
        raise ValueError(
            f"folder: {folder} holds a config.json of something else (a model?), which would be lost; save "
            f"into another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    tensors, config = _tensors_of(space), _config_of(space)
    content = save_tensors(tensors, {_DIGEST: config_digest(config)})
    digest = hashlib.sha256(content).hexdigest()
    config |= {"space_file": f"space-{digest[:16]}.safetensors", "space_sha256": digest}
    text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
    # Two that save at once would each delete the file that the other's config.json names.
    with locked_folder(folder):
        write_atomically(folder / config["space_file"], content)
        write_atomically(folder / "config.json", text.encode())
        for other in folder.glob("space-*.safetensors"):
            if SPACE_FILE.fullmatch(other.name) and other.name != config["space_file"]:
                other.unlink(missing_ok=True)
    return folder


def _tensors_of(space: ClassSpace) -> dict[str, Tensor]:
    """Return what the space file holds: embeddings, margins, fingerprints, and the numbers of `NUMBERS`."""
    wide = torch.promote_types(space.raw.dtype, torch.float32)
    parts = {"raw": space.raw.detach().to(wide), "owners": space.owners, **further_tensors(space)}
    if (margins := space.known_margins) is not None:
        parts["margins"] = margins
    numbers = {"fitted_logit_scale": space.fitted_logit_scale}
    if (backbone := space.backbone) is not None:
        numbers |= {"logit_scale": backbone.logit_scale, "logit_bias": backbone.logit_bias}
        parts |= {f"fingerprint.{part}": vectors for part, vectors in backbone.fingerprint.items()}
    for name, value in numbers.items():
        if value is not None:
            parts[name] = torch.tensor(value, dtype=torch.float64, device="cpu")
    return {name: part.cpu().contiguous() for name, part in parts.items()}


def _config_of(space: ClassSpace) -> dict[str, Any]:
    """Return what config.json says, but for the name and the digest of the space file."""
    backbone = space.backbone
    config = _ConfigFile(
        head=space.config,
        backbone=None if backbone is None else backbone.reference,
        activation="softmax" if backbone is None else backbone.activation,
        templates=None if space.templates is None else list(space.templates),
        calibration=space.calibration,
        class_shares=None if space.class_shares is None else list(space.class_shares),
        space_file="",
        space_sha256="",
        classes=list(space.classes),
        **few_shot_settings(space.few_shot),
    ).model_dump(mode="json", exclude={"classes"})
    return {**config, "classes": [each.record() for each in space.classes]}


def check_place(folder: str | os.PathLike[str], argument: str) -> Path:
    """Return a folder for a class space alone, as commands ask for.

    Args:
        folder: is missing, empty or holds one, perhaps with what belongs to it, such as a README.
        argument: what named it, for errors.

    Raises:
        ValueError: it holds something else.
        NotADirectoryError, PermissionError: it is a file, or not to be written to.
    """
    place = Path(checked_path(folder, argument))
    check_own(place, argument, _is_ours, "saved head")
    return place


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds a class space, or was to, when what saved it was killed."""
    if (folder / "config.json").exists():
        return is_artifact(folder / "config.json")
    return all(map(SPACE_FILE.fullmatch, visible(os.listdir(folder))))


def config_digest(config: dict[str, Any]) -> str:
    """Return 64 hex digits of what a config.json says, but for the name and the digest of the other file.

    Of its values, so that JSON that is laid out in another way is the same.
    """
    covered = {key: value for key, value in config.items() if key not in _BESIDE}
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()


def is_artifact(path: Path) -> bool:
    """Whether a config.json is that of a class space, of whatever version."""
    try:
        content = read_json(path)
    except ValueError:
        return False
    return isinstance(content, dict) and str(content.get("format")).startswith("s3clip-space/")


def load_artifact(folder: str | os.PathLike[str]) -> ClassSpace:
    """Read and check an artifact.

    Raises:
        FileNotFoundError: no such folder, or one that holds no artifact.
        DamagedFileError: (a ValueError) a file that was cut or edited, a key that stands twice, shapes,
            dtypes or values that do not fit; the message says which and how to rebuild.
        ValueError: a newer format.
    """
    folder = Path(folder)
    path = folder / "config.json"
    if not path.exists() or path.is_dir():
        what = "no config.json in it" if folder.is_dir() else f"no such folder{beside(folder)}"
        if folder.is_file():
            what = "a file, where the folder that `s3clip fit` or save_pretrained() wrote is expected"
        raise FileNotFoundError(f"{folder} is not a saved class space: {what}")
    config, said = _read_config(path)
    while True:
        match = SPACE_FILE.fullmatch(config.space_file)
        if match is None or match[1] != config.space_sha256[:16]:
            raise _broken(path, f"space_file {config.space_file!r} is not named after space_sha256")
        space_path = folder / config.space_file
        try:
            content = regular_file(space_path).read_bytes()
            break
        except FileNotFoundError:
            # Somebody may have saved anew between our two reads; then config.json names another file.
            before = config
            config, said = _read_config(path)
            if config.space_file == before.space_file:
                raise _broken(path, f"{config.space_file} is missing from {folder}") from None
        except ValueError as error:
            raise _broken(space_path, str(error)) from None
    if hashlib.sha256(content).hexdigest() != config.space_sha256:
        raise _broken(space_path, "its sha256 is not the one in config.json: the file was cut or edited")
    try:
        tensors = load_tensors(content)
    except Exception as error:  # of safetensors and torch: of a header that lies, each has errors of its own
        raise _broken(space_path, f"no safetensors that torch reads ({error})") from error
    _check_digest(config.format, said, content, path, space_path)
    del content  # the tensors are copies
    return _check(config, tensors, path, space_path)


def _check_digest(form: str, said: str, content: bytes, path: Path, space_path: Path) -> None:
    # The library has read the header, so that its length is right.
    header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")], str(space_path))
    digest = header.get("__metadata__", {}).get(_DIGEST)
    if digest is None and form != _OLDER[0]:
        raise _broken(space_path, f"the digest of config.json is missing, which {form} has")
    # Also of format 1, which has none: else the number would be the way round the digest.
    if digest is not None and digest != said:
        raise _broken(
            path,
            f"it is not the one that {space_path.name} was written with: names, texts or settings changed",
        )


def _read_config(path: Path) -> tuple[_ConfigFile, str]:
    """Return a config.json, and the digest of what it says."""
    try:
        content = read_json(path)
    except ValueError as error:
        raise DamagedFileError(f"{error}{_MEND}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found not in (*_OLDER, FORMAT):
        if isinstance(found, str) and re.fullmatch(r"s3clip-space/[1-9]\d*", found):
            raise ValueError(f"{path}: format {found!r} is newer than {FORMAT!r}; update s3clip")
        raise _broken(path, f"format: expected {FORMAT!r}, got {shown(found)}")
    try:
        config = checked(content, _ConfigFile, str(path))
    except ValueError as error:
        raise DamagedFileError(f"{error}{_MEND}") from error
    try:
        check_settings(config.classes, config.calibration, config.class_shares)
    except ValueError as error:
        raise _broken(path, str(error)) from None
    return config, config_digest(content)


def _check(config: _ConfigFile, tensors: dict[str, Tensor], path: Path, space_path: Path) -> ClassSpace:
    raw, owners = tensors.pop("raw", None), tensors.pop("owners", None)
    if raw is None or owners is None:
        raise _broken(space_path, "the tensors 'raw' and 'owners' are missing")
    if raw.ndim != 2 or raw.dtype not in (torch.float32, torch.float64) or 0 in raw.shape:
        raise _broken(
            space_path, f"raw: expected (texts, dim) in float32, got {tuple(raw.shape)} {raw.dtype}"
        )
    # By the least and the largest, which NaN goes through: a mask of all would take two tables more.
    if not bool(torch.isfinite(torch.stack(torch.aminmax(raw))).all()):
        raise _broken(space_path, "raw holds NaN or Inf")
    # Of any size, as only Python adds them: once they agree, torch can hold each.
    rows = sum(fitted.rows for fitted in config.classes)
    if rows != len(raw):
        raise _broken(path, f"the classes name {rows} texts, the space file holds {len(raw)}")
    if owners.dtype != torch.int64 or owners.shape != (rows,):
        raise _broken(
            space_path, f"owners: expected ({rows},) int64, got {tuple(owners.shape)} {owners.dtype}"
        )
    if not torch.equal(owners, row_owners([fitted.rows for fitted in config.classes], owners.device)):
        raise _broken(space_path, "owners do not agree with the classes of config.json")
    numbers = _take_numbers(tensors, space_path)
    fingerprint = _take_fingerprint(tensors, raw.shape[1], space_path)
    further = {name: tensors.pop(name, None) for name in FURTHER_TENSORS}
    few_shot = _few_shot(config, further, raw.shape[1], space_path)
    try:
        check_negatives(config.classes, further["negatives"], raw.shape[1])
    except ValueError as error:
        raise _broken(space_path, str(error)) from None
    margins = _take_margins(tensors, raw, space_path)
    if tensors:
        raise _broken(space_path, f"unknown tensors {sorted(tensors)}")
    space = ClassSpace(
        raw=raw,
        classes=tuple(config.classes),
        config=config.head,
        templates=None if config.templates is None else tuple(config.templates),
        backbone=_backbone_facts(config, numbers, fingerprint, space_path),
        fitted_logit_scale=numbers["fitted_logit_scale"],
        calibration=config.calibration,
        class_shares=None if config.class_shares is None else tuple(config.class_shares),
        few_shot=few_shot,
        negatives=further["negatives"],
    )
    return space.with_margins(margins)


def _take_margins(tensors: dict[str, Tensor], raw: Tensor, path: Path) -> Tensor | None:
    margins = tensors.pop("margins", None)
    if margins is None:
        return None
    if margins.shape != raw.shape[:1] or margins.dtype != raw.dtype:
        raise _broken(
            path,
            f"margins: expected ({len(raw)},) {raw.dtype}, got {tuple(margins.shape)} {margins.dtype}",
        )
    # Distances of points of the unit sphere, where they are not 1; NaN is in no range.
    if not bool(((margins >= SMALLEST_MARGIN) & (margins <= 2.001)).all()):
        raise _broken(path, "margins: expected distances of unit vectors, got others")
    return margins


def _backbone_facts(
    config: _ConfigFile, numbers: dict[str, float | None], fingerprint: dict[str, Tensor], path: Path
) -> BackboneFacts | None:
    if config.backbone is None:
        if numbers["fitted_logit_scale"] is None and config.head.logit_scale is None:
            raise _broken(path, "there is no backbone and no logit_scale: nothing multiplies the scores")
        return None
    if (scale := numbers["logit_scale"]) is None:
        raise _broken(path, "the logit_scale of the backbone is missing")
    return BackboneFacts(config.backbone, config.activation, scale, numbers["logit_bias"], fingerprint)


def _take_numbers(tensors: dict[str, Tensor], path: Path) -> dict[str, float | None]:
    numbers: dict[str, float | None] = {}
    for name in NUMBERS:
        value = tensors.pop(name, None)
        if value is None:
            numbers[name] = None
            continue
        if value.numel() != 1 or value.dtype not in FLOATS or not math.isfinite(value.item()):
            raise _broken(path, f"{name}: expected one finite number, got {tuple(value.shape)} {value.dtype}")
        number = numbers[name] = value.item()
        if name != "logit_bias" and not is_scale(number):
            raise _broken(path, f"{name}: expected a number > 0, at most {LARGEST_SCALE:g}, got {number}")
        if abs(number) > LARGEST_BIAS:
            raise _broken(path, f"{name}: expected at most {LARGEST_BIAS:g}, got {number}")
    return numbers


def _few_shot(
    config: _ConfigFile, further: dict[str, Tensor | None], dim: int, path: Path
) -> Examples | LearnedResidual | None:
    try:
        found = few_shot_of(config.few_shot, config.examples, further)
        if found is not None:
            found.check(len(config.classes), dim)
    except ValueError as error:
        raise _broken(path, str(error)) from None
    return found


def _take_fingerprint(tensors: dict[str, Tensor], dim: int, path: Path) -> dict[str, Tensor]:
    parts = {name: tensors.pop(name) for name in list(tensors) if _PART.fullmatch(name)}
    try:
        return checked_parts({name.partition(".")[2]: value for name, value in parts.items()}, dim)
    except ValueError as error:
        raise _broken(path, str(error)) from None


def _broken(path: Path, why: str) -> DamagedFileError:
    return DamagedFileError(f"{path}: {why}{_MEND}")


def named_backbone(space: ClassSpace, folder: str, *, of_hub: bool = False) -> tuple[str | None, str | None]:
    """Return name and revision of the backbone that an artifact was made with; (None, None) if it had none.

    Args:
        space: as loaded.
        folder: where from, for messages.
        of_hub: it comes from the Hub: whoever pushed it is not to say what is read of this machine.

    Raises:
        ValueError: a backbone without a name, or a folder that is not there any more, or not to be read.
    """
    if space.backbone is None:
        return None, None
    name, revision = space.backbone.reference.name, space.backbone.reference.revision
    if name is None:
        raise ValueError(f"{folder}: the backbone it was made with has no name; give it as backbone=")
    if of_hub and not is_public(name):
        raise ValueError(
            f"{folder}: the backbone it names, {name!r}, is no repository of the Hub; give one as backbone="
        )
    if (place := named_folder(name)) is not None and not os.path.exists(place):
        raise ValueError(
            f"{folder}: the backbone it was made with is not at {place} any more; give its folder or Hub "
            f"repository as backbone="
        )
    return name, revision


def without_local_names(space: ClassSpace) -> ClassSpace:
    """Return the class space without the name of a backbone that is a folder of this machine."""
    backbone = space.backbone
    if backbone is None or (name := backbone.reference.name) is None:
        return space
    if is_public(name) and "/" in name and not os.path.isdir(name):
        return space
    return replace(space, backbone=replace(backbone, reference=BackboneReference(name=None)))
