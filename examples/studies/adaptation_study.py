"""Does test-time adaptation help? Every table of docs/adaptation.md.

    python examples/studies/adaptation_study.py --shared ../shared --out adaptation_study --cache views_cache

Photos the small fashion model was not trained on, as they are and damaged. Settings are chosen on one half of
the photos, and everything is reported on the other. Encoding the views takes some twenty minutes on one CPU
core; they are kept in the cache folder, and a second run needs a minute.
"""

import argparse
import csv
import hashlib
import itertools
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from s3clip import Backbone, HeadConfig, SynonymousSpaceHead, TestTimeAdapter
from s3clip.evaluation import Difference
from s3clip.evaluation.scores import interval, resampled_class_means, resampled_means
from s3clip.files.writing import write_atomically
from s3clip.images.opening import open_image
from s3clip.images.views import ViewSettings
from s3clip.prediction.view_embeddings import encode_views
from s3clip.printing import Column, Table

VIEWS = 64
AREAS = (0.8, 0.5)
CHOSEN_ON = ("clean", "noise")
RESAMPLES = 2000
PUBLISHED: dict[str, dict[str, Any]] = {
    "mean_views": {},
    "zero": {"confidence": 0.1},
    "shift": {"confidence": 0.1, "lr": 5e-3, "steps": 1},
    "shared_shift": {"confidence": 0.1, "lr": 5e-3, "steps": 1},
}
SHIFTS = [
    {"confidence": confidence, "lr": lr, "steps": steps}
    for confidence, lr, steps in itertools.product((0.1, 0.3, 1.0), (1e-3, 5e-3, 2e-2, 5e-2), (1, 3))
]
GRID: dict[str, list[dict[str, Any]]] = {
    "mean_views": [{}],
    "zero": [{"confidence": confidence} for confidence in (0.1, 0.3, 0.5, 1.0)],
    "shift": SHIFTS,
    "shared_shift": SHIFTS,
}


def noise(photo: Image.Image, draw: random.Random) -> Image.Image:
    """Gaussian, standard deviation 0.15 of the range."""
    pixels = np.asarray(photo).astype(float)
    added = np.random.default_rng(draw.randrange(2**32)).normal(0, 0.15 * 255, pixels.shape)
    return Image.fromarray((pixels + added).clip(0, 255).astype(np.uint8))


def blur(photo: Image.Image, draw: random.Random) -> Image.Image:
    """Gaussian, standard deviation 2 pixels of 60 x 80."""
    return photo.filter(ImageFilter.GaussianBlur(2))


def contrast(photo: Image.Image, draw: random.Random) -> Image.Image:
    """A quarter of the contrast."""
    return ImageEnhance.Contrast(photo).enhance(0.25)


