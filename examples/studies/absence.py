"""What do negatives give? Texts with "no" in them, texts of what is there instead, and two ways to use them.

    python examples/studies/absence.py --shared ../shared --photo-words FOLDER

Is a class in an image or not: mean average precision over the classes (each against all images), macro F1
with thresholds that `fit_calibration` chose on the other half of the images (mean of both halves; nan where
the logits are no larger for images that show the class), and top-1. The last set is of 600 pictures of two
product photos each, of two classes. "present" is what a head does, z + log p(present); "pair" is z minus the
logarithm of the summed exponentials of the negatives, as a pair of prompts is often used. CLIP ViT-B/32 is
here as embeddings of names alone, which "no" cannot be put before. FOLDER is the model of
../shared/models/photo_words, built.
"""

import argparse
import csv
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from own_images import problems
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from s3clip import Backbone, SynonymousSpaceHead
from s3clip.images.opening import open_image
from s3clip.prediction.calibrating import fit_calibration
from s3clip.space.absence import Absence, present

SETS = {
    "cifar10": None,
    "fashion13": None,
    "article": "fashion_clip",
    "subcat": "fashion_clip",
    "photos: cifar10_2000": "photo_words",
    "photos: tiny_imagenet_1010": "photo_words",
}
NEGATIONS = {
    '"without"': ["a photo without a {}."],
    '"no"': ["no {}"],
    '"no", four ways': [
        "a photo without a {}.",
        "no {}",
        "a photo that shows no {}.",
        "there is no {} in this photo.",
    ],
    "empty": ["a photo.", "an empty scene", "a photo of something else.", "nothing"],
}
PICTURES = 600


class Problem(NamedTuple):
    """A head, images (n, dim) of length one, and a table (n, classes) of what they show."""

    name: str
    head: SynonymousSpaceHead
    images: Tensor
    table: Tensor


def pairs(shared: Path, backbone: Backbone, head: SynonymousSpaceHead, ids: list[str]) -> Problem:
    """Return pictures of two product photos side by side, of two classes."""
    folder = shared / "data" / "fashion_photos"
    with (folder / "dev_labels.csv").open(newline="", encoding="utf-8") as opened:
        rows = [row for row in csv.DictReader(opened) if row["sub_category"] in ids]
    generator = torch.Generator().manual_seed(0)
    pictures: list[Image.Image] = []
    table = torch.zeros(PICTURES, len(ids), dtype=torch.bool)
    while len(pictures) < PICTURES:
        both = [rows[i] for i in torch.randint(len(rows), (2,), generator=generator).tolist()]
        shown = [ids.index(row["sub_category"]) for row in both]
        if shown[0] == shown[1]:
            continue
        table[len(pictures), shown] = True
        picture = Image.new("RGB", (120, 120), "white")
        for place, row in enumerate(both):
            picture.paste(open_image(folder / row["file"]).resize((60, 80)), (60 * place, 20))
        pictures.append(picture)
    embeds = [
        backbone.encode_images(**backbone.preprocess(pictures[i : i + 100])) for i in range(0, PICTURES, 100)
    ]
    return Problem("two of subcat", head, normalize(torch.cat(embeds), dim=1), table)


def negatives(head: SynonymousSpaceHead, backbone: Backbone | None) -> Iterator[tuple[str, Tensor]]:
    """Yield kinds of negatives, (classes, n, dim) each."""
    space = head.space
    first = torch.searchsorted(space.owners, torch.arange(len(head.classes)))
    names = normalize(space.raw[first], dim=1)
    alike = names @ names.T
    others = alike.argsort(dim=1, descending=True)
    others = torch.stack([own[own != i] for i, own in enumerate(others)])
    yield "other names", names[others]
    yield "3 nearest names", names[others[:, :3]]
    if backbone is not None:
        for kind, texts in NEGATIONS.items():
            wanted = [text.format(name) for name in head.class_names for text in texts]
            rows = backbone.encode_texts(wanted, progress=False)
            yield kind, normalize(rows, dim=1).unflatten(0, (len(names), len(texts)))


def scores(logits: Tensor, table: Tensor) -> list[float]:
    """Return mean average precision, macro F1 on the other half, and top-1, in percent."""
    shown = [i for i in range(table.shape[1]) if table[:, i].sum() > 1]
    precision = np.mean([average_precision_score(table[:, i], logits[:, i]) for i in shown])
    halves = torch.randperm(len(table), generator=torch.Generator().manual_seed(0)).tensor_split(2)
    f1 = []
    for given, rest in (halves, halves[::-1]):
        try:
            calibration = fit_calibration(logits[given], table[given], "sigmoid")
        except ValueError:  # logits no larger where the class is
            f1.append(np.nan)
            continue
        f1.append(
            f1_score(table[rest], calibration.accepts(logits[rest]), average="macro", zero_division=0.0)
        )
    best = table[torch.arange(len(table)), logits.argmax(1)].double().mean()
    return [100 * float(precision), 100 * float(np.mean(f1)), 100 * float(best)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True, help="folder of the measuring data")
    parser.add_argument("--photo-words", type=Path, required=True, help="the built model")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    towers = {
        "fashion_clip": Backbone.from_pretrained(str(given.shared / "models" / "fashion_clip")),
        "photo_words": Backbone.from_pretrained(str(given.photo_words)),
    }
    found = []
    for name, head, images, labels in problems(given.shared, given.photo_words, ""):
        if name in SETS:
            table = one_hot(labels, len(head.classes)).bool()
            found.append(Problem(name, head, normalize(images.float(), dim=1), table))
        if name == "subcat":
            file = given.shared / "data" / "fashion_photos" / "sub_categories.json"
            ids = [each["id"] for each in json.loads(file.read_text())["classes"]]
            last = pairs(given.shared, towers["fashion_clip"], head, ids)
    for problem in [*found, last]:
        head, tower = problem.head, SETS.get(problem.name, "fashion_clip")
        backbone = None if tower is None else towers[tower]
        scale = float(head.logit_scale)
        logits = head(image_embeds=problem.images)
        print(f"\n{problem.name}: mAP, macro F1, top-1")
        print(f"{'no negatives':26}", _shown(scores(logits, problem.table)))
        for kind, rows in negatives(head, backbone):
            classes, count, _ = rows.shape
            absence = Absence(head.space, rows.flatten(0, 1), torch.arange(classes).repeat_interleave(count))
            against = absence(problem.images, scale)
            for way, measured in (("present", present(logits, against)), ("pair", logits - against)):
                print(f"{kind + ', ' + way:26}", _shown(scores(measured, problem.table)))
        if backbone is not None:
            prefers(problem, backbone)


def prefers(problem: Problem, backbone: Backbone) -> None:
    """Say how often "without a dog" is nearer than "with a dog" to images with and without one."""
    rows = [
        normalize(
            backbone.encode_texts([text.format(name) for name in problem.head.class_names], progress=False),
            dim=1,
        )
        for text in ("a photo with a {}.", "a photo without a {}.")
    ]
    nearer = problem.images @ rows[1].T > problem.images @ rows[0].T
    own, other = nearer[problem.table].double().mean(), nearer[~problem.table].double().mean()
    alike = (rows[0] * rows[1]).sum(1).mean()
    print(f'"without" nearer: with it {own:.1%}, others {other:.1%}; cosine of the two {alike:.2f}')


def _shown(values: list[float]) -> str:
    return " ".join(f"{value:6.1f}" for value in values)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
