"""The label sets of `study.py`: real embeddings of OpenAI's CLIP ViT-B/32, and a small CLIP for fashion.

Only a class's own name is always its first text. The other texts come from lists made by hand, from every
text of the vocabulary that holds one of the class's words ("words": slips get in, "birdcage" for a bird), or
from the texts nearest to the name ("nearest 6": siblings get in).
"""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from s3clip import Backbone, HeadConfig, SynonymousSpaceHead
from s3clip.images.opening import open_image

CONTROL = HeadConfig(metric="center", scale_rule=None)


class LabelSet(NamedTuple):
    """Images (n, dim), their classes (n,), the texts (n_c, dim) of each class, and what they say."""

    name: str
    encoder: str
    images: Tensor
    labels: Tensor
    texts: list[Tensor]
    words: list[list[str]]
    scale: float


CIFAR_WORDS = {
    "airplane": "airplane plane jet aircraft airliner",
    "automobile": "automobile car",
    "bird": "bird finch",
    "cat": "cat kitten",
    "deer": "deer elk antelope",
    "dog": "dog puppy terrier hound",
    "frog": "frog toad",
    "horse": "horse pony foal",
    "ship": "ship boat",
    "truck": "truck lorry",
}
FASHION_WORDS = {
    "Topwear": "shirt jersey blouse sweater jacket",
    "Bottomwear": "trousers pants jean jeans shorts",
    "Watches": "watch",
    "Shoes": "shoe shoes sneakers",
    "Bags": "bag handbag purse backpack",
    "Flip Flops": "flip-flop",
    "Sandal": "sandal sandals",
    "Ties": "tie",
    "Socks": "sock",
    "Headwear": "cap hat",
    "Dress": "dress",
    "Belts": "belt",
    "Scarves": "scarf",
}
# By hand, each with a few natural slips: a sibling, a homonym, a thing that shares the word.
CIFAR_SLIPS = {
    "airplane": "airplane, jet plane, fighter jet, helicopter, kite, seaplane, plane",
    "automobile": "car (automobile), minivan, sports car, convertible, school bus, car wheel, limousine",
    "bird": "bird, kite, crane, duck, owl, birdcage, bat, eagle",
    "cat": "cat, kitten, tabby, tiger cat, persian cat, cougar, egyptian cat",
    "deer": "deer, elk, gazelle, reindeer, sorrel, bighorn",
    "dog": "dog, puppy, hot dog, bulldog, boxer, beagle, red fox, golden retriever",
    "frog": "frog, tree frog, bullfrog, tailed frog, lizard, mud turtle",
    "horse": "horse, pony, foal, horse carriage, zebra, sorrel",
    "ship": "ship, boat, cargo ship, ferry, spacecraft, speedboat, gravy boat, container ship",
    "truck": "truck, pickup truck, fire truck, tow truck, trailer truck, race car, train, moving van",
}
COCO = {"automobile": "car", "ship": "boat"}
VEHICLES = ("airplane", "automobile", "ship", "truck")
FASHION_GROUPS = {
    "clothing": ("Topwear", "Bottomwear", "Dress", "Socks"),
    "footwear": ("Shoes", "Flip Flops", "Sandal"),
    "handbag": ("Bags",),
    "watch": ("Watches",),
    "necktie": ("Ties", "Scarves", "Belts", "Headwear"),
}
MASTER = {
    "clothes": ("Topwear", "Bottomwear", "Dress", "Saree"),
    "innerwear": ("Innerwear", "Loungewear and Nightwear"),
    "footwear": ("Shoes", "Flip Flops", "Sandal"),
    "accessories": (
        "Bags",
        "Watches",
        "Belts",
        "Wallets",
        "Eyewear",
        "Socks",
        "Headwear",
        "Ties",
        "Jewellery",
    ),
    "cosmetics": ("Fragrance", "Lips", "Nails", "Makeup"),
}
ARTICLE_SLIPS = "clutch, heels, hat, shoe, watch strap, bag, pants, top, set, spray, dress, shorts, belt, cap"
GENDER = {
    "Men": "men, mens, men's, gents, male, man",
    "Women": "women, womens, women's, ladies, female, woman",
    "Kids": "kids, boys, girls, junior, kidswear, boy's",
}


