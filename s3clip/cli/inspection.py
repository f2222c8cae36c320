"""`s3clip inspect`: what the space made of every class, as a table, a page and a picture."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3clip.arguments import refuse_unless_pictures
from s3clip.cli.common import (
    ClassName,
    Compile,
    Device,
    Format,
    HeadArgument,
    ImageDtype,
    Output,
    Revision,
    SavedBackbone,
    keep_inputs,
    named,
    print_rows,
    use_precision,
)
from s3clip.printing import counted, say

if TYPE_CHECKING:
    from s3clip import SynonymousSpaceHead
    from s3clip.inspection import ClassReport, TextReport


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
        typer.Option(
            help="Images: files, folders or globs, to show on the --page beside the texts they match."
        ),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the classes of --class for a paper: class.png, .pdf or .svg.")
    ] = None,
    backbone: SavedBackbone = None,
    device: Device = None,
    dtype: ImageDtype = None,
    compiled: Compile = False,
) -> None:
    """Show what the space made of every class: texts kept, dropped and shared, death times and scale."""
    from s3clip import SynonymousSpaceHead
    from s3clip.images.walking import find_images
    from s3clip.inspection import inspect_head

    if images and page is None:
        raise ValueError("--images: are shown on the page; give --page page.html too")
    refuse_unless_pictures(bool(images), backbone=backbone, dtype=dtype, compiled=compiled)
    fitted = SynonymousSpaceHead.from_pretrained(
        head, revision=revision, backbone=(backbone or "saved") if images else None, device=device
    )
    chosen = None if name is None else named(name, fitted.class_names, head)
    if page is not None or picture is not None:
        files = find_images(images) if images else []
        keep_inputs([*files, head], {"--page": [page], "--picture": [picture]})
        if files:
            use_precision(fitted, dtype, compiled, files)
        _draw(fitted, head, chosen, page, files, picture)
        return
    names, reports = fitted.class_names, inspect_head(fitted, chosen)
    if output is Format.JSON:
        listed = [{**asdict(r), "scale": r.scale if math.isfinite(r.scale) else None} for r in reports]
        say(json.dumps(listed, indent=1, ensure_ascii=False))
        return
    if output is Format.CSV:
        _print_csv(reports, names)
        return
    unit = " margins" if fitted.space.relative else ""
    if fitted.few_shot is not None:
        say(f"few_shot: {fitted.few_shot.summary()}")
    for r in reports:
        scale = f"ε = {r.scale:.4f}" if math.isfinite(r.scale) else "ε = ∞"
        seen = "" if fitted.few_shot is None else f", {fitted.few_shot.seen[r.index]} labelled images"
        kept = f"{r.count('kept')} of {counted(len(r.texts), fitted.config.points.removesuffix('s'))} kept"
        say(f"{r.index} {r.name}: {kept}, {scale}{seen}")
        if r.death_times:
            say("  death times: " + " ".join(f"{death:.4f}" for death in r.death_times))
        for t in r.texts:
            _say_text(t, names, unit, with_variants=name is not None)
        _say_negatives(r)


def _print_csv(reports: list["ClassReport"], names: list[str]) -> None:
    header = ["class_index", "class", "text", "status", "duplicate_of", "shared_with", "scale"]
    header += ["variants", "distance", "leans_to", "kept_by"]
    rows = []
    for r in reports:
        for t in r.texts:
            said = [t.text, t.status, t.duplicate_of or "", _named(names, t.shared_with)]
            reason = _reason_cells(names, t.reason)
            rows.append([r.index, r.name, *said, r.scale, len(t.variants), *reason])
        empty = [""] * (len(header) - 4)
        rows += [[r.index, r.name, text, "negative", *empty] for text in r.negatives]
    print_rows(header, rows, Format.CSV)


def _say_text(text: "TextReport", names: list[str], unit: str, *, with_variants: bool) -> None:
    of = f" of {text.duplicate_of!r}" if text.duplicate_of else ""
    more = f"  + {len(text.variants)} with descriptors" if text.variants else ""
    shared = f"  (also in: {_named(names, text.shared_with)})" if text.shared_with else ""
    say(f"  {text.status + of:<10} {text.text}{more}{shared}")
    if text.reason is not None:
        distance, leans_to, kept_by = _reason_cells(names, text.reason)
        leans = f"; leans to {leans_to}" if leans_to else ""
        say(f"             {distance}{unit} from what is kept{leans}; kept by --config '{kept_by}'")
    for variant in text.variants if with_variants else ():
        say(f"             {variant}")


def _say_negatives(report: "ClassReport") -> None:
    for text in report.negatives:
        say(f"  {'negative':<10} {text}")


def _draw(
    fitted: "SynonymousSpaceHead",
    source: str,
    chosen: list[int] | None,
    page: Path | None,
    files: list[Path],
    picture: Path | None,
) -> None:
    from s3clip.inspection.matches import match_images
    from s3clip.inspection.page import page_data, write_page
    from s3clip.inspection.picture import MOST_ROWS, draw_classes

    if picture is not None:
        indices = list(range(len(fitted.classes))) if chosen is None else chosen
        if len(indices) > MOST_ROWS:
            raise ValueError(
                f"--picture: {len(indices)} classes are too many for one; choose with --class NAME"
            )
        say(f"Drew {draw_classes(page_data(fitted, first=indices), indices, picture)}")
    if page is None:
        return
    matches = match_images(fitted, files) if files else []
    write_page(fitted, page, matches=matches, first=chosen or [], title=Path(source).name)
    say(f"Wrote {page}; open it in a browser")
    if len(matches) < len(files):
        raise typer.Exit(1)


def _named(names: list[str], positions: list[int]) -> str:
    return ", ".join(f"{position} {names[position]}" for position in positions)


def _reason_cells(names: list[str], reason: Any) -> list[str]:
    if reason is None:
        return ["", "", ""]
    leans_to = "" if reason.leans_to is None else _named(names, [reason.leans_to])
    return [f"{reason.distance:.4f}", leans_to, json.dumps(reason.kept_by)]
