"""A job: what there is to do, who does it, and what came of it."""

import hashlib
import itertools
import json
import os
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Literal

import pyarrow as pa
import torch
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

from s3clip._version import __version__
from s3clip.arguments import is_count, is_number, plain, refuse_unless_pictures
from s3clip.backbone.identity import check_fingerprint
from s3clip.bulk.decoding import EMBEDDING_PART, RowsPer
from s3clip.bulk.embedding_shards import EmbeddingFile
from s3clip.bulk.inputs import (
    Columns,
    InputFile,
    into_shards,
    list_files,
    make_shards,
    read_listing,
    result_folders,
    write_listing,
)
from s3clip.bulk.labelling import Asked, Labeller, schema
from s3clip.bulk.local import label_locally
from s3clip.bulk.on_ray import label_on_ray
from s3clip.bulk.output import Layout, Manifest, Output, Part
from s3clip.bulk.precision import settle_precision
from s3clip.bulk.summary import Summary
from s3clip.bulk.work import Task, version_of
from s3clip.files.reach import Reach, allowed_places
from s3clip.files.writing import in_utf8
from s3clip.head import SynonymousSpaceHead
from s3clip.images.opening import one_or_several
from s3clip.images.sources import Shard
from s3clip.images.workers import cores
from s3clip.prediction.scope import scope_of

FEW_ROWS = 1000
"""Errors are counted against so many rows at least: the first picture of all may be a broken one."""


class TooManyErrorsError(ValueError):
    """More rows have an error than the job allows."""


