"""A benchmark of classification, scored from the embeddings on disk, and the classes it is worst at."""

from collections import Counter
from typing import Any

import torch

from s3clip.backbone.backbone import Backbone
from s3clip.evaluation.benchmarks.sets import ClassificationSet
from s3clip.evaluation.comparison import compare
from s3clip.evaluation.methods import DEFAULT
from s3clip.evaluation.report.comparison import Comparison, Difference, MethodScores
from s3clip.evaluation.runs.embeddings import StoredRows
from s3clip.evaluation.runs.examples import EXAMPLES, WORST_CLASSES, first_of, thumbnail
from s3clip.images.sources import Record, Shard


def score_set(
    which: ClassificationSet,
    records: list[Record],
    embeds: StoredRows,
    backbone: Backbone,
    asked: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, bytes], Comparison]:
    """Score all methods on a set.

    Args:
        which: the set.
        records: of all its images, readable or not.
        embeds: of the readable images, in their order.
        backbone: that made them.
        asked: the arguments of `compare` that are the same for every set.

    Returns:
        What `run.json` says of the set, the thumbnails that it names, and the comparison.

    Raises:
        ValueError: no image to score, or what `compare` refuses.
    """
    readable = [record for record in records if record.error is None]
    broken = [record for record in records if record.error is not None]
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
            f"{which.name}: no image to score: {len(records):,} found, {len(broken):,} cannot be read, and "
            f"none of the others has the label of a class; their labels: "
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
    warnings = list(which.problems)
    if broken:
        warnings.append(
            f"cannot be read: {len(broken)} of the images: {first_of([str(r.error) for r in broken])}"
        )
    if which.expected_images is not None and len(records) != which.expected_images:
        warnings.append(
            f"{len(records)} images found where the table says {which.expected_images}: these are not the "
            f"scores of {which.name}"
        )
    left_out = sorted(strange.items(), key=lambda item: (-item[1], item[0]))
    if left_out:
        named = first_of([f"{label} ({images:,})" for label, images in left_out], 5)
        warnings.append(
            f"{strange.total():,} images are left out: their labels, {len(left_out):,} in all, are none of "
            f"the classes: {named}"
        )
    worst, thumbnails = _worst_classes(which, comparison, labels, [readable[row] for row in kept])
    benchmark = {
        "name": which.name,
        "task": "classification",
        "split": which.split,
        "convention": which.convention,
        "headline": which.headline,
        "counts": {
            "scored": len(kept),
            "of": len(records) if which.expected_images is None else which.expected_images,
            "found": len(records),
            "expected": which.expected_images,
            "broken": len(broken),
            "left_out": strange.total(),
        },
        "left_out_labels": left_out,
        "classes": comparison.classes,
        "scored_classes": comparison.scored_classes,
        "texts": comparison.texts,
        "templates": comparison.settings["templates"],
        "configs": comparison.settings["configs"],
        "warnings": warnings,
        "broken": [{"key": record.key, "error": record.error} for record in broken],
        "scores": [_plain(score) for score in comparison.scores],
        "worst_classes": worst,
    }
    return benchmark, thumbnails, comparison


def _plain(score: MethodScores) -> dict[str, Any]:
    def interval(difference: Difference) -> dict[str, float]:
        return {"value": difference.value, "low": difference.low, "high": difference.high}

    return {
        "name": score.name,
        "acc1": score.top1,
        "acc5": score.top5,
        "mean_per_class_recall": score.recall,
        "differences": {
            "top1": interval(score.top1_difference),
            "recall": interval(score.recall_difference),
        },
        "calibration_error": score.calibration_error,
        "dropped": score.dropped,
        "seeds": score.seeds,
        "acc1_spread": score.top1_spread,
        "mean_per_class_recall_spread": score.recall_spread,
    }


def _worst_classes(
    which: ClassificationSet,
    comparison: Comparison,
    labels: list[int],
    records: list[Record],
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
    order = sorted(wrong, key=lambda label: (1 - len(wrong[label]) / totals[label], -totals[label], label))
    rows = []
    thumbnails: dict[str, bytes] = {}
    shards = {shard.name: shard for shard in which.shards}
    for label in order[:WORST_CLASSES]:
        taken_for = Counter(predicted[row] for row in wrong[label])
        examples = []
        for row in wrong[label][:EXAMPLES]:
            record = records[row]
            picture = _thumbnail(shards[record.shard], record)
            name = f"thumbnails/{which.name}-{len(thumbnails):03}.jpg"
            if picture is not None:
                thumbnails[name] = picture
            examples.append(
                {
                    "key": record.key,
                    "taken_for": names[predicted[row]],
                    "thumbnail": None if picture is None else name,
                }
            )
        rows.append(
            {
                "class": names[label],
                "images": totals[label],
                "recall": 1 - len(wrong[label]) / totals[label],
                "taken_for": [[names[other], count] for other, count in taken_for.most_common(3)],
                "examples": examples,
            }
        )
    return {"method": method, "classes": rows}, thumbnails


def _thumbnail(shard: Shard, record: Record) -> bytes | None:
    """Return a small JPEG of an image; None where it cannot be read any more."""
    try:
        image = next(shard.samples(record.index)).open()
    except (OSError, ValueError, StopIteration):
        return None
    return thumbnail(image)
