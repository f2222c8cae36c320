"""What is timed of the head itself: building the space, `forward`, and `forward` beside the image tower."""

import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from s3clip.backbone.backbone import Backbone
from s3clip.bench.timing import Row, as_much, extra_memory, faster, interleaved, memory_rows
from s3clip.bench.workload import Workload
from s3clip.config import HeadConfig
from s3clip.head import SynonymousSpaceHead
from s3clip.space.boruvka import BLOCK
from s3clip.space.rips import (
    CACHED_NUMBERS,
    chordal_distances,
    chosen_component,
    minimum_spanning_tree,
    spanning_tree_of_points,
)
from s3clip.space.scale_rules import kept_share
from s3clip.space.synonymous_space import build_space


def _texts(classes: int, texts: int, dim: int, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return normalize(torch.randn(classes, texts, dim, generator=generator), dim=-1).to(device)


# ---- space -----------------------------------------------------------------------------------------------


def batched_h0(texts: Tensor) -> Tensor:
    """Return the death times of (c, n, dim) classes by s3clip, (c, n - 1); components are chosen too."""
    distances = chordal_distances(texts)
    tree = minimum_spanning_tree(distances)
    chosen_component(distances[:, 0], tree, kept_share(tree.lengths, share=0.75))
    return tree.lengths.sort(-1).values


def ripser_h0(texts: Tensor, *, our_distances: bool) -> Tensor:
    """Return the death times by ripser, one class at a time, from points or from distances by s3clip."""
    from ripser import ripser

    deaths = []
    with warnings.catch_warnings():
        # 50 points of 512 dimensions: ripser asks at every call whether they were transposed.
        warnings.filterwarnings("ignore", message="The input point cloud has more columns than rows")
        for own in texts.cpu():
            given = chordal_distances(own) if our_distances else own
            found = ripser(given.numpy(), maxdim=0, distance_matrix=our_distances)
            deaths.append(torch.from_numpy(found["dgms"][0][:-1, 1]).sort().values)
    return torch.stack(deaths)


def gudhi_h0(texts: Tensor, *, our_distances: bool) -> Tensor:
    """Return the death times by gudhi, one class at a time, from points or from distances by s3clip."""
    import gudhi

    deaths = []
    for own in texts.cpu():
        given = (
            {"distance_matrix": chordal_distances(own).numpy()} if our_distances else {"points": own.numpy()}
        )
        simplices = gudhi.RipsComplex(**given).create_simplex_tree(max_dimension=1)
        simplices.compute_persistence(homology_coeff_field=2, min_persistence=-1)
        pairs = simplices.persistence_intervals_in_dimension(0)
        deaths.append(torch.from_numpy(pairs[:, 1]).sort().values[:-1])
    return torch.stack(deaths)


def time_space(work: Workload, device: str) -> list[Row]:
    """Time H0 and components of many classes, and the whole space, from the embeddings on."""
    classes, texts, dim = work.classes, work.space_texts, work.dim
    points = _texts(classes, texts, dim, device)
    owners = torch.arange(classes, device=device).repeat_interleave(texts)
    names = [str(i) for i in range(classes)]
    config = HeadConfig()
    step = max(1, CACHED_NUMBERS // (texts * dim))

    def float64_products() -> None:
        for chunk in points.split(step):
            wide = chunk.double()
            _ = wide @ wide.mT

    def space_products() -> None:
        float64_products()
        centres = points.mean(1)
        for chunk in points.split(step):
            _ = chunk.flatten(0, 1) @ centres.T

    calls: dict[str, Callable[[], Any]] = {
        "h0": lambda: batched_h0(points),
        "build_space": lambda: build_space(
            points.flatten(0, 1),
            owners,
            names,
            scale_rule=config.scale_rule,
            scale_options=config.scale_options,
            keep_name=config.keep_name,
            centering=config.centering,
        ),
        "the classes' products in float64": float64_products,
        "those, and all texts with all centres": space_products,
    }
    loops = {"ripser": ripser_h0, "gudhi": gudhi_h0}
    for name, loop in loops.items():
        if find_spec(name) is not None:
            calls[f"a loop over {name}, from points"] = partial(loop, points, our_distances=False)
            calls[f"a loop over {name}, distances by s3clip"] = partial(loop, points, our_distances=True)
    calls["h0"]()
    seconds = interleaved(calls, work.space_repeats, device)
    settings = {"classes": classes, "texts": texts, "dim": dim}
    rows = [
        as_much("space", what, floor, seconds[name], seconds[floor], **settings)
        for name, what, floor in (
            ("h0", "H0 and components", "the classes' products in float64"),
            ("build_space", "the whole space, default settings", "those, and all texts with all centres"),
        )
    ]
    rows += [
        faster("space", "H0 and components", name, seconds["h0"], seconds[name], **settings)
        for name in seconds
        if name.startswith("a loop")
    ]
    extra = extra_memory(calls["build_space"], device)
    raw = points.numel() * points.element_size() / 2**20
    return rows + memory_rows(
        "space", "peak memory of the whole space", "the raw embeddings", extra, raw, settings
    )


def time_large_class(work: Workload, device: str) -> list[Row]:
    """Time the space of one class of very many texts, beside another of one, against their one product.

    And its spanning tree, for as many texts as scipy holds the distances of, against scipy's single linkage.
    """
    from scipy.cluster.hierarchy import linkage

    points = _texts(1, work.large_class + 1, work.dim, device)[0]
    owners = torch.zeros(len(points), dtype=torch.int64, device=device)
    owners[-1] = 1
    config = HeadConfig()

    def space() -> None:
        build_space(
            points, owners, ["many", "one"], scale_rule=config.scale_rule, scale_options=config.scale_options
        )

    def product() -> None:
        exact = points.double()
        for part in exact.split(BLOCK):
            _ = part @ exact.T

    linked = points[: work.linked]
    margins = torch.ones(1, len(linked), device=device)
    settings = {"classes": 1, "texts": work.large_class, "dim": work.dim}
    seconds = interleaved({"space": space, "product": product}, 1, device)
    what = "the space of one class"
    rows = [
        as_much("space", what, "its one product in float64", seconds["space"], seconds["product"], **settings)
    ]
    extra, raw = extra_memory(space, device), points.numel() * points.element_size() / 2**20
    rows += memory_rows("space", f"peak memory of {what}", "the raw embeddings", extra, raw, settings)
    seconds = interleaved(
        {
            "tree": lambda: spanning_tree_of_points(linked[None], margins),
            "scipy": lambda: linkage(linked.cpu().numpy(), "single"),
        },
        1,
        device,
    )
    settings["texts"] = work.linked
    return [
        *rows,
        faster(
            "space",
            "its spanning tree",
            "scipy's single linkage",
            seconds["tree"],
            seconds["scipy"],
            **settings,
        ),
    ]


# ---- forward ---------------------------------------------------------------------------------------------


def gather_rows(images: Tensor, texts: Tensor) -> Tensor:
    """The default metric by gathering the embeddings of the nearest texts, all (images, classes, k, dim)."""
    count = -(-texts.shape[1] * 2 // 5)
    products = torch.einsum("bd,cnd->bcn", images, texts)
    classes = torch.arange(len(texts), device=texts.device)[:, None]
    mean = texts[classes, products.topk(count, dim=-1).indices].mean(2)
    return 0.75 * torch.einsum("bd,bcd->bc", images, mean) + 0.25 * products[..., 0]


def gather_rows_by_class(images: Tensor, texts: Tensor) -> Tensor:
    """The same, one class at a time: what is gathered stays in the cache."""
    count = -(-texts.shape[1] * 2 // 5)
    scores = []
    for own in texts:
        products = images @ own.T
        mean = own[products.topk(count, dim=1).indices].mean(1)
        scores.append(0.75 * (images * mean).sum(1) + 0.25 * products[:, 0])
    return torch.stack(scores, dim=1)


def random_head(texts: Tensor) -> SynonymousSpaceHead:
    """Return a head of default settings on (c, n, dim) texts, of which all are kept: the most work.

    Random texts share no meaning for a scale rule to find, and centering would cost one product more.
    """
    head = SynonymousSpaceHead(config=HeadConfig(scale_rule=None))
    return head.fit_embeddings(list(texts), [str(i) for i in range(len(texts))], logit_scale=1.0)


def time_forward(work: Workload, device: str) -> list[Row]:
    """Time `forward` against the product that it cannot do without, and see what it holds for many classes.

    What takes seconds runs three times at most.
    """
    images, classes, texts, dim = work.images, work.classes, work.forward_texts, work.dim
    points, batch = _texts(classes, texts, dim, device), _texts(1, images, dim, device)[0]
    head, flat = random_head(points), points.flatten(0, 1)
    product = "the one product images @ texts.T"
    with torch.inference_mode():
        head(image_embeds=batch)
        fast = interleaved(
            {"head": lambda: head(image_embeds=batch), product: lambda: batch @ flat.T}, work.repeats, device
        )
        slow = interleaved(
            {
                "head": lambda: head(image_embeds=batch),
                "gathering rows": lambda: gather_rows(batch, points),
                "gathering rows class by class": lambda: gather_rows_by_class(batch, points),
            },
            min(3, work.repeats),
            device,
        )
    settings = {"images": images, "classes": classes, "texts": texts, "dim": dim}
    rows = [as_much("forward", "forward, default metric", product, fast["head"], fast[product], **settings)]
    rows += [
        faster("forward", "forward, default metric", name, slow["head"], seconds, **settings)
        for name, seconds in slow.items()
        if name != "head"
    ]
    return rows + _time_many_classes(batch, *work.many, device, min(5, work.repeats))


def _time_many_classes(batch: Tensor, classes: int, texts: int, device: str, repeats: int) -> list[Row]:
    points = _texts(classes, texts, batch.shape[1], device)
    whole, half = random_head(points), random_head(points[: classes // 2])
    settings = {"images": len(batch), "classes": classes, "texts": texts, "dim": batch.shape[1]}
    with torch.inference_mode():
        whole(image_embeds=batch)
        seconds = interleaved(
            {
                "whole": lambda: whole(image_embeds=batch),
                "half": lambda: half(image_embeds=batch),
                "top": lambda: whole.top_classes(image_embeds=batch, k=5),
            },
            repeats,
            device,
        )
        rows = [
            as_much("forward", "all classes", "half of them", seconds["whole"], seconds["half"], **settings),
            as_much("forward", "the best 5", "all logits", seconds["top"], seconds["whole"], **settings),
        ]
        extra = extra_memory(lambda: whole(image_embeds=batch), device)
        matrix = len(batch) * classes * texts * batch.element_size() / 2**20
        rows += memory_rows(
            "forward", "peak memory of forward", "one (images, texts) matrix", extra, matrix, settings
        )
    return rows


def time_head(backbone: Backbone, work: Workload, device: str) -> list[Row]:
    """Time the head beside the image tower on the same batch."""
    images, classes, texts = work.images, work.classes, work.head_texts
    head = random_head(_texts(classes, texts, backbone.dim, device))
    batch = _texts(1, images, backbone.dim, device)[0]
    pixels = backbone.example_pixels()
    pixels = pixels.expand(images, *pixels.shape[1:]).contiguous()
    against = "image encoding of the same batch"
    with torch.inference_mode():
        head(image_embeds=batch)
        seconds = interleaved(
            {"head": lambda: head(image_embeds=batch), against: lambda: backbone.encode_images(pixels)},
            work.slow_repeats,
            device,
        )
    settings = {"images": images, "classes": classes, "texts": texts, "dim": backbone.dim}
    return [as_much("forward", "the head alone", against, seconds["head"], seconds[against], **settings)]