def clip_sets(shared: Path) -> list[LabelSet]:
    """Return the sets on embeddings of CIFAR-10 images and product photos by CLIP ViT-B/32."""
    folder = shared / "data" / "clip_vitb32"
    file = np.load(folder / "texts.npz")
    vectors = normalize(torch.from_numpy(file["embeddings"].astype(np.float32)), dim=1)
    names, source = file["name"].tolist(), file["source"]
    lower = [name.lower().replace("_", " ") for name in names]
    by_hand = json.loads((folder / "class_texts.json").read_text())

    def containing(words: str) -> list[int]:
        pattern = re.compile(rf"(?<![a-z])(?:{'|'.join(words.split())})(?![a-z])")
        return [row for row, name in enumerate(lower) if pattern.search(name)]

    def named(name: str) -> int:
        return next(i for i, text in enumerate(lower) if name in (text, text.split(",")[0]))

    found = []
    for short, key, words in (
        ("cifar10", "cifar10", CIFAR_WORDS),
        ("fashion13", "fashion13_subCategory", FASHION_WORDS),
    ):
        file = np.load(folder / f"{short}_images.npz")
        images = torch.from_numpy(file["embeddings"].astype(np.float32))
        labels = torch.from_numpy(file["labels"].astype(np.int64))
        classes = file["classes"].tolist()
        hand = {each: [text["row"] for text in by_hand[key][each]] for each in classes}
        own = {each: rows[0] for each, rows in hand.items()}

        def add(
            name: str,
            lists: list[list[int]],
            of: Callable[[str], int] = classes.index,
            images: Tensor = images,
            labels: Tensor = labels,
            classes: list[str] = classes,
        ) -> None:
            lists = [list(dict.fromkeys(rows)) for rows in lists]
            texts, said = [vectors[rows] for rows in lists], [[names[row] for row in rows] for rows in lists]
            position = torch.tensor([of(each) for each in classes])
            found.append(LabelSet(name, "CLIP ViT-B/32", images, position[labels], texts, said, 100.0))

        boxes = ("lvis", "o365", "oid", "coco")
        matched = {each: containing(words[each]) for each in classes}
        add(short, list(hand.values()))
        add(f"{short} words", [[own[c], *matched[c]] for c in classes])
        add(
            f"{short} words, detection",
            [[own[c], *(r for r in matched[c] if source[r] in boxes)] for c in classes],
        )
        for k in (6, 15):
            near = {c: (vectors @ vectors[own[c]]).topk(k + 1).indices.tolist() for c in classes}
            add(f"{short} nearest {k}", [[own[c], *near[c]] for c in classes])
        if short == "cifar10":
            for part in ("in1", "in2"):
                add(
                    f"cifar10 words, {part}",
                    [[own[c], *(r for r in matched[c] if source[r] == part)] for c in classes],
                )
            add("cifar10 slips", [[own[c], *map(named, CIFAR_SLIPS[c].split(", "))] for c in classes])
            two = [[named("animal")], [named("vehicle")]]
            for each in classes:
                two[each in VEHICLES].extend(hand[each])
            add("animal or vehicle", two, lambda each: int(each in VEHICLES))
            coco = [row for row in range(len(names)) if source[row] == "coco"]
            wide = [[row, *containing(lower[row])[:25]] for row in coco] + [
                hand["deer"][:4],
                hand["frog"][:4],
            ]
            said = [lower[row] for row in coco] + ["deer", "frog"]
            add("cifar10 in COCO's 80", wide, lambda each, said=said: said.index(COCO.get(each, each)))
        else:
            first = [named(group if group in lower else "shirt") for group in FASHION_GROUPS]
            groups = [
                [row, *(text for each in members for text in hand[each])]
                for row, members in zip(first, FASHION_GROUPS.values(), strict=True)
            ]
            add(
                "fashion13 in 5 groups",
                groups,
                lambda each: next(i for i, members in enumerate(FASHION_GROUPS.values()) if each in members),
            )
    return found


