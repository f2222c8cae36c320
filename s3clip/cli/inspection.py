"""`s3clip inspect`: what the space made of every class, as a table, a page and a picture."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3clip.cli.common import (
    ClassName,
    Device,
    Format,
    HeadArgument,
    Output,
    Revision,
    SavedBackbone,
    keep_inputs,
    named,
    print_rows,
)
from s3clip.printing import counted, say

if TYPE_CHECKING:
    from s3clip import SynonymousSpaceHead


def inspect(
    head: HeadArgument,
    name: ClassName = None,
    revision: Revision = None,
    output: Output = Format.TABLE,
    page: Annotated[
        Path | None, typer.Option(help="Write a page to browse the classes in: page.html.")
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(help="With --page: image files, folders or globs, to show beside the texts they match."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the classes of --class for a paper: class.png, .pdf or .svg.")
    ] = None,
    backbone: SavedBackbone = "saved",
    device: Device = None,
) -> None:
    """Show what the space made of every class: texts kept, dropped and shared, death times and scale."""
    from s3clip import SynonymousSpaceHead
    from s3clip.inspection import inspect_head

    if images and page is None:
        raise ValueError("--images: are shown on the page; give --page page.html too")
    fitted = SynonymousSpaceHead.from_pretrained(
        head, revision=revision, backbone=backbone if images else None, device=device
    )
    every = inspect_head(fitted)
    reports = every if name is None else [every[i] for i in named(name, fitted.class_names, head)]
    if page is not None or picture is not None:
        _draw(fitted, head, [report.index for report in reports], page, images or [], picture)
        return
    if output is Format.JSON:
        listed = [{**asdict(r), "scale": r.scale if math.isfinite(r.scale) else None} for r in reports]
        say(json.dumps(listed, indent=1, ensure_ascii=False))
        return
    if output is Format.CSV:
        header = ["class_index", "class", "text", "status", "duplicate_of", "shared_with", "scale"]
        rows = [
            [r.index, r.name, t.text, t.status, t.duplicate_of or "", _names(every, t.shared_with), r.scale]
            for r in reports
            for t in r.texts
        ]
        print_rows(header, rows, output)
        return
    for r in reports:
        scale = f"ε = {r.scale:.4f}" if math.isfinite(r.scale) else "ε = ∞"
        say(f"{r.index} {r.name}: {r.count('kept')} of {counted(len(r.texts), 'text')} kept, {scale}")
        if r.death_times:
            say("  death times: " + " ".join(f"{death:.4f}" for death in r.death_times))
        for t in r.texts:
            of = f" of {t.duplicate_of!r}" if t.duplicate_of else ""
            shared = f"  (also in: {_names(every, t.shared_with)})" if t.shared_with else ""
            say(f"  {t.status + of:<10} {t.text}{shared}")


def _draw(
    fitted: "SynonymousSpaceHead",
    source: str,
    indices: list[int],
    page: Path | None,
    images: list[str],
    picture: Path | None,
) -> None:
    from s3clip.images.walking import find_images
    from s3clip.inspection.matches import match_images
    from s3clip.inspection.page import page_data, write_page
    from s3clip.inspection.picture import MOST_ROWS, draw_classes

    files = find_images(images) if images else []
    keep_inputs(
        files, {"--page": [] if page is None else [page], "--picture": [] if picture is None else [picture]}
    )
    if picture is not None:
        if len(indices) > MOST_ROWS:
            raise ValueError(
                f"--picture: {len(indices)} classes are too many for one; choose with --class NAME"
            )
        say(f"Drew {draw_classes(page_data(fitted), indices, picture)}")
    if page is None:
        return
    matches = match_images(fitted, files) if files else []
    write_page(fitted, page, matches=matches, title=Path(source).name)
    say(f"Wrote {page}; open it in a browser")
    if len(matches) < len(files):
        raise typer.Exit(1)


def _names(reports: list[Any], positions: list[int]) -> str:
    return ", ".join(f"{position} {reports[position].name}" for position in positions)
