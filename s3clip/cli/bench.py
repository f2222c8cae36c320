"""`s3clip bench`: how fast is it on this machine?"""

import json
from pathlib import Path
from typing import Annotated

import typer

from s3clip.cli.common import Device, Format, OptionalBackbone, Output, print_rows
from s3clip.printing import say


def bench(
    backbone: OptionalBackbone = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Tokenizer of a CLIP (folder or Hub) for the random model; else a word is a token."
        ),
    ] = None,
    lists: Annotated[
        Path | None,
        typer.Option(
            help="Folder of published lists to take texts from: clip_benchmark/en_classnames.json, "
            "neglected_tails/food101-LAION400M.json, awt/food101.json; else s3clip's synonym sets."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="texts, space, many-classes, forward, pipeline, cold-start, pictures, embeddings; several "
            "times for more."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option(help="Small sizes, to see that it runs: the ratios say little.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: torch's.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for everything that was measured.")] = None,
    device: Device = None,
    output: Output = Format.TABLE,
) -> None:
    """Time s3clip on this machine: every part against the plain way and against its floor, as ratios.

    Without --backbone the model is one of ViT-B/32's size with random weights.
    """
    import torch

    from s3clip.bench import HEADER, PARTS, measure_speed
    from s3clip.files.writing import write_atomically

    if threads is not None:
        if threads < 1:
            raise ValueError(f"--threads: expected a whole number >= 1, got {threads}")
        torch.set_num_threads(threads)
    if out is not None and not out.absolute().parent.is_dir():  # said before the half hour, not after
        raise FileNotFoundError(f"--out: there is no folder {out.absolute().parent}")
    if out is not None and out.is_dir():
        raise IsADirectoryError(f"--out: expected the name of a file, got the folder {out}")
    report = measure_speed(
        only or PARTS,
        backbone=backbone,
        tokenizer=tokenizer,
        lists=lists,
        quick=quick,
        device=device,
        progress=lambda part: say(f"timing {part} ...", error=True),
    )
    if out is not None:
        write_atomically(out, (json.dumps(report.record(), indent=1) + "\n").encode())
    if output is Format.JSON:
        say(json.dumps(report.record(), indent=1))
        return
    print_rows(HEADER, report.table(), output)
    if output is Format.TABLE:
        about = {key: value for key, value in report.settings.items() if key != "sizes"}
        say(", ".join(f"{key} {value}" for key, value in about.items()))
