"""What one's own images give: shares of classes, sets of labels, suggestions, and labels that are wrong.

    python examples/studies/own_images.py shares --shared ../shared
    python examples/studies/own_images.py sets --shared ../shared --photo-words FOLDER

`shares`: calibrated on up to 300 images of half of a set; true shares are those of the whole set, wrong ones
the same in reverse order. `sets`: the coverage and size of label sets at 90 % on images that chose no
threshold. `suggest`: `fit_few_shot` on images that `head.suggest` chose from one half, or on as many at
random, scored on the other half. `check`: `head.check_labels` where 5 % of the labels are changed. Ten draws
each; `--only` takes a part of the sets. FOLDER is the model of ../shared/models/photo_words, built.
"""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from study_sets import clip_sets, fashion_sets
from torch import Tensor

from s3clip import Backbone, SynonymousSpaceHead, SynonymSet

SETS = {
    "cifar10",
    "cifar10 words",
    "cifar10 slips",
    "animal or vehicle",
    "cifar10 in COCO's 80",
    "fashion13",
    "fashion13 words",
    "fashion13 in 5 groups",
    "article",
    "subcat",
    "master",
    "gender",
}
DRAWS, COVERAGE, FLIPPED = 10, 0.9, 0.05
Problem = tuple[str, SynonymousSpaceHead, Tensor, Tensor]


def problems(shared: Path, photo_words: Path | None, only: str) -> list[Problem]:
    """Return name, head, images and labels of every set."""
    found = []
    for each in [*clip_sets(shared), *fashion_sets(shared)[0]]:
        if each.name in SETS and only in each.name:
            head = SynonymousSpaceHead().fit_embeddings(
                each.texts, [words[0] for words in each.words], logit_scale=each.scale
            )
            found.append((each.name, head.eval(), each.images, each.labels))
    if photo_words is not None:
        backbone = Backbone.from_pretrained(str(photo_words))
        words = SynonymSet.builtin("imagenet1k")
        for file in ("cifar10_2000", "tiny_imagenet_1010"):
            data = np.load(shared / "data" / "photo_words" / f"{file}.npz")
            given = [str(label) for label in data["labels"]]
            classes = (
                SynonymSet.builtin("cifar10")
                if "cifar" in file
                else [each.model_dump() for each in words.classes if each.id in set(given)]
            )
            name = f"photos: {file}"
            if only not in name:
                continue
            head = SynonymousSpaceHead(backbone).fit_classes(classes, templates="a photo of a {}.").eval()
            place = {each.id if "tiny" in file else each.name: i for i, each in enumerate(head.classes)}
            images = torch.from_numpy(data["embeddings"].astype(np.float32))
            found.append((name, head, images, torch.tensor([place[label] for label in given])))
    return found