def fashion_sets(shared: Path) -> tuple[list[LabelSet], Backbone]:
    """Return the sets of product photos for the small fashion CLIP, and the model."""
    folder = shared / "data" / "fashion_photos"
    backbone = Backbone.from_pretrained(str(shared / "models" / "fashion_clip"))
    with (folder / "dev_labels.csv").open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    embeds = []
    with torch.inference_mode():
        for start in range(0, len(rows), 100):
            opened_images = [open_image(folder / row["file"]) for row in rows[start : start + 100]]
            embeds.append(backbone.encode_images(**backbone.preprocess(opened_images)))
    images, scale = torch.cat(embeds), backbone.logit_scale().item()

    def encoded(lists: list[list[str]], templates: Any) -> list[Tensor]:
        records = [{"name": own[0], "synonyms": own[1:]} for own in lists]
        head = SynonymousSpaceHead(backbone, config=CONTROL).fit_classes(records, templates=templates)
        return list(head.space.raw.split([each.rows for each in head.classes]))

    found = []

    def add(
        name: str,
        lists: list[list[str]],
        ids: list[str],
        of: Callable[[dict[str, str]], Any],
        templates: Any = "a photo of a {}",
    ) -> None:
        lists = [list(dict.fromkeys(own)) for own in lists]
        kept = [i for i, row in enumerate(rows) if of(row) in ids]
        labels = torch.tensor([ids.index(of(rows[i])) for i in kept])
        texts = encoded(lists, templates)
        found.append(LabelSet(name, "fashion_clip", images[kept], labels, texts, lists, scale))

    def read(file: str) -> dict[str, list[str]]:
        classes = json.loads((folder / file).read_text())["classes"]
        return {each["id"]: [each["name"], *each["synonyms"]] for each in classes}

    article, sub = read("article_types.json"), read("sub_categories.json")

    def of_article(row: dict[str, str]) -> str:
        return row["article_type"]

    def of_sub(row: dict[str, str]) -> str:
        return row["sub_category"]

    add("article", list(article.values()), list(article), of_article)
    add("subcat", list(sub.values()), list(sub), of_sub)
    looks = ("a photo of a {}", "a photo of a black {}", "a photo of a blue {}", "{}", "men {}", "women {}")
    add("article, 6 templates", list(article.values()), list(article), of_article, looks)
    add("subcat, 6 templates", list(sub.values()), list(sub), of_sub, looks)
    slips = ARTICLE_SLIPS.split(", ")
    slipped = [own + [slips[i % len(slips)]] * (i % 2 == 0) for i, own in enumerate(article.values())]
    add("article slips", slipped, list(article), of_article)
    pool = sorted({word for own in article.values() for word in own})
    vectors, name_vectors = (
        encoded([pool], "a photo of a {}")[0],
        encoded([[own[0]] for own in article.values()], "a photo of a {}"),
    )
    near = [
        [own[0], *(pool[i] for i in (vectors @ v[0]).topk(7).indices)]
        for own, v in zip(article.values(), name_vectors, strict=True)
    ]
    add("article nearest 6", near, list(article), of_article)
    kinds: dict[str, list[str]] = {each: [] for each in sub}
    for row in rows:
        kinds.get(row["sub_category"], []).extend(
            article.get(row["article_type"], [row["article_type"].lower()])
        )
    hyponyms = {each: own + kinds[each] for each, own in sub.items()}
    add("subcat with hyponyms", list(hyponyms.values()), list(sub), of_sub)
    kind_of = {each: group for group, members in MASTER.items() for each in members}
    for name, lists in (("master", sub), ("master with hyponyms", hyponyms)):
        broad = [
            [group, *(word for each in members for word in lists[each])] for group, members in MASTER.items()
        ]
        add(name, broad, list(MASTER), lambda row: kind_of.get(row["sub_category"]))
    gender = [words.split(", ") for words in GENDER.values()]
    add("gender", gender, list(GENDER), _gender, ("{} shirt", "{} shoes", "{} t-shirt"))
    return found, backbone


def _gender(row: dict[str, str]) -> str | None:
    said = set(row["product_name"].lower().replace("'s", "").split())
    words = {
        "Women": {"women", "womens"},
        "Men": {"men", "mens"},
        "Kids": {"kids", "boys", "girls", "boy", "girl"},
    }
    return next((gender for gender, own in words.items() if said & own), None)