def label(
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    head: SynonymousSpaceHead | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    top_k: int = 5,
    level: str | None = None,
    among: Any = None,
    keep_embeddings: bool = False,
    max_error_share: float = 0.01,
    batch_size: int = 64,
    part_size: int = 512,
    column: str | None = None,
    key_column: str | None = None,
    allow_addresses: str | Iterable[str] = (),
    backbone: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    dtype: str | None = None,
    compiled: bool = False,
    near_size: bool = False,
    progress: bool | None = None,
) -> Summary:
    """Label everything there is: pictures or embeddings, here or in an object store; docs/scale.md has more.

    A folder of results is filled part by part, each part whole or not there. A second call with the same
    arguments does what is missing and nothing else.

    Args:
        inputs: files, folders, globs or addresses that fsspec reads: pictures, tars, tables (parquet, Arrow,
            Lance), arrays (.npy, .npz, .safetensors), and folders of results with kept embeddings.
        head: fitted, or where to load it from; without its image tower where there are embeddings alone.
        out: folder of the results, or an address that fsspec writes to.
        engine: "local": this process, and workers that decode. "ray": Ray Data, on the cluster that
            `ray.init` was called for, else on this machine.
        workers: that decode, by default one a core: threads where few are enough, else processes, and the
            model goes first; with "ray" actors that encode, by default one a GPU.
        top_k: how many classes the lists of a row name.
        level: of groups; rows say the most probable group too, in the columns group and group_score.
        among: answer within some classes, as for `predict`.
        keep_embeddings: keep the embedding of each row in float16, to label with another head later.
        max_error_share: the job stops where more of the rows so far (of 1,000, where there are fewer) have an
            error.
        batch_size: pictures that go through the model at once.
        part_size: pictures in a part, a multiple of `batch_size`.
        column: of tables, with pictures or embeddings; by default "image", else "embedding". Of a .npz or
            .safetensors, the array; by default the only one of two dimensions.
        key_column: of tables; by default "key" if there is one.
        allow_addresses: what the paths and addresses in the cells of a table may lead to beside its own
            folder: schemes ("https", "s3"; "file" for all of this machine), or what addresses begin with;
            docs/trust.md has more.
        backbone: name or folder of the model of a head that is loaded, if it is not where it was.
        device: where a head that is loaded computes.
        dtype: in what the image tower of a head that is loaded computes: "float32", "bfloat16", "float16",
            or "auto", a short trial with the first pictures, whose outcome is recorded and kept by the next
            run; None: the model's own. See `s3clip.backbone.precision`.
        compiled: let torch.compile make the code of that image tower.
        near_size: decode JPEGs near the size that the model needs: see `s3clip.images.opening.open_image`.
        progress: show a progress bar; None: on a terminal.

    Returns:
        What became of all rows, those of earlier runs too. It is in `out` as `_s3clip/summary.json` as well.

    Raises:
        FileNotFoundError: an input that is not there.
        ValueError: `out` holds results of other settings, or another run is writing there; an input has
            changed since it was labelled; or an argument is out of range, or of pictures where there are
            embeddings alone.
        TooManyErrorsError: more errors than allowed.
        OSError: nothing can be written, as to a full disk; what was written is kept.
        ImportError: an extra is missing: `ray`, `lance`, or the package of a store.

    Examples:
        >>> label("photos", "pets-space", "labels").rows  # doctest: +SKIP
        7390
    """
    top_k, batch_size, part_size, workers, max_error_share = map(
        plain, (top_k, batch_size, part_size, workers, max_error_share)
    )
    _check(engine, workers, top_k, max_error_share, batch_size, part_size)
    allowed = allowed_places(allow_addresses)
    output = Output(out)
    output.check()
    found = list_files(one_or_several(inputs), output)
    known = read_listing(output)
    files = into_shards(found, known, part_size)
    given = frozenset(file.path for file in found)
    tables = Columns(column, key_column)
    shards = make_shards(files, tables, given, Reach(output.address, allowed))
    if isinstance(head, SynonymousSpaceHead) and (dtype is not None or compiled or backbone is not None):
        said = "dtype, compiled, backbone: are for a head that is loaded here; give where it was saved"
        raise ValueError(said)
    precise = {"compiled": compiled, "near_size": near_size}
    refuse_unless_pictures(
        _has_pictures(shards.values()),
        dtype=dtype,
        **precise,
        backbone=backbone,
        workers=workers if engine == "local" else None,  # of Ray they encode or label
    )
    head = _head_for(shards, head, backbone, device)
    precision = settle_precision(head, shards.values(), output.manifest(), dtype, **precise)
    for folder in result_folders(found):
        _check_results(folder, head)
    level = None if level is None else str(level)
    scope = scope_of(head.classes, level, among)
    within = None if scope.classes is None else tuple(scope.classes.tolist())
    asked = Asked(top_k, keep_embeddings, level, within)
    rows_per, with_pictures = RowsPer(batch_size, part_size), _has_pictures(shards.values())
    encoding = {name: True for name, is_so in precise.items() if is_so and with_pictures}
    settings = _settings(output.layout, head, asked, rows_per, tables, allowed, encoding)
    columns = output.columns(schema(head, asked))
    output.make()
    with output.claimed():
        _take_folder(output, head, settings, columns, with_pictures)
        if read_listing(output) != known:  # which was read before the folder was this run's own
            raise ValueError(f"out: another run has just written to {output.address}; start this one again")
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        parts = _parts_by_shard(output, digest)
        _check_unchanged(files, known, parts)
        write_listing(output, files)
        summary = Summary(class_names=head.class_names, precision=precision)
        for part in itertools.chain.from_iterable(parts.values()):
            summary.add(part, now=False)
        dim = head.space.raw.shape[1]
        tasks = _tasks(files, shards, parts, rows_per, output.layout, dim, digest)
        started = time.perf_counter()
        if tasks:
            written = _label(tasks, head, output, engine, workers, asked, near_size)
            _follow(written, summary, len(tasks), max_error_share, progress, started)
        summary.seconds = time.perf_counter() - started
        output.write(
            f"{output.layout.books}summary.json",
            json.dumps(summary.to_dict(), indent=1, ensure_ascii=False).encode(),
        )
    return summary


def _head_for(
    shards: Mapping[str, Shard | EmbeddingFile],
    head: SynonymousSpaceHead | str | os.PathLike[str],
    backbone: str | os.PathLike[str] | None,
    device: str | torch.device | None,
) -> SynonymousSpaceHead:
    """Return the head, loaded without its image tower where there are embeddings alone."""
    with_pictures = _has_pictures(shards.values())
    if not isinstance(head, SynonymousSpaceHead):
        wanted = (backbone or "saved") if with_pictures else None
        head = SynonymousSpaceHead.from_pretrained(head, device=device, backbone=wanted)
    if with_pictures and head.backbone is None:
        raise ValueError("head: there are pictures among the inputs, and this head has no image tower")
    return head


