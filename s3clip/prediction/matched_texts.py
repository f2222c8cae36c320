"""Which text of a class an image matched."""

from collections.abc import Sequence

import torch
from torch import Tensor

from s3clip.class_space import FittedClass
from s3clip.space.synonymous_space import SynonymousSpace


def matched_texts(
    space: SynonymousSpace, classes: Sequence[FittedClass], embeds: Tensor, chosen: Tensor
) -> list[list[str | None]]:
    """Return the text of each pair of image and class that is nearest to the image among those kept.

    Args:
        space: the spaces of all classes.
        classes: the classes with their texts.
        embeds: (images, dim) unit embeddings.
        chosen: (images, k) positions of classes.

    Returns:
        k texts for each image; None where the texts of a class are not known.
    """
    texts = [each.texts for each in classes]
    return [
        [None if (known := texts[i]) is None else known[row] for i, row in zip(own, rows, strict=True)]
        for own, rows in zip(chosen.tolist(), nearest_rows(space, embeds, chosen).tolist(), strict=True)
    ]


def nearest_rows(space: SynonymousSpace, embeds: Tensor, chosen: Tensor) -> Tensor:
    """Return which row of each chosen class is nearest to the image, among those kept.

    Args:
        space: the spaces of all classes.
        embeds: (images, dim) unit embeddings.
        chosen: (images, k) positions of classes.

    Returns:
        (images, k), counted from the class's first row.
    """
    # Put in the order of their classes, the images of a class need not be looked for among all.
    ordered, order = chosen.flatten().sort()
    classes, counts = ordered.unique_consecutive(return_counts=True)
    is_chosen = torch.zeros(len(space.scales), dtype=torch.bool, device=classes.device)
    is_chosen[classes] = True
    rows = space.kept[is_chosen[space.point_owners]]
    sizes = space.sizes[classes].tolist()
    points = space.points_of(rows)
    images = embeds[order // chosen.shape[1]].to(points)
    best = [
        own_rows[(own_images @ own_points.T).argmax(1)]
        for own_rows, own_points, own_images in zip(
            rows.split(sizes), points.split(sizes), images.split(counts.tolist()), strict=True
        )
    ]
    nearest = torch.cat(best) - torch.searchsorted(space.owners, ordered) if best else order
    return torch.empty_like(order).scatter_(0, order, nearest).view_as(chosen)
