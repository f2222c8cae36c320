"""Point-to-space metrics: how near an image lies to the synonymous space of a class.

Every metric has two halves. `fold` runs once, when classes are fitted: it turns the points of a class into
the rows that images are multiplied with, and into small tables. `score` runs per image, on those products
alone, so no embedding is ever gathered: with S = images · textsᵀ and the Gram matrix G of a class, the cosine
to the normalised mean of chosen texts is `Σ_chosen S / sqrt(mᵀ G m)`, m the 0/1 mask of the chosen texts.

A metric called as a function does both: `METRICS["local_center"](images, points, k=5)`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from s3clip.arguments import Option, is_count, is_number, resolve_options
from s3clip.space.hull import hull_weights, hull_weights_in_a_loop, times_gram
from s3clip.space.rips import chordal_distances, within

SHORTEST_MEAN = 1e-6
"""A mean of unit vectors shorter than this has no direction to speak of: the nearest text stands for it."""


class PointGroup(NamedTuple):
    """The points of c classes that have n points each.

    Attributes:
        points: (c, n, dim) unit vectors.
        named: (c,) bool, whether point 0 is the class's own name (a scale rule may have dropped it).
        edges: (c, n, n) bool, which points share an edge of the Rips complex; None where no metric asks.
    """

    points: Tensor
    named: Tensor
    edges: Tensor | None = None


class Folded(NamedTuple):
    """What is kept of c classes with n points each.

    Attributes:
        rows: (c, r, dim), the vectors that images are multiplied with.
        tables: further tensors, each (c, ...).
    """

    rows: Tensor
    tables: dict[str, Tensor]


@dataclass(frozen=True)
class Metric:
    """A point-to-space metric.

    Attributes:
        name: its key in `METRICS`.
        fold: (group, **options) -> Folded.
        score: (products (b, c, r), tables, **options) -> (b, c); may write on the products.
        options: the options that both halves take.
        reads_edges: whether `fold` needs the edges of the complex.
        pairs: of the options, whether `fold` holds a number for each pair of texts of a class.
    """

    name: str
    fold: Callable[..., Folded]
    score: Callable[..., Tensor]
    options: Mapping[str, Option]
    reads_edges: bool = False
    pairs: Callable[..., bool] = lambda **_: False

    def __call__(
        self, images: Tensor, points: Tensor, *, scale: float | Tensor = math.inf, **options: Any
    ) -> Tensor:
        """Return the score of every image against every class, whose first point is its own name.

        Args:
            images: (b, dim) unit vectors.
            points: (n, dim) or (c, n, dim) unit vectors, the texts of one class or of several of equal size.
            scale: the ε of the classes, read by `local_star` alone.
            options: the metric's own.

        Returns:
            (b,) or (b, c), in [-1, 1]; for one point the cosine.

        Raises:
            ValueError: shapes that do not fit, an unknown option or a value out of range.
        """
        resolved = resolve_options(self.name, self.options, options)
        if images.ndim != 2 or points.ndim not in (2, 3) or images.shape[-1] != points.shape[-1]:
            raise ValueError(
                f"images, points: expected shapes (b, dim) and (c, n, dim) or (n, dim), "
                f"got {tuple(images.shape)} and {tuple(points.shape)}"
            )
        dtype = torch.promote_types(torch.promote_types(images.dtype, points.dtype), torch.float32)
        classes = (points if points.ndim == 3 else points[None]).to(dtype)
        edges = None
        if self.reads_edges:
            edges = within(
                chordal_distances(classes, torch.float64), torch.as_tensor(scale, device=points.device)
            )
        named = torch.ones(len(classes), dtype=torch.bool, device=points.device)
        folded = self.fold(PointGroup(classes, named, edges), **resolved)
        products = torch.einsum("bd,crd->bcr", images.to(dtype), folded.rows)
        scores = self.score(products, folded.tables, **resolved).to(images.dtype)
        return scores if points.ndim == 3 else scores[:, 0]


def fold_local_center(
    group: PointGroup, *, k: int | float | None, renormalize: bool, name_weight: float
) -> Folded:
    """Keep the texts and their Gram matrix; where all n texts are chosen, their mean alone."""
    points = group.points
    # A class without its own name among its points has nothing to give the name's weight to.
    weight = group.named.to(points) * name_weight
    if chosen_count(k, points.shape[1]) == points.shape[1]:
        exact = points.double()
        mean = (1 - weight)[:, None] * exact.mean(1) + weight[:, None] * exact[:, 0]
        length = mean.norm(dim=-1, keepdim=True)
        if not renormalize:
            return Folded(mean[:, None].to(points.dtype), {})
        if bool((length >= SHORTEST_MEAN).all()):
            return Folded((mean / length)[:, None].to(points.dtype), {})
    return Folded(points, {"weight": weight} | ({"gram": points @ points.mT} if renormalize else {}))


def score_local_center(
    products: Tensor,
    tables: Mapping[str, Tensor],
    *,
    k: int | float | None,
    renormalize: bool,
    name_weight: float,
) -> Tensor:
    """Cosine to (or, without renormalising, product with) the mean of the k texts nearest to the image.

    With a name weight w, that mean counts 1 - w, and the class's own name w.
    """
    if not tables:
        return products[..., 0]
    # lerp, unlike a product, takes one dtype.
    dtype = torch.promote_types(products.dtype, tables["weight"].dtype)
    weight = tables["weight"].to(dtype)
    k = chosen_count(k, products.shape[-1])
    # By lerp: (1 - w) * mean + w * name is computed wrongly for several classes by OpenVINO 2026.4.
    if not renormalize:
        to_name = products[..., 0].clone()  # first: the products are scratch
        return torch.lerp(_mean_of_largest(products, k).to(dtype), to_name.to(dtype), weight)
    nearest = products.topk(k, dim=-1)
    mean = torch.lerp(nearest.values.mean(-1).to(dtype), products[..., 0].to(dtype), weight)
    # Weights that sum to 1 keep mᵀ G m below 1, inside float16.
    chosen = torch.zeros_like(products).scatter_(-1, nearest.indices, 1 / k)
    own_name = torch.zeros_like(products[0, 0])
    own_name[0] = 1
    chosen = torch.lerp(chosen.to(dtype), own_name.to(dtype), weight[:, None])
    length = _quadratic(chosen, tables["gram"]).clamp_min(0).sqrt()
    shortest = shortest_length(length.dtype)
    return torch.where(length < shortest, nearest.values[..., 0], mean / length.clamp_min(shortest))


def shortest_length(dtype: torch.dtype) -> float:
    """Return the length of a mean below which its square, a quadratic form in this dtype, is rounding."""
    return max(SHORTEST_MEAN, 2 * math.sqrt(torch.finfo(dtype).eps))


def is_traced() -> bool:
    """Whether the operators are being recorded (torch.compile, torch.export, torch.jit.trace)."""
    is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]
    return torch.compiler.is_compiling() or is_tracing()


def _mean_of_largest(products: Tensor, k: int) -> Tensor:
    """(b, c, n) -> (b, c), the mean of the k largest of each n. May sort `products` itself."""
    if k == 1:
        return products.amax(-1)
    if products.device.type != "cpu" or products.dtype not in (torch.float32, torch.float64) or is_traced():
        return products.topk(k, dim=-1, sorted=False).values.mean(-1)
    try:
        if torch.autograd.forward_ad.unpack_dual(products).tangent is not None:
            raise RuntimeError("numpy knows nothing of tangents")
        rows = products.numpy()
    except RuntimeError:  # gradients, vmap and the like need torch's own operators
        return products.topk(k, dim=-1, sorted=False).values.mean(-1)
    # numpy sorts short rows in vector registers, several times faster than torch.topk picks from them; in
    # place, since a copy of the products costs as much as sorting them.
    rows.sort(axis=-1)
    return products[..., -k:].mean(-1)


def chosen_count(k: int | float | None, n: int) -> int:
    """How many of n texts `k` means: a number of them, a share in (0, 1), rounded up, or None for all."""
    if k is None:
        return n
    return min(k, n) if isinstance(k, int) else min(n, math.ceil(k * n - 1e-9))


def fold_nearest(group: PointGroup) -> Folded:
    """Keep the texts."""
    return Folded(group.points, {})


def score_nearest(products: Tensor, tables: Mapping[str, Tensor]) -> Tensor:
    """Cosine to the nearest text."""
    return products.amax(-1)


def fold_soft_nearest(group: PointGroup, *, beta: float) -> Folded:
    """Keep the texts."""
    return Folded(group.points, {})


def score_soft_nearest(products: Tensor, tables: Mapping[str, Tensor], *, beta: float) -> Tensor:
    """(1/β) log mean exp(β cos): a mean, not a sum, so that the number of texts does not count."""
    nearest = products.amax(-1)
    # expm1 and log1p: at a small β the whole answer lies in the digits that exp and log would round away.
    return nearest + torch.log1p(torch.expm1(beta * (products - nearest[..., None])).mean(-1)) / beta


def fold_mean_similarity(group: PointGroup) -> Folded:
    """Keep the mean of the texts."""
    return fold_local_center(group, k=None, renormalize=False, name_weight=0)


def score_mean_similarity(products: Tensor, tables: Mapping[str, Tensor]) -> Tensor:
    """Mean cosine to the texts."""
    return score_local_center(products, tables, k=None, renormalize=False, name_weight=0)


def fold_center(group: PointGroup) -> Folded:
    """Keep the normalised mean of the texts."""
    return fold_local_center(group, k=None, renormalize=True, name_weight=0)


def score_center(products: Tensor, tables: Mapping[str, Tensor]) -> Tensor:
    """Cosine to the normalised mean of the texts: the usual prompt ensemble."""
    return score_local_center(products, tables, k=None, renormalize=True, name_weight=0)


def fold_local_star(group: PointGroup) -> Folded:
    """Keep the texts, then for each the normalised mean of its star: the texts that share an edge with it."""
    points = group.points
    assert group.edges is not None  # `reads_edges`
    star = group.edges.to(points.dtype)
    mean = star @ points / star.sum(-1, keepdim=True)
    length = mean.norm(dim=-1, keepdim=True)
    centre = torch.where(length < SHORTEST_MEAN, points, mean / length.clamp_min(SHORTEST_MEAN))
    return Folded(torch.cat([points, centre], dim=1), {})


def score_local_star(products: Tensor, tables: Mapping[str, Tensor]) -> Tensor:
    """Cosine to the centre of the star of the nearest text."""
    texts, centres = products.chunk(2, dim=-1)
    return centres.gather(-1, texts.argmax(-1, keepdim=True))[..., 0]


def fold_hull(group: PointGroup, *, k: int | float | None) -> Folded:
    """Keep the texts and their Gram matrix."""
    return Folded(group.points, {"gram": group.points @ group.points.mT})


def score_hull(products: Tensor, tables: Mapping[str, Tensor], *, k: int | float | None) -> Tensor:
    """1 - d²/2, d the distance from the image to the convex hull of its k nearest texts."""
    given = products.dtype
    dtype = torch.promote_types(given, torch.float32)
    products, gram = products.to(dtype), tables["gram"].to(dtype)
    # The score is the largest over all weights, so its gradient is that at fixed weights (Danskin 1966).
    # ONNX knows no operators of ours, but loops.
    find = hull_weights_in_a_loop if is_traced() and torch.onnx.is_in_onnx_export() else hull_weights
    weights: Tensor = find(products.detach(), gram.detach(), chosen_count(k, products.shape[-1]))
    score = (weights * products).sum(-1) + (1 - _quadratic(weights, gram)) / 2
    return score.to(given)


def fold_subspace(group: PointGroup, *, r: int) -> Folded:
    """Keep the top principal directions of the texts, and what of their mean is at right angles to them."""
    points = group.points
    exact = points.double()
    mean = exact.mean(1, keepdim=True)
    centered = exact - mean
    variance, vectors = torch.linalg.eigh(centered @ centered.mT)  # n x n instead of dim x dim
    r = min(r, points.shape[1] - 1)
    variance, vectors = variance.flip(-1)[:, :r], vectors.flip(-1)[:, :, :r]
    # Directions without variance (texts on a line) are rounding, and are left out as zero vectors.
    real = (variance > 1e-10)[:, :, None]
    directions = torch.where(real, (vectors.mT @ centered) / variance.clamp_min(1e-10).sqrt()[..., None], 0)
    aside = mean - (directions @ mean.mT).mT @ directions
    rows = torch.cat([aside, directions], dim=1)
    return Folded(rows.to(points.dtype), {"squared": (aside**2).sum((1, 2)).to(points.dtype)})


def score_subspace(products: Tensor, tables: Mapping[str, Tensor], *, r: int) -> Tensor:
    """Cosine to the image's projection on the affine subspace of the texts, c + U Uᵀ(v - c).

    Signed, unlike the length of a projection: in a centered space most scores are negative. With a the part
    of c at right angles to U, the projection is a + U Uᵀv: its two parts are at right angles too.
    """
    along = products[..., 1:].square().sum(-1)
    inner = products[..., 0] + along
    squared = tables["squared"] + along
    return inner / squared.clamp_min(0).sqrt().clamp_min(SHORTEST_MEAN)


def _quadratic(vectors: Tensor, matrices: Tensor) -> Tensor:
    """(b, c, n) vectors and (c, n, n) matrices -> (b, c) quadratic forms."""
    return (times_gram(vectors, matrices) * vectors).sum(-1)


def _is_k(value: object) -> bool:
    share = isinstance(value, float) and 0 < value < 1
    return value is None or is_count(value) or share


def _always(**_: object) -> bool:
    return True


_K = "a whole number >= 1, a share of the texts in (0, 1), or None for all of them"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("nearest", fold_nearest, score_nearest, {}),
        Metric(
            "soft_nearest",
            fold_soft_nearest,
            score_soft_nearest,
            {"beta": Option(20.0, "a finite number > 0", lambda v: is_number(v) and 0 < v < math.inf)},
        ),
        Metric("mean_similarity", fold_mean_similarity, score_mean_similarity, {}),
        Metric("center", fold_center, score_center, {}),
        Metric(
            "local_center",
            fold_local_center,
            score_local_center,
            {
                "k": Option(0.4, _K, _is_k),
                "renormalize": Option(False, "True or False", lambda v: isinstance(v, bool)),
                "name_weight": Option(0.25, "a number in [0, 1)", lambda v: is_number(v) and 0 <= v < 1),
            },
            pairs=lambda renormalize, **_: renormalize,
        ),
        Metric("local_star", fold_local_star, score_local_star, {}, reads_edges=True, pairs=_always),
        Metric("hull", fold_hull, score_hull, {"k": Option(None, _K, _is_k)}, pairs=_always),
        Metric(
            "subspace",
            fold_subspace,
            score_subspace,
            {"r": Option(3, "a whole number >= 1", is_count)},
            pairs=_always,
        ),
    )
}
"""Point-to-space metrics by name, with the options of each."""
