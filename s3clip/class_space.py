"""The fitted class space: the value that is saved, pushed, merged, counted and handed to every other room.

A `ClassSpace` is frozen. Its edits are functions that return a new one, whole, or raise and leave the old one
as it was. What follows from it (which texts are kept, the rows that `forward` multiplies) is built by
`s3clip.space`.
"""

import hashlib
import json
import operator
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from s3clip.arguments import LARGEST_SCALE, is_scale, is_whole, plain
from s3clip.backbone.backbone import Backbone
from s3clip.backbone.encoding import checked_rows
from s3clip.backbone.identity import check_fingerprint
from s3clip.config import HeadConfig
from s3clip.files.problems import first_problem
from s3clip.space.synonymous_space import SynonymousSpace, build_space
from s3clip.texts.labels import LONGEST_NAME, LONGEST_TEXT, checked_name, problem_of_name, problem_of_text
from s3clip.texts.synonyms import SynonymSet

Activation = Literal["softmax", "sigmoid"]


def _named(name: str) -> str:
    if problem := problem_of_name(name):
        raise ValueError(f"{problem}: {reprlib.repr(name)}" if name.strip() else problem)
    return name


def _text(text: str) -> str:
    # What matched may be a name joined with a descriptor: "tabby cat, which has a striped coat".
    if problem := problem_of_text(text, LONGEST_NAME + LONGEST_TEXT + 100):
        raise ValueError(f"{problem}: {reprlib.repr(text)}" if text.strip() else problem)
    return text


Name = Annotated[str, AfterValidator(_named)]
"""A name that can be shown; see `s3clip.texts.labels`."""

_Number = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class FittedClass(BaseModel):
    """One class of a class space.

    Attributes:
        name: its name; names may repeat, classes are positions.
        texts: what each of its rows stands for; None where only embeddings were given.
        rows: how many rows it has.
        id: the synonym file's id.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Name
    id: _Number | Name | None = None
    rows: int = Field(ge=1)
    texts: list[Annotated[str, AfterValidator(_text)]] | None = None


TEMPERATURES = (1e-6, 1e6)
"""Least and largest temperature: below, logits that float32 holds become infinite; CLIP's lie near 1."""
LARGEST_BIAS = 1e12
"""Largest bias of logits or of a calibration, of which float32 still holds sums with logits."""


class Calibration(BaseModel):
    """How logits become probabilities, and which of them are accepted.

    Attributes:
        activation: "softmax" over the classes, or "sigmoid" of each.
        temperature: divides the logits; within `TEMPERATURES`.
        bias: is added to them afterwards; within `LARGEST_BIAS` of 0.
        thresholds: least logit at which a class is accepted: one for all classes, or one for each; None
            accepts all. Of logits, not of a softmax, which adds up to 1 whatever the image shows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    activation: Activation
    temperature: float = Field(1.0, ge=TEMPERATURES[0], le=TEMPERATURES[1])
    bias: float = Field(0.0, ge=-LARGEST_BIAS, le=LARGEST_BIAS)
    thresholds: tuple[float, ...] | None = None

    def probabilities(self, logits: Tensor, dim: int = -1) -> Tensor:
        """Return the probabilities of logits, whose classes lie along `dim`."""
        scaled = self.scaled(logits)
        return scaled.softmax(dim) if self.activation == "softmax" else scaled.sigmoid()

    def scaled(self, logits: Tensor) -> Tensor:
        """Return what the activation is taken of."""
        return logits / self.temperature + self.bias

    def accepts(self, logits: Tensor, classes: Tensor | None = None) -> Tensor:
        """Return a mask of the logits that reach their threshold.

        Args:
            logits: (..., classes), or those of some classes.
            classes: (...) the class of each logit; None: all classes, in their order.
        """
        if self.thresholds is None:
            return torch.ones_like(logits, dtype=torch.bool)
        # In float64: a threshold may lie right above the largest float32 that was seen.
        least = torch.tensor(self.thresholds, dtype=torch.float64)
        if classes is not None and len(least) > 1:
            least = least[classes.cpu()]
        return (logits.cpu().double() >= least).to(logits.device)


class BackboneReference(BaseModel):
    """Which backbone encoded the texts, as `from_pretrained` takes it; name None if it had none."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Name | None
    revision: Name | None = None


