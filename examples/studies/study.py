"""The study behind the defaults of `HeadConfig`: every table, number and picture of docs/choices.md.

    python examples/studies/study.py --shared ../shared --out study

takes some minutes on one CPU core, and gives the same figures again (but for the times). It writes study.md
with the tables, study.json with the numbers, and the pictures.
"""

import argparse
import json
import random
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sklearn.metrics import accuracy_score, recall_score
from study_sets import LabelSet, clip_sets, fashion_sets
from torch import Tensor
from torch.nn.functional import normalize

from s3clip import Backbone, HeadConfig, SynonymousSpaceHead
from s3clip.evaluation import METHODS as EVERY
from s3clip.evaluation import Comparison, Difference, compare, compare_embeddings
from s3clip.printing import Column, Table, new_figure

MAIN = ("cifar10", "fashion13", "article", "subcat")
CENTER = HeadConfig(metric="center", scale_rule=None)
METHODS = {
    "name": CENTER,  # on the own names alone
    "center": CENTER,
    "default": HeadConfig(),
    "no filter": HeadConfig(scale_rule=None),
    "center+rips": HeadConfig(metric="center"),
    "nearest": HeadConfig(metric="nearest", scale_rule=None),
}
COLOURS = dict(zip(METHODS, ("#57606a", "#cf222e", "#0969da", "#1a7f37", "#8250df", "#bf8700"), strict=True))
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
DAMAGED = ("center", "default", "no filter", "center+rips", "nearest")
MIN_IMAGES = 20
"""Recall is the mean over the classes with so many images."""


class Score(NamedTuple):
    """Percent."""

    top1: float
    recall: float


class Swapped(NamedTuple):
    """Texts (n_c, dim) of each class, and which of them are another class's (n_c,)."""

    texts: list[Tensor]
    wrong: list[Tensor]


