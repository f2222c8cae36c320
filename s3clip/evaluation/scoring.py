"""Methods scored on the embeddings of labelled images, with intervals over the images."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]
from sklearn.metrics import accuracy_score, recall_score
from torch import Tensor

from s3clip.class_space import Activation
from s3clip.config import HeadConfig
from s3clip.evaluation.learners import LEARNERS, asked, folds, learning_curve
from s3clip.evaluation.methods import DEFAULT, Method, softmax_max
from s3clip.evaluation.report.comparison import (
    Best,
    Comparison,
    CurvePoint,
    Difference,
    MethodScores,
    versions,
)
from s3clip.evaluation.scores import (
    expected_calibration_error,
    interval,
    resampled_class_means,
    resampled_means,
    simultaneous_intervals,
)
from s3clip.evaluation.settings import ComparisonSettings
from s3clip.head import SynonymousSpaceHead
from s3clip.prediction.adaptation import TestTimeAdapter
from s3clip.prediction.batches import check_embeds

CHUNK_NUMBERS = 2**18
"""About how many float64 numbers (2 MiB) of resamples are held at once."""


class ImageEmbeds(Protocol):
    """Embeddings (images, dim): a tensor, or what reads them from disk as it is split."""

    def __len__(self) -> int:
        """Return how many images there are."""

    def __getitem__(self, rows: Any, /) -> "ImageEmbeds":
        """Return those of some images."""

    def split(self, size: int, /) -> Iterable[Tensor]:
        """Return `size` of them at a time, in order."""


@dataclass(frozen=True)
class Problem:
    """What every method gets, on the CPU.

    Attributes:
        image_embeds: (images, dim), in memory or on disk.
        view_embeds: (images, views, dim); None where none adapts.
        labels: (images,) positions of classes.
        texts_of: a method and the seed of what it draws -> (texts, dim) for each class.
        texts: how many there are at hand.
        class_names: one for each class.
        logit_scale: of the model; so are the next two.
        logit_bias: None without one.
        activation: from logits to probabilities.
        groups: by level of the classes' groups, (classes,) the group of each.
        negatives: of each class the (dim,) embeddings of its negatives, by the text; None: there are none.
    """

    image_embeds: ImageEmbeds
    view_embeds: Tensor | None
    labels: Tensor
    texts_of: Callable[[Method, int], list[Tensor]]
    texts: int
    class_names: list[str]
    logit_scale: float
    logit_bias: float | None
    activation: Activation
    groups: Mapping[str, Tensor] = field(default_factory=dict)
    negatives: Sequence[Mapping[str, Tensor]] | None = None


class _Head(SynonymousSpaceHead):
    """A head on embeddings that answers as one on the model that made them: with its bias and activation."""

    def __init__(self, problem: Problem, config: HeadConfig) -> None:
        super().__init__(config=config)
        self._bias_of_model, self._activation_of_model = problem.logit_bias, problem.activation

    @property
    def logit_bias(self) -> float | None:
        return self._bias_of_model

    @property
    def activation(self) -> Activation:
        return self._activation_of_model


class _Run(NamedTuple):
    """One method on one draw of its texts: the class of each image, whether it is right, and the numbers."""

    predicted: Tensor
    correct: Tensor
    top1: float
    top5: float
    recall: float
    calibration_error: float
    image_ms: float
    fit_ms: float
    dropped: float
    levels: dict[str, float]
    mistake_distance: float | None


def score_all(
    problem: Problem,
    methods: list[Method],
    settings: ComparisonSettings,
    *,
    left_out: int,
    about: dict[str, Any],
) -> Comparison:
    """Score methods on a problem.

    Args:
        problem: images, labels and texts.
        methods: that `ComparisonSettings.chosen` returned.
        settings: of the comparison.
        left_out: how many images had a label that is no class.
        about: what else its JSON has of its settings.

    Raises:
        ValueError: embeddings that are none, or no class with images enough.
    """
    first = 0
    for batch in problem.image_embeds.split(settings.batch_size):
        check_embeds(batch, first)
        first += len(batch)
    scored = scored_classes(problem.labels, len(problem.class_names), settings.min_images)
    runs: dict[str, list[_Run]] = {}
    for method in tqdm(methods, desc="methods", delay=1, disable=None):  # type: ignore[no-untyped-call]
        runs[method.name] = []
        for draw in range(settings.draws if method.random else 1):
            embeddings = problem.texts_of(method, settings.seed + draw)
            runs[method.name].append(_run(method, problem, embeddings, scored, settings))

    # A row for each method: the most that grows with the number of images.
    differences = torch.stack(
        [torch.stack([run.correct for run in own]).double().mean(0) for own in runs.values()]
    )
    differences -= differences[list(runs).index(settings.control)].clone()
    top1, recall = resampled_differences(differences, problem.labels, scored, settings)
    exact_top1 = differences.mean(1).tolist()
    every = torch.ones(1, len(problem.labels))
    exact_recall = resampled_class_means(differences, every, problem.labels, scored)[0].tolist()
    found = [
        _summary(
            name,
            own,
            Difference.of(exact_top1[row], interval(top1[:, row])),
            Difference.of(exact_recall[row], interval(recall[:, row])),
        )
        for row, (name, own) in enumerate(runs.items())
    ]
    recorded = {
        **about,
        "logit_scale": problem.logit_scale,
        **{name: getattr(settings, name) for name in settings.NUMBERS},
        "configs": {each.name: each.config.model_dump() for each in methods if each.config is not None},
    }
    if problem.negatives is not None:
        recorded["without_negatives"] = [each.name for each in methods if not each.negatives]
    ordered = sorted(found, key=lambda scores: (-scores.top1, -scores.recall, scores.name))
    return Comparison(
        scores=tuple(ordered),
        best=_best(
            [scores for scores in ordered if scores.name not in settings.learn],
            settings.control,
            [name for name in runs if name not in settings.learn],
            top1[:, : len(runs) - len(settings.learn)],  # what learns from the labels comes last
            recall[:, : len(runs) - len(settings.learn)],
        ),
        curve=_curve(problem, settings, scored),
        control=settings.control,
        images=len(problem.labels),
        left_out=left_out,
        classes=len(problem.class_names),
        scored_classes=int(scored.sum()),
        texts=problem.texts,
        settings=recorded,
        versions=versions(),
        predicted={name: own[0].predicted for name, own in runs.items()},
    )


def scored_classes(labels: Tensor, classes: int, min_images: int) -> Tensor:
    """Return (classes,) bool, those that count in recall. Args: labels: (images,) positions of classes.

    Raises:
        ValueError: none has so many images.
    """
    counts = torch.bincount(labels, minlength=classes)
    if int(counts.max()) < min_images:
        raise ValueError(f"min_images: no class has {min_images} images; the most is {int(counts.max())}")
    return counts >= min_images


def _best(
    ordered: list[MethodScores], control: str, rows: list[str], top1: Tensor, recall: Tensor
) -> Best | None:
    """Return the best method, beside the default or the control.

    Args:
        ordered: the scores, the best first.
        control: what differences are taken from.
        rows: the names of the methods in the order of the next two.
        top1: (resamples, rows) differences from the control.
        recall: the same.
    """
    if len(ordered) < 2:
        return None
    by_name = {scores.name: scores for scores in ordered}
    default = by_name.get(DEFAULT.name)
    best = ordered[0] if default is None or default.top1 < ordered[0].top1 else default
    rival = by_name[control] if default is None or best is default else default
    if best is rival:  # the control is the best, and the default was not compared
        rival = ordered[1]
    in_advance = best is default or (default is None and best is by_name[control])
    row, other = rows.index(best.name), rows.index(rival.name)
    differences = []
    for what, resampled in (("top1", top1), ("recall", recall)):
        exact = torch.tensor([getattr(by_name[name], f"{what}_difference").value for name in rows]).double()
        exact, moved = exact - exact[other], resampled - resampled[:, other, None]
        low, high = simultaneous_intervals(exact, moved)[row].tolist()
        # What was chosen before these images were seen has no luck to be corrected for.
        ends = interval(moved[:, row]) if in_advance else (low, high)
        differences.append(Difference.of(float(exact[row]), ends))
    place = 1 + sum(scores.top1 > rival.top1 for scores in ordered)
    return Best(
        name=best.name,
        rival=rival.name,
        place=place,
        among=len(ordered),
        top1_difference=differences[0],
        recall_difference=differences[1],
    )


def _curve(problem: Problem, settings: ComparisonSettings, scored: Tensor) -> list[CurvePoint]:
    """Return the learning curves of all learners."""
    if not settings.learn:
        return []
    images = problem.image_embeds
    assert isinstance(images, Tensor)  # checked where they are taken
    head = _fitted(problem, DEFAULT, HeadConfig(), problem.texts_of(DEFAULT, settings.seed))
    fold = folds(images, problem.labels, settings.seed)
    options = {"draws": settings.draws, "seed": settings.seed}
    with torch.inference_mode():
        return learning_curve(head, settings.learn, images, problem.labels, fold, scored, **options)


def _fitted(
    problem: Problem, method: Method, config: HeadConfig, embeddings: list[Tensor]
) -> SynonymousSpaceHead:
    own_scale = config.logit_scale
    scale = problem.logit_scale if own_scale is None else own_scale
    head = _Head(problem, config)
    against = problem.negatives if method.negatives else None
    return head.fit_embeddings(embeddings, problem.class_names, negatives=against, logit_scale=scale).eval()


def _classifier(
    method: Method, problem: Problem, embeddings: list[Tensor], seed: int
) -> tuple[SynonymousSpaceHead | None, Callable[[Tensor], Tensor], ImageEmbeds]:
    """Fit a method: its head, if it has one, what gives the logits of a batch of its inputs, and these."""
    images = problem.image_embeds
    if method.config is None:
        scale = problem.logit_scale
        return None, lambda batch: softmax_max(batch, embeddings, logit_scale=scale), images
    head = _fitted(problem, method, method.config, embeddings)
    if method.adapt is not None:
        assert problem.view_embeds is not None  # views are there where a method adapts
        return head, TestTimeAdapter(head, method.adapt), problem.view_embeds
    if method.learn is not None:
        assert isinstance(images, Tensor)  # checked where they are taken
        fold = folds(images, problem.labels, seed)
        with torch.inference_mode():
            logits = asked(LEARNERS[method.learn], head, images, problem.labels, fold)
        return head, lambda batch: batch, logits
    return head, lambda batch: head(image_embeds=batch), images


def _run(
    method: Method,
    problem: Problem,
    embeddings: list[Tensor],
    scored: Tensor,
    settings: ComparisonSettings,
) -> _Run:
    """Fit a method and score all images."""
    started = time.perf_counter()
    head, classify, inputs = _classifier(method, problem, embeddings, settings.seed)
    fit_ms = 1000 * (time.perf_counter() - started)

    batch_size = settings.batch_size
    probabilities = torch.exp if head is None else head.probabilities
    seconds, each, right = 0.0, [], []
    with torch.inference_mode():
        classify(next(iter(inputs.split(batch_size))))  # the first call pays for what later ones find ready
        for batch, truth in zip(inputs.split(batch_size), problem.labels.split(batch_size), strict=True):
            started = time.perf_counter()
            logits = classify(batch)
            seconds += time.perf_counter() - started
            found = probabilities(logits)
            each.append(_answers(logits, truth, found))
            right.append(_right_groups(found, truth, problem))
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
        dropped=0.0 if head is None else dropped_share(head),
        levels=dict(zip(problem.groups, torch.cat(right).double().mean(0).tolist(), strict=True)),
        mistake_distance=mistake_distance(predicted, problem.labels, problem.groups),
    )


def _right_groups(probabilities: Tensor, labels: Tensor, problem: Problem) -> Tensor:
    """Return (images, levels) whether the most probable group at each level is the right one."""
    # As `s3clip.prediction.groups`: of sigmoids minus the log of the product of 1 - p, which grows with that.
    mass = probabilities if problem.activation == "softmax" else -torch.log1p(-probabilities)
    right = []
    for owners in problem.groups.values():
        empty = mass.new_zeros(len(labels), int(owners.max()) + 1)
        grouped = empty.scatter_add(1, owners.expand_as(mass), mass)
        right.append(grouped.argmax(1) == owners[labels])
    return torch.stack(right, 1) if right else torch.empty(len(labels), 0)


def mistake_distance(predicted: Tensor, labels: Tensor, groups: Mapping[str, Tensor]) -> float | None:
    """Return how far off mistakes are: the mean over wrong images of 1 and one for each level that differs.

    In a tree that is how many levels above the classes the lowest group lies that has both: the height of
    Deng et al. ("What Does Classifying More Than 10,000 Image Categories Tell Us?", ECCV 2010).

    Args:
        predicted: (images,) classes.
        labels: (images,) the right ones.
        groups: by level, (classes,) the group of each class.

    Returns:
        From 1 to levels + 1; None where there are no levels or no mistakes.
    """
    wrong = predicted != labels
    if not groups or not bool(wrong.any()):
        return None
    differing = sum((own[predicted[wrong]] != own[labels[wrong]]).double() for own in groups.values())
    return 1 + float(torch.as_tensor(differing).mean())


def dropped_share(head: SynonymousSpaceHead) -> float:
    """Return the share of the distinct texts of a fitted head that its filter left out, in [0, 1]."""
    space = head.space
    rows = torch.arange(len(space.owners), device=space.duplicate_of.device)
    return 1 - len(space.kept) / int((space.duplicate_of == rows).sum())


def _answers(logits: Tensor, labels: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return, of a batch of logits (images, classes), what the scores need: three of (images,).

    The predicted class, its probability, and whether the label is among the five best; of equal logits the
    class that comes first is the better one, here and there.
    """
    predicted = logits.argmax(1)
    own = logits.gather(1, labels[:, None])
    before = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    better = (logits > own) | ((logits == own) & before)
    confidences = probabilities.gather(1, predicted[:, None])[:, 0]
    return predicted, confidences, better.sum(1) < 5


