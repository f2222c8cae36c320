"""What was labelled, in one HTML file: all classes, how sure the answers are, and some of the pictures."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from s3clip.bulk.output import BOOKS, Output
from s3clip.bulk.sorting import LabelledPicture, labelled_pictures
from s3clip.bulk.summary import Summary
from s3clip.files.writing import write_atomically
from s3clip.html_page import html_page
from s3clip.images.thumbnails import thumbnail
from s3clip.printing import counted, html_text

PAGE = f"{BOOKS}summary.html"
MOST_SHOWN = 480
"""Pictures in a page, about 3 KB each."""
MOST_OF_A_CLASS = 12

_STYLE = """
body { margin: 0 auto; max-width: 70rem; padding: 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem } .soft, figcaption { color: var(--soft) }
svg { width: 100%; max-width: 40rem; height: auto }
svg rect { fill: var(--blue) } .ends { display: flex; justify-content: space-between; max-width: 40rem }
details { border-top: 1px solid var(--line) } summary { padding: .4rem 0; cursor: pointer }
summary > span, .plain > span { display: inline-grid; width: calc(100% - 2rem) }
summary > span, .plain > span { grid-template-columns: minmax(6rem, 1fr) 2fr 6rem; gap: 1rem }
summary > span, .plain > span { align-items: center }
.plain { border-top: 1px solid var(--line); padding: .4rem 0 .4rem 1rem }
.bar { background: var(--blue); height: .8rem; border-radius: .2rem } .count { text-align: right }
figure { display: inline-block; vertical-align: top; width: 112px; margin: 0 .6rem .6rem 0; font-size: 12px }
@media (max-width: 40rem) {
  summary > span, .plain > span { grid-template-columns: 1fr 1fr 4rem; gap: .4rem }
}
"""


def write_summary_page(results: str | os.PathLike[str], summary: Summary) -> Path:
    """Write the page of a folder of results on this machine, over an older one, and return its path.

    Args:
        results: the folder that `label` filled.
        summary: what it returned.
    """
    output = Output(results)
    path = Path(output.address) / PAGE
    path.parent.mkdir(exist_ok=True)  # there is none in a folder of an older layout
    each_class = max(1, min(MOST_OF_A_CLASS, MOST_SHOWN // max(1, sum(map(bool, summary.class_rows)))))
    chosen = _chosen((found for _, found in labelled_pictures(output) if found is not None), each_class)
    write_atomically(path, _page(summary, chosen).encode())
    return path


def _chosen(pictures: Iterable[LabelledPicture], most: int) -> dict[int, list[LabelledPicture]]:
    """Return of each class the pictures to show: half are its surest, half its least sure, in that order."""
    chosen: dict[int, list[LabelledPicture]] = {}
    for picture in pictures:
        own = chosen.setdefault(picture.class_index, [])
        own.append(picture)
        if len(own) >= 8 * most:
            chosen[picture.class_index] = _ends(own, most)
    return {index: _ends(own, most) for index, own in chosen.items()}


def _ends(pictures: list[LabelledPicture], most: int) -> list[LabelledPicture]:
    ordered = sorted(pictures, key=lambda each: (-each.score, each.path))
    first = (most + 1) // 2
    return ordered if len(ordered) <= most else [*ordered[:first], *ordered[len(ordered) - most + first :]]


def _page(summary: Summary, pictures: dict[int, list[LabelledPicture]]) -> str:
    counts = summary.class_rows or [0] * len(summary.class_names)
    largest, shown = max(counts, default=0) or 1, MOST_SHOWN
    rows = []
    for index in sorted(range(len(counts)), key=lambda i: -counts[i]):
        line = (
            f"<span><span>{html_text(summary.class_names[index])}</span>"
            f'<span class="bar" style="width:{100 * counts[index] / largest:.2f}%"></span>'
            f'<span class="count">{counts[index]:,}</span></span>'
        )
        figures = [figure for each in pictures.get(index, [])[:shown] if (figure := _figure(each))]
        shown -= len(figures)
        if figures:
            rows.append(f"<details><summary>{line}</summary>{''.join(figures)}</details>")
        else:
            rows.append(f'<div class="plain">{line}</div>')
    said = (
        f"{counted(summary.rows, 'row')}; {summary.errors:,} could not be read, {summary.rejected:,} are "
        f"accepted by no class. The pictures of a class are some of its surest and of its least sure, with "
        f"their scores; faint ones are accepted by no class."
    )
    body = (
        f"<h1>What was labelled</h1>\n<p>{said}</p>\n"
        f"<h2>Scores of the best class</h2>\n{_histogram(summary.score_histogram)}\n"
        f"<h2>Classes</h2>\n" + "\n".join(rows)
    )
    return html_page("s3clip: what was labelled", _STYLE, body)


def _histogram(counts: list[int]) -> str:
    most, width = max(counts, default=0) or 1, 600 / max(1, len(counts))
    bars = "".join(
        f'<rect x="{i * width + 1:.1f}" y="{120 - 120 * count / most:.1f}" width="{width - 2:.1f}" '
        f'height="{120 * count / most:.1f}"><title>{count:,} rows</title></rect>'
        for i, count in enumerate(counts)
    )
    return (
        f'<svg viewBox="0 0 600 121" role="img" aria-label="rows by score">{bars}</svg>'
        '<div class="ends soft"><span>0</span><span>0.5</span><span>1</span></div>'
    )


def _figure(picture: LabelledPicture) -> str:
    with suppress(OSError, ValueError):  # it may be gone, or be another file now
        name = html_text(Path(picture.path).name)
        faint = "" if picture.accepted else ' style="opacity:.45"'
        source = thumbnail(Path(picture.path))
        return (
            f'<figure><img alt="{name}" src="{source}"{faint}>'
            f"<figcaption>{picture.score:.1%}<br>{name}</figcaption></figure>"
        )
    return ""