def _tasks(
    files: Sequence[InputFile],
    shards: Mapping[str, Shard | EmbeddingFile],
    parts: Mapping[str, Sequence[Part]],
    rows_per: RowsPer,
    layout: Layout,
    dim: int,
    digest: str,
) -> list[Task]:
    """Return what is not done yet."""
    by_shard = _by_shard(files)
    tasks = []
    for name, shard in shards.items():
        own, cut = parts.get(name, []), rows_per
        if isinstance(shard, EmbeddingFile):
            shard, cut = replace(shard, dim=dim), RowsPer(layout.embedding_batch, EMBEDDING_PART)
        if not _is_complete(own, cut.part):
            done = frozenset(part.start for part in own)
            tasks.append(Task(name, shard, tuple(by_shard[name]), cut, done, digest))
    return tasks


def _label(
    tasks: Sequence[Task],
    head: SynonymousSpaceHead,
    output: Output,
    engine: str,
    workers: int | None,
    asked: Asked,
    near_size: bool,
) -> Generator[Part, None, None]:
    """Let an engine do the tasks; it gives the parts as they are written."""
    with_pictures = _has_pictures(task.shard for task in tasks)
    preprocess = None
    if with_pictures and head.backbone is not None:
        preprocess = head.backbone.image_transform(near_size=near_size)
    if engine == "ray":
        return label_on_ray(tasks, preprocess, head, output, asked, workers=workers)
    if workers is None:
        workers = cores()
    labeller = Labeller(head, asked)
    return label_locally(tasks, preprocess, labeller, output, workers=workers if with_pictures else 0)


def _has_pictures(shards: Iterable[Shard | EmbeddingFile]) -> bool:
    return any(not isinstance(shard, EmbeddingFile) for shard in shards)


def _by_shard(files: Iterable[InputFile]) -> dict[str, list[InputFile]]:
    found: dict[str, list[InputFile]] = {}
    for file in files:
        found.setdefault(file.shard, []).append(file)
    return found


def _follow(
    written: Generator[Part, None, None],
    summary: Summary,
    shards: int,
    max_error_share: float,
    progress: bool | None,
    started: float,
) -> None:
    """Count parts as they are written, show how far the job is, and stop it where too much is broken."""
    bar = tqdm(total=shards, unit="shard", disable=None if progress is None else not progress)  # type: ignore[no-untyped-call]
    with bar, closing(written):
        for part in written:
            summary.add(part, now=True)
            rate = summary.labelled_now / max(1e-9, time.perf_counter() - started)
            bar.set_postfix_str(f"{rate:,.0f} rows/s, {summary.errors:,} errors")
            bar.update(part.ends_shard or part.broken is not None)
            if summary.errors > max_error_share * max(summary.rows, FEW_ROWS):
                raise TooManyErrorsError(
                    f"max_error_share: {summary.errors:,} of {summary.rows:,} rows have an error, more than "
                    f"{max_error_share:.2%} (of {FEW_ROWS:,} rows at least), so the job stops; what is done "
                    f"is kept. For example: {'; '.join(summary.examples[:3])}"
                )


def _check(
    engine: str, workers: int | None, top_k: int, max_error_share: float, batch_size: int, part_size: int
) -> None:
    if engine not in ("local", "ray"):
        raise ValueError(f"engine: expected 'local' or 'ray', got {engine!r}")
    for name, value in (("top_k", top_k), ("batch_size", batch_size), ("part_size", part_size)):
        if not is_count(value):
            raise ValueError(f"{name}: expected a whole number >= 1, got {value!r}")
    if workers is not None and not (is_count(workers) or (workers == 0 and engine == "local")):
        raise ValueError(f"workers: expected a whole number >= 1 (or 0, locally), got {workers!r}")
    if part_size % batch_size:
        raise ValueError(f"part_size: expected a multiple of batch_size {batch_size}, got {part_size}")
    if not (is_number(max_error_share) and 0 <= max_error_share <= 1):
        raise ValueError(f"max_error_share: expected a share in [0, 1], got {max_error_share!r}")


