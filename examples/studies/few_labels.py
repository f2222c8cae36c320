"""What labelled images gain, and what else is made of them: tables and picture of docs/few_labels.md.

    python examples/studies/few_labels.py --shared ../shared --photo-words FOLDER --out few_labels
    python examples/studies/few_labels.py time

The first takes some minutes on one CPU core, and writes after every number of labels what there is. FOLDER
is the model that `build.py` of the measuring data makes; without it the sets of photographs are left out.
The second says how long learning takes, and what it adds to `forward`.

Images are drawn at random, or a number of each class; all others are asked. The rivals have fixed settings:
logistic regression on the embeddings (scikit-learn's C=1, after centering, ten times the length), the
nearest mean of a class, and Tip-Adapter (Zhang et al., ECCV 2022) without training, at its alpha=1 and
beta=5.5, on the logits of our space.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from study_sets import clip_sets, fashion_sets
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from s3clip import Backbone, SynonymousSpaceHead, SynonymSet
from s3clip.printing import new_figure

AT_HAND = ("cifar10", "fashion13")
CLIP = (*AT_HAND, "cifar10 in COCO's 80", "fashion13 in 5 groups")
FASHION = ("article", "subcat", "master", "gender")
DRAWS, LEAST_ASKED = 10, 150
NUMBERS = (
    ("random", 100),
    ("random", 30),
    ("random", 10),
    ("a class", 1),
    ("a class", 4),
    ("random", 300),
    ("a class", 16),
)
METHODS = ("few_shot", "logistic regression", "class means", "Tip-Adapter")


class Taught(NamedTuple):
    """A head, its images and their classes."""

    name: str
    encoder: str
    head: SynonymousSpaceHead
    images: Tensor
    labels: Tensor


def sets(shared: Path, photo_words: Path | None) -> list[Taught]:
    """Return the sets with a head of the default settings for each."""
    found = []
    warnings.filterwarnings("ignore", message=".*texts found in two classes")
    for each in (*clip_sets(shared), *fashion_sets(shared)[0]):
        if each.name in CLIP + FASHION:
            head = SynonymousSpaceHead().fit_embeddings(
                each.texts, [own[0] for own in each.words], logit_scale=each.scale
            )
            found.append(Taught(each.name, each.encoder, head, each.images, each.labels))
    if photo_words is not None:
        backbone = Backbone.from_pretrained(str(photo_words))
        folder = shared / "data" / "photo_words"
        for name, file, by_id in (
            ("photographs, CIFAR-10", "cifar10_2000.npz", False),
            ("photographs, Tiny ImageNet", "tiny_imagenet_1010.npz", True),
        ):
            content = np.load(folder / file)
            given = [str(label) for label in content["labels"].tolist()]
            classes = SynonymSet.read("builtin:imagenet1k" if by_id else "builtin:cifar10")
            kept = [each for each in classes.classes if not by_id or each.id in set(given)]
            keys = [each.id if by_id else each.name for each in kept]
            head = SynonymousSpaceHead(backbone).fit_classes(
                [{"name": each.name, "synonyms": list(each.synonyms)} for each in kept],
                templates="a photo of a {}.",
            )
            images = torch.from_numpy(content["embeddings"].astype(np.float32))
            found.append(
                Taught(name, "photo_words", head, images, torch.tensor([keys.index(k) for k in given]))
            )
    return found


def drawn(labels: Tensor, how: str, number: int, seed: int) -> tuple[Tensor, Tensor] | None:
    """Return the images that are labelled and those that are asked; None where too few would be left."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1000 * seed + number))
    if how == "random":
        shown = order[:number]
    else:
        own = labels[order]
        place = torch.stack([(own[:i] == each).sum() for i, each in enumerate(own)])
        shown = order[place < number]
    asked = torch.ones(len(labels), dtype=torch.bool).index_fill_(0, shown, False).nonzero()[:, 0]
    return None if len(asked) < LEAST_ASKED else (shown, asked)


