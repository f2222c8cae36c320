"""Every method on real embeddings: the pictures of docs/choices.md, and its table of methods.

    python examples/studies/study.py --shared ../shared --out study

takes some minutes on one CPU core, and gives the same figures again (but for the times). It writes study.md
with the tables, study.json with the numbers, and the pictures. What a point is and what the filter finds is
the matter of concepts_study.py.
"""

import argparse
import json
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sklearn.metrics import accuracy_score, recall_score
from study_sets import LabelSet, clip_sets, fashion_sets
from torch import Tensor

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


def dealt(places: list[tuple[int, int]], draw: random.Random) -> list[tuple[int, int]]:
    """Return what each place, (class, text), gets of the others: nothing of its own class where it can be."""
    given = draw.sample(places, len(places))
    for i, (c, _) in enumerate(places):  # who drew a text of its own class changes with someone
        others = [j for j, (d, _) in enumerate(places) if c not in (d, given[j][0])]
        if given[i][0] == c and others:
            j = draw.choice(others)
            given[i], given[j] = given[j], given[i]
    return given


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
        given = dealt(places, draw)
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
    draw(page, arguments.out)
    every_method(mains, backbone, arguments.shared, page, arguments.out, arguments.bootstrap)
    (arguments.out / "study.md").write_text("\n".join(page.lines) + "\n", encoding="utf-8")
    (arguments.out / "study.json").write_text(json.dumps(page.data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
