"""In which type the image tower of a run computes: asked for, tried, or what an earlier run has kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel
from torch import Tensor

from s3clip.backbone.backbone import Backbone
from s3clip.backbone.precision import TRIAL_IMAGES, Precision, Trial, check_precision
from s3clip.evaluation.benchmarks.sets import ClassificationSet, SegmentationSet
from s3clip.evaluation.runs.embeddings import ImageOpening
from s3clip.evaluation.runs.processes import Processes
from s3clip.files.json import checked, read_json
from s3clip.files.writing import write_atomically
from s3clip.head import SynonymousSpaceHead
from s3clip.images.sources import Sample, read
from s3clip.prediction.precision import set_precision


class _Kept(BaseModel):
    """What a trial of a model took."""

    dtype: Precision
    said: str


def settle_precision(
    sets: Sequence[ClassificationSet | SegmentationSet],
    backbone: Backbone,
    cache: Path,
    own: Processes,
    dtype: str | None,
    *,
    compiled: bool,
    near_size: bool,
) -> str | None:
    """Let a backbone compute in what is asked for, the same in all processes of a run.

    Args:
        sets: of the run; a trial takes the first images and the classes of the first.
        backbone: changed in place.
        cache: where the outcome of a trial is kept, in a folder of the model as it was.
        own: which process this is; the first one tries.
        dtype: see `s3clip.prediction.precision.set_precision`.
        compiled: see there.
        near_size: whether JPEGs are decoded near the size that the model needs.

    Returns:
        What a trial found, or has found for an earlier run; None where none was asked for.
    """
    check_precision(dtype)
    if dtype is None and not compiled:
        return None
    found: Trial | None = None
    if dtype == "auto":
        path = cache / backbone.image_key()[:16] / "precision.json"
        kept = checked(read_json(path), _Kept, str(path)) if path.exists() else None
        if kept is not None:
            found = Trial(kept.dtype, kept.said)
        elif own.index == 0:
            first = sets[0]
            head = SynonymousSpaceHead(backbone).fit_classes(first.synonyms, templates=first.templates)
            found = set_precision(head, "auto", inputs=lambda: _inputs(first, backbone, near_size))
            if found is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                content = _Kept(dtype=found.dtype, said=found.said)
                write_atomically(path, content.model_dump_json().encode())
        found = own.gather(found)[0]
        assert found is not None  # of the first process
        dtype = found.dtype
    # What the trial has left as it was, is cast to what it is.
    set_precision(SynonymousSpaceHead(backbone), dtype, compiled=compiled, inputs=dict)
    return None if found is None else found.said


def _inputs(
    which: ClassificationSet | SegmentationSet, backbone: Backbone, near_size: bool
) -> Mapping[str, Tensor] | None:
    """Return the input of the image tower for the first images of a set that can be read."""
    opening = ImageOpening(backbone.image_transform(near_size=near_size))

    def opened(sample: Sample) -> object:
        return opening.open(sample, (sample.read(),))

    for batch in read(which.shards, opening=opened, transform=opening.prepare, batch_size=TRIAL_IMAGES):
        if batch.value:
            found: Mapping[str, Tensor] = batch.value
            return found
    return None
