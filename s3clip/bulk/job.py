"""A job: what there is to do, who does it, and what came of it."""

import hashlib
import json
import os
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from typing import Any, Literal

import torch
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

import s3clip
from s3clip.artifact import check_fingerprint
from s3clip.bulk.decoding import EMBEDDING_BATCH, EMBEDDING_PART, Sizes
from s3clip.bulk.inputs import (
    Columns,
    InputFile,
    into_shards,
    list_files,
    make_shards,
    read_listing,
    write_listing,
)
from s3clip.bulk.labelling import Labeller, head_digest, schema
from s3clip.bulk.local import label_locally
from s3clip.bulk.on_ray import label_on_ray
from s3clip.bulk.output import FORMAT, Output, Part
from s3clip.bulk.shards import EmbeddingFile
from s3clip.bulk.summary import Summary
from s3clip.bulk.work import Task, version_of
from s3clip.head import SynonymousSpaceHead
from s3clip.options import is_count, is_number

MANIFEST = "manifest.json"
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
    keep_embeddings: bool = False,
    max_error_share: float = 0.01,
    batch_size: int = 64,
    part_size: int = 512,
    column: str | None = None,
    key_column: str | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> Summary:
    """Label everything there is: pictures or embeddings, here or in an object store; docs/scale.md has more.

    A folder of results is filled part by part, each part whole or not there. A second call with the same
    arguments does what is missing and nothing else.

    Args:
        inputs: files, folders, globs or addresses that fsspec reads: pictures, tars, parquet and Arrow files,
            .npy arrays, and folders of results with kept embeddings.
        head: fitted, or where to load it from; without its image tower where there are embeddings alone.
        out: folder of the results, or an address that fsspec writes to.
        engine: "local": this process, and workers that decode. "ray": Ray Data, on the cluster that
            `ray.init` was called for, else on this machine.
        workers: processes that decode, by default one less than there are cores; with "ray" actors that
            encode, by default one a GPU.
        top_k: how many classes the lists of a row name.
        keep_embeddings: keep the embedding of each row in float16, to label with another head later.
        max_error_share: the job stops where more of the rows so far (of 1,000, where there are fewer) have an
            error.
        batch_size: pictures that go through the model at once.
        part_size: pictures in a part, a multiple of `batch_size`.
        column: of tables, with pictures or embeddings; by default "image", else "embedding".
        key_column: of tables; by default "key" if there is one.
        device: where a head that is loaded computes.
        progress: show a progress bar; None: on a terminal.

    Returns:
        What became of all rows, those of earlier runs too. It is in `out` as summary.json as well.

    Raises:
        FileNotFoundError: an input that is not there.
        ValueError: `out` holds results of other settings, an input has changed since it was labelled, or an
            argument is out of range.
        TooManyErrorsError: more errors than allowed.
        OSError: nothing can be written.
    """
    _check(engine, workers, top_k, max_error_share, batch_size, part_size)
    listed_inputs = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    files = list_files(listed_inputs)
    output = Output(out)
    output.check()
    known = read_listing(output)
    files = into_shards(files, known, part_size)
    shards = make_shards(files, Columns(column, key_column))
    with_pictures = any(not isinstance(shard, EmbeddingFile) for shard in shards.values())
    if not isinstance(head, SynonymousSpaceHead):
        head = SynonymousSpaceHead.from_pretrained(
            head, device=device, backbone="saved" if with_pictures else None
        )
    if with_pictures and head.backbone is None:
        raise ValueError("head: there are pictures among the inputs, and this head has no image tower")
    for given in listed_inputs:
        _check_results(Output(given), head)
    settings = _settings(head, top_k, keep_embeddings, batch_size, part_size, column, key_column)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    output.make()
    _take_folder(output, head, settings, keep_embeddings)
    summary = Summary(class_names=head.class_names)
    parts = _parts_by_shard(output, digest)
    _check_unchanged(files, known, parts)
    write_listing(output, files)
    tasks = []
    by_shard: dict[str, list[InputFile]] = {}
    for file in files:
        by_shard.setdefault(file.shard, []).append(file)
    for name, shard in shards.items():
        own = parts.get(name, [])
        whole = [part for part in own if part.broken is None]
        for part in whole:
            summary.add(part, now=False)
        embeds = isinstance(shard, EmbeddingFile)
        sizes = Sizes(EMBEDDING_BATCH, EMBEDDING_PART) if embeds else Sizes(batch_size, part_size)
        if not _is_complete(whole, sizes.part):
            done = frozenset(part.start for part in whole)
            tasks.append(Task(shard, tuple(by_shard[name]), sizes, done, digest))
    preprocess = head.backbone.image_transform() if with_pictures and head.backbone is not None else None
    started = time.perf_counter()
    if engine == "ray":
        written = label_on_ray(
            tasks, preprocess, head, output, workers=workers, top_k=top_k, keep_embeddings=keep_embeddings
        )
    else:
        labeller = Labeller(head, top_k=top_k, keep_embeddings=keep_embeddings)
        count = max(0, (os.cpu_count() or 1) - 1) if workers is None else workers
        written = label_locally(tasks, preprocess, labeller, output, workers=count if with_pictures else 0)
    if tasks:
        _follow(written, summary, len(tasks), max_error_share, progress, started)
    summary.seconds = time.perf_counter() - started
    _write_summary(output, summary)
    return summary


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


