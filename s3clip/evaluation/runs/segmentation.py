"""A benchmark of segmentation, scored from the pixels that were counted, and the classes it is worst at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s3clip.evaluation.benchmarks.masks import MaskedImage
from s3clip.evaluation.benchmarks.sets import SegmentationSet
from s3clip.evaluation.methods import CONTROL, DEFAULT
from s3clip.evaluation.runs.examples import EXAMPLES, WORST_CLASSES, first_of, thumbnail
from s3clip.evaluation.runs.pixel_counts import CountedPicture, PixelCounts
from s3clip.evaluation.runs.pixels import Counted, PixelRun
from s3clip.evaluation.scores import intersection_over_union, interval, mean_iou, resampled_mean_iou
from s3clip.evaluation.scoring import dropped_share, resamples
from s3clip.images.opening import open_image


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
        """Add up the cells of pictures, as `CountedPicture` has them."""
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


def score_pixels(
    run: PixelRun, folder: Path, counted: Sequence[Counted]
) -> tuple[dict[str, Any], dict[str, bytes], dict[str, Any]]:
    """Score all methods on a set whose pictures all processes have counted.

    Args:
        run: the set and its methods.
        folder: where the counts are.
        counted: what each process did.

    Returns:
        What `run.json` says of the set, the thumbnails that it names, and how long each method took.

    Raises:
        FileNotFoundError: the counts of a picture are missing.
        ValueError: no picture can be scored.
    """
    which = run.which
    errors = {key: error for each in counted for key, error in each.broken.items()}
    broken = {pair.key: errors[pair.key] for pair in which.shards if pair.key in errors}
    stored = PixelCounts(folder).read()
    pairs = [pair for pair in which.shards if pair.key not in broken]
    if missing := next((pair.key for pair in pairs if pair.key not in stored), None):
        raise FileNotFoundError(
            f"{folder}: the counts of {missing} are not here; where several machines encode, --cache must be "
            f"a folder that all of them share"
        )
    pictures = [stored[pair.key] for pair in pairs]
    scores = _scores(run, pictures)
    labelled = 0 if not scores else int(scores[CONTROL.name].confusion.sum())
    if not labelled:
        raise ValueError(
            f"{which.name}: no pixel to score: {len(which.shards)} pictures found, {len(broken)} of them "
            f"cannot be scored" + (f": {first_of(list(broken.values()))}" if broken else "")
        )
    differences = _differences(run, scores)
    occurs = scores[CONTROL.name].confusion.sum(1) > 0
    worst, thumbnails = _worst_classes(which, scores, pairs, pictures)
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
        for each in run.methods
    ]
    benchmark = {
        "name": which.name,
        "task": "segmentation",
        "split": which.split,
        "convention": which.convention,
        "headline": "miou",
        "counts": {
            "scored": len(pairs),
            "of": len(which.shards) if which.expected_images is None else which.expected_images,
            "found": len(which.shards),
            "expected": which.expected_images,
            "broken": len(broken),
            "left_out": 0,
        },
        "classes": len(which.class_names),
        "class_names": list(which.class_names),
        "scored_classes": int(occurs.sum()),
        "pixels": labelled,
        "texts": run.texts,
        "templates": list(which.templates),
        "configs": {each.name: each.config.model_dump() for each in run.chosen if each.config is not None},
        "patch_features": run.patch_features,
        **run.sizes._asdict(),
        "threshold": which.layout.threshold,
        "reduce_zero_label": which.layout.reduce_zero_label,
        "warnings": _warnings(which, broken, occurs),
        "broken": [{"key": key, "error": error} for key, error in broken.items()],
        "scores": sorted(found, key=lambda score: (-score["miou"], -score["pixel_accuracy"], score["name"])),
        "worst_classes": worst,
    }
    return benchmark, thumbnails, _times(counted)


def _times(counted: Sequence[Counted]) -> dict[str, Any]:
    images = sum(each.images for each in counted)
    seconds = {name: sum(each.method_seconds[name] for each in counted) for name in counted[0].method_seconds}
    return {name: {"image_ms": 1000 * each / images if images else None} for name, each in seconds.items()}


def _scores(run: PixelRun, pictures: Sequence[CountedPicture]) -> dict[str, PixelScores]:
    if not pictures:
        return {}
    classes = len(run.which.class_names)
    return {
        each.name: PixelScores.of([picture.cells[each.name] for picture in pictures], classes)
        for each in run.methods
    }


def _differences(run: PixelRun, scores: Mapping[str, PixelScores]) -> dict[str, dict[str, dict[str, float]]]:
    """Return every method's scores minus the control's, with intervals over the pictures."""
    pictures, classes = scores[CONTROL.name].hits.shape
    resampled = {name: torch.empty(2, run.asked.bootstrap, dtype=torch.float64) for name in scores}
    for part, counts in resamples(pictures, run.asked, classes):
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


def _warnings(which: SegmentationSet, broken: Mapping[str, str], occurs: Tensor) -> list[str]:
    warnings = list(which.problems)
    if broken:
        warnings.append(f"cannot be scored: {len(broken)} of the pictures: {first_of(list(broken.values()))}")
    if absent := [name for name, there in zip(which.class_names, occurs.tolist(), strict=True) if not there]:
        listed = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        warnings.append(f"no pixel is of {len(absent)} of the classes: {listed}")
    return warnings


def _worst_classes(
    which: SegmentationSet,
    scores: Mapping[str, PixelScores],
    pairs: Sequence[MaskedImage],
    pictures: Sequence[CountedPicture],
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the classes with the least IoU, what their pixels are taken for, and a few such pictures."""
    method = DEFAULT.name if DEFAULT.name in scores else CONTROL.name
    own = scores[method]
    width = own.confusion.shape[1]
    pixels, iou = own.confusion.sum(1), intersection_over_union(own.confusion)
    wrong = own.labelled - own.hits
    order = sorted(
        (label for label in range(len(pixels)) if pixels[label] > 0 and iou[label] < 1),
        key=lambda label: (float(iou[label]), -int(pixels[label]), label),
    )
    names = [*which.class_names, "no class"]
    rows = []
    thumbnails: dict[str, bytes] = {}
    for label in order[:WORST_CLASSES]:
        taken_for = own.confusion[label].clone()
        taken_for[label] = 0
        most = taken_for.argsort(descending=True, stable=True)[:3].tolist()
        examples = []
        for row in wrong[:, label].argsort(descending=True, stable=True)[:EXAMPLES].tolist():
            if not wrong[row, label]:
                break
            name = f"thumbnails/{which.name}-{len(thumbnails):03}.jpg"
            picture = _thumbnail(pairs[row])
            if picture is not None:
                thumbnails[name] = picture
            where, count = pictures[row].cells[method].T
            mistakes = (where // width == label) & (where % width != label)
            largest = int(count[mistakes].argmax())
            guess = names[int(where[mistakes][largest]) % width]
            examples.append(
                {
                    "key": pairs[row].key,
                    "taken_for": f"{guess}, {int(count[mistakes][largest]):,} pixels",
                    "thumbnail": None if picture is None else name,
                }
            )
        rows.append(
            {
                "class": names[label],
                "images": int((own.labelled[:, label] > 0).sum()),
                "iou": float(iou[label]),
                "taken_for": [[names[other], int(taken_for[other])] for other in most if taken_for[other]],
                "examples": examples,
            }
        )
    return {"method": method, "classes": rows}, thumbnails


def _thumbnail(pair: MaskedImage) -> bytes | None:
    """Return a small JPEG of a picture; None where it cannot be read any more."""
    try:
        return thumbnail(open_image(pair.image))
    except (OSError, ValueError):
        return None
