"""Score every contender on the same images: which way to classify is best on one's own data."""

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from sklearn.metrics import accuracy_score, recall_score
from torch import Tensor

from s3clip import __version__
from s3clip.adaptation import METHODS, TestTimeAdapter
from s3clip.backbone import Backbone
from s3clip.config import HeadConfig
from s3clip.evaluation.baselines import ADAPTED, CONTENDERS, CONTROL, Contender, softmax_max
from s3clip.evaluation.embeddings import StoredRows
from s3clip.evaluation.report import Comparison, ContenderScores, Difference
from s3clip.evaluation.scores import (
    expected_calibration_error,
    interval,
    resampled_class_means,
    resampled_means,
)
from s3clip.head import SynonymousSpaceHead
from s3clip.images import open_image
from s3clip.labels import class_positions
from s3clip.options import is_count
from s3clip.prediction import as_embeds, check_image_embeds, check_view_embeds
from s3clip.synonyms import SynonymSet
from s3clip.views import ViewSettings, encode_views

CHUNK_NUMBERS = 2**18
"""About how many float64 numbers (2 MiB) of resamples are held at once."""


def compare(
    synonyms: Any,
    labels: Iterable[int | str],
    *,
    backbone: str | os.PathLike[str] | Backbone,
    images: Sequence[Any] | None = None,
    image_embeds: Tensor | StoredRows | None = None,
    templates: str | Sequence[str] | None = None,
    contenders: Sequence[str] | None = None,
    configs: Mapping[str, HeadConfig] | None = None,
    control: str = CONTROL.name,
    min_images: int = 1,
    bootstrap: int = 2000,
    draws: int = 3,
    seed: int = 0,
    batch_size: int = 64,
    adapt: Sequence[str] = (),
    views: int = ViewSettings.views,
) -> Comparison:
    """Score every contender on images or image embeddings, with a model that encodes the texts.

    Images are encoded once. Images whose label is none of the classes are left out and counted.

    Args:
        synonyms: what `SynonymousSpaceHead.fit_classes` takes.
        labels: one per image: the position of a class, or, as a string, a class's id or name.
        backbone: a Hub repository, a folder or a `Backbone`.
        images: PIL images, paths, arrays or tensors; or
        image_embeds: (images, dim) embeddings of the same model, in memory or on disk.
        templates: prompt templates, as `fit_classes` takes them.
        contenders: keys of `s3clip.evaluation.CONTENDERS`, all by default. The control is always among them.
        configs: further heads, by the name that the table gives them.
        control: the contender that differences are taken from.
        min_images: recall is the mean over the classes with so many images.
        bootstrap: resamples of the images for the intervals.
        draws: how many times contenders with random texts draw them.
        seed: of the resamples and the draws.
        batch_size: images that are encoded and scored at once.
        adapt: methods of test-time adaptation, keys of `s3clip.adaptation.METHODS`: the name alone, the
            default head and `configs` are compared with each of them too, as "default+shift". `image_embeds`
            are then (images, views, dim), view 0 the plain image. The embeddings of all views are held.
        views: how many are made of each image to adapt to.

    Raises:
        ValueError: counts that do not agree, a label or contender that is not known, or no image left.
    """
    if (images is None) == (image_embeds is None):
        got = "neither" if images is None else "both"
        raise ValueError(f"images, image_embeds: expected exactly one of the two, got {got}")
    asked = _Asked(contenders, configs, control, min_images, bootstrap, draws, seed, batch_size, adapt)
    settings = ViewSettings(views=views, seed=seed)
    classes = SynonymSet.read(synonyms)
    has_descriptors = any(each.descriptors for each in classes.classes)
    chosen = asked.chosen(can_encode=True, has_descriptors=has_descriptors)
    ids = [None if each.id is None else str(each.id) for each in classes.classes]
    positions = class_positions(labels, classes.class_names, ids)
    given = image_embeds if images is None else images
    assert given is not None  # one of the two is
    kept = _with_a_class(positions, len(given))

    model = backbone if isinstance(backbone, Backbone) else Backbone.from_pretrained(os.fspath(backbone))
    head = SynonymousSpaceHead(model, config=CONTROL.config).fit_classes(classes, templates=templates)
    encoded: Tensor | StoredRows
    if image_embeds is None:
        encoded = _encode_images(model, [given[i] for i in kept], batch_size, settings if adapt else None)
    elif isinstance(image_embeds, StoredRows):
        encoded = image_embeds[kept]
    else:
        encoded = as_embeds(image_embeds)[kept]
    encoded_texts: dict[tuple[Any, ...], list[Tensor]] = {}

    def own_texts(contender: Contender, draw: int) -> list[Tensor]:
        assert contender.texts is not None  # asked only where there are
        key = (*contender.texts, draw)
        if key not in encoded_texts:
            rewritten = contender.texts.classes(classes, draw)
            other = SynonymousSpaceHead(model, config=CONTROL.config).fit_classes(
                rewritten, templates=contender.texts.templates or head.templates
            )
            encoded_texts[key] = _rows_by_class(other)
        return encoded_texts[key]

    bias = model.logit_bias()
    plain, view_embeds = _plain_and_views(encoded, asked)
    problem = _Problem(
        image_embeds=plain,
        view_embeds=view_embeds,
        labels=torch.tensor([positions[i] for i in kept]),
        embeddings=_rows_by_class(head),
        class_names=head.class_names,
        logit_scale=model.logit_scale().item(),
        logit_bias=0.0 if bias is None else bias.item(),
        activation=model.activation,
    )
    about = {"backbone": model.name, "revision": model.revision, "templates": list(head.templates or ())}
    if adapt and images is not None:
        about["views"] = views
    return _score_all(problem, chosen, asked, own_texts, left_out=len(positions) - len(kept), about=about)


