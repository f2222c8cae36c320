"""Score every method on the same images: which way to classify is best on one's own data."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]
from torch import Tensor

from s3clip.arguments import plain
from s3clip.backbone.backbone import Backbone
from s3clip.config import HeadConfig
from s3clip.evaluation.method_texts import MethodTexts, texts_at_hand
from s3clip.evaluation.methods import CONTROL
from s3clip.evaluation.report.comparison import Comparison
from s3clip.evaluation.scoring import ImageEmbeds, Problem, score_all
from s3clip.evaluation.settings import ComparisonSettings, has_descriptors
from s3clip.images.opening import one_or_several, open_image
from s3clip.images.views import ViewSettings
from s3clip.prediction.batches import as_embeds, check_embeds
from s3clip.prediction.class_labels import class_positions
from s3clip.prediction.view_embeddings import encode_views
from s3clip.printing import counted
from s3clip.texts.groups import group_owners, levels_of
from s3clip.texts.synonyms import SynonymClass, SynonymSet


def compare(
    synonyms: Any,
    labels: Iterable[int | str],
    *,
    backbone: str | os.PathLike[str] | Backbone,
    images: Iterable[Any] | None = None,
    image_embeds: Tensor | ImageEmbeds | None = None,
    templates: str | Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    configs: Mapping[str, HeadConfig] | None = None,
    control: str = CONTROL.name,
    min_images: int = 1,
    bootstrap: int = 2000,
    draws: int = 3,
    seed: int = 0,
    batch_size: int = 64,
    adapt: Sequence[str] = (),
    learn: Sequence[str] = (),
    views: int = ViewSettings.views,
) -> Comparison:
    """Score every method on images or image embeddings, with a model that encodes the texts.

    Images are encoded once. Images whose label is none of the classes are left out and counted.

    Args:
        synonyms: what `SynonymousSpaceHead.fit_classes` takes.
        labels: one per image: the position of a class, or, as a string, a class's id or name.
        backbone: a Hub repository, a folder or a `Backbone`.
        images: as for `predict`; or
        image_embeds: (images, dim) embeddings of the same model, in memory or on disk.
        templates: prompt templates, as `fit_classes` takes them.
        methods: keys of `s3clip.evaluation.METHODS`, all by default. The control is always among them.
        configs: further heads, by the name that the table gives them.
        control: the method that differences are taken from.
        min_images: recall is the mean over the classes with so many images.
        bootstrap: resamples of the images for the intervals.
        draws: how many times methods with random texts draw them.
        seed: of the resamples and the draws.
        batch_size: images that are encoded and scored at once.
        adapt: methods of test-time adaptation, of `s3clip.space.shift.ADAPTATIONS`: the name alone, the
            default head and `configs` are compared with each of them too, as "default+shift". `image_embeds`
            are then (images, views, dim), view 0 the plain image. The embeddings of all views are held.
        learn: what learns from the labels, of `s3clip.evaluation.learners.LEARNERS`: each image is asked of
            what other images taught, in folds, and there is a curve by the number of labelled images.
        views: how many are made of each image to adapt to.

    Raises:
        ValueError: counts that do not agree, a label or method that is not known, or no image left.

    Examples:
        >>> from s3clip.demo import model_folder
        >>> words = {"one": ["1", "ace"], "seven": ["7", "siete"]}
        >>> names = [each.name for each in head.classes]
        >>> found = compare(
        ...     words,
        ...     [names[label] for label in labels[:100]],
        ...     backbone=model_folder(),
        ...     images=images[:100],
        ...     methods=["default"],
        ...     bootstrap=20,
        ... )
        >>> found["default"].top1 > 0.9
        True
    """
    settings = ComparisonSettings(
        methods, configs, control, min_images, bootstrap, draws, seed, batch_size, adapt, learn
    )
    classes = SynonymSet.read(synonyms)
    chosen = settings.chosen(can_encode=True, has_descriptors=has_descriptors(classes))
    chosen_views = ViewSettings(views=views, seed=settings.seed)
    model, encoded, truth, left_out = labelled_embeds(
        classes, labels, backbone, images, image_embeds, settings.batch_size, chosen_views if adapt else None
    )
    texts = MethodTexts(model, classes, templates)
    bias = model.logit_bias()
    plain_embeds, view_embeds = _plain_and_views(encoded, settings)
    problem = Problem(
        image_embeds=plain_embeds,
        view_embeds=view_embeds,
        labels=truth,
        texts_of=texts.of,
        texts=sum(map(len, texts.embeddings)),
        class_names=texts.class_names,
        logit_scale=model.logit_scale().item(),
        logit_bias=None if bias is None else bias.item(),
        activation=model.activation,
        groups=_groups(classes.classes),
        negatives=texts.negatives,
    )
    about = {"backbone": model.name, "revision": model.revision, "templates": list(texts.templates)}
    if adapt and images is not None:
        about["views"] = chosen_views.views
    return score_all(problem, chosen, settings, left_out=left_out, about=about)


class Labelled(NamedTuple):
    """Images that are of a class, and the model that encoded them.

    Attributes:
        model: the backbone.
        embeds: (images, dim), or (images, views, dim).
        labels: (images,) positions of their classes.
        left_out: how many images more there were, of no class.
    """

    model: Backbone
    embeds: ImageEmbeds
    labels: Tensor
    left_out: int


def labelled_embeds(
    classes: SynonymSet,
    labels: Iterable[int | str],
    backbone: str | os.PathLike[str] | Backbone,
    images: Iterable[Any] | None,
    image_embeds: Tensor | ImageEmbeds | None,
    batch_size: int,
    views: ViewSettings | None = None,
) -> Labelled:
    """Return the images that are of a class, encoded; with `views`, those of each. See `compare`."""
    if (images is None) == (image_embeds is None):
        got = "neither" if images is None else "both"
        raise ValueError(f"images, image_embeds: expected exactly one of the two, got {got}")
    positions = class_positions(labels, classes.class_names, [each.id for each in classes.classes])
    given = image_embeds if images is None else list(one_or_several(images))
    assert given is not None  # one of the two is
    kept = _with_a_class(positions, len(given))
    model = backbone if isinstance(backbone, Backbone) else Backbone.from_pretrained(os.fspath(backbone))
    encoded: ImageEmbeds
    if image_embeds is None:
        encoded = _encode_images(model, [given[i] for i in kept], batch_size, views)
    else:
        encoded = (image_embeds if hasattr(image_embeds, "split") else as_embeds(image_embeds))[kept]
    truth = torch.tensor([positions[i] for i in kept])
    return Labelled(model, encoded, truth, len(positions) - len(kept))


def compare_embeddings(
    embeddings: Sequence[Tensor],
    class_names: Sequence[str],
    image_embeds: Tensor,
    labels: Iterable[int | str],
    *,
    logit_scale: float | Tensor,
    methods: Sequence[str] | None = None,
    configs: Mapping[str, HeadConfig] | None = None,
    control: str = CONTROL.name,
    min_images: int = 1,
    bootstrap: int = 2000,
    seed: int = 0,
    batch_size: int = 64,
    adapt: Sequence[str] = (),
    learn: Sequence[str] = (),
    groups: Sequence[Mapping[str, str]] | None = None,
) -> Comparison:
    """Score every method that needs no text encoded, on embeddings computed before.

    `embeddings` has one (n_c, dim) tensor per class, its first row the class's own name, and `class_names` a
    name for each. `image_embeds` is (images, dim), any length but zero; with `adapt`, (images, views, dim).
    Labels are positions or names. `logit_scale` multiplies the cosines, by 100 for OpenAI's CLIP. `groups`
    are of each class the groups that it is in, by level. The others are those of `compare`.

    Raises:
        ValueError: counts or shapes that do not agree, a label or method that is not known, or no image
            left.
    """
    settings = ComparisonSettings(
        methods, configs, control, min_images, bootstrap, 1, seed, batch_size, adapt, learn
    )
    chosen = settings.chosen(can_encode=False, has_descriptors=False)
    positions = class_positions(labels, class_names, [None] * len(class_names))
    kept = _with_a_class(positions, len(image_embeds))
    plain_embeds, view_embeds = _plain_and_views(as_embeds(image_embeds)[kept], settings)
    rows = [torch.as_tensor(own).float().cpu() for own in embeddings]
    problem = Problem(
        image_embeds=plain_embeds,
        view_embeds=view_embeds,
        labels=torch.tensor([positions[i] for i in kept]),
        texts_of=lambda method, draw: texts_at_hand(method, rows),
        texts=sum(map(len, rows)),
        class_names=list(class_names),
        logit_scale=plain(logit_scale.item() if isinstance(logit_scale, Tensor) else logit_scale),
        logit_bias=None,
        activation="softmax",
        groups={} if groups is None else _groups(_grouped(class_names, groups)),
    )
    return score_all(problem, chosen, settings, left_out=len(positions) - len(kept), about={})


def _grouped(names: Sequence[str], groups: Sequence[Mapping[str, str]]) -> Sequence[SynonymClass]:
    """Return classes of nothing but names and groups."""
    if len(groups) != len(names):
        raise ValueError(f"groups: expected those of {counted(len(names), 'class')}, got {len(groups)}")
    records = [{"name": name, "groups": dict(own)} for name, own in zip(names, groups, strict=True)]
    return SynonymSet.read(records).classes


def _groups(classes: Sequence[SynonymClass]) -> dict[str, Tensor]:
    """Return by level, (classes,) the group of each class."""
    levels = levels_of(each.groups for each in classes)
    return {level: torch.tensor(group_owners(classes, level)[0]) for level in levels}


def _with_a_class(positions: list[int | None], images: int) -> list[int]:
    if len(positions) != images:
        raise ValueError(f"labels: expected one for each of {counted(images, 'image')}, got {len(positions)}")
    kept = [i for i, position in enumerate(positions) if position is not None]
    if not kept:
        raise ValueError(
            "labels: none of them is the position, id or name of a class, so that no image is left"
        )
    return kept


def _encode_images(model: Backbone, images: list[Any], batch_size: int, views: ViewSettings | None) -> Tensor:
    """(images, dim), or (images, views, dim)."""
    chunks = []
    bar = tqdm(total=len(images), desc="images", delay=1, disable=None)  # type: ignore[no-untyped-call]
    with torch.inference_mode(), bar:
        for start in range(0, len(images), batch_size):
            opened = (open_image(image) for image in images[start : start + batch_size])
            if views is None:
                chunks.append(model.encode_images(**model.preprocess(opened)))
            else:
                chunks.append(encode_views(model, opened, views))
            bar.update(len(chunks[-1]))
    return torch.cat(chunks)


def _plain_and_views(embeds: ImageEmbeds, settings: ComparisonSettings) -> tuple[ImageEmbeds, Tensor | None]:
    """(images, dim) of the plain images and, where some method adapts, (images, views, dim)."""
    if not isinstance(embeds, Tensor):
        for name in ("adapt", "learn"):
            if getattr(settings, name):
                raise ValueError(f"{name}: it takes embeddings in memory")
        return embeds, None
    embeds = embeds.float().cpu()
    if not settings.adapt:
        return embeds, None
    check_embeds(embeds, views=True)
    return embeds[:, 0], embeds
