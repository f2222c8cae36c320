"""The point of the hull of texts that is nearest to an image: what the metric `hull` and TS³ compute with."""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

HULL_STEPS = 200
"""Steps of projected gradient: enough for 1e-12 in float64 on texts in general position."""


# An operator of its own, so that torch.compile and torch.export need not unroll the steps.
@torch.library.custom_op("s3clip::hull_weights", mutates_args=())
def hull_weights(products: Tensor, gram: Tensor, k: int) -> Tensor:
    """Return the barycentric weights of the point of a hull of texts that is nearest to the image.

    Found by accelerated projected gradient with restarts (Beck and Teboulle 2009; O'Donoghue and Candès 2015)
    on the simplex. Distances are taken from the mean of the texts, where the problem is well conditioned.

    Args:
        products: (b, c, n) cosines of images and texts.
        gram: (c, n, n) of the texts.
        k: the hull is that of the k texts nearest to the image, in [1, n].

    Returns:
        (b, c, n), non-negative, of sum 1.
    """
    descent = _Descent.of(products, gram, k)
    state = descent.start()
    for _ in range(HULL_STEPS):
        state = descent.step(*state)
    return state[0]


def hull_weights_in_a_loop(products: Tensor, gram: Tensor, k: int) -> Tensor:
    """`hull_weights` with the steps as one loop of the graph that is recorded."""
    from torch._higher_order_ops import while_loop

    def again(i: Tensor, weights: Tensor, ahead: Tensor, momentum: Tensor, *fixed: Tensor) -> Any:
        moved = _Descent(*fixed).step(weights, ahead, momentum)
        return i + 1, *moved, *(each.clone() for each in fixed)

    # All that the steps read is carried, and nothing is of the width 1, which is taken for any width.
    descent = _Descent.of(products, gram, k)
    weights, ahead, momentum = descent.start()
    first = (torch.tensor(0), weights, ahead, momentum.expand_as(weights).clone(), *descent)
    return cast(Tensor, while_loop(lambda i, *_: i < HULL_STEPS, again, first)[1])


class _Descent(NamedTuple):
    """What the steps of `hull_weights` have in common.

    Attributes:
        curved: (c, n, n), the Gram matrix of texts seen from their mean, times the length of a step.
        linear: (b, c, n), their products with the image, seen from there, times that length.
        closed: (b, c, n), -inf for texts that are none of the k, else 0.
    """

    curved: Tensor
    linear: Tensor
    closed: Tensor

    @classmethod
    def of(cls, products: Tensor, gram: Tensor, k: int) -> "_Descent":
        to_mean = gram.mean(-1)
        mean_squared = to_mean.mean(-1)[:, None]
        curved = gram - to_mean[:, :, None] - to_mean[:, None, :] + mean_squared[..., None]
        linear = products - products.mean(-1, keepdim=True) - to_mean + mean_squared
        # The Frobenius norm is a bound on the curvature that holds for the rounded matrix too.
        length = 1 / torch.linalg.matrix_norm(curved).clamp_min(1e-12)[:, None]
        closed = torch.zeros_like(products)
        if k < products.shape[-1]:
            nearest = products.topk(k, dim=-1).indices
            closed = torch.full_like(products, -torch.inf).scatter(-1, nearest, 0.0)
        return cls(curved * length[..., None], linear * length, closed)

    def start(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the first weights, the point ahead of them, and the momentum."""
        weights = _project_to_simplex(self.closed)
        return weights, weights.clone(), torch.ones_like(self.linear[..., :1])

    def step(self, weights: Tensor, ahead: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return all three after a step."""
        moved = _project_to_simplex(ahead - (times_gram(ahead, self.curved) - self.linear) + self.closed)
        uphill = ((ahead - moved) * (moved - weights)).sum(-1, keepdim=True) > 0
        faster = (1 + (1 + 4 * momentum**2).sqrt()) / 2
        share = torch.where(uphill, 0, (momentum - 1) / faster)
        return moved, moved + share * (moved - weights), torch.where(uphill, 1, faster)


@hull_weights.register_fake
def _(products: Tensor, gram: Tensor, k: int) -> Tensor:
    return torch.empty_like(products)


def times_gram(vectors: Tensor, matrices: Tensor) -> Tensor:
    """(b, c, n) vectors times symmetric (c, n, n) matrices -> (b, c, n)."""
    return (vectors.transpose(0, 1) @ matrices).transpose(0, 1)


def _project_to_simplex(vectors: Tensor) -> Tensor:
    """Nearest point with weights >= 0 that sum to 1 (Held, Wolfe and Crowder 1974); -inf stays at 0."""
    descending = vectors.sort(dim=-1, descending=True).values
    excess = descending.cumsum(-1) - 1
    counts = torch.arange(1, vectors.shape[-1] + 1, device=vectors.device, dtype=vectors.dtype)
    support = (descending * counts > excess).sum(-1, keepdim=True)
    threshold = excess.gather(-1, support - 1) / support
    return (vectors - threshold).clamp_min(0)
