"""Doubtful labels to look at: one HTML file with their images, which asks for nothing else."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from s3clip.files.writing import write_atomically
from s3clip.head import SynonymousSpaceHead
from s3clip.images.thumbnails import thumbnail
from s3clip.prediction.label_check import LabelDoubt
from s3clip.printing import printable

MOST_SHOWN = 500
"""Images in a page, about 3 KB each."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem }
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --paper: #fff;
  --rust: #bc4c00; --green: #1a7f37 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --paper: #0d1117;
  --rust: #db6d28; --green: #3fb950 } }
body { color: var(--ink); background: var(--paper) }
figure { display: inline-block; vertical-align: top; width: 150px; margin: 0 .6rem 1.2rem 0 }
figcaption { font-size: 12px; overflow-wrap: anywhere; color: var(--soft) }
del { color: var(--rust) } ins { color: var(--green); text-decoration: none; font-weight: bold }
"""


def write_contact_sheet(
    head: SynonymousSpaceHead, files: Sequence[Path], doubts: Sequence[LabelDoubt], path: Path
) -> Path:
    """Write a page of doubtful labels, over an older one, and return its path.

    Args:
        head: whose classes they are of.
        files: the images that were checked.
        doubts: what `check_labels` found, the first of which are shown.
        path: of the page.
    """
    names = [_text(name) for name in head.class_names]
    figures = "\n".join(
        f'<figure><img alt="{_text(files[each.image].name)}: labelled {names[each.given]}, seems to show '
        f'{names[each.likely]}" src="{thumbnail(files[each.image])}">'
        f"<figcaption><del>{names[each.given]}</del><br><ins>{names[each.likely]}</ins><br>{each.wrong:.1%}<br>"
        f"{_text(str(files[each.image]))}</figcaption></figure>"
        for each in doubts[:MOST_SHOWN]
    )
    shown = f", of which the first {MOST_SHOWN} are here" if len(doubts) > MOST_SHOWN else ""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>s3clip: doubtful labels</title>\n<style>{_STYLE}</style></head>\n<body>\n"
        f"<h1>Doubtful labels</h1>\n<p>{len(doubts):,} of {len(files):,} labels are contradicted by the "
        f"words and the other images{shown}: the label an image has, struck out, and what it seems to show, "
        f"and how likely the label is wrong, as learned without the image.</p>\n"
        f"{figures}\n</body></html>\n"
    )
    write_atomically(path, page.encode())
    return path


def _text(value: str) -> str:
    return escape(printable(value))
