"""The engine of many machines: a Ray Data pipeline of the same functions as the local one.

Tasks on CPUs read, decode and preprocess; one row of the data set is one batch. Actors, with a GPU each where
there are GPUs, hold the head with its image tower and label the batches. The driver gets the labelled rows,
0.1 to 1 kB each, and writes the parts, in threads. Ray's streaming executor holds the tasks back while
batches wait for an actor, and starts again what was lost with a worker.
"""

import logging
import math
import os
import pickle
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from s3clip.backbone.image_transform import ImageTransform
from s3clip.bulk.decoding import DecodedBatch
from s3clip.bulk.inputs import InputFile, state_now
from s3clip.bulk.labelling import Asked, Labeller
from s3clip.bulk.output import Output, Part
from s3clip.bulk.work import Task, write_part
from s3clip.head import SynonymousSpaceHead

MOST_BLOCKS = 10_000
"""Tasks of the first stage; with more shards, each has several."""

BLOCK_BYTES = 32 << 20
"""What one object of the store holds at most, or one batch where that is larger: 64 pictures of 224 x 224 in
float32 are 39 MB. A task stops after two such objects until one is taken."""

ACTOR_CPUS = 0.5
"""Of an actor, beside its GPU. Not 1, as the tasks have: Ray would fuse the two stages into one."""

WRITERS = 4
"""Threads that write parts; as many parts wait at most."""


class _About(NamedTuple):
    """What the driver knows of a labelled batch: its part, its place there, and whether it is the last."""

    part: Part
    first: int
    rows: int
    ends_part: bool


def label_on_ray(
    tasks: Sequence[Task],
    preprocess: ImageTransform | None,
    head: SynonymousSpaceHead,
    output: Output,
    asked: Asked,
    *,
    workers: int | None,
) -> Generator[Part, None, None]:
    """Label tasks on the cluster that `ray.init` was called for, else on one of this machine alone.

    Args:
        tasks: what to do.
        preprocess: what makes pixels of pictures; None where there are none.
        head: shipped to the actors.
        output: where to; every machine must reach it.
        asked: what the rows are to say.
        workers: actors that encode. None: one for each GPU, and more where the cluster grows; else one.

    Raises:
        ImportError: Ray is not installed.
        ValueError: more workers than there is room for, or a machine that does not see inputs or `output`.
        OSError: a part cannot be written.
    """
    ray = _ray()
    own_cluster = not ray.is_initialized()
    if own_cluster:
        start_ray()
    try:
        pool = _pool(workers)
        on_cpu = head if head.space.raw.device.type == "cpu" else deepcopy(head).cpu()
        _check_reach(tasks, output)
        data = ray.data.from_items(
            [{"task": pickle.dumps(task)} for task in tasks],
            override_num_blocks=min(len(tasks), MOST_BLOCKS),
        )
        data.context.enable_progress_bars = False
        data.context.print_on_execution_start = False
        data.context.target_max_block_size = BLOCK_BYTES
        data = data.map_batches(_Decode(preprocess), batch_size=1, batch_format="pyarrow", num_cpus=1)
        data = data.map_batches(
            _Label,
            fn_constructor_args=(ray.put(on_cpu), asked),
            batch_size=1,
            batch_format="pyarrow",
            **pool,
        )
        labelled = data.iter_batches(batch_size=None, batch_format="pyarrow")
        yield from _written(labelled, len(head.classes), output)
    finally:
        if own_cluster:
            ray.shutdown()


def start_ray(num_cpus: int | None = None, object_store_memory: int | None = None) -> None:
    """Start Ray on this machine alone, reachable from this machine alone, and telling nobody.

    Args:
        num_cpus: for its workers; all if None.
        object_store_memory: bytes that pass between the workers; Ray's own share of the memory if None.
    """
    ray = _ray()
    from ray._private import ray_constants

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # On Linux Ray listens to the whole network, even where it is given 127.0.0.1 for its address, unless it
    # takes itself to be where it cannot have a cluster, as on macOS.
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            object_store_memory=object_store_memory,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
    logging.getLogger("ray.data").setLevel("ERROR")


def _pool(workers: int | None) -> dict[str, Any]:
    """Return how many actors there are, and what each has, as arguments of `map_batches`."""
    ray = _ray()
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), resources.get("CPU", 0)
    actors = workers or max(1, gpus)
    if actors * ACTOR_CPUS > cpus - 1:
        raise ValueError(
            f"workers: {actors} actors, with {ACTOR_CPUS} CPUs each, leave none of the cluster's {cpus:.0f} "
            f"CPUs to decode; give {max(1, math.floor((cpus - 1) / ACTOR_CPUS))} at most"
        )
    grows = workers is None and gpus
    return {
        "compute": ray.data.ActorPoolStrategy(min_size=actors, max_size=None if grows else actors),
        "num_cpus": ACTOR_CPUS,
        # Actors share a GPU where there are more of them, but none has parts of two.
        "num_gpus": 1 / math.ceil(actors / gpus) if gpus else 0,
    }