def compare_embeddings(
    embeddings: Sequence[Tensor],
    class_names: Sequence[str],
    image_embeds: Tensor,
    labels: Iterable[int | str],
    *,
    logit_scale: float,
    contenders: Sequence[str] | None = None,
    configs: Mapping[str, HeadConfig] | None = None,
    control: str = CONTROL.name,
    min_images: int = 1,
    bootstrap: int = 2000,
    seed: int = 0,
    batch_size: int = 64,
    adapt: Sequence[str] = (),
) -> Comparison:
    """Score every contender that needs no text encoded, on embeddings computed before.

    Args:
        embeddings: one (n_c, dim) tensor per class, its first row the class's own name.
        class_names: one per class.
        image_embeds: (images, dim), normalised or not; with `adapt` (images, views, dim).
        labels: one per image: the position of a class or its name.
        logit_scale: multiplies the cosines; 100 for OpenAI's CLIP.
        contenders: see `compare`, as for the arguments that follow.
        configs: see `compare`.
        control: see `compare`.
        min_images: see `compare`.
        bootstrap: see `compare`.
        seed: see `compare`.
        batch_size: see `compare`.
        adapt: see `compare`.

    Raises:
        ValueError: counts or shapes that do not agree, a label or contender that is not known, or no image
            left.
    """
    asked = _Asked(contenders, configs, control, min_images, bootstrap, 1, seed, batch_size, adapt)
    chosen = asked.chosen(can_encode=False, has_descriptors=False)
    positions = class_positions(labels, class_names, [None] * len(class_names))
    kept = _with_a_class(positions, len(image_embeds))
    plain, view_embeds = _plain_and_views(as_embeds(image_embeds)[kept], asked)
    problem = _Problem(
        image_embeds=plain,
        view_embeds=view_embeds,
        labels=torch.tensor([positions[i] for i in kept]),
        embeddings=[torch.as_tensor(own).float().cpu() for own in embeddings],
        class_names=list(class_names),
        logit_scale=logit_scale,
        logit_bias=0.0,
        activation="softmax",
    )
    return _score_all(problem, chosen, asked, None, left_out=len(positions) - len(kept), about={})


