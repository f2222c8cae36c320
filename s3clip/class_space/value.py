"""The fitted class space, a frozen value, and the values in it.

What follows from it (which texts are kept, the rows that `forward` multiplies) is built by `s3clip.space`.
"""

import hashlib
import json
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)
from torch import Tensor

from s3clip.arguments import LARGEST_SCALE, is_scale
from s3clip.backbone.identity import FLOATS
from s3clip.class_space.examples import Examples, LearnedResidual
from s3clip.class_space.shares import check_shares
from s3clip.config import HeadConfig
from s3clip.space.synonymous_space import SynonymousSpace, build_space
from s3clip.texts.groups import levels_of, problem_of_language
from s3clip.texts.labels import LONGEST_NAME, LONGEST_TEXT, problem_of_name, problem_of_text

_PROGRESS_DELAY_SECONDS = 2.0

Activation = Literal["softmax", "sigmoid"]
"""How logits become probabilities: all classes of an image together, or each for itself."""


def _named(name: str) -> str:
    if problem := problem_of_name(name):
        raise ValueError(f"{problem}: {reprlib.repr(name)}" if name.strip() else problem)
    return name


def _coded(code: str) -> str:
    if problem := problem_of_language(code):
        raise ValueError(f"{reprlib.repr(code)} {problem}")
    return code


def _text(text: str) -> str:
    # What matched may be a name joined with a descriptor: "tabby cat, which has a striped coat".
    if problem := problem_of_text(text, LONGEST_NAME + LONGEST_TEXT + 100):
        raise ValueError(f"{problem}: {reprlib.repr(text)}" if text.strip() else problem)
    return text


Name = Annotated[str, AfterValidator(_named)]
"""A name that can be shown; see `s3clip.texts.labels`."""

_Text = Annotated[str, AfterValidator(_text)]
_Language = Annotated[str, AfterValidator(_coded)]
_Number = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class FittedClass(BaseModel):
    """One class of a class space.

    Attributes:
        name: its name; names may repeat, classes are positions.
        texts: what each of its rows stands for; None where only embeddings were given.
        variants: what else is in the mean of each row: a concept's name with each descriptor; None where no
            row has more than its text.
        rows: how many rows it has.
        id: the synonym file's id.
        groups: the group that it is in at each level, the widest level first; see `s3clip.texts.groups`.
        names: what it is called, by the code of the language.
        negatives: texts of what is seen where it is not there; their embeddings are `ClassSpace.negatives`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Name
    id: _Number | Name | None = None
    rows: int = Field(ge=1)
    texts: list[_Text] | None = None
    variants: list[list[_Text]] | None = None
    groups: dict[Name, Name] = {}
    names: dict[_Language, Name] = {}
    negatives: list[_Text] = []

    @model_validator(mode="after")
    def _agreeing(self) -> "FittedClass":
        for argument, own in (("texts", self.texts), ("variants", self.variants)):
            if own is not None and len(own) != self.rows:
                raise ValueError(f"class {self.name!r}: {len(own)} {argument} for {self.rows} rows")
        return self

    def record(self) -> dict[str, Any]:
        """Return it ready for JSON; what has no groups, names or negatives as before there were any."""
        # No serializer of pydantic's, which would make another error of Ctrl-C.
        later = ("groups", "names", "negatives")
        dumped = self.model_dump(mode="json")
        return {field: value for field, value in dumped.items() if value or field not in later}


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
        coverage: how often the set of labels of an image is to hold the class it shows; None without sets.
        least_probability: at which a class is in the set.

    Examples:
        >>> calibration = Calibration(activation="softmax", temperature=2.0)
        >>> calibration.probabilities(torch.tensor([[0.0, 2.0]]))
        tensor([[0.2689, 0.7311]])
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    activation: Activation
    temperature: float = Field(1.0, ge=TEMPERATURES[0], le=TEMPERATURES[1])
    bias: float = Field(0.0, ge=-LARGEST_BIAS, le=LARGEST_BIAS)
    thresholds: tuple[float, ...] | None = None
    coverage: float | None = Field(None, gt=0, lt=1)
    least_probability: float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _sets_are_whole(self) -> "Calibration":
        if (self.coverage is None) != (self.least_probability is None):
            raise ValueError("coverage and least_probability belong together, and one is missing")
        return self

    def probabilities(self, logits: Tensor, dim: int = -1) -> Tensor:
        """Return the probabilities of logits, whose classes lie along `dim`."""
        scaled = self.scaled(logits)
        return scaled.softmax(dim) if self.activation == "softmax" else scaled.sigmoid()

    def scaled(self, logits: Tensor) -> Tensor:
        """Return what the activation is taken of."""
        return logits / self.temperature + self.bias

    def shifted(self, offsets: Tensor) -> "Calibration":
        """Return the same of logits to which (classes,) offsets were added."""
        if self.thresholds is None:
            return self
        least = torch.tensor(self.thresholds, dtype=torch.float64, device="cpu") + offsets.double().cpu()
        return self.model_copy(update={"thresholds": tuple(least.tolist())})

    def accepts(self, logits: Tensor, classes: Tensor | None = None) -> Tensor:
        """Return a mask of the logits that reach their threshold.

        Args:
            logits: (..., classes), or those of some classes.
            classes: (...) the class of each logit; None: all classes, in their order.
        """
        if self.thresholds is None:
            return torch.ones_like(logits, dtype=torch.bool)
        # In float64: a threshold may lie right above the largest float32 that was seen.
        least = torch.tensor(self.thresholds, dtype=torch.float64, device="cpu")
        if classes is not None and len(least) > 1:
            least = least[classes.cpu()]
        return (logits.cpu().double() >= least).to(logits.device)

    def in_sets(self, logits: Tensor) -> Tensor:
        """Return a mask of the (images, classes) logits whose class is in the set of labels of its image."""
        assert self.least_probability is not None  # it is asked where there are sets
        probable = self.probabilities(logits) >= self.least_probability
        return probable & self.accepts(logits).gather(1, logits.argmax(1, keepdim=True))

    def without_sets(self) -> "Calibration":
        """Return the same without what a coverage was chosen for."""
        return self.model_copy(update={"coverage": None, "least_probability": None})


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


def row_owners(counts: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Return (rows,) int64 ascending: the class of each row, where the classes have so many rows each."""
    rows = torch.tensor(counts, device=device)
    return torch.repeat_interleave(torch.arange(len(rows), device=device), rows)