class Page:
    """Collects tables as markdown and everything else for JSON."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.data: dict[str, Any] = {}

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *notes: str) -> None:
        """Print and keep a table, all but its first column to the right."""
        columns = [header[0], *(Column(name, "s") for name in header[1:])]
        self.lines += [
            f"### {title}",
            "",
            Table(columns, rows).markdown(),
            "",
            *(f"{note}\n" for note in notes),
        ]
        print("\n".join(self.lines[-4 - len(notes) :]), flush=True)


def fitted(config: HeadConfig, each: LabelSet, texts: Sequence[Tensor]) -> SynonymousSpaceHead:
    """Return a head with these texts."""
    names = [own[0] for own in each.words]
    return SynonymousSpaceHead(config=config).fit_embeddings(texts, names, logit_scale=each.scale)


def score(method: str | HeadConfig, each: LabelSet, texts: Sequence[Tensor]) -> Score:
    """Return top-1 and mean per-class recall of a method with these texts."""
    config = METHODS[method] if isinstance(method, str) else method
    head = fitted(config, each, [own[:1] for own in texts] if method == "name" else texts)
    with torch.inference_mode():
        predicted = head(image_embeds=each.images).argmax(1).numpy()
    counts = torch.bincount(each.labels, minlength=len(texts))
    scored = torch.nonzero(counts >= MIN_IMAGES)[:, 0].numpy()
    truth = each.labels.numpy()
    recall = recall_score(truth, predicted, labels=scored, average="macro", zero_division=0)
    return Score(100 * accuracy_score(truth, predicted), 100 * recall)


def swap(texts: list[Tensor], share: float, seed: int, *, from_one_class: bool = False) -> Swapped:
    """Exchange a share of each class's texts with other classes: never its own name, from four texts on.

    What a class gets comes from anywhere, or, the harder case, all `from_one_class`.
    """
    draw = random.Random(seed)
    chosen = {
        c: draw.sample(range(1, len(own)), min(len(own) - 1, round(share * len(own))))
        for c, own in enumerate(texts)
        if len(own) >= 4
    }
    places = [(c, row) for c in draw.sample(sorted(chosen), len(chosen)) for row in chosen[c]]
    if from_one_class:  # round a ring of classes, on by the most that one class gives
        step = max(map(len, chosen.values()), default=0) % max(1, len(places))
        given = places[step:] + places[:step]
    else:
        given = draw.sample(places, len(places))
        for i, (c, _) in enumerate(places):  # who drew a text of its own class changes with someone
            others = [j for j, (d, _) in enumerate(places) if c not in (d, given[j][0])]
            if given[i][0] == c and others:
                j = draw.choice(others)
                given[i], given[j] = given[j], given[i]
    new, wrong = [own.clone() for own in texts], [torch.zeros(len(own), dtype=torch.bool) for own in texts]
    for (c, row), (giver, text) in zip(places, given, strict=True):
        new[c][row], wrong[c][row] = texts[giver][text], giver != c
    return Swapped(new, wrong)


def found_among_dropped(head: SynonymousSpaceHead, wrong: list[Tensor]) -> tuple[int, int, int]:
    """Return how many texts are wrong and dropped, dropped, and wrong."""
    space = head.space
    kept = torch.zeros(len(space.owners), dtype=torch.bool)
    kept[space.kept] = True
    dropped, swapped = ~kept[space.duplicate_of], torch.cat(wrong)
    return int((dropped & swapped).sum()), int(dropped.sum()), int(swapped.sum())


def clean(sets: list[LabelSet], page: Page, bootstrap: int) -> None:
    """Compare the default with the name and with center on every set as it is."""
    rows, calibration, gains, passed = [], [], {}, 0
    settings = {"no filter": METHODS["no filter"], "default+centered": HeadConfig(centering="class_mean")}
    page.data["clean"] = {}
    for each in sets:
        results = {
            control: compare_embeddings(
                each.texts,
                [own[0] for own in each.words],
                each.images,
                each.labels,
                logit_scale=each.scale,
                methods=["name", "center", "default"],
                configs=settings,
                control=control,
                min_images=MIN_IMAGES,
                bootstrap=bootstrap,
            )
            for control in ("center", "name")
        }
        page.data["clean"][each.name] = {control: result.to_dict() for control, result in results.items()}
        scores = results["center"]
        ours = [results[control]["default"] for control in ("center", "name")]
        four = [d for own in ours for d in (own.top1_difference, own.recall_difference)]
        passed += all(holds(difference) for difference in four)
        gains[each.name] = [100 * four[0].value, 100 * four[1].value]
        rows.append(
            [
                each.name,
                f"{len(each.images)} / {len(each.texts)} / {sum(map(len, each.texts))}",
                *(
                    f"{100 * scores[c].top1:.1f} / {100 * scores[c].recall:.1f}"
                    for c in ("name", "center", "default", "no filter")
                ),
                *(str(d) + ("" if holds(d) else " **less**") for d in four),
                f"{100 * scores['default'].dropped:.1f}",
            ]
        )
        errors = ("name", "center", "no filter", "default", "default+centered")
        calibration.append([each.name, *(f"{100 * scores[c].calibration_error:.1f}" for c in errors)])
        for method in ("center", "default"):
            own = scores[method]
            calibration[-1].append(f"{own.image_ms:.4f} / {own.fit_ms:.0f}")
    mean = torch.tensor(list(gains.values())).mean(0).tolist()
    mains = torch.tensor([gains[name] for name in gains if name in MAIN]).reshape(-1, 2).mean(0).tolist()
    errors_mean = [sum(float(row[i]) for row in calibration) / len(sets) for i in range(1, 6)]
    calibration.append(["**mean**", *(f"{error:.1f}" for error in errors_mean), "", ""])
    header = ["set", "images / classes / texts", "name", "center", "default", "no filter"]
    header += ["default - center, top-1", "recall", "default - name, top-1", "recall", "dropped"]
    page.table(
        "Every set as it is",
        header,
        rows,
        "Top-1 / recall in percent; differences in points with 95 % paired-bootstrap intervals.",
        f"All four differences hold on {passed} of {len(sets)} sets. Default minus center on average: "
        f"{mean[0]:+.1f} top-1, {mean[1]:+.1f} recall; on the main sets {mains[0]:+.1f}, {mains[1]:+.1f}.",
    )
    header = ["set", "ECE name", "center", "no filter", "default", "default+centered"]
    header += ["ms per image / fit ms, center", "default"]
    page.table("Calibration and cost", header, calibration)


def holds(difference: Difference) -> bool:
    """At least as good: half a point below counts as equal, and so does an interval that reaches zero."""
    return difference.value >= -0.005 or difference.high >= 0


def damaged(sets: list[LabelSet], page: Page, seeds: int) -> None:
    """Swap texts between classes: what each method loses, and what the filter finds."""
    page.data |= {"swaps": {}, "swap_curves": {each.name: {} for each in sets if each.name in MAIN}}
    for share, from_one_class in [*((share, False) for share in SHARES), (0.2, True)]:
        rows, counted = [], []
        for each in sets if share == 0.2 else [each for each in sets if each.name in MAIN]:
            before = {method: torch.tensor(score(method, each, each.texts)) for method in METHODS}
            after: dict[str, list[Score]] = {method: [] for method in METHODS}
            counts = torch.zeros(3)
            for seed in range(seeds):
                texts, wrong = swap(each.texts, share, seed, from_one_class=from_one_class)
                for method, own in after.items():
                    own.append(score(method, each, texts))
                counts += torch.tensor(found_among_dropped(fitted(HeadConfig(), each, texts), wrong))
            losses = {c: before[c] - torch.tensor(own).mean(0) for c, own in after.items()}
            hit, dropped, swapped = counts.tolist()
            if losses["center"][0] >= 1:
                counted.append(losses)
            rows.append(
                [
                    each.name + (" (not counted)" if losses["center"][0] < 1 else ""),
                    *(f"{losses[c][0]:.1f} / {losses[c][1]:.1f}" for c in DAMAGED),
                    f"{hit / max(1, dropped):.2f}",
                    f"{hit / max(1, swapped):.2f}",
                ]
            )
            if each.name in MAIN and not from_one_class:
                top1 = {c: [before[c][0].item(), [own.top1 for own in after[c]]] for c in METHODS}
                page.data["swap_curves"][each.name][share] = top1
        if counted:
            total = {c: torch.stack([losses[c] for losses in counted]).mean(0) for c in DAMAGED}
            parts = {c: (total[c] / total["center"]).tolist() for c in DAMAGED}
            rows.append(
                ["**part of center's loss**", *(f"**{a:.2f} / {b:.2f}**" for a, b in parts.values()), "", ""]
            )
        what = "all of a class's from one other class" if from_one_class else "from anywhere"
        header = ["set", *(f"{c} loses" for c in DAMAGED), "precision", "recall of swapped texts"]
        note = "Points of top-1 / recall; a set counts where center loses a point of top-1."
        page.table(f"{100 * share:.0f} % swapped, {what}, {seeds} draws", header, rows, note)
        page.data["swaps"][f"{share} {what}"] = rows


def unequal(sets: list[LabelSet], pools: dict[str, list[Tensor]], page: Page) -> None:
    """Give one class many more texts than the others, repeat texts, and list them in another order."""
    rows, order = [], []
    for each in sets:
        few = [own[:2] for own in each.texts]
        for what in ("2 texts each, one class ten times its own", "2 texts each, one class 1, another 30"):
            moved: dict[str, list[Tensor]] = {c: [] for c in ("center", "default", "nearest")}
            for c, many in enumerate(pools[each.name]):
                base, count = list(few), 10 * len(few[c])
                if "30" in what:
                    base[(c + 1) % len(base)], count = base[(c + 1) % len(base)][:1], 30
                if len(many) >= count:
                    texts = [*base[:c], many[:count], *base[c + 1 :]]
                    for method, own in moved.items():
                        change = zip(score(method, each, texts), score(method, each, base), strict=True)
                        own.append(torch.tensor([after - before for after, before in change]))
            if moved["center"]:
                rows.append([each.name, what, str(len(moved["center"])), *map(_changes, moved.values())])
        draw, shuffled = torch.Generator().manual_seed(0), []
        for own in each.texts:
            mixed = torch.randperm(len(own) - 1, generator=draw) + 1
            repeated = torch.randint(len(own), (5,), generator=draw)
            shuffled.append(torch.cat([own[:1], own[mixed], own[repeated]]))
        with torch.inference_mode():
            logits = [fitted(HeadConfig(), each, t)(image_embeds=each.images) for t in (each.texts, shuffled)]
        same = bool((logits[0].argmax(1) == logits[1].argmax(1)).all())
        order.append([each.name, f"{float((logits[0] - logits[1]).abs().max()) / each.scale:.1e}", str(same)])
    page.table(
        "Unequal numbers of texts",
        ["set", "texts", "classes tried", "center moves", "default", "nearest"],
        rows,
        "Top-1; recall. Mean size of the change over the classes tried, in points (lowest to highest).",
    )
    page.table("Order and repeats", ["set", "largest change of a score", "same predictions"], order)
    page.data |= {"unequal": rows, "order": order}


def _changes(changes: list[Tensor]) -> str:
    every = torch.stack(changes)
    size, low, high = every.abs().mean(0), every.min(0).values, every.max(0).values
    return "; ".join(f"{size[i]:.2f} ({low[i]:+.1f} to {high[i]:+.1f})" for i in (0, 1))


def subsets(sets: list[LabelSet], page: Page, seeds: int) -> None:
    """Draw half of the classes, or one to six texts of each class."""
    rows = []
    for what in ("half the classes", "1 to 6 texts a class"):
        for each in sets:
            gains = []
            for seed in range(seeds):
                part = _half_the_classes(each, seed) if what.startswith("half") else _few_texts(each, seed)
                scores = [torch.tensor(score(c, part, part.texts)) for c in ("default", "name", "center")]
                gains.append(torch.cat([scores[0] - scores[1], scores[0] - scores[2]]))
            mean = torch.stack(gains).mean(0)
            rows.append(
                [what, each.name, f"{mean[0]:+.1f} / {mean[1]:+.1f}", f"{mean[2]:+.1f} / {mean[3]:+.1f}"]
            )
    page.table(
        f"Random parts of the sets, mean of {seeds} draws",
        ["part", "set", "default - name", "default - center"],
        rows,
    )
    page.data["subsets"] = rows


def _half_the_classes(each: LabelSet, seed: int) -> LabelSet:
    count = len(each.texts)
    kept = sorted(random.Random(seed).sample(range(count), max(2, count // 2)))
    position = torch.full((count,), -1)
    position[kept] = torch.arange(len(kept))
    labels = position[each.labels]
    return each._replace(
        images=each.images[labels >= 0],
        labels=labels[labels >= 0],
        texts=[each.texts[c] for c in kept],
        words=[each.words[c] for c in kept],
    )


def _few_texts(each: LabelSet, seed: int) -> LabelSet:
    draw = random.Random(seed)
    texts = []
    for own in each.texts:
        count = min(len(own) - 1, draw.randint(0, 5))
        texts.append(own[[0, *sorted(draw.sample(range(1, len(own)), count))]])
    return each._replace(texts=texts)


def left_out(sets: list[LabelSet], page: Page) -> None:
    """Choose settings on the sets of two sources of images, and look at the third."""
    grid = [
        HeadConfig(metric_options={"k": k, "name_weight": w}, scale_options={"epsilon": e, "share": q})
        for k in (0.34, 0.4, 0.5)
        for w in (0.1, 0.2, 0.25, 0.3)
        for e in (1.0, 1.1)
        for q in (0.7, 0.75)
    ]
    gain = torch.zeros(len(grid), len(sets))
    for j, each in enumerate(sets):
        control = torch.tensor(score("center", each, each.texts)).mean()
        for i, config in enumerate(grid):
            gain[i, j] = torch.tensor(score(config, each, each.texts)).mean() - control
    default, rows = grid.index(HeadConfig()), []
    sources = list(dict.fromkeys(source_of(each) for each in sets))
    for source in sources:
        inside = torch.tensor([source_of(each) == source for each in sets])
        best = int(gain[:, ~inside].mean(1).argmax())
        chosen = {**grid[best].metric_options, **grid[best].scale_options}
        here = gain[:, inside].mean(1)
        words = ", ".join(f"{option} {value}" for option, value in chosen.items() if option != "renormalize")
        extremes = f"{here.min():+.2f} to {here.max():+.2f}"
        rows.append(
            [source, str(int(inside.sum())), words, f"{here[best]:+.2f}", f"{here[default]:+.2f}", extremes]
        )
    page.table(
        f"Settings chosen on other images, among {len(grid)}",
        ["left out", "sets", "best elsewhere", "its gain over center", "the default's", "over all settings"],
        rows,
        "Mean of top-1 and recall in points, mean over the sets left out.",
    )
    page.data["left_out"] = rows


def source_of(each: LabelSet) -> str:
    """Return which images a set has."""
    if each.encoder == "fashion_clip":
        return "photos, fashion_clip"
    return "photos, CLIP" if each.name.startswith("fashion13") else "CIFAR-10, CLIP"


def cost(page: Page) -> None:
    """Time the default and center on 64 images, 1,000 classes, 32 texts of 512 dimensions each."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(64, 512, generator=draw)
    centres = torch.randn(1000, 1, 512, generator=draw)
    texts = list(normalize(centres + 0.7 * torch.randn(1000, 32, 512, generator=draw), dim=2))
    rows = []
    for method in ("center", "no filter", "default"):
        started = time.perf_counter()
        head = SynonymousSpaceHead(config=METHODS[method])
        head.fit_embeddings(texts, [str(i) for i in range(1000)], logit_scale=100.0)
        fit = time.perf_counter() - started
        with torch.inference_mode():
            head(image_embeds=images)
            started = time.perf_counter()
            for _ in range(10):
                head(image_embeds=images)
        rows.append([method, f"{fit:.2f}", f"{1000 * (time.perf_counter() - started) / 640:.3f}"])
    page.table(
        "Cost with 1,000 classes of 32 texts, batches of 64 images",
        ["method", "fit, s", "ms per image"],
        rows,
    )
    page.data["cost"] = rows