def _settings(
    layout: Layout,
    head: SynonymousSpaceHead,
    asked: Asked,
    rows_per: RowsPer,
    tables: Columns,
    allowed: Sequence[str],
    encoding: Mapping[str, bool],
) -> dict[str, Any]:
    """Return all that rows depend on beside the inputs; `encoding` says how pictures are encoded."""
    settings = {
        "format": layout.format,
        "head": head.class_space.digest()[:16],
        "dtype": None if head.backbone is None else str(head.backbone.dtype),
        "embedding_batch": layout.embedding_batch,
        "embedding_part": EMBEDDING_PART,
        "top_k": asked.top_k,
        "keep_embeddings": asked.keep_embeddings,
        "batch_size": rows_per.batch,
        "part_size": rows_per.part,
        "column": tables.data,
        "key_column": tables.key,
    }
    # Results of earlier versions say nothing of these, so none is there where it changes nothing.
    later = {
        "level": asked.level,
        "among": list(asked.among or ()),
        "allow_addresses": list(allowed),
        **encoding,
    }
    return settings | {name: value for name, value in later.items() if value}


def _take_folder(
    output: Output,
    head: SynonymousSpaceHead,
    settings: dict[str, Any],
    columns: pa.Schema,
    with_pictures: bool,
) -> None:
    """Write the manifest, or check that the one there is of the same settings and the same image tower."""
    before = output.manifest()
    name = output.layout.manifest
    if before is None and output.read(name) is not None:
        raise ValueError(f"out: the {name} in {output.address} is not one of s3clip; give another folder")
    own = head.fingerprint()
    key = head.backbone.image_key() if with_pictures and head.backbone is not None else None
    now = Manifest(
        settings=settings,
        s3clip=__version__,
        fingerprint=own["image"].tolist() if "image" in own else None,
        image_key=key,
        classes=[{"name": each.name, "id": each.id} for each in head.classes],
        columns={field.name: str(field.type) for field in columns},
    )
    if before is not None:
        known = {**settings, **before.settings}
        names = [name for name in known if before.settings.get(name) != settings.get(name)]
        if names:
            raise ValueError(
                f"out: {output.address} holds results of other settings ({', '.join(names)} differ); give "
                f"another folder"
            )
        if key is not None and before.image_key not in (key, None):
            raise ValueError(
                f"out: {output.address} holds results of another image tower or image processor; give "
                f"another folder"
            )
        if before.fingerprint is not None:
            check_fingerprint({"image": torch.tensor(before.fingerprint)}, own, f"out: {output.address}")
        now = before.model_copy(update={"image_key": before.image_key or key})
    if now != before:
        output.write(name, json.dumps(now.model_dump(), indent=1, ensure_ascii=False).encode())


def _check_results(given: Output, head: SynonymousSpaceHead) -> None:
    """Check that the same backbone made the embeddings in a folder of our results."""
    manifest = given.manifest()
    if manifest is None or "embedding" not in manifest.columns:
        raise ValueError(
            f"inputs: {given.address} holds results without embeddings; keep_embeddings was not set"
        )
    own = head.fingerprint()
    if manifest.fingerprint is not None and "image" in own:
        check_fingerprint({"image": torch.tensor(manifest.fingerprint)}, own, given.address)


def _parts_by_shard(output: Output, digest: str) -> dict[str, list[Part]]:
    """Return the parts that are done, in order; those that broke off are not."""
    found: dict[str, list[Part]] = {}
    for part in output.parts():
        if part.settings != digest:
            raise ValueError(f"out: {part.file} was made with other settings; give another folder")
        if part.broken is None:
            found.setdefault(part.shard, []).append(part)
    return found


def _is_complete(parts: Sequence[Part], part_size: int) -> bool:
    """Whether parts are those of a whole shard: none is missing up to the one that ends it."""
    starts = {part.start for part in parts}
    ends = [part.start for part in parts if part.ends_shard]
    return bool(ends) and all(start in starts for start in range(0, ends[0], part_size))


def _check_unchanged(
    files: Sequence[InputFile], known: Sequence[InputFile], parts: Mapping[str, Sequence[Part]]
) -> None:
    by_shard = _by_shard(files)
    before = {file.path: file.state for file in known}
    for name, own in parts.items():
        now = by_shard.get(name, [])
        changed = [file.path for file in now if not before.get(file.path, file.state).agrees(file.state)]
        if not changed and all(part.version == version_of(now) for part in own):
            continue
        raise ValueError(
            f"inputs: {in_utf8(', '.join(changed[:3])) or name} changed since it was labelled; to label it "
            f"anew, remove {name}-*.parquet from the results"
        )
