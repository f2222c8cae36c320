"""Label everything there is."""

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s3clip.cli.common import (
    AllowAddresses,
    Among,
    BatchSize,
    Compile,
    Device,
    HeadSource,
    ImageDtype,
    Level,
    NearSize,
    SavedBackbone,
    keep_inputs,
)
from s3clip.cli.stopping import keeps
from s3clip.printing import counted, say

if TYPE_CHECKING:
    from s3clip.bulk import Summary
    from s3clip.bulk.exports import Form
    from s3clip.bulk.sorting import Sorted

_MOST_SHOWN = 20


class Link(StrEnum):
    """What stands in a class's folder for a picture."""

    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    COPY = "copy"


@keeps(lambda *, out, **_: f"the parts that are done are kept in {out}; to go on")
def label(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Image files, tars, parquet, Arrow, Lance, .npy, .npz or .safetensors, folders and globs of "
            "them, addresses such as s3://, gs:// and hf://, or a folder of results with kept embeddings."
        ),
    ],
    head: HeadSource,
    out: Annotated[str, typer.Option(help="Folder for the results; run again to go on where it stopped.")],
    engine: Annotated[str, typer.Option(help="local, or ray for many machines.")] = "local",
    workers: Annotated[
        int | None, typer.Option(help="Processes or threads that decode; with ray, actors that encode.")
    ] = None,
    top_k: Annotated[int, typer.Option(help="How many classes the lists of a row name.")] = 5,
    level: Level = None,
    among: Among = None,
    keep_embeddings: Annotated[
        bool, typer.Option(help="Keep embeddings (float16), to label them with another head later.")
    ] = False,
    max_error_share: Annotated[
        float, typer.Option(help="Stop where more of the rows (of 1,000 at least) have an error.")
    ] = 0.01,
    column: Annotated[
        str | None, typer.Option(help="Column, or array of a .npz, with images or embeddings.")
    ] = None,
    key_column: Annotated[str | None, typer.Option(help="Column of tables with keys.")] = None,
    batch_size: BatchSize = 64,
    part_size: Annotated[int, typer.Option(help="Images in a part, a multiple of --batch-size.")] = 512,
    sort_into: Annotated[
        Path | None, typer.Option(help="Also put the pictures into a folder for each class, here.")
    ] = None,
    sort_with: Annotated[Link, typer.Option(help="What --sort-into makes of each picture.")] = Link.SYMLINK,
    csv: Annotated[Path | None, typer.Option(help="Also write all rows into this CSV file.")] = None,
    lance: Annotated[
        Path | None, typer.Option(help="Also write all rows into this new Lance dataset.")
    ] = None,
    partition: Annotated[
        Path | None,
        typer.Option(
            help="Also write all rows as parquet in a folder for each class (hive), in a new folder."
        ),
    ] = None,
    allow_addresses: AllowAddresses = None,
    backbone: SavedBackbone = None,
    device: Device = None,
    dtype: ImageDtype = None,
    compiled: Compile = False,
    near_size: NearSize = False,
) -> None:
    """Label images or embeddings in bulk, into parquet files; a run that was stopped goes on.

    An image that cannot be read is a row with an error, and standard error says how many there are. The exit
    status is 0 where every input was read to its end, 1 where one broke off or too many errors stopped the
    job (the next run goes on from there), and 2 where the arguments, an input that is not there or a folder
    that cannot be written are to blame.
    """
    if engine not in ("local", "ray"):
        raise ValueError(f"--engine: expected local or ray, got {engine!r}")
    from s3clip import bulk

    try:
        asked: dict[Form, Path | None] = {"csv": csv, "lance": lance, "hive": partition}
        exports = {form: path for form, path in asked.items() if path is not None}
        for form, path in exports.items():
            bulk.check_export(out, path, form)
        if sort_into is not None:
            bulk.check_sorting(out, sort_into, sort_with.value)
        folders = {"--lance": lance, "--partition": partition, "--sort-into": sort_into}
        keep_inputs([head], {"--csv": [csv]})
        _keep_apart(inputs, {"--out": Path(out), "--csv": csv}, folders)
        summary = bulk.label(
            inputs,
            head,
            out,
            engine=engine,  # type: ignore[arg-type]  # checked above
            workers=workers,
            top_k=top_k,
            level=level,
            among=among or None,
            keep_embeddings=keep_embeddings,
            max_error_share=max_error_share,
            column=column,
            key_column=key_column,
            allow_addresses=allow_addresses or (),
            batch_size=batch_size,
            part_size=part_size,
            backbone=backbone,
            device=device,
            dtype=dtype,
            compiled=compiled,
            near_size=near_size,
        )
    except ImportError as error:  # an extra too, or the package of a store, which it names
        raise OSError(str(error)) from error
    except bulk.TooManyErrorsError as error:
        say(f"error: {error}", error=True)
        raise typer.Exit(1) from error
    if summary.precision is not None:
        say(f"dtype: {summary.precision}", error=True)
    say(summary.table())
    say(f"Saved to {out}.")
    if "://" not in out:
        say(f"To look at: {bulk.write_summary_page(out, summary)}")
    for form, path in exports.items():
        say(f"Saved to {bulk.export(out, path, form)}.")
    if sort_into is not None:
        _say_sorted(bulk.sort_into(out, sort_into, sort_with.value), sort_into)
    _say_what_failed(summary)


def _say_what_failed(summary: "Summary") -> None:
    if summary.errors:
        say(f"warning: {summary.errors:,} of {counted(summary.rows, 'row')} could not be read", error=True)
    if summary.broken:
        said = f"inputs that broke off: {len(summary.broken):,}; the next run tries them again"
        say(f"error: {said}", error=True)
        raise typer.Exit(1)


def _keep_apart(
    inputs: list[str], others: Mapping[str, Path | None], folders: Mapping[str, Path | None]
) -> None:
    """Refuse a folder that lies in an input, which the next run would label, and two results in one."""
    real = {o: Path(os.path.realpath(p)) for o, p in {**others, **folders}.items() if p is not None}
    for option in real:
        for given in map(os.path.realpath, inputs if option in folders else ()):
            if os.path.isdir(given) and real[option].is_relative_to(given):
                raise ValueError(f"{option}: {real[option]} lies in {given}, which is labelled; give another")
        for other in real:
            inside = option in folders and real[other].is_relative_to(real[option])
            if other != option and (inside or real[other] == real[option]):
                raise ValueError(
                    f"{other}, {option}: {real[other]} would lie in the other; give another place"
                )


def _say_sorted(done: "Sorted", folder: Path) -> None:
    there = f", {done.there:,} were there" if done.there else ""
    there += f" ({done.elsewhere:,} in folders of other classes, and stay in those)" if done.elsewhere else ""
    left = f", {done.rejected:,} accepted by no class are in none" if done.rejected else ""
    say(f"Sorted {counted(done.new, 'picture')} into {folder}{there}{left}.")
    for line in done.errors[:_MOST_SHOWN]:
        say(f"warning: not sorted: {line}", error=True)
    if len(done.errors) > _MOST_SHOWN:
        say(f"warning: and {len(done.errors) - _MOST_SHOWN:,} more were not sorted", error=True)