def draw(page: Page, out: Path) -> None:
    """Draw the differences on all sets, and what swaps cost on the main ones."""
    names = list(page.data["clean"])[::-1]
    figure = new_figure(10, 1 + 0.3 * len(names))
    for axis, control in zip(figure.subplots(1, 2, sharey=True), ("center", "name"), strict=True):
        for row, name in enumerate(names):
            found = next(s for s in page.data["clean"][name][control]["scores"] if s["name"] == "default")
            for what, lift, colour in (("top1", 0.12, "#0969da"), ("recall", -0.12, "#bf8700")):
                value, low, high = (
                    100 * found[f"{what}_difference"][end] for end in ("value", "low", "high")
                )
                axis.plot([low, high], [row + lift] * 2, color=colour, lw=1.5)
                axis.plot(value, row + lift, "o", color=colour, ms=4, label=what if row == 0 else None)
        axis.axvline(0, color="#cf222e", lw=1)
        axis.grid(axis="x", alpha=0.3)
        axis.set_xlabel(f"default - {control}, points")
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.legend(fontsize=8)
    figure.savefig(out / "sets.png")
    curves = page.data["swap_curves"]
    figure = new_figure(3.1 * max(1, len(curves)), 3.4)
    axes = figure.subplots(1, max(1, len(curves)), squeeze=False)[0]
    for axis, (name, by_share) in zip(axes, curves.items(), strict=False):
        for method, colour in COLOURS.items():
            runs = [torch.tensor(by_share[share][method][1]) for share in SHARES]
            start = by_share[SHARES[0]][method][0]
            mean = torch.tensor([start, *(own.mean() for own in runs)])
            spread = torch.tensor([0.0, *(own.std(unbiased=False) for own in runs)])
            shares = [0.0, *(100 * share for share in SHARES)]
            axis.plot(shares, mean, color=colour, label=method)
            axis.fill_between(shares, mean - spread, mean + spread, color=colour, alpha=0.12)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("% of texts swapped")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("top-1, %")
    axes[0].legend(fontsize=7)
    figure.savefig(out / "swaps.png")


