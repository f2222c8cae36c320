"""Label everything there is."""

from typing import Annotated

import typer

from s3clip.cli.options import BatchSize, Device, HeadSource


def label(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Image files, tars, parquet, Arrow or .npy files, folders and globs of them, addresses "
            "such as s3://, gs:// and hf://, or a folder of results with kept embeddings."
        ),
    ],
    head: HeadSource,
    out: Annotated[str, typer.Option(help="Folder for the results; run again to go on where it stopped.")],
    engine: Annotated[str, typer.Option(help="local, or ray for many machines.")] = "local",
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode; with ray, actors that encode.")
    ] = None,
    top_k: Annotated[int, typer.Option(help="How many classes the lists of a row name.")] = 5,
    keep_embeddings: Annotated[
        bool, typer.Option(help="Keep embeddings (float16), to label them with another head later.")
    ] = False,
    max_error_share: Annotated[
        float, typer.Option(help="Stop where more of the rows than this have an error.")
    ] = 0.01,
    column: Annotated[str | None, typer.Option(help="Column of tables with images or embeddings.")] = None,
    key_column: Annotated[str | None, typer.Option(help="Column of tables with keys.")] = None,
    batch_size: BatchSize = 64,
    part_size: Annotated[int, typer.Option(help="Images in a part, a multiple of --batch-size.")] = 512,
    device: Device = None,
) -> None:
    """Label images or embeddings in bulk, into parquet files; a run that was stopped goes on.

    An image that cannot be read is a row with an error. The exit status is 1 where a file broke off.
    """
    from s3clip.bulk import label as label_all

    if engine not in ("local", "ray"):
        raise ValueError(f"--engine: expected local or ray, got {engine!r}")
    summary = label_all(
        inputs,
        head,
        out,
        engine=engine,  # type: ignore[arg-type]  # checked above
        workers=workers,
        top_k=top_k,
        keep_embeddings=keep_embeddings,
        max_error_share=max_error_share,
        column=column,
        key_column=key_column,
        batch_size=batch_size,
        part_size=part_size,
        device=device,
    )
    typer.echo(summary.table())
    if "://" not in out:
        try:
            summary.draw(f"{out}/summary.png")
        except ImportError as error:
            typer.echo(f"warning: no picture: {error}", err=True)
    typer.echo(f"Saved to {out}.")
    if summary.broken:
        raise typer.Exit(1)