def occlusion(photo: Image.Image, draw: random.Random) -> Image.Image:
    """A grey box of half the width and half the height."""
    width, height = photo.size
    box = Image.new("RGB", (width // 2, height // 2), (128, 128, 128))
    covered = photo.copy()
    covered.paste(box, (draw.randrange(width - width // 2), draw.randrange(height - height // 2)))
    return covered


def small(photo: Image.Image, draw: random.Random) -> Image.Image:
    """A quarter of the width and of the height."""
    return photo.resize((photo.width // 4, photo.height // 4), Image.Resampling.BICUBIC)


CONDITIONS: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "clean": lambda photo, draw: photo,
    "noise": noise,
    "blur": blur,
    "contrast": contrast,
    "occlusion": occlusion,
    "small": small,
}


class Task(NamedTuple):
    """A label set: heads by the name of their space, and the class of each photo (-1: none)."""

    heads: dict[str, SynonymousSpaceHead]
    labels: Tensor


class Scored(NamedTuple):
    """Whether each photo was right (n,), its class (n,), and milliseconds a photo beyond the encoding."""

    correct: Tensor
    labels: Tensor
    image_ms: float


class Photos:
    """The photos, and the embeddings of their views from the cache or the model."""

    def __init__(self, shared: Path, cache: Path, count: int) -> None:
        folder = shared / "data" / "fashion_photos"
        articles = {each["id"] for each in json.loads((folder / "article_types.json").read_text())["classes"]}
        with (folder / "dev_labels.csv").open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["article_type"] in articles]
        random.Random(0).shuffle(rows)
        self.rows = rows[:count]
        self.folder, self.cache = folder, cache
        self.backbone = Backbone.from_pretrained(str(shared / "models" / "fashion_clip"))
        self.encode_ms: list[float] = []

    def halves(self) -> tuple[slice, slice]:
        """The photos that settings are chosen on, and the others."""
        middle = len(self.rows) // 2
        return slice(0, middle), slice(middle, len(self.rows))

    def picture(self, row: dict[str, str], condition: str) -> Image.Image:
        """A photo in a condition; what is random in it depends on the file alone."""
        photo = open_image(self.folder / row["file"])
        return CONDITIONS[condition](photo, random.Random(row["file"]))

    def views(self, condition: str, area: float, half: slice) -> Tensor:
        """(photos, views, dim)."""
        files = " ".join(row["file"] for row in self.rows[half])
        key = hashlib.sha256(f"{condition} {area} {VIEWS} {files}".encode()).hexdigest()[:12]
        path = self.cache / f"{condition}-{area}-{key}.npy"
        if path.exists():
            return torch.from_numpy(np.load(path))
        pictures = [self.picture(row, condition) for row in self.rows[half]]
        started = time.perf_counter()
        found = encode_views(self.backbone, pictures, ViewSettings(views=VIEWS, crop_area=area))
        self.encode_ms.append(1000 * (time.perf_counter() - started) / len(pictures))
        print(f"encoded {condition} {area}: {self.encode_ms[-1]:.0f} ms a photo", flush=True)
        self.cache.mkdir(parents=True, exist_ok=True)
        np.save(path, found.numpy())
        return found


def tasks(photos: Photos) -> dict[str, Task]:
    """The two label sets, each with the name-only space and the default one."""
    found = {}
    for name, file, column in (
        ("42 article types", "article_types.json", "article_type"),
        ("22 sub-categories", "sub_categories.json", "sub_category"),
    ):
        default = SynonymousSpaceHead(photos.backbone).fit_classes(photos.folder / file)
        names = SynonymousSpaceHead(photos.backbone, config=HeadConfig(metric="center", scale_rule=None))
        names.fit_classes([each.name for each in default.classes], templates=default.templates)
        position = {each.id: i for i, each in enumerate(default.classes)}
        labels = torch.tensor([position.get(row[column], -1) for row in photos.rows])
        found[name] = Task({"name": names, "default": default}, labels)
    return found


def score(head: SynonymousSpaceHead, views: Tensor, labels: Tensor, method: str, **settings: Any) -> Scored:
    """Adapt to every photo whose label is a class."""
    known = labels >= 0
    views, labels = views[known], labels[known]
    if method == "plain":

        def answer() -> Tensor:
            return head(image_embeds=views[:, 0])
    else:
        adapter = TestTimeAdapter(head, method, **settings)

        def answer() -> Tensor:
            return adapter(views)

    with torch.inference_mode():
        started = time.perf_counter()
        logits = answer()
    image_ms = 1000 * (time.perf_counter() - started) / len(views)
    return Scored((logits.argmax(1) == labels).double(), labels, image_ms)


def recall(correct: Tensor, labels: Tensor) -> float:
    """Mean over the classes that have photos of the share of them that is right."""
    return float(np.mean([correct[labels == label].mean() for label in labels.unique()]))


def choose(photos: Photos, sets: dict[str, Task]) -> tuple[float, dict[str, dict[str, Any]], list[list[str]]]:
    """Choose on the first half: one crop area for all methods, then one setting a method.

    By top-1, the mean over the label sets, the spaces and `CHOSEN_ON`.
    """
    half = photos.halves()[0]
    best: dict[float, dict[str, tuple[float, dict[str, Any]]]] = {}
    rows = []
    for area in AREAS:
        views = {condition: photos.views(condition, area, half) for condition in CHOSEN_ON}
        best[area] = {}
        for method, grid in GRID.items():
            tried = []
            for settings in grid:
                hits = [
                    float(score(head, own, task.labels[half], method, **settings).correct.mean())
                    for own in views.values()
                    for task in sets.values()
                    for head in task.heads.values()
                ]
                tried.append((float(np.mean(hits)), settings))
            best[area][method] = max(tried, key=lambda pair: pair[0])
            published = next(top1 for top1, settings in tried if settings == PUBLISHED[method])
            top1, settings = best[area][method]
            rows.append(
                [f"{area}", method, f"{100 * published:.1f}", f"{100 * top1:.1f}", describe(settings)]
            )
        plain = np.mean([
            float(score(head, own, task.labels[half], "plain").correct.mean())
            for own in views.values() for task in sets.values() for head in task.heads.values()
        ])  # fmt: skip
        rows.append([f"{area}", "plain", f"{100 * plain:.1f}", f"{100 * plain:.1f}", ""])
    area = max(AREAS, key=lambda area: sum(top1 for top1, _ in best[area].values()))
    return area, {method: settings for method, (_, settings) in best[area].items()}, rows


def describe(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())


def difference(own: Scored, plain: Scored, value: Callable[[Tensor, Tensor], float]) -> Difference:
    """A score minus the plain head's, with its paired-bootstrap interval."""
    generator = torch.Generator().manual_seed(0)
    change = own.correct - plain.correct
    drawn = torch.randint(len(change), (RESAMPLES, len(change)), generator=generator)
    counts = torch.zeros(RESAMPLES, len(change)).scatter_add_(1, drawn, torch.ones(drawn.shape))
    if value is recall:
        scored = torch.bincount(own.labels) > 0
        resampled = resampled_class_means(change[None], counts, own.labels, scored)[:, 0]
    else:
        resampled = resampled_means(change[None], counts)[:, 0]
    return Difference.of(value(change, own.labels), interval(resampled))


def markdown(header: list[str], rows: list[list[str]]) -> str:
    return Table([header[0], *(Column(name, "s") for name in header[1:])], rows).markdown()


def mean_top1(correct: Tensor, labels: Tensor) -> float:
    return float(correct.mean())


def joined(parts: list[Scored]) -> Scored:
    """Put all conditions together, photo by photo: the intervals resample photos, not pairs."""
    return Scored(
        torch.stack([part.correct for part in parts]).mean(0),
        parts[0].labels,
        float(np.mean([part.image_ms for part in parts])),
    )


def report(
    photos: Photos, sets: dict[str, Task], area: float, chosen: dict[str, dict[str, Any]]
) -> list[str]:
    """Tables on the second half."""
    half = photos.halves()[1]
    views = {condition: photos.views(condition, area, half) for condition in CONDITIONS}
    compared = [("plain", "plain", {})]
    for method in GRID:
        compared.append((method, method, PUBLISHED[method]))
        if chosen[method] != PUBLISHED[method]:
            compared.append((f"{method}, chosen", method, chosen[method]))
    lines = []
    for task_name, task in sets.items():
        for space, head in task.heads.items():
            found = {
                label: [score(head, own, task.labels[half], method, **settings) for own in views.values()]
                for label, method, settings in compared
            }
            lines += table(f"{task_name}, {space} space: top-1", found, mean_top1, list(views))
            lines += table(f"{task_name}, {space} space: mean per-class recall", found, recall, list(views))
    return lines


def table(
    title: str,
    found: dict[str, list[Scored]],
    value: Callable[[Tensor, Tensor], float],
    conditions: list[str],
) -> list[str]:
    """Scores in percent, and differences from the plain head with intervals."""
    plain = found["plain"]
    rows = []
    for label, parts in found.items():
        cells = []
        for own, base in zip([*parts, joined(parts)], [*plain, joined(plain)], strict=True):
            cell = f"{100 * value(own.correct, own.labels):.1f}"
            if label != "plain":
                cell += f" ({difference(own, base, value)})"
            cells.append(cell)
        rows.append([label, *cells, f"{joined(parts).image_ms:.2f}"])
    header = ["", *conditions, "all", "ms/photo"]
    photos = len(plain[0].labels)
    return [f"### {title}", "", markdown(header, rows), "", f"{photos} photos.", ""]


def half_precision(photos: Photos, sets: dict[str, Task], area: float, count: int, views: int) -> list[str]:
    """Share of the photos that get the label of float32."""
    half = photos.halves()[1]
    rows = photos.rows[half][:count]
    pictures = [photos.picture(row, "clean") for row in rows]
    exact = photos.views("clean", area, half)
    settings = ViewSettings(views=views, crop_area=area)
    lines = []
    wide = encode_views(photos.backbone, pictures, settings)
    for dtype in (torch.bfloat16, torch.float16):
        photos.backbone.model.to(dtype)
        narrow = encode_views(photos.backbone, pictures, settings)
        photos.backbone.model.to(torch.float32)
        for method in ("plain", *GRID):
            cells = []
            for before, after in ((exact, exact.to(dtype)), (wide, narrow)):
                same = []
                for task in sets.values():
                    for head in task.heads.values():
                        labels = [predicted(head, own, method) for own in (before, after)]
                        same.append((labels[0] == labels[1]).double().mean())
                cells.append(f"{100 * float(np.mean(same)):.2f}")
            lines.append([str(dtype).removeprefix("torch."), method, *cells])
    header = ["dtype", "method", f"embeddings rounded, {len(exact)} photos", f"whole tower, {count} photos"]
    title = "### Share of photos with the label of float32, percent, mean over both label sets and spaces"
    return [title, "", markdown(header, lines), ""]


@torch.inference_mode()
def predicted(head: SynonymousSpaceHead, views: Tensor, method: str) -> Tensor:
    if method == "plain":
        return head(image_embeds=views[:, 0]).argmax(1)
    return TestTimeAdapter(head, method)(views).argmax(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--out", type=Path, default=Path("adaptation_study"))
    parser.add_argument("--cache", type=Path, default=Path("views_cache"))
    parser.add_argument("--photos", type=int, default=600, help="both halves together")
    parser.add_argument("--half-photos", type=int, default=200, help="encoded in half precision")
    parser.add_argument("--half-views", type=int, default=32)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    photos = Photos(asked.shared, asked.cache, asked.photos)
    sets = tasks(photos)
    area, chosen, rows = choose(photos, sets)
    half = len(photos.rows) // 2
    header = ["crop area", "method", "as published", "best", "best settings"]
    lines = [
        f"{half} photos to choose on ({', '.join(CHOSEN_ON)}), {len(photos.rows) - half} to report on, "
        f"{VIEWS} views, crop area {area:g} chosen.\n",
        "### Choosing: top-1 on the first half\n",
        markdown(header, rows),
        "",
    ]
    lines += report(photos, sets, area, chosen)
    if photos.encode_ms:
        lines.append(f"Encoding {VIEWS} views of a photo: {np.median(photos.encode_ms):.0f} ms.\n")
    lines += half_precision(photos, sets, area, asked.half_photos, asked.half_views)
    asked.out.mkdir(parents=True, exist_ok=True)
    write_atomically(asked.out / "adaptation.md", "\n".join(lines).encode())
    print("\n".join(lines))


if __name__ == "__main__":
    main()