def every_method(
    sets: list[LabelSet], backbone: Backbone, shared: Path, page: Page, out: Path, bootstrap: int
) -> None:
    """Compare every method on the four main sets."""
    files = {"article": "article_types.json", "subcat": "sub_categories.json"}
    asked: dict[str, Any] = {"min_images": MIN_IMAGES, "bootstrap": bootstrap}
    results: dict[str, Comparison] = {}
    for each in sets:
        # The hull takes as long as all others together: once is enough. None of these files has descriptors.
        asked["methods"] = [
            name
            for name, method in EVERY.items()
            if not name.startswith("hull+")
            and not method.descriptors
            and (method.texts is None or each.name in files)
        ]
        if each.name in files:
            classes = shared / "data" / "fashion_photos" / files[each.name]
            result = compare(classes, each.labels, backbone=backbone, image_embeds=each.images, **asked)
        else:
            names = [own[0] for own in each.words]
            result = compare_embeddings(
                each.texts, names, each.images, each.labels, logit_scale=each.scale, **asked
            )
        page.lines += [f"### {each.name} ({each.encoder})", "", result.markdown()]
        results[each.name] = result
        title = f"{each.name} ({each.encoder}): {result.images} images, {result.classes} classes"
        result.draw(out / f"methods-{each.name}.png", title=title)
    gains, rows = {}, {}
    for name in EVERY:
        found = {key: own for key, own in results.items() if name in [s.name for s in own.scores]}
        if not found:
            continue
        cells = [
            f"{100 * own[name].top1:.1f} / {100 * own[name].recall:.1f}" if key in found else "-"
            for key, own in results.items()
        ]
        both = [
            (own[name].top1_difference.value, own[name].recall_difference.value) for own in found.values()
        ]
        gains[name] = [100 * sum(part) / len(both) for part in zip(*both, strict=True)]
        times = [1000 * own[name].image_ms for own in found.values()]
        missing = "" if len(found) == len(results) else f" ({len(found)} sets)"
        gain = f"{gains[name][0]:+.1f} / {gains[name][1]:+.1f}{missing}"
        rows[name] = [name, *cells, gain, f"{min(times):.0f} to {max(times):.0f}"]
    page.table(
        "Every method on the main sets",
        ["method", *results, "minus center, mean", "µs per image"],
        [rows[name] for name in sorted(rows, key=lambda name: -sum(gains[name]))],
        "Top-1 / recall in percent, by the mean gain over center.",
    )
    page.data["methods"] = {name: result.to_dict() for name, result in results.items()}