def check_settings(
    classes: Sequence[FittedClass], calibration: Calibration | None, class_shares: Sequence[float] | None
) -> None:
    """Raise ValueError where thresholds or shares are those of other classes, or groups stand in no order."""
    thresholds = None if calibration is None else calibration.thresholds
    if thresholds is not None and len(thresholds) not in (1, len(classes)):
        raise ValueError(f"calibration: {len(thresholds)} thresholds for {len(classes)} classes")
    if class_shares is not None:
        check_shares(class_shares, len(classes))
    levels_of(each.groups for each in classes)


def check_negatives(classes: Sequence[FittedClass], negatives: Tensor | None, dim: int) -> None:
    """Raise ValueError where these are not the (texts, dim) embeddings of the negatives of the classes."""
    rows = sum(len(each.negatives) for each in classes)
    got = "none" if negatives is None else f"{tuple(negatives.shape)} {negatives.dtype}"
    fits = negatives is None if rows == 0 else negatives is not None and negatives.shape == (rows, dim)
    if not fits or (negatives is not None and negatives.dtype not in FLOATS):
        raise ValueError(f"negatives: expected floating ({rows}, {dim}), or none for 0 texts, got {got}")
    if negatives is not None and not bool(torch.isfinite(negatives).all()):
        raise ValueError("negatives: they hold NaN or Inf")


