"""`s3clip eval`: every way to classify, or to segment, on benchmarks."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s3clip.cli.common import (
    BATCH_SIZE,
    AllowAddresses,
    BackboneName,
    BatchSize,
    Compile,
    Device,
    ImageDtype,
    NearSize,
    PatchFeatures,
    Revision,
    class_source,
    make_folder,
)
from s3clip.cli.stopping import keeps
from s3clip.printing import say

if TYPE_CHECKING:
    from s3clip.evaluation.benchmarks.sets import ClassificationSet, SegmentationSet


@keeps(lambda *, out, cache, **_: f"what was encoded is kept in {cache or out / 'embeddings'}; to go on")
def evaluate(
    sets: Annotated[
        list[str],
        typer.Argument(
            help="Benchmarks of the table (food101 dtd voc21), or a JSON file for a set of your own."
        ),
    ],
    backbone: BackboneName,
    out: Annotated[Path, typer.Option(help="Folder for run.json, run.md, run.png and thumbnails.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder of all data sets, or hf://datasets to stream them from the Hub; a set of your own "
            "lies beside its file."
        ),
    ] = None,
    revision: Revision = None,
    convention: Annotated[
        str | None,
        typer.Option(
            help="coop or clip_benchmark; their splits and their headline scores differ. Segmentation, and "
            "a set of your own that has none of this name, are used by their first."
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="Synonym file for a single set. Default: the words that come with s3clip."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Only this method beside the control; several times for more."),
    ] = None,
    patch_features: PatchFeatures = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder of image embeddings, and of pixels counted, by default in --out. Sets and runs that "
            "share it embed no image twice, and count its pixels once for the same words and settings; a run "
            "that was killed goes on where it stopped."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode images. Default: one a core.")
    ] = None,
    batch_size: BatchSize = BATCH_SIZE,
    bootstrap: Annotated[int, typer.Option(help="Resamples for the intervals.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the resamples and the random descriptors.")] = 0,
    allow_addresses: AllowAddresses = None,
    device: Device = None,
    dtype: ImageDtype = None,
    compiled: Compile = False,
    near_size: NearSize = False,
) -> None:
    """Score every way to classify, or to segment, on standard benchmarks: each image is encoded once.

    For several GPUs or machines start it with a launcher: accelerate launch -m s3clip.cli eval ...
    """
    from s3clip import Backbone
    from s3clip.evaluation.report.folder import check_report_folder
    from s3clip.evaluation.runs.cache import check_cache
    from s3clip.evaluation.runs.processes import join_processes
    from s3clip.evaluation.runs.run import evaluate as evaluate_sets
    from s3clip.images.workers import cores

    for option, value, least in (
        ("workers", workers := cores() if workers is None else workers, 0),
        ("batch-size", batch_size, 1),
        ("bootstrap", bootstrap, 1),
    ):
        if value < least:
            raise ValueError(f"--{option}: expected a whole number >= {least}, got {value}")
    check_report_folder(out, "--out")
    check_cache(cache or out / "embeddings")
    opened = _open_sets(sets, data, convention, classes, allow_addresses or ())
    processes = join_processes(device)
    if processes.index == 0:
        _warn((each.name, problem) for each in opened for problem in each.problems)
    model = Backbone.from_pretrained(backbone, revision=revision, device=processes.device)
    make_folder("out", out)
    make_folder("cache", cache or out)
    run = evaluate_sets(
        opened,
        backbone=model,
        cache=cache or out / "embeddings",
        processes=processes,
        methods=method or None,
        patch_features=patch_features,
        bootstrap=bootstrap,
        seed=seed,
        batch_size=batch_size,
        workers=workers,
        dtype=dtype,
        compiled=compiled,
        near_size=near_size,
    )
    if run is None:  # not the first of several processes
        return
    run.save(out)
    if run.measured.precision is not None:
        say(f"dtype: {run.measured.precision}", error=True)
    say(run.text())
    _warn(
        (each.name, warning)
        for each, found in zip(opened, run.benchmarks, strict=True)
        for warning in found.warnings
        if warning not in each.problems  # which were said before
    )
    try:
        run.draw(out / "run.png")
    except ImportError as error:
        say(f"warning: no picture: {error}", error=True)
    say(f"Saved to {out}; all methods are in {out / 'run.md'}.")


def _open_sets(
    names: list[str],
    data: str | None,
    convention: str | None,
    classes: str | None,
    allow_addresses: Iterable[str],
) -> "list[ClassificationSet | SegmentationSet]":
    from s3clip import SynonymSet
    from s3clip.evaluation.benchmarks.opening import open_benchmark
    from s3clip.evaluation.benchmarks.table import find_benchmark

    rows = [find_benchmark(name) for name in names]
    words = None if classes in (None, "builtin") else SynonymSet.read(class_source(classes))
    if words is not None and len(rows) > 1:
        raise ValueError(f"--classes: a file has the classes of one set, and there are {len(rows)}")
    opened: list[ClassificationSet | SegmentationSet] = []
    for row in rows:
        if data is None and row.folder is None:
            raise ValueError(f"--data: {row.name} needs the folder of all data sets, or hf://datasets")
        has_own = row.is_segmentation or row.folder is not None
        chosen = None if has_own and convention not in row.conventions else convention
        opened.append(
            open_benchmark(
                row, data or "", convention=chosen, synonyms=words, allow_addresses=allow_addresses
            )
        )
    return opened


def _warn(warnings: Iterable[tuple[str, str]]) -> None:
    for name, warning in warnings:
        say(f"warning: {name}: {warning}", error=True)
