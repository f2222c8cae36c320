"""The mathematics of TS³: the space of every class shifts to the image, one image at a time.

The paper says that the spaces shift at inference, per image and cheaply; the recipe is ours, after TPS
("Just Shift It", Sui et al. 2024). Of the views of an image, those with the most confident predictions are
taken; the loss is the entropy of their mean prediction (TPT, Shu et al. 2022); its gradient moves every
class's space as a whole, each text becoming normalize(t + s); the prediction is made on the plain view, and
the shift is forgotten. Which texts an image is compared with is chosen once, on the unshifted space
(`local_points.py`). In a centered space, the texts that move are the centered ones.

Nothing here needs autograd. A shift enters a score through inner products alone,

    <v, t + s> = <v, t> + <v, s>    and    |t + s|² = 1 + 2 <t, s> + |s|²,

so scores and their gradients are a few small products, for many images at once, each with its own shift. No
number of one image enters those of another: batch and order change rounding at most.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from s3clip.arguments import resolve_options
from s3clip.space.folding import point_groups
from s3clip.space.hull import times_gram
from s3clip.space.local_points import LOCAL_POINTS, Comparison, compare_with_local_point, local_weights
from s3clip.space.metrics import METRICS, SHORTEST_MEAN
from s3clip.space.synonymous_space import SynonymousSpace, check_paired, unit_vectors

SHARED_RANK = 16
"""Directions that `shared_shift` may move in: the leading ones of the class centres."""

# The defaults of torch.optim.AdamW.
_BETA1, _BETA2, _EPS, _WEIGHT_DECAY = 0.9, 0.999, 1e-8, 1e-2


# ---- the loss ----------------------------------------------------------------------------------------------


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of softmax predictions in nats. Args: logits: (..., classes). Returns: (...)."""
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)


def mean_prediction(logits: Tensor) -> Tensor:
    """Return the logarithm of the mean softmax prediction. Args: (b, k, c) logits. Returns: (b, c)."""
    return logits.log_softmax(-1).logsumexp(1) - math.log(logits.shape[1])


def entropy_gradient(logits: Tensor) -> Tensor:
    """Return the gradient of the entropy of the mean prediction of k views.

    With p the predictions, m their mean and h = -log m: p (h - <p, h>) / k.

    Args:
        logits: (b, k, c).

    Returns:
        (b, k, c).
    """
    predictions = logits.softmax(-1)
    surprise = -mean_prediction(logits)[:, None]
    expected = (predictions * surprise).sum(-1, keepdim=True)
    return predictions * (surprise - expected) / logits.shape[1]


def confident_views(logits: Tensor, share: float) -> Tensor:
    """Return the views with the lowest prediction entropy, the surest first; of equals the earlier ones.

    Args:
        logits: (b, views, c).
        share: of the views, in (0, 1], rounded down, but one at least (as in TPT).

    Returns:
        (b, k) int64.
    """
    count = max(1, int(logits.shape[1] * share))
    return entropy(logits).argsort(dim=1, stable=True)[:, :count]


# ---- the space, and what a shift does to it ----------------------------------------------------------------


class TextGroup(NamedTuple):
    """Classes (c,) with n texts each: points (c, n, dim), and the tables of the metric's local points."""

    classes: Tensor
    points: Tensor
    tables: dict[str, Tensor]


@dataclass(frozen=True)
class AdaptableSpace:
    """What adaptation reads of a space: the texts themselves, where `FoldedSpace` keeps what it multiplies.

    Attributes:
        groups: the classes, by their number of texts.
        position: (classes,) int64, where each class stands when the groups are put one after another.
        metric: a key of `s3clip.space.metrics.METRICS`.
        options: all options of the metric.
        spread: what a score on the points counts in the head's score; 1 where the space is not centered.
    """

    groups: tuple[TextGroup, ...]
    position: Tensor
    metric: str
    options: Mapping[str, Any]
    spread: Tensor

    @property
    def comparison(self) -> Comparison:
        """How the metric compares an image with its local point."""
        return LOCAL_POINTS[self.metric].comparison(self.options)

    def in_class_order(self, parts: Sequence[Tensor]) -> Tensor:
        """Put the parts of all groups together. Args: parts: (..., c) each. Returns: (..., classes)."""
        return torch.cat(list(parts), dim=-1)[..., self.position]

    @cached_property
    def shared_directions(self) -> Tensor:
        """(rank, dim): the leading right singular vectors of the class centres, as in STS."""
        centres = torch.cat([unit_vectors(group.points.double().mean(1)) for group in self.groups])
        directions: Tensor = torch.linalg.svd(centres, full_matrices=False).Vh[:SHARED_RANK]
        return directions.to(self.groups[0].points.dtype)


