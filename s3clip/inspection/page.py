"""One HTML file to browse a head in: no server, and nothing is requested from anywhere."""

import base64
import html
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s3clip.files.writing import write_atomically
from s3clip.head import SynonymousSpaceHead
from s3clip.html_page import html_page
from s3clip.inspection.complexes import ClassComplex, class_complexes
from s3clip.inspection.consequences import Consequence, find_consequences
from s3clip.inspection.findings import find_in_space
from s3clip.inspection.matches import ImageMatch
from s3clip.inspection.neighbours import find_neighbours, nearest_classes
from s3clip.inspection.reports import ClassReport, Reason, inspect_head, on_cpu

MOST_POINTS = 128
"""Distinct texts of a class up to which all its edges are in the page, 43 KB at most; beyond, its tree is."""

MOST_TEXTS = 50_000
"""Texts that are on a page, of whole classes, the first at least; of the others it has the names. They take
about 200 bytes each: 10 MB, where 21,000 classes of 30 texts would take 140."""

MOST_THUMBNAILS = 12
"""Images shown for a text, the surest first; the others are counted."""

_FOLDER = Path(__file__).parent


def write_page(
    head: SynonymousSpaceHead,
    path: str | os.PathLike[str],
    *,
    matches: Sequence[ImageMatch] = (),
    first: Sequence[int] = (),
    title: str = "s3clip",
) -> Path:
    """Write the page of a head, over an older one, and return its path.

    Args:
        head: a fitted head.
        path: of the file.
        matches: what `match_images` found, to show images beside the texts that matched them.
        first: as for `page_data`.
        title: of the page.

    Raises:
        ValueError: the head is not fitted.
    """
    write_atomically(Path(path), render_page(page_data(head, matches, first), title=title).encode())
    return Path(path)


def render_page(data: dict[str, Any], *, title: str = "s3clip") -> str:
    """Return the HTML of what `page_data` gathered.

    Names and texts are untrusted: they are in the page as JSON that no text can close, and its script writes
    them as text only. The page allows no other script, and no request.
    """
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    content = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    parts = {
        "TITLE": html.escape(title),
        "DATA": content.replace("<", "\\u003c"),
    }
    before, *rest = (_FOLDER / "page.html").read_text(encoding="utf-8").split("{{")
    # Part by part: what is put in is not searched again.
    for name, after in (each.split("}}", 1) for each in rest):
        before += parts[name] + after
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    return html_page(title, style, before.rstrip(), script)


def page_data(
    head: SynonymousSpaceHead, matches: Sequence[ImageMatch] = (), first: Sequence[int] = ()
) -> dict[str, Any]:
    """Gather what the page shows, as plain values ready for JSON.

    Args:
        head: a fitted head.
        matches: what `match_images` found.
        first: positions of the classes whose texts are shown whatever there is to say of others. Those of all
            classes are, up to `MOST_TEXTS`; beyond, those of classes with images, then of those with the
            heaviest findings.

    Returns:
        "settings", "levels" and "relative" (whether ε is in units of the margin) of the head; "findings" of
        the classes that are shown as [weight, kind, class, row or None, message], the heaviest first, and
        "found", how many there are of all; "open", the class that is open at first, or None; "shown", how
        many classes are; "classes", each with

        - "name", "id", "groups" by level, "weight" of its findings, "count" of its texts by status, "scale"
            (None: everything is kept), "negatives"; "texts" is None where it is not shown, and nothing
            follows; else
        - "texts": [text, status, the row it repeats or None, the other classes that have it, cosine with its
            class, cosine with the nearest other class, that class, the texts that are in its mean too, and
            of one that was dropped [distance, the class it leans to or None, the settings that keep it, how
            many texts more these keep in all or None, how many images are answered otherwise then or None]];
        - "rows" (n): the distinct texts, by row; "plane" (n, 2) and "shown": see `ClassComplex`;
        - "tree" (n - 1): [position in rows, position in rows, length], the shortest first;
        - "lengths": of all edges, in the order of scipy's `pdist`, as base64 of little-endian float32; None
            where there are more than `MOST_POINTS` texts;
        - "nearest": [class, cosine of the centres];
        - "images": [file, row or None, probability, thumbnail, the class of its folder or None], and
            "matched", {row: how many images}; "right" of them whose folder has the name of the class, and
            "known", how many have that of any; "missed": images of its folder that are taken for another
            class, [file, that class, probability, thumbnail], and "missed_count" of all.

    Raises:
        ValueError: the head is not fitted.
    """
    space = on_cpu(head.space)
    reports = inspect_head(head)
    neighbours = find_neighbours(space)
    findings = find_in_space(reports, neighbours)
    by_class: dict[int, list[ImageMatch]] = defaultdict(list)
    missed: dict[int, list[ImageMatch]] = defaultdict(list)
    for match in matches:
        by_class[match.class_index].append(match)
        if match.truth is not None and match.truth != match.class_index:
            missed[match.truth].append(match)
    weights = Counter[int]()
    for finding in findings:
        weights[finding.class_index] += finding.weight
    shown = _shown(reports, [set(first), {*by_class, *missed}], weights)
    tried = find_consequences(head, [reports[index] for index in shown], matches)
    complexes = class_complexes(space, torch.tensor(shown))
    nearest = dict(zip(shown, zip(*nearest_classes(space, torch.tensor(shown)), strict=True), strict=True))
    classes: list[dict[str, Any]] = []
    start = 0
    for report, fitted in zip(reports, head.classes, strict=True):
        rows, index = slice(start, start + len(report.texts)), report.index
        start = rows.stop
        classes.append(_class_facts(report) | {"groups": dict(fitted.groups), "weight": weights[index]})
        if index not in complexes:
            continue
        cosines = [_rounded(values[rows]) for values in (neighbours.own, neighbours.other)]
        repeats = (space.duplicate_of[rows] - rows.start).tolist()
        texts = [
            [
                *(t.text, t.status, repeats[i] if t.status == "duplicate" else None, t.shared_with, *beside),
                t.variants,
                t.reason and _reason(t.reason, tried),
            ]
            for i, (t, *beside) in enumerate(
                zip(report.texts, *cosines, neighbours.other_class[rows].tolist(), strict=True)
            )
        ]
        positions, similarities = nearest[index]
        pairs = zip(positions.tolist(), _rounded(similarities), strict=True)
        classes[index] |= {
            **_complex_facts(complexes[index]),
            "texts": texts,
            "nearest": [list(pair) for pair in pairs],
            **_images(by_class[index], missed[index]),
        }
    return {
        "settings": head.config.model_dump(),
        "templates": list(head.templates or ()),
        "levels": list(head.levels),
        "relative": space.relative,
        "images": len(matches),
        "open": 0 if len(classes) == 1 else None,
        "shown": len(shown),
        "found": len(findings),
        "findings": [
            [f.weight, f.kind, f.class_index, f.row, f.message]
            for f in findings
            if f.class_index in complexes
        ],
        "classes": classes,
    }


