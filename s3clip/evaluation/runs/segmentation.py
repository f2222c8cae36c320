"""A benchmark of segmentation, scored from the pixels that were counted, and the classes it is worst at."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from s3clip.evaluation.benchmarks.sets import SegmentationSet
from s3clip.evaluation.methods import CONTROL, DEFAULT
from s3clip.evaluation.report.comparison import no_place
from s3clip.evaluation.runs.cache import Cache, Seen
from s3clip.evaluation.runs.encoding import Done
from s3clip.evaluation.runs.pixels import PixelJob, stored_cells
from s3clip.evaluation.runs.results import Mistakes, Scored, describe_set, first_of, worst_classes
from s3clip.evaluation.scores import intersection_over_union, interval, mean_iou, resampled_mean_iou
from s3clip.evaluation.scoring import dropped_share, resamples
from s3clip.images.sources import Record
from s3clip.printing import counted


@dataclass(frozen=True)
class PixelScores:
    """The pixels of a set as one method took them.

    Attributes:
        confusion: (classes, classes + 1), as `confusion_matrix` counts it, over all pictures.
        hits: (pictures, classes) float64, pixels of each class that were taken for it.
        labelled: (pictures, classes) float64, pixels of each class.
        predicted: (pictures, classes) float64, counted pixels that were taken for each class.
    """

    confusion: Tensor
    hits: Tensor
    labelled: Tensor
    predicted: Tensor

    @classmethod
    def of(cls, cells: Sequence[Tensor], classes: int) -> "PixelScores":
        """Add up the cells of pictures, as `stored_cells` has them."""
        width = classes + 1
        picture = torch.repeat_interleave(torch.arange(len(cells)), torch.tensor([len(own) for own in cells]))
        where, count = torch.cat(list(cells)).long().T
        label, guess = where // width, where % width
        right, taken = label == guess, guess < classes

        def table(rows: int, columns: int, row: Tensor, column: Tensor, own: Tensor) -> Tensor:
            empty = torch.zeros(rows, columns, dtype=torch.int64)
            return empty.index_put_((row, column), own, accumulate=True)

        return cls(
            confusion=table(classes, width, label, guess, count),
            hits=table(len(cells), classes, picture[right], label[right], count[right]).double(),
            labelled=table(len(cells), classes, picture, label, count).double(),
            predicted=table(len(cells), classes, picture[taken], guess[taken], count[taken]).double(),
        )

    @property
    def miou(self) -> float:
        """Mean intersection over union, of the classes that occur or were taken for one, in [0, 1]."""
        return mean_iou(self.confusion)

    @property
    def pixel_accuracy(self) -> float:
        """The share of pixels that are right, in [0, 1]."""
        return float(self.confusion.diagonal().sum() / self.confusion.sum())


def score_pixels(job: PixelJob, cache: Cache, images: Sequence[Seen], done: Sequence[Done]) -> Scored:
    """Score all methods on a set whose pictures all processes have counted.

    Args:
        job: the set and its methods.
        cache: where the counts are.
        images: all its pictures, those that cannot be scored too.
        done: what each process did.

    Raises:
        FileNotFoundError: the counts of a picture are missing.
        ValueError: no picture can be scored.
    """
    which = job.which
    cells = stored_cells(cache, images)
    scores = _scores(job, cells)
    labelled = int(scores[CONTROL.name].confusion.sum()) if cells else 0
    benchmark = describe_set(which, images, len(cells), unusable="scored")
    if not labelled:
        errors = [each["error"] for each in benchmark["broken"]]
        raise ValueError(
            f"{which.name}: no pixel to score: {counted(len(images), 'picture')} found, {len(errors)} of "
            f"them cannot be scored" + (f": {first_of(errors)}" if errors else "")
        )
    differences = _differences(job, scores)
    occurs = scores[CONTROL.name].confusion.sum(1) > 0
    absent = [name for name, there in zip(which.class_names, occurs.tolist(), strict=True) if not there]
    if absent:
        listed = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        benchmark["warnings"].append(f"no pixel is of {len(absent)} of the classes: {listed}")
    if job.negatives:
        benchmark["warnings"].append(no_place([each.name for each in job.chosen if not each.negatives]))
    usable = [record for record, each in images if each is not None]
    worst, thumbnails = _worst_classes(which, scores, usable, cells)
    found: list[dict[str, Any]] = [
        {
            "name": each.name,
            "miou": scores[each.name].miou,
            "pixel_accuracy": scores[each.name].pixel_accuracy,
            "differences": differences[each.name],
            "class_iou": [
                None if value.isnan() else float(value)
                for value in intersection_over_union(scores[each.name].confusion)
            ],
            "dropped": dropped_share(each.head),
        }
        for each in job.methods
    ]
    benchmark |= {
        "classes": len(which.class_names),
        "class_names": list(which.class_names),
        "scored_classes": int(occurs.sum()),
        "pixels": labelled,
        "texts": job.texts,
        "templates": list(which.templates),
        "configs": {each.name: each.config.model_dump() for each in job.chosen if each.config is not None},
        "patch_features": job.patch_features,
        **job.sizes._asdict(),
        "threshold": which.layout.threshold,
        "reduce_zero_label": which.layout.reduce_zero_label,
        "scores": sorted(found, key=lambda score: (-score["miou"], -score["pixel_accuracy"], score["name"])),
        "worst_classes": worst,
    }
    return Scored(benchmark, thumbnails, _times(done))


def _times(done: Sequence[Done]) -> dict[str, dict[str, float | None]]:
    encoded = sum(each.images for each in done)
    seconds = {name: sum(each.parts[name] for each in done) for name in done[0].parts}
    return {name: {"image_ms": 1000 * each / encoded if encoded else None} for name, each in seconds.items()}


def _scores(job: PixelJob, cells: Sequence[Mapping[str, Tensor]]) -> dict[str, PixelScores]:
    if not cells:
        return {}
    classes = len(job.which.class_names)
    return {each.name: PixelScores.of([own[each.name] for own in cells], classes) for each in job.methods}


def _differences(job: PixelJob, scores: Mapping[str, PixelScores]) -> dict[str, dict[str, dict[str, float]]]:
    """Return every method's scores minus the control's, with intervals over the pictures."""
    pictures, classes = scores[CONTROL.name].hits.shape
    resampled = {name: torch.empty(2, job.asked.bootstrap, dtype=torch.float64) for name in scores}
    for part, counts in resamples(pictures, job.asked, classes):
        for name, own in scores.items():
            right, pixels = (counts.double() @ each.sum(1) for each in (own.hits, own.labelled))
            resampled[name][0, part] = resampled_mean_iou(own.hits, own.labelled, own.predicted, counts)
            resampled[name][1, part] = right / pixels
    control = scores[CONTROL.name]
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in scores}
    for name, own in scores.items():
        for row, what in enumerate(("miou", "pixel_accuracy")):
            low, high = interval(resampled[name][row] - resampled[CONTROL.name][row])
            value = getattr(own, what) - getattr(control, what)
            found[name][what] = {"value": value, "low": low, "high": high}
    return found


def _worst_classes(
    which: SegmentationSet,
    scores: Mapping[str, PixelScores],
    records: Sequence[Record],
    cells: Sequence[Mapping[str, Tensor]],
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the classes with the least IoU, what their pixels are taken for, and a few such pictures."""
    method = DEFAULT.name if DEFAULT.name in scores else CONTROL.name
    own = scores[method]
    width = own.confusion.shape[1]
    pixels, iou = own.confusion.sum(1), intersection_over_union(own.confusion)
    wrong = own.labelled - own.hits
    names = [*which.class_names, "no class"]

    def mistakes_of(label: int) -> Mistakes:
        taken_for = own.confusion[label].clone()
        taken_for[label] = 0
        most = taken_for.argsort(descending=True, stable=True)[:3].tolist()
        return Mistakes(
            {"images": int((own.labelled[:, label] > 0).sum()), "iou": float(iou[label])},
            [[names[other], int(taken_for[other])] for other in most if taken_for[other]],
            ((records[row], largest(row, label)) for row in worst_first(label)),
        )

    def worst_first(label: int) -> Iterator[int]:
        for row in wrong[:, label].argsort(descending=True, stable=True).tolist():
            if not wrong[row, label]:
                return
            yield row

    def largest(row: int, label: int) -> str:
        where, count = cells[row][method].T
        mistakes = (where // width == label) & (where % width != label)
        most = int(count[mistakes].argmax())
        return f"{names[int(where[mistakes][most]) % width]}, {int(count[mistakes][most]):,} pixels"

    order = sorted(
        (label for label in range(len(pixels)) if pixels[label] > 0 and iou[label] < 1),
        key=lambda label: (float(iou[label]), -int(pixels[label]), label),
    )
    return worst_classes(which, method, order, mistakes_of)