def adaptable_space(space: SynonymousSpace, metric: str, metric_options: Mapping[str, Any]) -> AdaptableSpace:
    """Prepare a space for adaptation, in float32 at least.

    Args:
        space: the space of every class.
        metric: a key of `s3clip.space.metrics.METRICS`.
        metric_options: the options of the metric.
    """
    options = resolve_options(metric, METRICS[metric].options, metric_options)
    check_paired(space.sizes, "test-time adaptation")
    groups = []
    for classes, group in point_groups(space, with_edges=METRICS[metric].reads_edges):
        gram = group.points @ group.points.mT
        groups.append(TextGroup(classes, group.points, LOCAL_POINTS[metric].tables(group, gram, **options)))
    spread = space.spread if space.centered else torch.ones_like(space.spread)
    return AdaptableSpace(
        groups=tuple(groups),
        position=torch.cat([group.classes for group in groups]).argsort(),
        metric=metric,
        options=options,
        spread=spread.to(groups[0].points.dtype),
    )


class LocalView(NamedTuple):
    """Images as one group of classes sees them: products with the texts, and weights, (b, k, c, n) each."""

    products: Tensor
    weights: Tensor


class Along(NamedTuple):
    """A shift as seen from images and texts: <v, s> (b, k, c), <t, s> (b, 1, c, n) and |s|² (b, 1, c, 1)."""

    images: Tensor
    texts: Tensor
    squared: Tensor


class ShiftedScores(NamedTuple):
    """Scores after a shift and what their gradient is made of.

    The gradient of a score in the shift is `on_image` v + Σ `on_texts`ᵢ (tᵢ + s).

    Attributes:
        score: (b, k, c).
        on_image: (b, k, c).
        on_texts: (b, k, c, n).
    """

    score: Tensor
    on_image: Tensor
    on_texts: Tensor


def local_view(space: AdaptableSpace, group: TextGroup, images: Tensor) -> LocalView:
    """Choose, on the unshifted space, which texts each image is compared with. Args: images: (b, k, dim)."""
    count, size, _ = group.points.shape
    products = (images.flatten(0, 1) @ group.points.flatten(0, 1).T).unflatten(1, (count, size))
    weights = local_weights(space.metric, products, group.tables, space.options)
    return LocalView(*(tensor.unflatten(0, images.shape[:2]) for tensor in (products, weights)))


def along(group: TextGroup, images: Tensor, shift: Tensor) -> Along:
    """Return the inner products of a shift. Args: images: (b, k, dim); shift: (c or 1, b, dim)."""
    return Along(
        images=images @ shift.permute(1, 2, 0),
        texts=(group.points @ shift.mT).permute(2, 0, 1)[:, None],
        squared=(shift * shift).sum(-1).T[:, None, :, None],
    )


def shifted_scores(
    local: LocalView, gram: Tensor, comparison: Comparison, moved: Along | None
) -> ShiftedScores:
    """Return the metric on texts that were shifted and normalised, and the parts of its gradient.

    Args:
        local: the images.
        gram: (c, n, n) of the texts.
        comparison: of the metric.
        moved: the shift; None: none.
    """
    products, lengths = local.products, torch.ones_like(local.products[:, :1])
    if moved is not None:
        lengths = (1 + 2 * moved.texts + moved.squared).clamp_min(SHORTEST_MEAN**2).sqrt()
        products = (products + moved.images[..., None]) / lengths
    weights = local.weights / lengths
    total = weights.sum(-1)
    product = (local.weights * products).sum(-1)
    on_product = weights * products / lengths
    if comparison == "product":  # does not look at |z|²: the rest would be multiplied with zero
        return ShiftedScores(product, total, -on_product)
    to_point = times_gram(weights.flatten(0, 1), gram).unflatten(0, weights.shape[:2])  # <z, tᵢ>
    if moved is not None:
        along_point = (weights * moved.texts).sum(-1, keepdim=True)
        to_point = to_point + along_point + total[..., None] * (moved.texts + moved.squared)
    to_point = to_point / lengths
    square = (local.weights * to_point).sum(-1)
    score, by_product, by_square = compare_with_local_point(comparison, product, square)
    on_square = total[..., None] * weights - weights * to_point / lengths
    on_texts = 2 * by_square[..., None] * on_square - by_product[..., None] * on_product
    return ShiftedScores(score, by_product * total, on_texts)


