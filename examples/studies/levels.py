"""Answers at the level of groups: all methods on CIFAR-10 and on product photos, by level.

    python examples/studies/levels.py --shared ../shared

CIFAR-10 has two groups, animals and vehicles; its images and texts are embeddings of OpenAI's ViT-B/32. The
42 article types of the product photos lie in 21 sub-categories of the sellers, and these in four main
categories; a small CLIP that was trained on other such photos encodes them.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch

from s3clip import SynonymSet
from s3clip.evaluation import compare, compare_embeddings
from s3clip.evaluation.report.comparison import Comparison
from s3clip.texts.groups import group_owners

MAIN = {
    "Apparel": "Topwear Bottomwear Innerwear Dress Saree Loungewear_and_Nightwear",
    "Footwear": "Shoes Flip_Flops Sandal",
    "Accessories": "Watches Bags Wallets Belts Eyewear Jewellery Headwear Ties Socks",
    "Personal Care": "Fragrance Nails Lips",
}
"""The main category of each sub-category."""


def by_best_class(found: Comparison, labels: list[int], owners: dict[str, list[int]]) -> str:
    """Say how often the group of the default's best class is right, beside the group of the largest sum."""
    predicted = found.predicted["default"].tolist()
    said = []
    for level, own in owners.items():
        right = sum(own[p] == own[label] for p, label in zip(predicted, labels, strict=True)) / len(labels)
        said.append(f"{level} {100 * right:.1f} (by sums {100 * found['default'].levels[level]:.1f})")
    return f"Group of the default's best class: {', '.join(said)}"


def cifar10(shared: Path) -> tuple[Comparison, str]:
    folder = shared / "data" / "clip_vitb32"
    images, texts = np.load(folder / "cifar10_images.npz"), np.load(folder / "texts.npz")["embeddings"]
    rows = json.loads((folder / "class_texts.json").read_text(encoding="utf-8"))["cifar10"]
    names = [str(name) for name in images["classes"]]
    groups = {each.name: each.groups for each in SynonymSet.builtin("cifar10").classes}
    found = compare_embeddings(
        [torch.from_numpy(texts[[text["row"] for text in rows[name]]]).float() for name in names],
        names,
        torch.from_numpy(images["embeddings"]),
        images["labels"].tolist(),
        logit_scale=100.0,
        groups=[groups[name] for name in names],
    )
    kinds = [groups[name]["kind"] for name in names]
    owners = {"kind": [sorted(set(kinds)).index(kind) for kind in kinds]}
    return found, by_best_class(found, images["labels"].tolist(), owners)


def fashion(shared: Path) -> tuple[Comparison, str]:
    folder = shared / "data" / "fashion_photos"
    with (folder / "dev_labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    sub_category = {row["article_type"]: row["sub_category"] for row in rows}
    main = {sub.replace("_", " "): name for name, subs in MAIN.items() for sub in subs.split()}
    own = SynonymSet.read(folder / "article_types.json")
    classes = tuple(
        each.model_copy(
            update={"groups": {"main": main[sub_category[str(each.id)]], "sub": sub_category[str(each.id)]}}
        )
        for each in own.classes
    )
    found = compare(
        own.model_copy(update={"classes": classes}),
        [row["article_type"] for row in rows],
        backbone=shared / "models" / "fashion_clip",
        images=[folder / row["file"] for row in rows],
    )
    ids = [each.id for each in classes]
    truth = [ids.index(row["article_type"]) for row in rows if row["article_type"] in ids]
    owners = {level: group_owners(classes, level)[0] for level in ("main", "sub")}
    return found, by_best_class(found, truth, owners)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, score in (("CIFAR-10", cifar10), ("product photos", fashion)):
        found, said = score(arguments.shared)
        print(f"{name}\n\n{found.level_table().markdown()}\n\n{found.summary()} {said}\n")


if __name__ == "__main__":
    main()