@dataclass(frozen=True)
class BackboneFacts:
    """What a head needs to know of its backbone to work without it, and to tell it from another.

    Attributes:
        reference: what to load it by.
        activation: how its logits become probabilities.
        logit_scale: multiplies the scores.
        logit_bias: is added to them; None where it has none.
        fingerprint: see `s3clip.backbone.identity`; the entries of texts only where it encoded some.
    """

    reference: BackboneReference
    activation: Activation
    logit_scale: float
    logit_bias: float | None
    fingerprint: dict[str, Tensor]


_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class ClassSpace:
    """Raw text embeddings, the classes they belong to, and everything else that decides the logits.

    Attributes:
        raw: (texts, dim) text embeddings, class by class, the own name first; float32 or float64.
        classes: the classes, in the order of the logits.
        config: the settings.
        templates: the prompt templates; None where only embeddings were given.
        backbone: what is known of the backbone; None for a space that never had one.
        fitted_logit_scale: the argument of `fit_embeddings`, which goes before any other scale.
        calibration: how logits become probabilities; None: as the backbone's do.
    """

    raw: Tensor
    classes: tuple[FittedClass, ...]
    config: HeadConfig
    templates: tuple[str, ...] | None = None
    backbone: BackboneFacts | None = None
    fitted_logit_scale: float | None = None
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        if self.raw.ndim != 2 or 0 in self.raw.shape or self.raw.dtype not in _DTYPES:
            raise ValueError(
                f"raw: expected floating (texts, dim), got {tuple(self.raw.shape)} {self.raw.dtype}"
            )
        for name, scale in (
            ("fitted_logit_scale", self.fitted_logit_scale),
            ("backbone.logit_scale", None if self.backbone is None else self.backbone.logit_scale),
        ):
            if scale is not None and not is_scale(scale):
                raise ValueError(f"{name}: expected a number > 0, at most {LARGEST_SCALE:g}, got {scale}")
        bias = None if self.backbone is None else self.backbone.logit_bias
        if bias is not None and not abs(bias) <= LARGEST_BIAS:
            raise ValueError(f"backbone.logit_bias: expected a finite number, got {bias}")
        rows = sum(each.rows for each in self.classes)
        if rows != len(self.raw):
            raise ValueError(f"classes: they name {rows} texts, there are embeddings of {len(self.raw)}")
        thresholds = None if self.calibration is None else self.calibration.thresholds
        if thresholds is not None and len(thresholds) not in (1, len(self.classes)):
            raise ValueError(f"calibration: {len(thresholds)} thresholds for {len(self.classes)} classes")

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in the order of the logits."""
        return [each.name for each in self.classes]

    @cached_property
    def owners(self) -> Tensor:
        """(texts,) int64 ascending, the class of each row, on the device of `raw`."""
        counts = torch.tensor([each.rows for each in self.classes], device=self.raw.device)
        return torch.repeat_interleave(torch.arange(len(counts), device=self.raw.device), counts)

    @property
    def fixed_logit_scale(self) -> float | None:
        """What multiplies the scores whatever the backbone says; None: the backbone's own scale does."""
        fitted = self.fitted_logit_scale
        return self.config.logit_scale if fitted is None else fitted

    def build(self) -> SynonymousSpace:
        """Return the space of every class, on the CPU where the device of `raw` has no float64.

        Raises:
            ValueError: embeddings of no length or direction, or classes that centering cannot tell apart.
        """
        # float64 is missing on MPS; building is small enough for the CPU.
        at = torch.device("cpu") if self.raw.device.type == "mps" else self.raw.device
        # Under autocast the products that decide what is kept would be taken in half precision.
        with torch.autocast(at.type, enabled=False):
            return build_space(
                self.raw.to(at),
                self.owners.to(at),
                self.class_names,
                scale_rule=self.config.scale_rule,
                scale_options=self.config.scale_options,
                keep_name=self.config.keep_name,
                centering=self.config.centering,
            )

    def digest(self) -> str:
        """Return 64 hex digits of all that decides logits and answers, but what the backbone is called."""
        kept = self.backbone
        settings = {
            "classes": [each.model_dump() for each in self.classes],
            "config": self.config.model_dump(),
            "templates": self.templates,
            "calibration": None if self.calibration is None else self.calibration.model_dump(),
            "scale": self.fitted_logit_scale,
            "backbone": None if kept is None else (kept.activation, kept.logit_scale, kept.logit_bias),
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        digest.update(self.raw.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()


# ---- making one --------------------------------------------------------------------------------------------


def named_classes(synonyms: SynonymSet, texts: Sequence[Sequence[str]]) -> tuple[FittedClass, ...]:
    """Return the classes of a synonym set with the texts that stand for their rows."""
    return tuple(
        FittedClass(name=each.name, id=each.id, rows=len(own), texts=list(own))
        for each, own in zip(synonyms.classes, texts, strict=True)
    )


def from_embeddings(
    embeddings: Sequence[Tensor] | Mapping[str, Tensor],
    class_names: Sequence[str] | None,
    config: HeadConfig,
    *,
    texts: Sequence[Sequence[str]] | None = None,
    logit_scale: float | Tensor | None = None,
) -> ClassSpace:
    """Return the class space of text embeddings computed elsewhere.

    Args:
        embeddings: one floating (n_c, dim) tensor or array per class, normalised or not; the first row is the
            class's own name. Or a mapping from the names to these.
        class_names: one per class; None with a mapping.
        config: the settings.
        texts: what each row stands for, for `Prediction.text`.
        logit_scale: multiplies the scores; else `config.logit_scale`, else the backbone's.

    Raises:
        ValueError: counts or shapes that do not agree, an empty class, or a scale that is not > 0.
        TypeError: names or texts that are not strings.
    """
    # The parameter of SigLIP has the shape (1,).
    is_tensor = isinstance(logit_scale, Tensor) and logit_scale.numel() == 1
    scale: float | None = logit_scale.item() if is_tensor else plain(logit_scale)  # type: ignore[union-attr]
    if scale is not None and not is_scale(scale):
        raise ValueError(f"logit_scale: expected a number > 0, at most {LARGEST_SCALE:g}, got {scale}")
    names, rows = checked_rows(embeddings, class_names)
    if texts is not None and [len(own) for own in texts] != [len(own) for own in rows]:
        raise ValueError("texts: expected one text for every row of embeddings, class by class")
    if texts is not None and not all(isinstance(text, str) for own in texts for text in own):
        raise TypeError("texts: expected a list of strings for each class")
    classes = []
    for i, (name, own) in enumerate(zip(names, rows, strict=True)):
        try:
            classes.append(
                FittedClass(name=name, rows=len(own), texts=None if texts is None else list(texts[i]))
            )
        except ValidationError as error:
            raise ValueError(f"class {i}: {first_problem(error)}") from None
    return ClassSpace(torch.cat(rows), tuple(classes), config, fitted_logit_scale=scale)


def joined(known: BackboneFacts | None, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a fingerprint: of images as found now, of texts by the text tower that encoded the classes."""
    recorded = {} if known is None else known.fingerprint
    return {**found, **{part: rows for part, rows in recorded.items() if part != "image" or not found}}


def facts_of(backbone: Backbone, known: BackboneFacts | None) -> BackboneFacts:
    """Return what there is to say of a backbone.

    Args:
        backbone: as it is now.
        known: what is known of it from before: the fingerprint of a text tower that it has no more.
    """
    name = backbone.name
    # A relative folder would be lost when the artifact is loaded from another working directory.
    name = os.path.abspath(name) if name is not None and os.path.isdir(name) else name
    bias = backbone.logit_bias()
    return BackboneFacts(
        reference=BackboneReference(name=name, revision=backbone.revision),
        activation=backbone.activation,
        logit_scale=backbone.logit_scale().item(),
        logit_bias=None if bias is None else bias.item(),
        fingerprint=joined(known, backbone.fingerprint()),
    )


# ---- changing one ------------------------------------------------------------------------------------------


def class_position(class_names: Sequence[str], which: int | str, argument: str = "classes") -> int:
    """Return the position of a class: the one place that reads a class's name or position.

    Args:
        class_names: of all classes.
        which: a position, counted from 0, or a name that no other class has.
        argument: what an error calls it.

    Raises:
        TypeError: neither a number nor a name.
        ValueError: a position out of range (negative ones are), or a name of no class or of several.
    """
    if not isinstance(which, str):
        if not is_whole(which):
            raise TypeError(f"{argument}: expected positions or names, got {type(which).__name__}: {which!r}")
        which = operator.index(which)
        if not 0 <= which < len(class_names):
            raise ValueError(f"{argument}: position {which} is out of range for {len(class_names)} classes")
        return which
    positions = [i for i, name in enumerate(class_names) if name == which]
    if len(positions) != 1:
        what = f"at positions {positions}; give the position" if positions else "no class"
        raise ValueError(f"{argument}: {which!r} names {what}")
    return positions[0]


def add(space: ClassSpace, classes: Iterable[FittedClass], raw: Tensor) -> ClassSpace:
    """Append classes with their (texts, dim) raw embeddings; the calibration, of other classes, goes."""
    return replace(
        space,
        raw=torch.cat([space.raw, raw.to(space.raw)]),
        classes=(*space.classes, *classes),
        calibration=None,
    )


def drop(space: ClassSpace, classes: int | str | Iterable[int | str]) -> ClassSpace:
    """Take classes out, by position or by name.

    Raises:
        ValueError: a name that no class or several classes have, a position out of range, or no class left.
    """
    classes = plain(classes)
    single = isinstance(classes, str) or not isinstance(classes, Iterable)
    listed: Iterable[Any] = [classes] if single else classes  # type: ignore[assignment]
    gone = {class_position(space.class_names, which) for which in listed}
    left = [i for i in range(len(space.classes)) if i not in gone]
    if not left:
        raise ValueError("remove_classes: at least one class must be left")
    rows = torch.isin(space.owners, torch.tensor(left, device=space.owners.device))
    return replace(
        space, raw=space.raw[rows], classes=tuple(space.classes[i] for i in left), calibration=None
    )


def rename(space: ClassSpace, which: int | str, name: str) -> ClassSpace:
    """Give a class another label; its texts, and so the logits and the calibration, stay as they are.

    Args:
        space: the class space.
        which: its position, or its name if no other class has it.
        name: the new label.

    Raises:
        ValueError: no such class, or several; a name that cannot be shown.
        TypeError: a name that is not a string.
    """
    position = class_position(space.class_names, which)
    classes = list(space.classes)
    classes[position] = classes[position].model_copy(update={"name": checked_name(name)})
    return replace(space, classes=tuple(classes))


def merge(space: ClassSpace, other: ClassSpace) -> ClassSpace:
    """Append the classes of another class space of the same backbone; the settings stay those of the first.

    Raises:
        ValueError: they were fitted by other backbones, templates or scales.
    """
    own, others = ({} if each.backbone is None else each.backbone.fingerprint for each in (space, other))
    if space.raw.shape[1] != other.raw.shape[1] or bool(own) != bool(others):
        raise ValueError(
            f"other: its texts lie in another space, of dimension {other.raw.shape[1]} "
            f"({'with' if others else 'without'} a known backbone), those of this head in one of "
            f"{space.raw.shape[1]} ({'with' if own else 'without'}); fit both on one backbone"
        )
    if ("texts" in own) != ("texts" in others):
        raise ValueError(
            "other: nothing says which text tower encoded the classes of one of the two, so they may not fit "
            "together; fit one again on the whole model"
        )
    check_fingerprint(own, others, "other")
    for argument, mine, its in (
        ("templates", space.templates, other.templates),
        ("logit_scale", space.fitted_logit_scale, other.fitted_logit_scale),
    ):
        if mine != its:
            raise ValueError(f"other: fitted with {argument} {its}, this head with {mine}; fit one again")
    return add(space, other.classes, other.raw)


def reconfigure(space: ClassSpace, **changes: Any) -> ClassSpace:
    """Change settings, the fields of `HeadConfig`; what changes drops the calibration.

    A `logit_scale` takes the place of the one of `fit_embeddings`: the later word counts.

    Raises:
        ValueError: an unknown setting, or a value that is not allowed.
    """
    config = space.config.replaced(**changes)
    scale = None if changes.get("logit_scale") is not None else space.fitted_logit_scale
    changed = replace(space, config=config, fitted_logit_scale=scale)
    # Of the scale it counts what it is, not where it stands.
    settings, others = (each.config.model_dump(exclude={"logit_scale"}) for each in (space, changed))
    same = settings == others and changed.fixed_logit_scale == space.fixed_logit_scale
    return changed if same else replace(changed, calibration=None)