def shift_gradient(
    group: TextGroup, images: Tensor, scores: ShiftedScores, slopes: Tensor, shift: Tensor | None
) -> Tensor:
    """Return the gradient of a loss in the shift of every class.

    Args:
        group: the classes.
        images: (b, k, dim).
        scores: of these images.
        slopes: (b, k, c), the gradient of the loss in the scores.
        shift: (c or 1, b, dim); None: none.

    Returns:
        (c, b, dim).
    """
    on_image = (slopes * scores.on_image).mT  # b c k
    on_texts = (slopes[..., None] * scores.on_texts).sum(1).transpose(0, 1)  # c b n
    gradient = on_texts @ group.points + (on_image @ images).transpose(0, 1)
    return gradient if shift is None else gradient + on_texts.sum(-1, keepdim=True) * shift


# ---- the step ----------------------------------------------------------------------------------------------


def first_adamw_step(gradient: Tensor, lr: float) -> Tensor:
    """Return where the first step of AdamW from zero leads: -lr g / (|g| + ε), almost -lr sign(g)."""
    return (gradient / (gradient.abs() + _EPS)).mul_(-lr)


class AdamW:
    """Steps of AdamW from zero (Loshchilov and Hutter 2019), with the defaults of `torch.optim.AdamW`.

    It works on each coordinate by itself, so the shifts of many images may be one tensor. Of a single step no
    moments are kept.

    Args:
        lr: the step size.
        steps: how many steps there will be.
    """

    def __init__(self, lr: float, steps: int) -> None:
        self._lr, self._steps, self._number = lr, steps, 0
        self._moments: list[tuple[Tensor, Tensor]] = []

    def __call__(self, parameters: list[Tensor] | None, gradients: list[Tensor]) -> list[Tensor]:
        """Return the parameters after the next step; None stands for zeros, before the first."""
        self._number += 1
        if parameters is None:
            if self._steps > 1:
                self._moments = [((1 - _BETA1) * g, (1 - _BETA2) * g * g) for g in gradients]
            return [first_adamw_step(gradient, self._lr) for gradient in gradients]
        return [self._next(*each) for each in zip(parameters, gradients, self._moments, strict=True)]

    def _next(self, parameter: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor]) -> Tensor:
        first, second = moments
        first.mul_(_BETA1).add_(gradient, alpha=1 - _BETA1)
        second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        length = (second / (1 - _BETA2**self._number)).sqrt() + _EPS
        step = first / (1 - _BETA1**self._number) / length
        return parameter * (1 - self._lr * _WEIGHT_DECAY) - self._lr * step


# ---- the methods -------------------------------------------------------------------------------------------


class Settings(NamedTuple):
    """How the methods adapt: see `TestTimeAdapter`; `scale` turns scores into logits."""

    confidence: float
    steps: int
    lr: float
    scale: float
    activation: Literal["softmax", "sigmoid"]


def mean_views(space: AdaptableSpace, views: Tensor, logits: Tensor, settings: Settings) -> Tensor:
    """Return the mean logits of all views: the control, which gives as much computation to an image."""
    return logits.mean(1)


def zero(space: AdaptableSpace, views: Tensor, logits: Tensor, settings: Settings) -> Tensor:
    """Let the confident views vote: ZERO, their mean prediction at temperature zero (Farina et al. 2024).

    The mean prediction at the model's own temperature has one more vote, which decides between equals and can
    do nothing else. Returns the logits of the shares of the votes.
    """
    chosen = _take(logits, confident_views(logits, settings.confidence))
    votes = nn.functional.one_hot(chosen.argmax(-1), chosen.shape[-1]).sum(1)
    shares = (votes + mean_prediction(chosen).exp()) / (chosen.shape[1] + 1)
    info = torch.finfo(shares.dtype)
    shares = shares.clamp(info.tiny, 1 - info.eps)
    return shares.log() if settings.activation == "softmax" else shares.logit()