def resamples(images: int, settings: ComparisonSettings, numbers: int) -> Iterator[tuple[slice, Tensor]]:
    """Give how often each image is drawn in each resample, a part of them at a time.

    Args:
        images: how many there are.
        settings: how many resamples, and their seed.
        numbers: how many are held for a resample beside these; the larger of the two limits the parts.

    Yields:
        Which of the resamples these are, and (resamples, images).
    """
    generator = torch.Generator().manual_seed(settings.seed)
    step = max(1, CHUNK_NUMBERS // max(images, numbers))
    for start in range(0, settings.bootstrap, step):
        part = slice(start, min(start + step, settings.bootstrap))
        drawn = torch.randint(images, (part.stop - start, images), generator=generator)
        yield part, torch.zeros(drawn.shape).scatter_add_(1, drawn, torch.ones(drawn.shape))


def resampled_differences(
    differences: Tensor, labels: Tensor, scored: Tensor, settings: ComparisonSettings
) -> tuple[Tensor, Tensor]:
    """Resample the images, the same for all rows -> (resamples, rows) means, and means over classes.

    `differences` is (rows, images), dense or sparse.
    """
    # Made before the loop: small tensors that stay, between large ones that go, would keep memory from reuse.
    top1, recall = torch.empty(2, settings.bootstrap, len(differences), dtype=torch.float64)
    for part, counts in resamples(len(labels), settings, len(scored)):
        top1[part] = resampled_means(differences, counts)
        recall[part] = resampled_class_means(differences, counts, labels, scored)
    return top1, recall


def _summary(name: str, runs: list[_Run], top1: Difference, recall: Difference) -> MethodScores:
    """Put the runs of a method together: means, and the standard deviation over draws."""
    columns = {each: [getattr(run, each) for run in runs] for each in _Run._fields[2:-2]}
    far = [run.mistake_distance for run in runs if run.mistake_distance is not None]
    return MethodScores(
        name=name,
        **{each: float(np.mean(values)) for each, values in columns.items()},
        levels={level: float(np.mean([run.levels[level] for run in runs])) for level in runs[0].levels},
        mistake_distance=float(np.mean(far)) if far else None,
        top1_difference=top1,
        recall_difference=recall,
        seeds=len(runs),
        top1_spread=float(np.std(columns["top1"])),
        recall_spread=float(np.std(columns["recall"])),
    )