class _Asked(NamedTuple):
    """What the two entry points are asked alike."""

    contenders: Sequence[str] | None
    configs: Mapping[str, HeadConfig] | None
    control: str
    min_images: int
    bootstrap: int
    draws: int
    seed: int
    batch_size: int
    adapt: Sequence[str]

    def chosen(self, *, can_encode: bool, has_descriptors: bool) -> list[Contender]:
        """Check what was asked, and return the contenders that are compared."""
        self._check()
        configs = dict(self.configs or {})
        if taken := sorted(set(configs) & set(CONTENDERS)):
            raise ValueError(f"configs: {taken[0]!r} is the name of a contender already; choose another")
        wanted = list(CONTENDERS) if self.contenders is None else [self.control, *self.contenders]
        found = []
        for name in dict.fromkeys(wanted):
            if name not in CONTENDERS:
                raise ValueError(f"contenders: {name!r} is not known; known: {', '.join(CONTENDERS)}")
            contender = CONTENDERS[name]
            missing = None
            if contender.texts is not None and not can_encode:
                missing = "a backbone to encode its texts with"
            elif contender.descriptors and not has_descriptors:
                missing = "descriptors in the synonym file"
            if missing is None:
                found.append(contender)
            elif self.contenders is not None:
                raise ValueError(f"contenders: {name!r} needs {missing}, and there is none")
        if self.control not in [contender.name for contender in found]:
            raise ValueError(
                f"control: {self.control!r} is not among the contenders that can be compared here"
            )
        own = [Contender(name, config) for name, config in configs.items()]
        bases = [contender for contender in found if contender.name in ADAPTED] + own
        adapted = [
            replace(base, name=f"{base.name}+{method}", adapt=method)
            for base in bases
            for method in dict.fromkeys(self.adapt)
        ]
        return [*found, *own, *adapted]

    def _check(self) -> None:
        for name in ("min_images", "bootstrap", "draws", "batch_size"):
            if not is_count(getattr(self, name)):
                raise ValueError(f"{name}: expected a whole number >= 1, got {getattr(self, name)!r}")
        for name in ("contenders", "adapt"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name}: expected a list of names, got {getattr(self, name)!r}")
        if unknown := [method for method in self.adapt if method not in METHODS]:
            raise ValueError(f"adapt: unknown method {unknown[0]!r}; known: {', '.join(METHODS)}")


@dataclass(frozen=True)
class _Problem:
    """What every contender gets, on the CPU.

    `labels` (images,) are positions of classes; `view_embeds` (images, views, dim) is None where none adapts.
    """

    image_embeds: Tensor | StoredRows
    view_embeds: Tensor | None
    labels: Tensor
    embeddings: list[Tensor]
    class_names: list[str]
    logit_scale: float
    logit_bias: float
    activation: Literal["softmax", "sigmoid"]


class _Run(NamedTuple):
    """One contender on one draw of its texts; of each image the class predicted, and whether it is right."""

    predicted: Tensor
    correct: Tensor
    top1: float
    top5: float
    recall: float
    calibration_error: float
    image_ms: float
    fit_ms: float
    dropped: float


def _with_a_class(positions: list[int | None], images: int) -> list[int]:
    if len(positions) != images:
        raise ValueError(f"labels: expected one for each of {images} images, got {len(positions)}")
    kept = [i for i, position in enumerate(positions) if position is not None]
    if not kept:
        raise ValueError(
            "labels: none of them is the position, id or name of a class, so that no image is left"
        )
    return kept


def _encode_images(model: Backbone, images: list[Any], batch_size: int, views: ViewSettings | None) -> Tensor:
    """(images, dim), or (images, views, dim)."""
    chunks = []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            opened = [open_image(image) for image in images[start : start + batch_size]]
            if views is None:
                chunks.append(model.encode_images(**model.preprocess(opened)))
            else:
                chunks.append(encode_views(model, opened, views))
    return torch.cat(chunks)


def _plain_and_views(embeds: Tensor | StoredRows, asked: _Asked) -> tuple[Tensor | StoredRows, Tensor | None]:
    """(images, dim) of the plain images and, where some contender adapts, (images, views, dim)."""
    if isinstance(embeds, StoredRows):
        if asked.adapt:
            raise ValueError("adapt: it takes embeddings of views, in memory")
        return embeds, None
    embeds = embeds.float().cpu()
    if not asked.adapt:
        return embeds, None
    check_view_embeds(embeds)
    return embeds[:, 0], embeds


def _rows_by_class(head: SynonymousSpaceHead) -> list[Tensor]:
    return list(head.space.raw.float().cpu().split([each.rows for each in head.classes]))