def shift(space: AdaptableSpace, views: Tensor, logits: Tensor, settings: Settings) -> Tensor:
    """Shift the space of every class, each its own way, and return the logits of the plain view."""
    return _shifted(space, views, logits, settings, None)


def shared_shift(space: AdaptableSpace, views: Tensor, logits: Tensor, settings: Settings) -> Tensor:
    """Shift all spaces alike, in the leading directions of the class centres, after STS (arXiv 2511.09809).

    The coefficients of the `SHARED_RANK` directions are what is stepped.
    """
    return _shifted(space, views, logits, settings, space.shared_directions)


ADAPTATIONS: dict[str, Callable[[AdaptableSpace, Tensor, Tensor, Settings], Tensor]] = {
    "shift": shift,
    "shared_shift": shared_shift,
    "zero": zero,
    "mean_views": mean_views,
}
"""(space, unit views (b, views, dim), their logits (b, views, classes), settings) -> (b, classes) logits.
View 0 is the plain image."""


def _take(tensor: Tensor, chosen: Tensor) -> Tensor:
    """(b, views, n) at (b, k) -> (b, k, n)."""
    return tensor.gather(1, chosen[..., None].expand(-1, -1, tensor.shape[-1]))


def _shifted(
    space: AdaptableSpace, views: Tensor, logits: Tensor, settings: Settings, directions: Tensor | None
) -> Tensor:
    """Adapt by shifts: of each class, or of all alike within `directions` (rank, dim)."""
    if not settings.steps:
        return logits[:, 0]
    chosen = confident_views(logits, settings.confidence)
    confident, their_logits = _take(views, chosen), _take(logits, chosen)
    by_score = settings.scale * space.spread
    seen = [local_view(space, group, confident) for group in space.groups]
    unshifted: Sequence[Tensor | None] = [None] * len(space.groups)
    shifts = unshifted
    scores, now = _scores(space, seen, confident, unshifted), their_logits
    before = [own.score for own in scores]
    parameters: list[Tensor] | None = None
    step = AdamW(settings.lr, settings.steps)
    for _ in range(settings.steps):
        if parameters is not None:
            shifts = _shifts(parameters, directions, len(space.groups))
            scores = _scores(space, seen, confident, shifts)
            now = their_logits + by_score * _gain(space, scores, before)
        slopes = by_score * entropy_gradient(now)
        gradients = [
            shift_gradient(group, confident, own, slopes[..., group.classes], moved)
            for group, own, moved in zip(space.groups, scores, shifts, strict=True)
        ]
        if directions is not None:
            gradients = [torch.stack([g.sum(0) for g in gradients]).sum(0)[None] @ directions.T]
        parameters = step(parameters, gradients)
    assert parameters is not None  # there was a step
    plain = views[:, :1]
    seen = [local_view(space, group, plain) for group in space.groups]
    before = [own.score for own in _scores(space, seen, plain, unshifted)]
    scores = _scores(space, seen, plain, _shifts(parameters, directions, len(space.groups)))
    return logits[:, 0] + by_score * _gain(space, scores, before)[:, 0]


def _shifts(parameters: list[Tensor], directions: Tensor | None, groups: int) -> list[Tensor]:
    """Return the shift of each group, (c or 1, b, dim)."""
    return parameters if directions is None else [parameters[0] @ directions] * groups


def _scores(
    space: AdaptableSpace, seen: Sequence[LocalView], images: Tensor, shifts: Sequence[Tensor | None]
) -> list[ShiftedScores]:
    return [
        shifted_scores(
            local,
            group.tables["gram"],
            space.comparison,
            None if moved is None else along(group, images, moved),
        )
        for group, local, moved in zip(space.groups, seen, shifts, strict=True)
    ]


def _gain(space: AdaptableSpace, scores: Sequence[ShiftedScores], before: Sequence[Tensor]) -> Tensor:
    """(b, k, classes), what the shift added to the scores."""
    return space.in_class_order([own.score - old for own, old in zip(scores, before, strict=True)])
