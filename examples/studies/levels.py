"""Answers at the level of groups: all methods on CIFAR-10, product photos and Tiny ImageNet, by level.

    python examples/studies/levels.py --shared ../shared
    python examples/studies/levels.py --shared ../shared --photo-words FOLDER
    python examples/studies/levels.py --shared ../shared --sigmoids

CIFAR-10 has two groups, animals and vehicles; its images and texts are embeddings of OpenAI's ViT-B/32. The
42 article types of the product photos lie in 21 sub-categories of the sellers, and these in four main
categories; a small CLIP that was trained on other such photos encodes them. The groups of 202 classes of Tiny
ImageNet are WordNet's: of each level the first of some nouns that a class is a kind of, by `wn` or `nltk` and
the data of WordNet 3.0, in which the id of a class is an offset; FOLDER is the model of
../shared/models/photo_words, built.
"""

import argparse
import csv
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch

from s3clip import SynonymousSpaceHead, SynonymSet
from s3clip.evaluation import compare, compare_embeddings
from s3clip.evaluation.report.comparison import Comparison
from s3clip.prediction.batches import embeddings
from s3clip.texts.groups import group_owners
from s3clip.texts.wordnet import wordnet_synonyms

MAIN = {
    "Apparel": "Topwear Bottomwear Innerwear Dress Saree Loungewear_and_Nightwear",
    "Footwear": "Shoes Flip_Flops Sandal",
    "Accessories": "Watches Bags Wallets Belts Eyewear Jewellery Headwear Ties Socks",
    "Personal Care": "Fragrance Nails Lips",
}
"""The main category of each sub-category."""

WORDNET = {
    "kind": "animal person food geological_formation natural_object artifact",
    "group": "dog feline bird reptile amphibian fish insect arthropod mammal invertebrate person food "
    "geological_formation natural_object clothing conveyance furnishing structure device container implement "
    "equipment covering instrumentality artifact",
}
"""By level, the nouns of which a class is in the group of the first that it is a kind of."""


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


def with_groups(folder: Path) -> tuple[SynonymSet, list[dict[str, str]]]:
    """Return the article types in their groups, and the rows of the photos."""
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
    return own.model_copy(update={"classes": classes}), rows


def fashion(shared: Path) -> tuple[Comparison, str]:
    folder = shared / "data" / "fashion_photos"
    own, rows = with_groups(folder)
    found = compare(
        own,
        [row["article_type"] for row in rows],
        backbone=shared / "models" / "fashion_clip",
        images=[folder / row["file"] for row in rows],
    )
    classes = own.classes
    ids = [each.id for each in classes]
    truth = [ids.index(row["article_type"]) for row in rows if row["article_type"] in ids]
    owners = {level: group_owners(classes, level)[0] for level in ("main", "sub")}
    return found, by_best_class(found, truth, owners)


def tiny_imagenet(shared: Path, photo_words: Path) -> tuple[Comparison, str]:
    data = np.load(shared / "data" / "photo_words" / "tiny_imagenet_1010.npz")
    labels = [str(label) for label in data["labels"]]
    every = SynonymSet.builtin("imagenet1k")
    own = every.model_copy(update={"classes": tuple(each for each in every.classes if each.id in labels)})
    nouns = {level: [noun.replace("_", " ") for noun in listed.split()] for level, listed in WORDNET.items()}
    grouped, choices = wordnet_synonyms(own, groups=nouns)
    assert all(choice.how == "id" for choice in choices)  # no sense is guessed
    # Its groups alone: the texts stay those of the set.
    classes = tuple(
        each.model_copy(update={"groups": found.groups})
        for each, found in zip(own.classes, grouped.classes, strict=True)
    )
    found = compare(
        own.model_copy(update={"classes": classes}),
        labels,
        backbone=photo_words,
        image_embeds=torch.from_numpy(data["embeddings"].astype(np.float32)),
        templates="a photo of a {}.",
    )
    ids = [each.id for each in classes]
    owners = {level: group_owners(classes, level)[0] for level in WORDNET}
    said = ", ".join(f"{len(set(own))} of {level}" for level, own in owners.items())
    return found, f"Groups: {said}. {by_best_class(found, [ids.index(each) for each in labels], owners)}"


def sigmoids(shared: Path) -> str:
    """Compare what the probability of a group may be where those of its classes are sigmoids.

    On the product photos, half of which calibrate the classes one by one: the log loss of "the image shows
    something of this group" on the other half, of all pairs of image and group.
    """
    folder = shared / "data" / "fashion_photos"
    classes, rows = with_groups(folder)
    ids = [each.id for each in classes.classes]
    rows = [row for row in rows if row["article_type"] in ids]
    truth = torch.tensor([ids.index(row["article_type"]) for row in rows])
    head = SynonymousSpaceHead.from_backbone(shared / "models" / "fashion_clip").fit_classes(classes)
    images = [folder / row["file"] for row in rows]
    with torch.inference_mode():
        embeds = torch.cat([batch for batch in embeddings(head, images, None, 64)])
    table = torch.nn.functional.one_hot(truth, len(ids))
    head.calibrate(image_embeds=embeds[::2], labels=table[::2])
    own = head.predict_proba(image_embeds=embeds[1::2]).double()
    said = []
    for level in head.levels:
        owners = torch.tensor(group_owners(classes.classes, level)[0])
        index, there = owners.expand_as(own), owners[truth[1::2]]
        empty = own.new_zeros(len(own), int(owners.max()) + 1)
        ways = {
            "largest": empty.scatter_reduce(1, index, own, "amax"),
            "sum, at most 1": empty.scatter_reduce(1, index, own, "sum").clamp_max(1),
            "1 - product of 1 - p": 1 - (empty + 1).scatter_reduce(1, index, 1 - own, "prod"),
        }
        right = torch.nn.functional.one_hot(there, empty.shape[1]).double()
        for name, found in ways.items():
            loss = torch.nn.functional.binary_cross_entropy(found.clamp(1e-6, 1 - 1e-6), right)
            top1 = (found.argmax(1) == there).double().mean()
            said.append(f"{level}, {name}: log loss {loss:.4f}, top-1 {100 * top1:.1f}")
    return "\n".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--photo-words", type=Path, help="the built model: Tiny ImageNet alone")
    parser.add_argument("--sigmoids", action="store_true", help="the scores of groups of sigmoids alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.sigmoids:
        print(sigmoids(arguments.shared))
        return
    measured = (
        [("CIFAR-10", cifar10), ("product photos", fashion)]
        if arguments.photo_words is None
        else [("Tiny ImageNet", partial(tiny_imagenet, photo_words=arguments.photo_words))]
    )
    for name, score in measured:
        found, said = score(arguments.shared)
        print(f"{name}\n\n{found.level_table().markdown()}\n\n{found.summary()} {said}\n")


if __name__ == "__main__":
    main()
