"""Which mean of a class's texts an image is compared with: the metrics, read as a choice of weights.

For an image, every metric picks a *local point* z = Σ wᵢ tᵢ of a class's space, and compares the image v with
it in one of three ways, which need no more than a = v·z and q = |z|²:

    product   a                 nearest, soft_nearest, mean_similarity, local_center
    cosine    a / sqrt(q)       center, local_star, subspace, local_center renormalised
    hull      (1 + 2a - q) / 2  hull: 1 - d²/2, d the distance of v and z

With the weights held, a metric on texts that moved is a function of inner products alone: this is what
test-time adaptation needs ("neighbours are chosen once, on the unshifted space"). Where the metric is not a
mean of texts itself (`soft_nearest`), the weights are those of its tangent, and only changes are meant.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from s3clip.space.hull import hull_weights, times_gram
from s3clip.space.metrics import SHORTEST_MEAN, PointGroup, chosen_count, shortest_length


class LocalScores(NamedTuple):
    """A comparison and its slopes, each shaped like `score`: dscore/da and dscore/dq."""

    score: Tensor
    by_product: Tensor
    by_square: Tensor


Comparison = Literal["product", "cosine", "hull"]


def compare_with_local_point(comparison: Comparison, product: Tensor, square: Tensor) -> LocalScores:
    """Compare images with local points z.

    Args:
        comparison: which of the three formulas.
        product: (...) v·z.
        square: (...) |z|², >= 0.
    """
    if comparison == "product":
        return LocalScores(product, torch.ones_like(product), torch.zeros_like(product))
    if comparison == "hull":
        score = (1 + 2 * product - square) / 2
        return LocalScores(score, torch.ones_like(product), torch.full_like(product, -0.5))
    length = square.clamp_min(SHORTEST_MEAN**2).sqrt()
    return LocalScores(product / length, 1 / length, -product / (2 * length**3))


@dataclass(frozen=True)
class LocalPoints:
    """How a metric chooses its local points.

    Attributes:
        tables: (group, gram (c, n, n), **options) -> what `weights` reads, each (c, ...).
        weights: (products (b, c, n), tables, **options) -> (b, c, n), of sum 1 for every image and class.
        comparison: options -> which of the three formulas.
    """

    tables: Callable[..., dict[str, Tensor]]
    weights: Callable[..., Tensor]
    comparison: Callable[[Mapping[str, Any]], Comparison]


def _gram_alone(group: PointGroup, gram: Tensor, **options: Any) -> dict[str, Tensor]:
    return {"gram": gram}


def _nearest(products: Tensor, tables: Mapping[str, Tensor]) -> Tensor:
    return _one_hot(products, products.argmax(-1, keepdim=True))


def _soft_nearest(products: Tensor, tables: Mapping[str, Tensor], *, beta: float) -> Tensor:
    return (beta * products).softmax(-1)


def _uniform(products: Tensor, tables: Mapping[str, Tensor]) -> Tensor:
    return torch.full_like(products, 1 / products.shape[-1])


def _local_center_tables(
    group: PointGroup, gram: Tensor, *, k: int | float | None, renormalize: bool, name_weight: float
) -> dict[str, Tensor]:
    name = torch.zeros_like(gram[:, 0])
    name[:, 0] = group.named.to(gram) * name_weight
    return {"gram": gram, "name": name}


def _local_center(
    products: Tensor,
    tables: Mapping[str, Tensor],
    *,
    k: int | float | None,
    renormalize: bool,
    name_weight: float,
) -> Tensor:
    count = chosen_count(k, products.shape[-1])
    chosen = products.topk(count, dim=-1).indices
    name = tables["name"]
    return _one_hot(products, chosen) / count * (1 - name.sum(-1, keepdim=True)) + name


def _local_star_tables(group: PointGroup, gram: Tensor) -> dict[str, Tensor]:
    assert group.edges is not None  # `reads_edges`
    star = group.edges.to(gram)
    return {"gram": gram, "star": star / star.sum(-1, keepdim=True)}


def _local_star(products: Tensor, tables: Mapping[str, Tensor]) -> Tensor:
    # One row of a table per image and class, as a product: a gather would need the table once per image.
    nearest = _nearest(products, tables)
    return (nearest.transpose(0, 1) @ tables["star"]).transpose(0, 1)


def _hull(products: Tensor, tables: Mapping[str, Tensor], *, k: int | float | None) -> Tensor:
    weights: Tensor = hull_weights(products, tables["gram"], chosen_count(k, products.shape[-1]))
    return weights


def _subspace_tables(group: PointGroup, gram: Tensor, *, r: int) -> dict[str, Tensor]:
    """(c, n, n) pseudo-inverse of the centered Gram matrix on its top r directions, and c·tᵢ."""
    exact = gram.double()
    to_mean = exact.mean(-1)
    centered = exact - to_mean[:, :, None] - to_mean[:, None, :] + to_mean.mean(-1)[:, None, None]
    variance, vectors = torch.linalg.eigh(centered)
    r = min(r, gram.shape[-1] - 1)
    variance, vectors = variance.flip(-1)[:, :r], vectors.flip(-1)[:, :, :r]
    inverse = torch.where(variance > 1e-10, 1 / variance.clamp_min(1e-10), 0)
    return {
        "gram": gram,
        "to_mean": to_mean.to(gram),
        "inverse": ((vectors * inverse[:, None]) @ vectors.mT).to(gram),
    }


def _subspace(products: Tensor, tables: Mapping[str, Tensor], *, r: int) -> Tensor:
    # c + U Uᵀ(v - c), U Uᵀ written in the texts: the directions are combinations of them.
    ahead = products - tables["to_mean"]
    return 1 / products.shape[-1] + times_gram(ahead, tables["inverse"])


def _one_hot(products: Tensor, indices: Tensor) -> Tensor:
    return torch.zeros_like(products).scatter_(-1, indices, 1)


LOCAL_POINTS: dict[str, LocalPoints] = {
    "nearest": LocalPoints(_gram_alone, _nearest, lambda options: "product"),
    "soft_nearest": LocalPoints(_gram_alone, _soft_nearest, lambda options: "product"),
    "mean_similarity": LocalPoints(_gram_alone, _uniform, lambda options: "product"),
    "center": LocalPoints(_gram_alone, _uniform, lambda options: "cosine"),
    "local_center": LocalPoints(
        _local_center_tables,
        _local_center,
        lambda options: "cosine" if options["renormalize"] else "product",
    ),
    "local_star": LocalPoints(_local_star_tables, _local_star, lambda options: "cosine"),
    "hull": LocalPoints(_gram_alone, _hull, lambda options: "hull"),
    "subspace": LocalPoints(_subspace_tables, _subspace, lambda options: "cosine"),
}
"""By the names of `s3clip.space.metrics.METRICS`."""


def local_weights(
    metric: str, products: Tensor, tables: Mapping[str, Tensor], options: Mapping[str, Any]
) -> Tensor:
    """Return the weights of the texts that make the local point of every image in every class.

    A mean that is too short to have a direction gives way to the nearest text, as in the metric.

    Args:
        metric: a key of `LOCAL_POINTS`.
        products: (b, c, n) cosines of images and texts.
        tables: what the metric's `tables` gave, "gram" among them.
        options: all options of the metric.

    Returns:
        (b, c, n) of sum 1.
    """
    local = LOCAL_POINTS[metric]
    weights = local.weights(products, tables, **options)
    if local.comparison(options) != "cosine":
        return weights
    square = (times_gram(weights, tables["gram"]) * weights).sum(-1, keepdim=True)
    return torch.where(square < shortest_length(square.dtype) ** 2, _nearest(products, tables), weights)
