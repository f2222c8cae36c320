"""Methods: which texts a classifier gets, and how it scores an image against those of a class.

Most are a `HeadConfig` on some choice of texts, whose `points` say what its rows are: concepts for the
default and its variants, each text by itself for the control and the other baselines. What is no
`HeadConfig`: SCLIP's softmax over all texts.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from s3clip.config import HeadConfig
from s3clip.evaluation.report.comparison import DEFAULT as DEFAULT_NAME
from s3clip.space.metrics import METRICS
from s3clip.texts.prompts import Points
from s3clip.texts.synonyms import SynonymClass, SynonymSet

RANDOM_DESCRIPTORS = 8
"""How many random descriptors each class gets: half of them words, half characters."""

# Short common nouns and adjectives that say nothing of any class in particular.
RANDOM_WORDS = tuple(
    "amber basis cause delta early fifth given hence issue joint known later meant noted other plain quiet "
    "ratio sense trend usual value while yield about brief claim draft entry focus guess habit ideal level "
    "model north offer phase quota range scale theme urban vital whole extra".split()
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Texts(NamedTuple):
    """The texts a method has encoded for itself.

    Attributes:
        classes: the synonym file -> what is encoded instead, one class for each of its classes.
        templates: its templates; None: those of the comparison.
    """

    classes: Callable[[SynonymSet, int], SynonymSet]
    templates: str | None = None


@dataclass(frozen=True)
class Method:
    """One way to classify.

    Attributes:
        name: what tables call it.
        config: the head on its texts; None: `softmax_max`.
        name_only: whether it takes the class's own name alone of the texts at hand.
        texts: what it has encoded for itself, with a backbone alone; None: the texts at hand.
        descriptors: whether it is left out where no class has descriptors.
        random: whether its texts are drawn, so that it runs once for every seed.
        adapt: how the head adapts to each image, of `s3clip.space.shift.ADAPTATIONS`; None: not at all.
        learn: how it learns from labelled images, of `s3clip.evaluation.learners.LEARNERS`; None: not at all.
        negatives: whether it is measured against the negatives of classes: heads are, others have no place.
    """

    name: str
    config: HeadConfig | None
    name_only: bool = False
    texts: Texts | None = None
    descriptors: bool = False
    random: bool = False
    adapt: str | None = None
    learn: str | None = None
    negatives: bool = True


def names_alone(synonyms: SynonymSet, seed: int) -> SynonymSet:
    """Return every class with its own name alone."""
    return _each(synonyms, lambda each: SynonymClass(name=each.name))


def names_and_descriptors(synonyms: SynonymSet, seed: int) -> SynonymSet:
    """Return every class with its own name and its descriptors, as in DCLIP (Menon and Vondrick 2023)."""
    return _each(synonyms, lambda each: SynonymClass(name=each.name, descriptors=each.descriptors))


def without_negatives(synonyms: SynonymSet, seed: int) -> SynonymSet:
    """Return every class with all but its negatives."""
    classes = tuple(each.model_copy(update={"negatives": ()}) for each in synonyms.classes)
    return synonyms.model_copy(update={"classes": classes})


def random_descriptors(synonyms: SynonymSet, seed: int) -> SynonymSet:
    """Return every class with its own name and random descriptors, the same for all classes.

    After WaffleCLIP (Roth et al. 2023): half are pairs of words, half are letters in groups as long as words.
    The words are ours.
    """
    draw = random.Random(seed)
    drawn: list[str] = []
    while len(drawn) < RANDOM_DESCRIPTORS:
        if len(drawn) % 2:
            new = " ".join("".join(draw.choices(LETTERS, k=5)) for _ in range(2))
        else:
            new = " ".join(draw.sample(RANDOM_WORDS, 2))
        drawn += [new] if new not in drawn else []
    return _each(synonyms, lambda each: SynonymClass(name=each.name, descriptors=tuple(drawn)))


def softmax_max(image_embeds: Tensor, embeddings: Sequence[Tensor], *, logit_scale: float) -> Tensor:
    """Return SCLIP's class scores: softmax over the texts of all classes, then the max of each class.

    The softmax keeps the order of the texts of an image, so the predictions are those of `nearest`, and only
    the confidences differ: they do not sum to 1, and one more synonym anywhere lowers them all.

    Args:
        image_embeds: (images, dim), any length but zero.
        embeddings: one (n_c, dim) tensor per class.
        logit_scale: multiplies the cosines.

    Returns:
        (images, classes) logarithms of probabilities.
    """
    texts = normalize(torch.cat(list(embeddings)).to(image_embeds), dim=-1)
    logs = (logit_scale * normalize(image_embeds, dim=-1) @ texts.T).log_softmax(-1)
    parts = logs.split([len(own) for own in embeddings], dim=1)
    return torch.stack([part.amax(1) for part in parts], dim=1)


def _head(
    metric: str,
    *,
    points: Points = "texts",
    filtered: bool = False,
    centering: bool = False,
    renormalize: bool = False,
) -> HeadConfig:
    return HeadConfig(
        points=points,
        metric=metric,
        metric_options={"renormalize": True} if renormalize else {},
        scale_rule=HeadConfig().scale_rule if filtered else None,
        centering="class_mean" if centering else None,
    )


CONTROL = Method("center", _head("center"), negatives=False)
"""What every method is compared with: the cosine to the normalised mean of all texts, the usual ensemble."""

DEFAULT = Method(DEFAULT_NAME, HeadConfig())
"""What a user gets who changes nothing."""

BASELINES = (
    *(
        replace(each, negatives=False)
        for each in (
            Method("name", _head("center"), name_only=True),
            Method("name_7_templates", _head("center"), texts=Texts(names_alone, "openai_imagenet_7")),
            Method("name_80_templates", _head("center"), texts=Texts(names_alone, "openai_imagenet_80")),
            CONTROL,
            Method("softmax_max", None),
            Method(
                "descriptors", _head("mean_similarity"), texts=Texts(names_and_descriptors), descriptors=True
            ),
            Method(
                "random_descriptors", _head("mean_similarity"), texts=Texts(random_descriptors), random=True
            ),
        )
    ),
    DEFAULT,
)
"""The methods that are not a setting of ours, the control, and the default."""


def head_methods() -> list[Method]:
    """Return every metric with and without the default's filter, centering and renormalising, each once.

    Their rows are concepts. `+rips` marks the default's scale rule, `+centered` centering, `+renorm`
    renormalising the local mean.
    """
    found = []
    for metric in METRICS:
        for filtered in (False, True):
            for centering in (False, True):
                for renormalize in (False, True) if "renormalize" in METRICS[metric].options else (False,):
                    settings = {"filtered": filtered, "centering": centering, "renormalize": renormalize}
                    config = _head(metric, points="concepts", **settings)
                    marks = ("+renorm", renormalize), ("+rips", filtered), ("+centered", centering)
                    name = metric + "".join(mark for mark, present in marks if present)
                    if name != CONTROL.name and config != DEFAULT.config:
                        found.append(Method(name, config))
    return found


WITHOUT_NEGATIVES = Texts(without_negatives)
"""The texts at hand as a method has them that has no place for negatives."""

ADAPTED = ("name", "default")
"""The methods that are compared with adaptation too, where it is asked for; so are one's own configs."""

METHODS: dict[str, Method] = {each.name: each for each in (*BASELINES, *head_methods())}
"""Every method by its name."""


def _each(synonyms: SynonymSet, change: Callable[[SynonymClass], SynonymClass]) -> SynonymSet:
    """Return classes with other texts, and all else that is said of them."""
    classes = (
        change(each).model_copy(update={"id": each.id, "groups": each.groups, "names": each.names})
        for each in synonyms.classes
    )
    return SynonymSet(templates=synonyms.templates, language=synonyms.language, classes=tuple(classes))
