"""Label everything there is."""

from typing import Annotated

import typer

from s3clip.cli.common import AllowAddresses, Among, BatchSize, Device, HeadSource, Level, chosen
from s3clip.cli.stopping import keeps
from s3clip.printing import counted, say


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
        int | None, typer.Option(help="Processes that decode; with ray, actors that encode.")
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
    allow_addresses: AllowAddresses = None,
    device: Device = None,
) -> None:
    """Label images or embeddings in bulk, into parquet files; a run that was stopped goes on.

    An image that cannot be read is a row with an error, and standard error says how many there are. The exit
    status is 0 where every input was read to its end, 1 where one broke off or too many errors stopped the
    job (the next run goes on from there), and 2 where the arguments, an input that is not there or a folder
    that cannot be written are to blame.
    """
    if engine not in ("local", "ray"):
        raise ValueError(f"--engine: expected local or ray, got {engine!r}")
    try:
        from s3clip import bulk

        summary = bulk.label(
            inputs,
            head,
            out,
            engine=engine,  # type: ignore[arg-type]  # checked above
            workers=workers,
            top_k=top_k,
            level=level,
            among=chosen(among),
            keep_embeddings=keep_embeddings,
            max_error_share=max_error_share,
            column=column,
            key_column=key_column,
            allow_addresses=allow_addresses or (),
            batch_size=batch_size,
            part_size=part_size,
            device=device,
        )
    except ImportError as error:  # an extra, or the package of a store, which it names
        raise OSError(str(error)) from error
    except bulk.TooManyErrorsError as error:
        say(f"error: {error}", error=True)
        raise typer.Exit(1) from error
    say(summary.table())
    if "://" not in out:
        try:
            summary.draw(f"{out}/summary.png")
        except ImportError as error:
            say(f"warning: no picture: {error}", error=True)
    say(f"Saved to {out}.")
    if summary.errors:
        say(f"warning: {summary.errors:,} of {counted(summary.rows, 'row')} could not be read", error=True)
    if summary.broken:
        said = f"inputs that broke off: {len(summary.broken):,}; the next run tries them again"
        say(f"error: {said}", error=True)
        raise typer.Exit(1)