def _settings(head: SynonymousSpaceHead, *rest: Any) -> dict[str, Any]:
    names = ("top_k", "keep_embeddings", "batch_size", "part_size", "column", "key_column")
    backbone = head.backbone
    return {
        "format": FORMAT,
        "head": head_digest(head),
        "dtype": None if backbone is None else str(backbone.dtype),
        "embedding_batch": EMBEDDING_BATCH,
        "embedding_part": EMBEDDING_PART,
        **dict(zip(names, rest, strict=True)),
    }


def _take_folder(
    output: Output, head: SynonymousSpaceHead, settings: dict[str, Any], keep_embeddings: bool
) -> None:
    """Write the manifest, or check that the one there is of the same settings."""
    content = output.read(MANIFEST)
    if content is not None:
        before = json.loads(content)["settings"]
        if before != settings:
            names = [name for name in settings if before.get(name) != settings[name]]
            raise ValueError(
                f"out: {output.address} holds results of other settings ({', '.join(names)} differ); give "
                f"another folder"
            )
        return
    fingerprint = head.fingerprint().get("image")
    manifest = {
        "settings": settings,
        "s3clip": s3clip.__version__,
        "fingerprint": None if fingerprint is None else fingerprint.tolist(),
        "classes": [{"name": each.name, "id": each.id} for each in head.classes],
        "columns": {f.name: str(f.type) for f in schema(head, keep_embeddings=keep_embeddings)},
    }
    output.write(MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())


def _check_results(given: Output, head: SynonymousSpaceHead) -> None:
    """Where an input is a folder of our results, check that the same backbone made its embeddings."""
    content = given.read(MANIFEST)
    if content is None:
        return
    manifest = json.loads(content)
    if "embedding" not in manifest["columns"]:
        raise ValueError(
            f"inputs: {given.address} holds results without embeddings; keep_embeddings was not set"
        )
    saved, own = manifest["fingerprint"], head.fingerprint()
    if saved is not None and "image" in own:
        check_fingerprint({"image": torch.tensor(saved)}, own, given.address)


def _parts_by_shard(output: Output, digest: str) -> dict[str, list[Part]]:
    found: dict[str, list[Part]] = {}
    for part in output.parts():
        if part.settings != digest:
            raise ValueError(f"out: {part.file} was made with other settings; give another folder")
        found.setdefault(part.shard, []).append(part)
    return found


def _is_complete(parts: Sequence[Part], part_size: int) -> bool:
    """Whether parts are those of a whole shard: none is missing up to the one that ends it."""
    starts = {part.start for part in parts}
    ends = [part.start for part in parts if part.ends_shard]
    return bool(ends) and all(start in starts for start in range(0, ends[0], part_size))


def _check_unchanged(
    files: Sequence[InputFile], known: Sequence[InputFile], parts: dict[str, list[Part]]
) -> None:
    by_shard: dict[str, list[InputFile]] = {}
    for file in files:
        by_shard.setdefault(file.shard, []).append(file)
    before = {file.path: file for file in known}
    for name, own in parts.items():
        whole = [part for part in own if part.broken is None]
        if whole and any(part.version != version_of(by_shard.get(name, [])) for part in whole):
            changed = [
                file.path
                for file in by_shard.get(name, [])
                if file.path in before
                and (before[file.path].size, before[file.path].version) != (file.size, file.version)
            ]
            raise ValueError(
                f"inputs: {', '.join(changed[:3]) or name} changed since it was labelled; to label it anew, "
                f"remove {name}-*.parquet from the results"
            )


def _write_summary(output: Output, summary: Summary) -> None:
    output.write("summary.json", json.dumps(summary.to_dict(), indent=1, ensure_ascii=False).encode())