def score(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return top-1 and mean recall, percent."""
    right = (logits.argmax(1) == labels).double()
    recall = torch.stack([right[labels == each].mean() for each in labels.unique()]).mean()
    return 100 * float(right.mean()), 100 * float(recall)


def error_of_gain(before: Tensor, after: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the standard errors of the changes of top-1 and mean recall: of so few images. Percent."""
    change = (after.argmax(1) == labels).double() - (before.argmax(1) == labels).double()
    number = torch.bincount(labels).double()
    number = number * (number > 0).sum()
    weights = torch.full_like(change, 1 / len(labels)), 1 / number[labels]
    top1, recall = (100 * float((each * change).square().sum().sqrt()) for each in weights)
    return top1, recall


def rivals(given: Taught, before: Tensor, shown: Tensor, asked: Tensor) -> dict[str, Tensor]:
    """Return the logits of the asked images by each rival."""
    images, classes = normalize(given.images.float(), dim=1), before.shape[1]
    labels = given.labels[shown]
    keys = one_hot(labels, classes).float()
    centered = 10 * (images - images[shown].mean(0))
    alone = torch.full((len(asked), classes), -torch.inf)
    seen = labels.unique()
    if len(seen) > 1:
        model = LogisticRegression(max_iter=1000).fit(centered[shown].numpy(), labels.numpy())
        found = torch.tensor(model.decision_function(centered[asked].numpy())).float()
        alone[:, seen] = found if found.ndim == 2 else torch.stack([-found, found], 1)
    else:
        alone[:, seen] = 0.0
    means = images[asked] @ normalize(keys.T @ images[shown], dim=1).T
    cache = torch.exp(-5.5 * (1 - images[asked] @ images[shown].T)) @ keys
    return {
        "logistic regression": alone,
        "class means": means.masked_fill(keys.sum(0) == 0, -torch.inf),
        "Tip-Adapter": before[asked] + cache,
    }


@torch.no_grad()
def cell(given: Taught, before: Tensor, how: str, number: int, seed: int) -> dict[str, Any] | None:
    """Return one draw of one set."""
    split = drawn(given.labels, how, number, seed)
    if split is None:
        return None
    shown, asked = split
    truth = given.labels[asked]
    top1, recall = score(before[asked], truth)
    head = given.head.fit_few_shot(image_embeds=given.images[shown], labels=given.labels[shown])
    logits = {"few_shot": head(image_embeds=given.images[asked]), **rivals(given, before, shown, asked)}
    report = head.few_shot
    assert report is not None  # it was just fitted
    gains = {name: score(own, truth) for name, own in logits.items()}
    return {
        "set": given.name,
        "encoder": given.encoder,
        "how": how,
        "number": number,
        "seed": seed,
        "before": (top1, recall),
        "gains": {name: (own[0] - top1, own[1] - recall) for name, own in gains.items()},
        "errors": error_of_gain(before[asked], logits["few_shot"], truth),
        "report": report.model_dump(exclude={"seen"}),
    }


def covered(rows: list[dict[str, Any]], *, with_error: bool = False) -> list[float]:
    """Return how often the intervals hold the gain that was found, percent: top-1, recall.

    Args:
        rows: of draws.
        with_error: make them as wide as the error of what was found asks for, which is of few images too.
    """
    shares = []
    for i, name in enumerate(("top1", "recall")):
        held = []
        for row in rows:
            report, found = row["report"][name], row["gains"]["few_shot"][i] / 100
            error = 1.96 * row["errors"][i] / 100 if with_error else 0.0
            side = (
                report["high"] - report["gain"] if found > report["gain"] else report["gain"] - report["low"]
            )
            held.append(abs(found - report["gain"]) <= np.hypot(side, error) + 1e-9)
        shares.append(100 * float(np.mean(held)))
    return shares


def table(rows: list[dict[str, Any]]) -> str:
    """Return the tables of what there is, in Markdown."""
    lines = [
        "| labels | set | before | few_shot: mean | worst draw | no change | holds | with the error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    averages = ["", "| labels | " + " | ".join(METHODS) + " |", "|---|" + "---|" * len(METHODS)]
    for how, number in NUMBERS:
        means = []
        for name in dict.fromkeys(row["set"] for row in rows):
            own = [row for row in rows if (row["how"], row["number"], row["set"]) == (how, number, name)]
            if not own:
                continue
            gains = np.array([[row["gains"][method] for method in METHODS] for row in own])
            means.append(gains.mean(0))
            start = np.mean([row["before"] for row in own], axis=0)
            mean, worst = gains[:, 0].mean(0), gains[:, 0].min(0)
            same = sum(row["report"]["strength"] is None for row in own)
            cover, wider = covered(own), covered(own, with_error=True)
            lines.append(
                f"| {number} {how} | {name} | {start[0]:.1f} / {start[1]:.1f} "
                f"| {mean[0]:+.1f} / {mean[1]:+.1f} | {worst[0]:+.1f} / {worst[1]:+.1f} "
                f"| {same} of {len(own)} | {cover[0]:.0f} / {cover[1]:.0f} % "
                f"| {wider[0]:.0f} / {wider[1]:.0f} % |"
            )
        if means:
            average = np.mean(means, axis=0)
            averages.append(
                f"| {number} {how} | " + " | ".join(f"{t:+.1f} / {r:+.1f}" for t, r in average) + " |"
            )
    held = [
        "",
        "| labels | interval holds the gain found | with the error of what was found |",
        "|---|---|---|",
    ]
    for what, own in (
        *(
            (f"{number} {how}", [r for r in rows if (r["how"], r["number"]) == (how, number)])
            for how, number in NUMBERS
        ),
        ("all", rows),
    ):
        if own:
            shares = (
                f"{top1:.0f} / {recall:.0f} %"
                for top1, recall in (covered(own), covered(own, with_error=True))
            )
            held.append(f"| {what} | " + " | ".join(shares) + " |")
    return "\n".join([*lines, *averages, *held])


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw accuracy by number of labels, drawn at random, for every set."""
    names = list(dict.fromkeys(row["set"] for row in rows))
    figure = new_figure(11, 2.3 * -(-len(names) // 4))
    panels = figure.subplots(-(-len(names) // 4), 4, squeeze=False).flatten()
    colours = dict(zip(METHODS, ("#0969da", "#57606a", "#bf8700", "#8250df"), strict=True))
    for panel, name in zip(panels, names, strict=False):
        own = [row for row in rows if row["set"] == name and row["how"] == "random"]
        numbers = sorted({row["number"] for row in own})
        start = np.mean([row["before"][0] for row in own])
        panel.axhline(start, color="#cf222e", lw=1, label="words alone")
        for method, colour in colours.items():
            means = [
                start + np.mean([row["gains"][method][0] for row in own if row["number"] == n])
                for n in numbers
            ]
            panel.plot(
                numbers,
                means,
                marker="o",
                ms=3,
                color=colour,
                label=method,
                lw=2 if method == "few_shot" else 1,
            )
        panel.set_xscale("log")
        panel.set_xticks(numbers, [str(n) for n in numbers])
        panel.minorticks_off()
        top = max(
            start,
            *(start + np.mean([r["gains"]["few_shot"][0] for r in own if r["number"] == n]) for n in numbers),
        )
        panel.set_ylim(start - 20, top + 4)
        panel.set_title(name, fontsize=8)
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3, lw=0.5)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    panels[0].legend(fontsize=6)
    figure.supxlabel("labelled images", fontsize=9)
    figure.supylabel("top-1 of all others, %", fontsize=9)
    figure.savefig(path)


def measure_time() -> None:
    """Say how long learning takes with two threads, and what a residual adds to `forward`."""
    torch.set_num_threads(2)
    for classes, each in ((13, 100), (1000, 16)):
        _measure(classes, each)


def _measure(classes: int, each: int) -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, 512, generator=generator)
    texts = [centre + 0.8 * torch.randn(8, 512, generator=generator) for centre in centres]
    names = [str(i) for i in range(classes)]
    head = SynonymousSpaceHead().fit_embeddings(texts, names, logit_scale=100.0)
    labels = torch.arange(classes).repeat_interleave(each)
    moved = centres + 0.8 * torch.randn(classes, 512, generator=generator)  # what texts do not say
    images = moved[labels] + 3.5 * torch.randn(len(labels), 512, generator=generator)
    batch = images[torch.randperm(len(images), generator=generator)[:256]]
    plain = _seconds(lambda: head(image_embeds=batch), 20)
    built = _seconds(lambda: head.reconfigure(keep_name="always").reconfigure(keep_name="tie"), 1) / 2
    taken = _seconds(lambda: head.fit_few_shot(image_embeds=images, labels=labels), 1)
    taught = _seconds(lambda: head(image_embeds=batch), 20)
    print(
        f"{classes} classes x {each} images x 512: {taken:.2f} s, of which {built:.2f} s build the space; "
        f"forward of 256 images {1e3 * plain:.2f} -> {1e3 * taught:.2f} ms, {taught / plain:.2f} times"
    )


@torch.no_grad()
def _seconds(call: Any, times: int) -> float:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return float(np.median(found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("study", "time"), default="study")
    parser.add_argument("--shared", type=Path, help="folder of the measuring data")
    parser.add_argument("--photo-words", type=Path, help="folder of the second encoder")
    parser.add_argument("--out", type=Path, default=Path("few_labels"), help="folder of what is written")
    parser.add_argument("--draws", type=int, default=DRAWS)
    given = parser.parse_args()
    if given.what == "time":
        measure_time()
        return
    if given.shared is None:
        parser.error("--shared is needed")
    given.out.mkdir(parents=True, exist_ok=True)
    found = sets(given.shared, given.photo_words)
    with torch.no_grad():
        before = [each.head(image_embeds=each.images) for each in found]
    rows: list[dict[str, Any]] = []
    for how, number in NUMBERS:
        for each, logits in zip(found, before, strict=True):
            cells = (cell(each, logits, how, number, seed) for seed in range(given.draws))
            rows += [row for row in cells if row is not None]
        (given.out / "few_labels.json").write_text(json.dumps(rows, indent=1) + "\n")
        (given.out / "few_labels.md").write_text(table(rows) + "\n")
        draw(rows, given.out / "few_labels.png")
    print(table(rows))


if __name__ == "__main__":
    main()
