"""The engine of many machines: a Ray Data pipeline of the same functions as the local one.

Tasks on CPUs read, decode and preprocess; one row of the data set is one part. Actors, with a GPU each where
there are GPUs, hold the head with its image tower, label the part and write it, so that pixels leave a
machine at most once and labels never pass through the driver, which gets the counts alone. Ray's streaming
executor holds back the tasks while parts wait for an actor, and starts again what was lost with a worker:
a part that is written twice is the same file.
"""

import os
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from s3clip.backbone import ImageTransform
from s3clip.bulk.labelling import Labeller
from s3clip.bulk.output import Output, Part
from s3clip.bulk.work import Task, part_by_part, write_part
from s3clip.head import SynonymousSpaceHead

MOST_BLOCKS = 10_000
"""Tasks of the first stage; with more shards, each has several."""

ACTOR_CPUS = 0.5
"""Of an actor where there are no GPUs. Not 1, as the tasks have: Ray would fuse the two stages into one."""


def label_on_ray(
    tasks: Sequence[Task],
    preprocess: ImageTransform | None,
    head: SynonymousSpaceHead,
    output: Output,
    *,
    workers: int | None,
    top_k: int,
    keep_embeddings: bool,
) -> Iterator[Part]:
    """Label tasks on the cluster that `ray.init` was called for, else on one of this machine alone.

    Args:
        tasks: what to do.
        preprocess: what makes pixels of pictures; None where there are none.
        head: shipped to the actors.
        output: where to; every machine must reach it.
        workers: actors that encode; None: one for each GPU, else one.
        top_k: see `Labeller`.
        keep_embeddings: see `Labeller`.

    Raises:
        ImportError: Ray is not installed.
        OSError: a part cannot be written.
    """
    ray = _ray()
    if not ray.is_initialized():
        start_ray()
    gpus = int(ray.cluster_resources().get("GPU", 0))
    actors = workers or max(1, gpus)
    cpus = ray.cluster_resources().get("CPU", 0)
    if not gpus and actors * ACTOR_CPUS > cpus - 1:
        raise ValueError(f"workers: {actors} actors leave no CPU of {cpus:.0f} to decode; give fewer")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows = [{"task": pickle.dumps(task)} for task in tasks]
    data = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS))
    data = data.flat_map(_Decode(preprocess), num_cpus=1)
    data = data.map(
        _Label,
        fn_constructor_args=(ray.put(head.cpu()), top_k, keep_embeddings, output.address),
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=0 if gpus else ACTOR_CPUS,
        num_gpus=min(1.0, gpus / actors) if gpus else 0,
    )
    for row in data.iter_rows():
        done = pickle.loads(row["part"])
        if isinstance(done, Exception):
            raise done
        yield done


def start_ray(num_cpus: int | None = None) -> None:
    """Start Ray on this machine alone, reachable from this machine alone, and telling nobody.

    Args:
        num_cpus: for its workers; all if None.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _ray().init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        logging_level="ERROR",
    )


class _Decode:
    """A task in, its parts out, decoded, one at a time."""

    def __init__(self, preprocess: ImageTransform | None) -> None:
        self.preprocess = preprocess

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        task: Task = pickle.loads(row["task"])
        for batches in part_by_part(task.batches(self.preprocess)):
            yield {"part": pickle.dumps((task.part(batches[0].first), batches))}


class _Label:
    """The actor that holds the head: a decoded part in, what was written out."""

    def __init__(self, head: Any, top_k: int, keep_embeddings: bool, out: str) -> None:
        import torch

        head = _ray().get(head)
        if torch.cuda.is_available():
            head = head.to("cuda")
        self.labeller = Labeller(head, top_k=top_k, keep_embeddings=keep_embeddings)
        self.output = Output(out)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part, batches = pickle.loads(row["part"])
        rows = [self.labeller.rows(part.shard, batch) for batch in batches]
        try:
            done: Any = write_part(part, batches[-1], rows, self.labeller, self.output)
        except OSError as error:  # a full disk is no reason to try again
            done = error
        return {"part": pickle.dumps(done)}


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("the engine 'ray' needs Ray: pip install 's3clip[ray]'") from error
    return ray