def _score_all(
    problem: _Problem,
    contenders: list[Contender],
    asked: _Asked,
    own_texts: Callable[[Contender, int], list[Tensor]] | None,
    *,
    left_out: int,
    about: dict[str, Any],
) -> Comparison:
    first = 0
    for batch in problem.image_embeds.split(asked.batch_size):
        check_image_embeds(batch, first)
        first += len(batch)
    counts = torch.bincount(problem.labels, minlength=len(problem.class_names))
    scored = counts >= asked.min_images
    if not bool(scored.any()):
        raise ValueError(
            f"min_images: no class has {asked.min_images} images; the most is {int(counts.max())}"
        )
    runs: dict[str, list[_Run]] = {}
    for contender in contenders:
        runs[contender.name] = []
        for draw in range(asked.draws if contender.random else 1):
            embeddings = problem.embeddings
            if contender.texts is not None and own_texts is not None:
                embeddings = own_texts(contender, asked.seed + draw)
            elif contender.name_only:
                embeddings = [own[:1] for own in embeddings]
            runs[contender.name].append(_run(contender, problem, embeddings, scored, asked.batch_size))

    # A row for each contender: the most that grows with the number of images.
    differences = torch.stack(
        [torch.stack([run.correct for run in own]).double().mean(0) for own in runs.values()]
    )
    differences -= differences[list(runs).index(asked.control)].clone()
    top1, recall = _bootstrap(differences, problem.labels, scored, asked)
    exact_top1 = differences.mean(1).tolist()
    every = torch.ones(1, len(problem.labels))
    exact_recall = resampled_class_means(differences, every, problem.labels, scored)[0].tolist()
    found = [
        _summary(
            name,
            own,
            Difference(exact_top1[row], *interval(top1[:, row])),
            Difference(exact_recall[row], *interval(recall[:, row])),
        )
        for row, (name, own) in enumerate(runs.items())
    ]
    settings = {
        **about,
        "logit_scale": problem.logit_scale,
        "min_images": asked.min_images,
        "bootstrap": asked.bootstrap,
        "draws": asked.draws,
        "seed": asked.seed,
        "batch_size": asked.batch_size,
        "configs": {each.name: each.config.model_dump() for each in contenders if each.config is not None},
    }
    return Comparison(
        scores=tuple(sorted(found, key=lambda scores: (-scores.top1, -scores.recall, scores.name))),
        control=asked.control,
        images=len(problem.labels),
        left_out=left_out,
        classes=len(problem.class_names),
        scored_classes=int(scored.sum()),
        texts=sum(len(own) for own in problem.embeddings),
        settings=settings,
        versions=versions(),
        predicted={name: own[0].predicted for name, own in runs.items()},
    )


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of the libraries that scores hang on."""
    libraries = ("numpy", "scikit-learn", "torch", "transformers")
    found = {library: version(library) for library in libraries}
    return {"python": platform.python_version(), "s3clip": __version__, **found}


def _classifier(
    contender: Contender, problem: _Problem, embeddings: list[Tensor]
) -> tuple[SynonymousSpaceHead | None, Callable[[Tensor], Tensor]]:
    """Fit a contender: its head, if it has one, and the logits of a batch of images, or of their views."""
    if contender.config is None:
        return None, lambda batch: softmax_max(batch, embeddings, logit_scale=problem.logit_scale)
    head = SynonymousSpaceHead(config=contender.config)
    own_scale = contender.config.logit_scale
    scale = problem.logit_scale if own_scale is None else own_scale
    head.fit_embeddings(embeddings, problem.class_names, logit_scale=scale).eval()
    if contender.adapt is not None:
        adapter = TestTimeAdapter(head, contender.adapt)
        return head, lambda views: adapter(views) + problem.logit_bias
    return head, lambda batch: head(image_embeds=batch) + problem.logit_bias


def _run(
    contender: Contender, problem: _Problem, embeddings: list[Tensor], scored: Tensor, batch_size: int
) -> _Run:
    """Fit a contender and score all images."""
    started = time.perf_counter()
    dropped = 0.0
    head, classify = _classifier(contender, problem, embeddings)
    fit_ms = 1000 * (time.perf_counter() - started)
    if head is not None:
        space = head.space
        distinct = int((space.duplicate_of == torch.arange(len(space.owners))).sum())
        dropped = 1 - len(space.kept) / distinct

    inputs = problem.image_embeds if contender.adapt is None else problem.view_embeds
    assert inputs is not None  # views are there where a contender adapts
    activation = "exp" if contender.config is None else problem.activation
    seconds, each = 0.0, []
    with torch.inference_mode():
        classify(next(iter(inputs.split(batch_size))))  # the first call pays for what later ones find ready
        for batch, truth in zip(inputs.split(batch_size), problem.labels.split(batch_size), strict=True):
            started = time.perf_counter()
            logits = classify(batch)
            seconds += time.perf_counter() - started
            each.append(_answers(logits, truth, activation))
    image_ms = 1000 * seconds / len(problem.labels)
    predicted, confidences, among_five = map(torch.cat, zip(*each, strict=True))
    correct = predicted == problem.labels
    return _Run(
        predicted=predicted,
        correct=correct,
        top1=float(accuracy_score(problem.labels.numpy(), predicted.numpy())),
        top5=float(among_five.double().mean()),
        recall=float(
            recall_score(
                problem.labels.numpy(),
                predicted.numpy(),
                labels=torch.nonzero(scored)[:, 0].numpy(),
                average="macro",
                zero_division=0,
            )
        ),
        calibration_error=expected_calibration_error(confidences, correct),
        image_ms=image_ms,
        fit_ms=fit_ms,
        dropped=dropped,
    )


def _answers(logits: Tensor, labels: Tensor, activation: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return, of a batch of logits (images, classes), what the scores need: three of (images,).

    The predicted class, its probability, and whether the label is among the five best; of equal logits the
    class that comes first is the better one, here and there.
    """
    probabilities = {"exp": torch.exp, "softmax": lambda x: x.softmax(-1), "sigmoid": torch.sigmoid}
    predicted = logits.argmax(1)
    own = logits.gather(1, labels[:, None])
    before = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    better = (logits > own) | ((logits == own) & before)
    confidences = probabilities[activation](logits).gather(1, predicted[:, None])[:, 0]
    return predicted, confidences, better.sum(1) < 5


