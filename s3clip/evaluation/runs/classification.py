"""A benchmark of classification, scored from the embeddings on disk, and the classes it is worst at."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from s3clip.backbone.backbone import Backbone
from s3clip.evaluation.benchmarks.sets import ClassificationSet
from s3clip.evaluation.comparison import compare
from s3clip.evaluation.methods import DEFAULT
from s3clip.evaluation.report.comparison import Comparison, MethodScores
from s3clip.evaluation.runs.cache import Seen
from s3clip.evaluation.runs.embeddings import StoredRows
from s3clip.evaluation.runs.results import Mistakes, Scored, describe_set, first_of, worst_classes
from s3clip.images.sources import Record
from s3clip.printing import counted


def score_images(
    which: ClassificationSet,
    images: Sequence[Seen],
    embeds: StoredRows,
    backbone: Backbone,
    asked: dict[str, Any],
) -> Scored:
    """Score all methods on a set.

    Args:
        which: the set.
        images: all its images, readable or not.
        embeds: of the readable images, in their order.
        backbone: that made them.
        asked: the arguments of `compare` that are the same for every set.

    Raises:
        ValueError: no image to score, or what `compare` refuses.
    """
    readable = [record for record, _ in images if record.error is None]
    labels: list[int] = []
    kept: list[int] = []
    strange: Counter[str] = Counter()
    for row, record in enumerate(readable):
        try:
            labels.append(which.label_of(record))
        except ValueError:  # its label is no class
            strange["no label" if record.label is None else str(record.label)] += 1
        else:
            kept.append(row)
    if not kept:
        raise ValueError(
            f"{which.name}: no image to score: {len(images):,} found, {len(images) - len(readable):,} cannot "
            f"be read, and none of the others has the label of a class; their labels: "
            f"{first_of(sorted(strange), 5) or 'none'}"
        )
    comparison = compare(
        which.synonyms,
        labels,
        backbone=backbone,
        image_embeds=embeds if len(kept) == len(embeds) else embeds[torch.tensor(kept)],
        templates=which.templates or None,
        **asked,
    )
    benchmark = describe_set(which, images, len(kept), strange.total())
    left_out = sorted(strange.items(), key=lambda item: (-item[1], item[0]))
    if left_out:
        named = first_of([f"{label} ({times:,})" for label, times in left_out], 5)
        benchmark["warnings"].append(
            f"left out: {counted(strange.total(), 'image')} with a label that is none of the classes, of "
            f"{counted(len(left_out), 'kind')}: {named}"
        )
    if (without := comparison.no_place()) is not None:
        benchmark["warnings"].append(without)
    worst, thumbnails = _worst_classes(which, comparison, labels, [readable[row] for row in kept])
    benchmark |= {
        "left_out_labels": left_out,
        "classes": comparison.classes,
        "scored_classes": comparison.scored_classes,
        "texts": comparison.texts,
        "templates": comparison.settings["templates"],
        "configs": comparison.settings["configs"],
        "scores": [_plain(score) for score in comparison.scores],
        "worst_classes": worst,
    }
    return Scored(
        benchmark,
        thumbnails,
        {each.name: {"image_ms": each.image_ms, "fit_ms": each.fit_ms} for each in comparison.scores},
    )


def _plain(score: MethodScores) -> dict[str, Any]:
    return {
        "name": score.name,
        "acc1": score.top1,
        "acc5": score.top5,
        "mean_per_class_recall": score.recall,
        "differences": {"top1": score.top1_difference, "recall": score.recall_difference},
        "calibration_error": score.calibration_error,
        "dropped": score.dropped,
        "seeds": score.seeds,
        "acc1_spread": score.top1_spread,
        "mean_per_class_recall_spread": score.recall_spread,
        # Runs of classes without groups are what they were.
        **({"levels": score.levels, "mistake_distance": score.mistake_distance} if score.levels else {}),
    }


def _worst_classes(
    which: ClassificationSet, comparison: Comparison, labels: list[int], records: list[Record]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the classes that are recognised least, what they are taken for, and a few such images."""
    names = which.class_names
    method = DEFAULT.name if DEFAULT.name in comparison.predicted else comparison.control
    predicted = comparison.predicted[method].tolist()
    wrong: dict[int, list[int]] = {}
    totals = Counter(labels)
    for row, (label, answer) in enumerate(zip(labels, predicted, strict=True)):
        if label != answer:
            wrong.setdefault(label, []).append(row)

    def mistakes_of(label: int) -> Mistakes:
        rows, total = wrong[label], totals[label]
        taken_for = Counter(predicted[row] for row in rows).most_common(3)
        return Mistakes(
            {"images": total, "recall": 1 - len(rows) / total},
            [[names[other], count] for other, count in taken_for],
            ((records[row], names[predicted[row]]) for row in rows),
        )

    order = sorted(wrong, key=lambda label: (1 - len(wrong[label]) / totals[label], -totals[label], label))
    return worst_classes(which, method, order, mistakes_of)
