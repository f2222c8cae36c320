"""The barcode and the complex of classes as a picture, for papers."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s3clip.files.writing import write_atomically
from s3clip.inspection.page import edges_of
from s3clip.printing import new_figure

MOST_ROWS = 8


def draw_classes(data: dict[str, Any], indices: Sequence[int], path: str | os.PathLike[str]) -> Path:
    """Draw classes of what `page_data` gathered, one a row, at their chosen scales.

    Args:
        data: what `page_data` gathered.
        indices: the classes, at most `MOST_ROWS`.
        path: a file whose suffix matplotlib knows: .png, .pdf, .svg.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no class or too many, or a suffix that matplotlib does not know.
    """
    if not 1 <= len(indices) <= MOST_ROWS:
        raise ValueError(f"indices: expected 1 to {MOST_ROWS} classes to draw, got {len(indices)}")
    figure = new_figure(10, 3.6 * len(indices))
    ending = Path(path).suffix.removeprefix(".").lower() or "png"
    if ending not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"path: expected a name that ends in .png, .pdf or .svg, got {path}")
    axes = figure.subplots(len(indices), 3, squeeze=False, width_ratios=(1, 1, 0.9))
    for (bars, plane, legend), index in zip(axes, indices, strict=True):
        own = data["classes"][index]
        scale = own["scale"]
        kept = sum(text[1] == "kept" for text in own["texts"])
        for height, (_, _, death) in enumerate(own["tree"]):
            bars.plot([0, death], [height, height], color="#0969da", lw=2)
        last = len(own["tree"])
        end = 1.1 * max([scale or 0.1, *(edge[2] for edge in own["tree"])])
        arrow = {"arrowstyle": "->", "color": "#0969da", "lw": 2, "shrinkA": 0, "shrinkB": 0}
        bars.annotate("", (end, last), (0, last), arrowprops=arrow)
        bars.set_xlim(0, end)
        bars.set_ylim(last + 0.7, -0.7)  # the shortest on top, as on the page
        bars.set_yticks([])
        bars.set_xlabel("ε, in margins" if data["relative"] else "ε, chordal distance")
        if scale is not None:
            bars.axvline(scale, color="#cf222e", lw=1, ls="--")
        bars.set_title(f"{own['name']}: {kept} of {len(own['texts'])} kept", fontsize=9, parse_math=False)
        for a, b, length in edges_of(own):
            if scale is None or length <= scale * (1 + 1e-6):
                (x0, y0), (x1, y1) = own["plane"][a], own["plane"][b]
                plane.plot([x0, x1], [y0, y1], color="#57606a", lw=0.6, alpha=0.5, zorder=1)
        for row, (x, y) in zip(own["rows"], own["plane"], strict=True):
            colour = "#0969da" if own["texts"][row][1] == "kept" else "#cf222e"
            plane.scatter(x, y, s=110, color=colour, edgecolors="black" if row == 0 else "white", zorder=2)
            plane.text(x, y, str(row + 1), color="white", fontsize=6, ha="center", va="center", zorder=3)
        plane.set_xticks([])
        plane.set_yticks([])
        plane.set_aspect("equal", adjustable="datalim")
        plane.set_title(f"{own['shown']:.0%} of the spread", fontsize=9)
        legend.axis("off")
        lines = [f"{row + 1} {text[0]}{_beside(data, text)}" for row, text in enumerate(own["texts"][:24])]
        lines += [f"and {len(own['texts']) - 24} more"] if len(own["texts"]) > 24 else []
        legend.text(0, 1, "\n".join(lines), fontsize=7, va="top", parse_math=False)
    content = io.BytesIO()
    figure.savefig(content, format=ending)
    write_atomically(Path(path), content.getvalue())
    return Path(path)


def _beside(data: dict[str, Any], text: list[Any]) -> str:
    """Say of a text of `page_data` what the picture does not show."""
    *_, variants, reason = text
    said = [f"+ {len(variants)}"] if variants else []
    if reason is not None:
        leans = "" if reason[1] is None else f", leans to {data['classes'][reason[1]]['name']}"
        said.append(f"(dropped: {reason[0]:.2f}{leans})")
    elif text[1] != "kept":
        said.append(f"({text[1]})")
    return "".join(f" {each}" for each in said)