def larger_lists(sets: list[LabelSet], backbone: Backbone) -> dict[str, list[Tensor]]:
    """Return longer lists of distinct texts for the classes of the main sets, the set's own first."""
    by_name = {each.name: each for each in sets}
    looks = "men women black blue white red printed casual new classic".split()
    pools = {}
    for name in MAIN:
        each, pools[name] = by_name[name], []
        for c, own in enumerate(each.texts):
            if each.encoder == "fashion_clip":
                texts = [f"a photo of a {look} {word}" for word in each.words[c][:3] for look in looks]
                more = backbone.encode_texts(texts)
            else:
                more = torch.cat([by_name[f"{name} {list_}"].texts[c] for list_ in ("words", "nearest 15")])
            head = fitted(CENTER, each._replace(words=[["one"]]), [torch.cat([own, more])])
            pools[name].append(head.space.raw[head.space.kept])
    return pools


def main() -> None:
    """Run the whole study."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--shared", type=Path, required=True, help="the folder with data/ and models/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables and pictures")
    parser.add_argument("--seeds", type=int, default=10, help="draws of the swapped texts")
    parser.add_argument("--bootstrap", type=int, default=2000, help="resamples of the intervals")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # the lists share words on purpose
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    page, sets = Page(), clip_sets(arguments.shared)
    fashion, backbone = fashion_sets(arguments.shared)
    sets += fashion
    mains = [each for each in sets if each.name in MAIN]
    clean(sets, page, arguments.bootstrap)
    damaged(sets, page, arguments.seeds)
    unequal(mains, larger_lists(sets, backbone), page)
    subsets(mains, page, arguments.seeds)
    left_out(sets, page)
    cost(page)
    draw(page, arguments.out)
    every_method(mains, backbone, arguments.shared, page, arguments.out, arguments.bootstrap)
    (arguments.out / "study.md").write_text("\n".join(page.lines) + "\n", encoding="utf-8")
    (arguments.out / "study.json").write_text(json.dumps(page.data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