@dataclass(frozen=True, eq=False)
class Margins:
    """What a relative scale rule measures edges by. To find it each text is compared with each class.

    Attributes:
        values: (texts,) `SynonymousSpace.margins`.
        raw: (texts, dim) the embeddings that they are of.
        owners: (texts,) int64, the class of each.
    """

    values: Tensor
    raw: Tensor
    owners: Tensor


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
        class_shares: of the images, in the order of the classes, with a sum of 1; None: nobody said.
        few_shot: labelled images, or what was learned of them alone; None: there were none.
        negatives: (texts, dim) raw embeddings of the negatives of the classes, class by class; None: no class
            has one.
        margins: what was measured of the embeddings; see `known_margins`. None: nothing.
    """

    raw: Tensor
    classes: tuple[FittedClass, ...]
    config: HeadConfig
    templates: tuple[str, ...] | None = None
    backbone: BackboneFacts | None = None
    fitted_logit_scale: float | None = None
    calibration: Calibration | None = None
    class_shares: tuple[float, ...] | None = None
    few_shot: Examples | LearnedResidual | None = None
    negatives: Tensor | None = None
    margins: Margins | None = None

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        if self.raw.ndim != 2 or 0 in self.raw.shape or self.raw.dtype not in FLOATS:
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
        check_settings(self.classes, self.calibration, self.class_shares)
        if self.few_shot is not None:
            self.few_shot.check(len(self.classes), self.raw.shape[1])
        check_negatives(self.classes, self.negatives, self.raw.shape[1])

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in the order of the logits."""
        return [each.name for each in self.classes]

    @cached_property
    def owners(self) -> Tensor:
        """(texts,) int64 ascending, the class of each row, on the device of `raw`."""
        return row_owners([each.rows for each in self.classes], self.raw.device)

    @cached_property
    def negative_owners(self) -> Tensor:
        """(texts,) int64 ascending, the class of each row of `negatives`."""
        return row_owners([len(each.negatives) for each in self.classes], self.raw.device)

    @property
    def known_margins(self) -> Tensor | None:
        """(texts,) the margins of these very embeddings and classes; None where nobody measured them."""
        known = self.margins
        if known is None or known.raw is not self.raw or not torch.equal(known.owners, self.owners):
            return None
        return known.values

    def with_margins(self, margins: Tensor | None) -> "ClassSpace":
        """Return the same with the (texts,) margins of its embeddings; None: they are to be measured."""
        known = None if margins is None else Margins(margins.to(self.raw.device), self.raw, self.owners)
        return replace(self, margins=known)

    @property
    def fixed_logit_scale(self) -> float | None:
        """What multiplies the scores whatever the backbone says; None: the backbone's own scale does."""
        fitted = self.fitted_logit_scale
        return self.config.logit_scale if fitted is None else fitted

    def build(self, progress: bool | None = None) -> SynonymousSpace:
        """Return the space of every class, on the CPU where the device of `raw` has no float64.

        Args:
            progress: show a progress bar where it takes long; None: on a terminal.

        Raises:
            ValueError: embeddings of no length or direction, classes that centering cannot tell apart, or
                one of too many texts.
        """
        # float64 is missing on MPS; building is small enough for the CPU.
        at = torch.device("cpu") if self.raw.device.type == "mps" else self.raw.device
        bar = tqdm(  # type: ignore[no-untyped-call]
            total=3 * len(self.raw),
            desc="spaces",
            unit=" texts",
            disable=None if progress is None else not progress,
            delay=_PROGRESS_DELAY_SECONDS,
        )
        # Under autocast the products that decide what is kept would be taken in half precision.
        known = self.known_margins
        with bar, torch.autocast(at.type, enabled=False):
            return build_space(
                self.raw.to(at),
                self.owners.to(at),
                self.class_names,
                scale_rule=self.config.scale_rule,
                scale_options=self.config.scale_options,
                keep_name=self.config.keep_name,
                centering=self.config.centering,
                margins=None if known is None else known.to(at),
                progress=bar.update,
            )

    def digest(self) -> str:
        """Return 64 hex digits of all that decides logits and answers, but what the backbone is called."""
        facts, calibration = self.backbone, self.calibration
        later = {"coverage", "least_probability"}
        settings: dict[str, Any] = {
            "classes": [each.record() for each in self.classes],
            "config": self.config.model_dump(),
            "templates": self.templates,
            "calibration": calibration
            and calibration.model_dump(exclude=later if calibration.coverage is None else None),
            "scale": self.fitted_logit_scale,
            "backbone": None if facts is None else (facts.activation, facts.logit_scale, facts.logit_bias),
        }
        # Digests of class spaces that have nothing of what came later are what they were.
        if self.class_shares is not None:
            settings["class_shares"] = self.class_shares
        tensors = [self.raw] if self.negatives is None else [self.raw, self.negatives]
        if (taught := self.few_shot) is not None:
            settings["few_shot"] = None if taught.report is None else taught.report.model_dump()
            if isinstance(taught, Examples):
                settings["examples"] = (taught.logit_scale, taught.false_accept_rate)
                tensors += [taught.embeds, taught.labels]
            else:
                tensors += [taught.weights, taught.bias]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for each in tensors:
            digest.update(each.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()