def halves(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return two halves of the images, at random."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return order[: len(order) // 2], order[len(order) // 2 :]


def scores(head: SynonymousSpaceHead, images: Tensor, labels: Tensor) -> list[float]:
    """Return top-1 and mean recall over the classes there are, in percent."""
    right = (torch.cat([head(image_embeds=part) for part in images.split(512)]).argmax(1) == labels).double()
    recall = torch.stack([right[labels == each].mean() for each in labels.unique()]).mean()
    return [100 * float(right.mean()), 100 * float(recall)]


def shares(problem: Problem, seed: int) -> list[float]:
    """Top-1, recall, and their change by true shares, by true ones uncalibrated, and by wrong ones."""
    _, head, images, labels = problem
    shown, rest = halves(labels, seed)
    counts = torch.bincount(labels, minlength=len(head.classes)).double() + 0.5
    true = counts / counts.sum()
    wrong = torch.empty_like(true)
    wrong[true.argsort()] = true[true.argsort(descending=True)]
    head.calibration = None
    head.set_class_shares(None)
    found = [scores(head, images[rest], labels[rest])]
    head.set_class_shares(dict(enumerate(true.tolist())))
    raw = scores(head, images[rest], labels[rest])
    head.calibrate(image_embeds=images[shown[:300]], labels=labels[shown[:300]])
    found.append(scores(head, images[rest], labels[rest]))
    head.set_class_shares(dict(enumerate(wrong.tolist())))
    found += [raw, scores(head, images[rest], labels[rest])]
    return [
        *found[0],
        *(own - before for later in found[1:] for own, before in zip(later, found[0], strict=True)),
    ]


def sets(problem: Problem, seed: int) -> list[float]:
    """Coverage on average and of the worst class (of ten images or more), mean size, empty sets."""
    _, head, images, labels = problem
    shown, rest = halves(labels, seed)
    shown, rest = shown[:300], torch.cat([rest, shown[300:]])
    head.calibrate(image_embeds=images[shown], labels=labels[shown], coverage=COVERAGE)
    answers = head.predict_sets(image_embeds=images[rest], batch_size=512)
    members = [{each.class_index for each in own} for own in answers]
    inside = torch.tensor([label in own for own, label in zip(members, labels[rest].tolist(), strict=True)])
    common = [each for each in labels.unique() if (labels[rest] == each).sum() >= 10]
    worst = min(
        (float(inside[labels[rest] == each].double().mean()) for each in common), default=float("nan")
    )
    sizes = torch.tensor([len(own) for own in members]).double()
    return [
        100 * float(inside.double().mean()),
        100 * worst,
        float(sizes.mean()),
        100 * float((sizes == 0).double().mean()),
    ]


def suggest(problem: Problem, seed: int) -> list[float]:
    """What suggested images gain more than random ones, top-1 and recall, at 20, 50 and 100 labels."""
    _, head, images, labels = problem
    pool, rest = halves(labels, seed)
    found = []
    for count in (20, 50, 100):
        both = []
        for chosen in (pool[:count], pool[head.suggest(image_embeds=images[pool], n=count)]):
            head.fit_few_shot(image_embeds=images[chosen], labels=labels[chosen])
            both.append(scores(head, images[rest], labels[rest]))
            head.forget_examples()
        found += [own - random for random, own in zip(*both, strict=True)]
    return found


def check(problem: Problem, seed: int) -> list[float]:
    """Precision and recall of the list, at 100 and 300 labels (nan: nothing listed)."""
    _, head, images, labels = problem
    generator = torch.Generator().manual_seed(seed)
    found = []
    for count in (100, 300):
        shown = torch.randperm(len(labels), generator=generator)[:count]
        given, wrong = labels[shown].clone(), set(range(round(FLIPPED * count)))
        for i in wrong:  # the order is random already
            others = given.unique()[given.unique() != given[i]]
            given[i] = others[torch.randint(len(others), (1,), generator=generator)]
        listed = {each.image for each in head.check_labels(image_embeds=images[shown], labels=given)}
        found += [100 * len(listed & wrong) / max(1, len(listed)), 100 * len(listed & wrong) / len(wrong)]
    return found


COLUMNS: dict[Callable[[Problem, int], list[float]], str] = {
    shares: "top-1, recall; change by true shares; by true shares, not calibrated; by wrong ones",
    sets: "coverage, of the worst class, mean size, empty %",
    suggest: "suggested - random, top-1 and recall, at 20, 50, 100 labels",
    check: "precision and recall at 100 and 300 labels",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[each.__name__ for each in COLUMNS])
    parser.add_argument("--shared", type=Path, required=True, help="folder of the measuring data")
    parser.add_argument("--photo-words", type=Path, help="the built model, for the sets of photographs")
    parser.add_argument("--only", default="", help="sets with this in their name")
    parser.add_argument("--draws", type=int, default=DRAWS)
    given = parser.parse_args()
    measure = next(each for each in COLUMNS if each.__name__ == given.what)
    warnings.simplefilter("ignore")
    print(COLUMNS[measure])
    means = []
    for problem in problems(given.shared, given.photo_words, given.only):
        rows = np.array([measure(problem, seed) for seed in range(given.draws)])
        means.append(np.nanmean(rows, 0))
        columns = zip(means[-1], rows.min(0), rows.max(0), strict=True)
        line = "  ".join(f"{mean:6.1f} ({least:.1f} to {most:.1f})" for mean, least, most in columns)
        print(f"{problem[0]:27} {line}", flush=True)
    print(f"{'mean':27} " + "  ".join(f"{mean:6.2f}" for mean in np.nanmean(means, 0)))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
