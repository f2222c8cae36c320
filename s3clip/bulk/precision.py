"""How a job encodes its pictures: what is asked for, what a trial finds, and what its folder has recorded."""

from collections.abc import Iterable
from functools import partial

from s3clip.backbone.precision import Trial, check_precision
from s3clip.bulk.embedding_shards import EmbeddingFile
from s3clip.bulk.output import Manifest
from s3clip.head import SynonymousSpaceHead
from s3clip.images.sources import Shard
from s3clip.prediction.precision import first_inputs, set_precision


def settle_precision(
    head: SynonymousSpaceHead,
    shards: Iterable[Shard | EmbeddingFile],
    before: Manifest | None,
    dtype: str | None,
    *,
    compiled: bool,
    near_size: bool,
) -> str | None:
    """Let the image tower of a job's head compute in what is asked for, or was taken by an earlier run.

    Args:
        head: loaded for this job.
        shards: of the job; the first pictures of them are those of a trial.
        before: what the folder says of its results. What it records stands: "auto" tries nothing then.
        dtype: see `s3clip.prediction.precision.set_precision`.
        compiled: see there.
        near_size: whether JPEGs are decoded near the size that the model needs.

    Returns:
        What is to be known of the choice; None where none was made.
    """
    check_precision(dtype)
    pictures = [shard for shard in shards if not isinstance(shard, EmbeddingFile)]
    if head.backbone is None or not pictures:
        return None
    transform = head.backbone.image_transform(near_size=near_size)
    recorded = None if before is None else before.settings.get("dtype")
    kept = None
    if isinstance(recorded, str):
        taken = recorded.removeprefix("torch.")
        kept = Trial(taken, f"auto keeps {taken}, which the results that are there were made with")
    inputs = partial(first_inputs, transform, pictures)
    trial = set_precision(head, dtype, compiled=compiled, inputs=inputs, kept=kept)
    return None if trial is None else trial.said
