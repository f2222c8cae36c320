"""Classifiers that learn from labelled images, scored on images they did not see. All have fixed settings.

A learner gets a fitted head and labelled embeddings, and gives what makes logits of others. Where images are
few, the same ones teach and are asked, in folds: each is asked of what the other folds taught.
"""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from s3clip.class_space.examples import copies
from s3clip.evaluation.report.comparison import CurvePoint
from s3clip.evaluation.scores import resampled_class_means
from s3clip.head import SynonymousSpaceHead
from s3clip.space.strength import fold_of
from s3clip.space.synonymous_space import unit_vectors

FOLDS = 5
"""Parts of the images; what is asked of one was learned from the others."""

CURVE = (10, 30, 100, 300, 1000, 3000)
"""Labelled images at the points of a learning curve, before all there are."""

Learned = Callable[[Tensor], Tensor]
"""(images, dim) unit embeddings -> (images, classes) logits; -inf for what cannot be said."""

Learner = Callable[[SynonymousSpaceHead, Tensor, Tensor], Learned]
"""A fitted head, (labelled, dim) unit embeddings and (labelled,) positions of classes."""


def logistic(head: SynonymousSpaceHead, embeds: Tensor, labels: Tensor) -> Learned:
    """Learn by logistic regression alone: what labels say without words.

    Of embeddings minus the mean of the labelled ones, times 10, by scikit-learn with `C=1`. A class without
    labelled images is never the answer.
    """
    classes, mean = len(head.classes), embeds.mean(0)
    known = labels.unique()
    if len(known) == 1:
        only = torch.full((classes,), -torch.inf).index_fill_(0, known, 0)
        return lambda images: only.expand(len(images), -1)
    fitted = LogisticRegression(C=1.0, max_iter=1000).fit((10 * (embeds - mean)).numpy(), labels.numpy())

    def logits(images: Tensor) -> Tensor:
        found = np.asarray(fitted.decision_function((10 * (images - mean)).numpy()), dtype=np.float32)
        if found.ndim == 1:  # of two classes, the second's
            found = np.stack([np.zeros_like(found), found], axis=1)
        return images.new_full((len(images), classes), -torch.inf).index_copy_(
            1, known, torch.from_numpy(found)
        )

    return logits


def class_means(head: SynonymousSpaceHead, embeds: Tensor, labels: Tensor) -> Learned:
    """Learn the mean of the embeddings of each class, and compare by the cosine; on the head's own scale.

    A class without labelled images is never the answer.
    """
    classes = len(head.classes)
    sums = embeds.new_zeros(classes, embeds.shape[1]).index_add_(0, labels, embeds)
    unseen = torch.bincount(labels, minlength=classes) == 0
    means, scale = normalize(sums, dim=1), head.logit_scale.item()
    return lambda images: (scale * images @ means.T).masked_fill(unseen, -torch.inf)


def tip_adapter(head: SynonymousSpaceHead, embeds: Tensor, labels: Tensor) -> Learned:
    """Learn a cache of keys and values, added to the head's logits: Tip-Adapter, without training.

    ``logits + α exp(-β (1 - v · keysᵀ)) · one-hot labels`` with α = 1 and β = 5.5, as published (Zhang et al.
    2022); there with as many images of each class.
    """
    values = one_hot(labels, len(head.classes)).to(embeds)
    return lambda images: head(image_embeds=images) + torch.exp(-5.5 * (1 - images @ embeds.T)) @ values


def few_shot(head: SynonymousSpaceHead, embeds: Tensor, labels: Tensor) -> Learned:
    """Learn by `head.fit_few_shot`: a residual on the words, as strong as the labelled images alone say.

    That choice is cross-validated in itself, so that folds around it are nested.
    """
    taught = copy.deepcopy(head).fit_few_shot(image_embeds=embeds, labels=labels)
    return lambda images: taught(image_embeds=images)


LEARNERS: dict[str, Learner] = {
    "few_shot": few_shot,
    "logistic": logistic,
    "class_means": class_means,
    "tip_adapter": tip_adapter,
}
"""Every learner by its name."""


def folds(embeds: Tensor, labels: Tensor, seed: int, count: int = FOLDS) -> Tensor:
    """Return (images,) which fold each image is in: classes spread evenly, copies of an image together.

    Args:
        embeds: (images, dim); copies are equal.
        labels: (images,) positions of classes.
        seed: of the order within classes.
        count: of folds; fewer where there are fewer distinct images.

    Raises:
        ValueError: fewer than two distinct images, of which none could be asked.
    """
    groups = copies(embeds)
    distinct = int(groups.max()) + 1
    if distinct < 2:
        raise ValueError("learn: expected two different images or more, to learn of some and ask others")
    mixed = torch.randperm(distinct, generator=torch.Generator().manual_seed(seed))
    return fold_of(labels, groups, count, mixed)


def asked(
    learner: Learner,
    head: SynonymousSpaceHead,
    embeds: Tensor,
    labels: Tensor,
    fold: Tensor,
    *,
    labelled: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Return logits of every image by what was learned from the other folds.

    Args:
        learner: of `LEARNERS`.
        head: fitted.
        embeds: (images, dim), any length but zero.
        labels: (images,) positions of classes.
        fold: as `folds` gives it.
        labelled: learn from so many of the images of the other folds, drawn at random; None: from all.
        seed: of that draw, which is the same for all learners.

    Returns:
        (images, classes).
    """
    unit = unit_vectors(embeds)
    logits = unit.new_empty(len(unit), len(head.classes))
    for which in range(int(fold.max()) + 1):
        out = fold == which
        others = torch.nonzero(~out)[:, 0]
        if labelled is not None:
            draw = torch.Generator().manual_seed(seed * 1000 + which)
            others = others[torch.randperm(len(others), generator=draw)[:labelled]]
        logits[out] = learner(head, unit[others], labels[others])(unit[out])
    return logits


def learning_curve(
    head: SynonymousSpaceHead,
    learners: Sequence[str],
    embeds: Tensor,
    labels: Tensor,
    fold: Tensor,
    scored: Tensor,
    *,
    draws: int,
    seed: int,
) -> list[CurvePoint]:
    """Return how good learners are by the number of labelled images: 10, 30, 100, and so on, to all others.

    All images are asked at every number, each of what images of the other folds taught.

    Args:
        head: fitted.
        learners: keys of `LEARNERS`.
        embeds: (images, dim).
        labels: (images,) positions of classes.
        fold: as `folds` gives it.
        scored: (classes,) bool, the classes that count in recall.
        draws: how often the labelled images are drawn.
        seed: of the draws.
    """
    most = len(labels) - int(torch.bincount(fold).max())
    every, points = torch.ones(1, len(labels)), []
    for name in learners:
        for size in [size for size in CURVE if size < most] + [most]:
            right = torch.stack(
                [
                    asked(
                        LEARNERS[name],
                        head,
                        embeds,
                        labels,
                        fold,
                        labelled=None if size == most else size,
                        seed=seed + draw,
                    ).argmax(1)
                    == labels
                    for draw in range(1 if size == most else draws)
                ]
            ).double()
            recall = resampled_class_means(right, every, labels, scored)[0]
            points.append(
                CurvePoint(
                    method=name,
                    labelled=size,
                    top1=float(right.mean()),
                    recall=float(recall.mean()),
                    worst_top1=float(right.mean(1).min()),
                    worst_recall=float(recall.min()),
                )
            )
    return points