def _bootstrap(differences: Tensor, labels: Tensor, scored: Tensor, asked: _Asked) -> tuple[Tensor, Tensor]:
    """Resample the images, the same for all rows -> (resamples, rows) means, and means over classes."""
    generator = torch.Generator().manual_seed(asked.seed)
    images = len(labels)
    step = max(1, CHUNK_NUMBERS // max(images, len(scored)))
    # Made before the loop: small tensors that stay, between large ones that go, would keep memory from reuse.
    top1, recall = torch.empty(2, asked.bootstrap, len(differences), dtype=torch.float64)
    for start in range(0, asked.bootstrap, step):
        part = slice(start, min(start + step, asked.bootstrap))
        drawn = torch.randint(images, (part.stop - start, images), generator=generator)
        counts = torch.zeros(drawn.shape).scatter_add_(1, drawn, torch.ones(drawn.shape))
        top1[part] = resampled_means(differences, counts)
        recall[part] = resampled_class_means(differences, counts, labels, scored)
    return top1, recall


def _summary(name: str, runs: list[_Run], top1: Difference, recall: Difference) -> ContenderScores:
    """Put the runs of a contender together: means, and the standard deviation over draws."""

    def mean(values: Iterable[float]) -> float:
        return float(np.mean(list(values)))

    each_top1 = [run.top1 for run in runs]
    return ContenderScores(
        name=name,
        top1=mean(each_top1),
        top5=mean(run.top5 for run in runs),
        recall=mean(run.recall for run in runs),
        top1_difference=top1,
        recall_difference=recall,
        calibration_error=mean(run.calibration_error for run in runs),
        image_ms=mean(run.image_ms for run in runs),
        fit_ms=mean(run.fit_ms for run in runs),
        dropped=mean(run.dropped for run in runs),
        seeds=len(runs),
        top1_spread=float(np.std(each_top1)),
        recall_spread=float(np.std([run.recall for run in runs])),
    )