def _shown(reports: Sequence[ClassReport], preferred: Sequence[set[int]], weights: Counter[int]) -> list[int]:
    """Return, ascending, the classes whose texts are on the page."""

    def place(report: ClassReport) -> tuple[int, int]:
        rank = next((i for i, those in enumerate(preferred) if report.index in those), len(preferred))
        return rank, -weights[report.index]

    shown: list[int] = []
    texts = 0
    for report in sorted(reports, key=place):
        texts += len(report.texts)
        if texts > MOST_TEXTS and shown:
            break
        shown.append(report.index)
    return sorted(shown)


def _class_facts(report: ClassReport) -> dict[str, Any]:
    return {
        "name": report.name,
        "id": report.id,
        "negatives": report.negatives,
        "scale": report.scale if math.isfinite(report.scale) else None,
        "count": {status: report.count(status) for status in ("kept", "dropped", "duplicate")},
        "texts": None,
    }


def _complex_facts(own: ClassComplex) -> dict[str, Any]:
    count = len(own.rows)
    lengths = None
    if count <= MOST_POINTS:
        upper = torch.triu_indices(count, count, 1)
        condensed = own.lengths[upper[0], upper[1]].float().numpy().astype("<f4")
        lengths = base64.b64encode(condensed.tobytes()).decode()
    return {
        "rows": own.rows.tolist(),
        "plane": [[round(x, 4), round(y, 4)] for x, y in own.plane.tolist()],
        "shown": round(own.shown, 3),
        "tree": [
            [a, b, float(f"{length:.9g}")]
            for (a, b), length in zip(own.tree.tolist(), own.deaths.tolist(), strict=True)
        ],
        "lengths": lengths,
    }


def edges_of(own: dict[str, Any]) -> list[tuple[int, int, float]]:
    """Return the edges of a class of `page_data` and their lengths; of a large one the tree."""
    if own["lengths"] is None:
        return [(a, b, length) for a, b, length in own["tree"]]
    lengths = np.frombuffer(base64.b64decode(own["lengths"]), dtype="<f4").tolist()
    return [
        (*pair, length)
        for pair, length in zip(combinations(range(len(own["rows"])), 2), lengths, strict=True)
    ]


def _reason(reason: Reason, tried: dict[str, Consequence]) -> list[Any]:
    settings = json.dumps(reason.kept_by)
    found = tried.get(settings)
    changed = [None, None] if found is None else [found.kept, found.answers]
    return [round(reason.distance, 4), reason.leans_to, settings, *changed]


def _images(matches: Sequence[ImageMatch], missed: Sequence[ImageMatch]) -> dict[str, Any]:
    by_row: dict[int | None, list[ImageMatch]] = defaultdict(list)
    for match in sorted(matches, key=lambda match: -match.score):
        by_row[match.row].append(match)
    shown = [m for own in by_row.values() for m in own[:MOST_THUMBNAILS]]
    return {
        "images": [[m.file, m.row, round(m.score, 4), m.thumbnail, m.truth] for m in shown],
        "matched": {"" if row is None else str(row): len(own) for row, own in by_row.items()},
        "right": sum(m.truth == m.class_index for m in matches),
        "known": sum(m.truth is not None for m in matches),
        "missed": [
            [m.file, m.class_index, round(m.score, 4), m.thumbnail]
            for m in sorted(missed, key=lambda match: -match.score)[:MOST_THUMBNAILS]
        ],
        "missed_count": len(missed),
    }


def _rounded(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else round(value, 3) for value in values.tolist()]
