"""Doubtful labels to look at: one HTML file with their images, which asks for nothing else."""

from collections.abc import Sequence
from pathlib import Path

from s3clip.files.writing import write_atomically
from s3clip.head import SynonymousSpaceHead
from s3clip.html_page import html_page
from s3clip.images.thumbnails import thumbnail
from s3clip.prediction.label_check import LabelDoubt
from s3clip.printing import counted, html_text

MOST_SHOWN = 500
"""Images in a page, about 3 KB each."""

_STYLE = """
body { margin: 2rem auto; max-width: 1200px; padding: 0 1rem }
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
    names = [html_text(name) for name in head.class_names]
    figures = "\n".join(
        f'<figure><img alt="{html_text(files[each.image].name)}: labelled {names[each.given]}, seems to show '
        f'{names[each.likely]}" src="{thumbnail(files[each.image])}">'
        f"<figcaption><del>{names[each.given]}</del><br><ins>{names[each.likely]}</ins><br>{each.wrong:.1%}<br>"
        f"{html_text(str(files[each.image]))}</figcaption></figure>"
        for each in doubts[:MOST_SHOWN]
    )
    shown = f", of which the first {MOST_SHOWN} are here" if len(doubts) > MOST_SHOWN else ""
    body = (
        f"<h1>Doubtful labels</h1>\n<p>{len(doubts):,} of {counted(len(files), 'label')} are contradicted by "
        f"the words and the other images{shown}: the label an image has, struck out, and what it seems to "
        f"show, and how likely the label is wrong, as learned without the image.</p>\n"
        f"{figures}"
    )
    write_atomically(path, html_page("s3clip: doubtful labels", _STYLE, body).encode())
    return path
