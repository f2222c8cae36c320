"""In which type the image tower of a run computes: asked for, tried, or what an earlier run has kept."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic import BaseModel

from s3clip.backbone.backbone import Backbone
from s3clip.backbone.precision import Precision, Trial, check_precision
from s3clip.evaluation.benchmarks.sets import ClassificationSet, SegmentationSet
from s3clip.evaluation.runs.cache import folder_of_model
from s3clip.evaluation.runs.processes import Processes
from s3clip.files.json import checked, read_json
from s3clip.files.writing import write_atomically
from s3clip.head import SynonymousSpaceHead
from s3clip.prediction.precision import first_inputs, set_precision


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
    kept: Trial | None = None
    if dtype == "auto":
        path = folder_of_model(cache, backbone.image_key()) / "precision.json"
        if path.exists():
            known = checked(read_json(path), _Kept, str(path))
            kept = Trial(known.dtype, known.said)
        elif own.index == 0:
            first = sets[0]
            head = SynonymousSpaceHead(backbone).fit_classes(first.synonyms, templates=first.templates)
            transform = backbone.image_transform(near_size=near_size)
            kept = set_precision(head, dtype, inputs=partial(first_inputs, transform, first.shards))
            assert kept is not None  # a trial was asked for
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _Kept(dtype=kept.dtype, said=kept.said).model_dump_json().encode())
        kept = own.gather(kept)[0]
    # What the trial of the first process has left as it was, is cast to what it is.
    set_precision(SynonymousSpaceHead(backbone), dtype, compiled=compiled, inputs=dict, kept=kept)
    return None if kept is None else kept.said