def _check_reach(tasks: Sequence[Task], output: Output) -> None:
    """Raise ValueError if a machine of the cluster does not see the inputs and the results.

    Pictures that a machine does not see would be rows with an error, and final.
    """
    ray = _ray()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(_out_of_reach)
    listing = output.listing()
    answers = {
        node["NodeManagerAddress"]: ask.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(tasks[0].files[0], output.address, listing)
        for node in ray.nodes()
        if node["Alive"]
    }
    for machine, answer in answers.items():
        if (said := ray.get(answer)) is not None:
            raise ValueError(
                f"{said} from machine {machine} of the cluster; give a folder that all machines share, or an "
                f"address such as s3://"
            )


def _out_of_reach(file: InputFile, out: str, listing: bytes | None) -> str | None:
    """Return what this machine sees otherwise than the driver does, None if nothing."""
    try:
        now = state_now(file)
    except FileNotFoundError:
        return f"inputs: {file.path} is not to be seen"
    if now.size != file.state.size:
        return f"inputs: {file.path} is another file as seen"
    return None if Output(out).listing() == listing else f"out: {out} is not to be seen"


class _Decode:
    """A task in, its batches out, decoded, one at a time."""

    def __init__(self, preprocess: ImageTransform | None) -> None:
        self.preprocess = preprocess

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        for packed in rows.column("task").to_pylist():
            task: Task = pickle.loads(packed)
            for batch in task.batches(self.preprocess):
                yield _row(part=pickle.dumps(task.part(batch)), batch=_packed(batch))


class _Label:
    """The actor that holds the head: a decoded batch in, its rows out."""

    def __init__(self, head: Any, asked: Asked) -> None:
        head = _ray().get(head)
        if torch.cuda.is_available():
            head = head.to("cuda")
        self.labeller = Labeller(head, asked)

    def __call__(self, rows: pa.Table) -> pa.Table:
        part: Part = pickle.loads(rows.column("part")[0].as_py())
        batch = _unpacked(rows.column("batch")[0].as_buffer())
        labelled = self.labeller.rows(part.shard, batch)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, labelled.schema) as stream:
            stream.write_table(labelled)
        about = _About(part, batch.first, len(labelled), batch.ends_part)
        return _row(about=pickle.dumps(about), rows=sink.getvalue())


@dataclass
class _Gathered:
    """What has arrived of a part: its batches by their first row, and the one that ends it."""

    batches: dict[int, pa.Buffer] = field(default_factory=dict)
    rows: int = 0
    end: _About | None = None

    def add(self, about: _About, rows: pa.Buffer) -> None:
        """Take the rows of a batch."""
        self.batches[about.first] = rows
        self.rows += about.rows
        if about.ends_part:
            self.end = about

    @property
    def is_whole(self) -> bool:
        """Whether its batches are all there."""
        return self.end is not None and self.end.part.start + self.rows == self.end.first + self.end.rows


def _written(labelled: Iterable[pa.Table], classes: int, output: Output) -> Iterator[Part]:
    """Write the parts as soon as their batches are there, in whatever order they come, and give them."""
    held: dict[tuple[str, int], _Gathered] = {}
    writing: deque[Future[Part]] = deque()
    with ThreadPoolExecutor(WRITERS) as writers:
        for table in labelled:
            for packed, rows in zip(table.column("about"), table.column("rows"), strict=True):
                about: _About = pickle.loads(packed.as_py())
                name = about.part.shard, about.part.start
                own = held.setdefault(name, _Gathered())
                own.add(about, rows.as_buffer())
                if own.end is not None and own.is_whole:
                    writing.append(writers.submit(_write, own.end.part, held.pop(name), classes, output))
            while writing and (len(writing) > WRITERS or writing[0].done()):
                yield writing.popleft().result()
        for written in writing:
            yield written.result()
    if held:
        raise RuntimeError(f"Ray lost batches of {len(held)} parts, such as {next(iter(held))}; run it again")


def _write(part: Part, gathered: _Gathered, classes: int, output: Output) -> Part:
    batches = [gathered.batches[first] for first in sorted(gathered.batches)]
    return write_part(part, [pa.ipc.open_stream(batch).read_all() for batch in batches], classes, output)


def _packed(batch: DecodedBatch) -> bytes:
    """Return a batch in bytes, by way of numpy: torch copies tensors several times to pickle them."""
    inputs = None if batch.inputs is None else {name: value.numpy() for name, value in batch.inputs.items()}
    return pickle.dumps((replace(batch, inputs=None), inputs), protocol=5)


def _unpacked(packed: pa.Buffer) -> DecodedBatch:
    batch: DecodedBatch
    batch, inputs = pickle.loads(packed)
    if inputs is None:
        return batch
    return replace(batch, inputs={name: torch.from_numpy(value) for name, value in inputs.items()})


def _row(**columns: bytes | pa.Buffer) -> pa.Table:
    """Return a table of one row of bytes, which are not copied, and may be more than 2 GB."""
    arrays = {}
    for name, content in columns.items():
        ends = pa.py_buffer(np.array([0, len(content)], dtype=np.int64))
        arrays[name] = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), 1, [None, ends, pa.py_buffer(content)]
        )
    return pa.table(arrays)


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("the engine 'ray' needs Ray: pip install 's3clip[ray]'") from error
    return ray
