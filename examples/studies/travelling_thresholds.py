"""Is there a threshold for "none of these" that needs no images of no class, and holds on other sets?

    python examples/studies/travelling_thresholds.py --shared ../shared --photo-words FOLDER

Half of the classes of a set are known, the others are the unknowns; ten draws, means. A null is 400 phrases:
names of LVIS where embeddings are all there is of CLIP ViT-B/32, else names of ImageNet that the encoder
reads, without the tenth of them that is nearest to a class, known or not. They are scored as classes of one
text. What is called "unlabelled" is told from up to 300 images, 10, 50 or 90 % of them of known classes,
that are not scored. Thresholds are chosen at 5 % on the unknowns of all other sets, each set and mix counting
alike, and counted here. FOLDER is the model of ../shared/models/photo_words, built.
"""

import argparse
import copy
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from own_images import problems
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import normalize

from s3clip import Backbone, SynonymousSpaceHead, SynonymSet

RATE, DRAWS, PHRASES, LISTS, NEAREST, UNLABELLED = 0.05, 10, 400, 50, 10, 300
MIXES = (0.1, 0.5, 0.9)
ENCODERS = {
    "cifar10": "CLIP",
    "fashion13": "CLIP",
    "article": "fashion",
    "subcat": "fashion",
    "photos: cifar10_2000": "photos",
    "photos: tiny_imagenet_1010": "photos",
}


class Draw(NamedTuple):
    """Cosines (images, classes) and (images, phrases), which images are known, and the logit scale."""

    scores: Tensor
    null: Tensor
    known: Tensor
    scale: float


def nulls(shared: Path, photo_words: Path) -> dict[str, Tensor]:
    """Return (phrases, dim) of length one for each encoder."""
    file = np.load(shared / "data" / "clip_vitb32" / "texts.npz")
    found = {"CLIP": torch.from_numpy(file["embeddings"][file["source"] == "lvis"].astype(np.float32))}
    names = SynonymSet.builtin("imagenet1k").class_names
    for encoder, folder in (("fashion", shared / "models" / "fashion_clip"), ("photos", photo_words)):
        found[encoder] = Backbone.from_pretrained(str(folder)).encode_texts(
            [f"a photo of a {name}." for name in names]
        )
    return {encoder: normalize(rows, dim=1) for encoder, rows in found.items()}


def draw(head: SynonymousSpaceHead, images: Tensor, labels: Tensor, phrases: Tensor, seed: int) -> Draw:
    """Score images by half of the classes, and by the null."""
    generator = torch.Generator().manual_seed(seed)
    there = labels.unique()
    known = there[torch.randperm(len(there), generator=generator)].tensor_split(2)[0]
    texts = normalize(head.space.raw[torch.isin(head.space.owners, there)], dim=1)
    nearness = (phrases @ texts.T).amax(1)
    far = torch.nonzero(nearness <= nearness.quantile(0.9))[:, 0]
    chosen = phrases[far[torch.randperm(len(far), generator=generator)[:PHRASES]]]
    rest = [i for i in range(len(head.classes)) if i not in known.tolist()]
    own = copy.deepcopy(head).remove_classes(rest)
    scale = float(own.logit_scale)
    scores = torch.cat([own(image_embeds=part) for part in images.split(512)]) / scale
    unit, space = normalize(images, dim=1), own.space
    null = unit @ chosen.T
    if space.centered:
        null = unit @ space.mean[:, None] + space.spread * (unit @ normalize(chosen - space.mean, dim=1).T)
    return Draw(scores, null, torch.isin(labels, known), scale)


def of_null_lists(null: Tensor, classes: int) -> Tensor:
    """Return (images, LISTS) the largest score in class lists of as many phrases, at most half of them."""
    generator = torch.Generator().manual_seed(0)
    count = min(classes, null.shape[1] // 2)
    lists = [torch.randperm(null.shape[1], generator=generator)[:count] for _ in range(LISTS)]
    return torch.stack([null[:, own].amax(1) for own in lists], 1)


def candidates(found: Draw, unlabelled: Tensor) -> dict[str, Tensor]:
    """Return by each way (images,) how much an image seems to show a class, more for more."""
    logits, null = found.scores * found.scale, found.null
    largest, second = found.scores.topk(2, 1).values.T
    probabilities = logits.softmax(1)
    entropy = -(probabilities * probabilities.clamp_min(1e-30).log()).sum(1)
    classes = logits.shape[1]
    lists = of_null_lists(null, classes)
    nearest = null.topk(NEAREST, 1).values.mean(1)
    both = torch.cov(torch.stack([largest, nearest])[:, unlabelled])
    # The slope of a regression, times the share of the variance that it explains.
    slope = max(0.0, float(both[0, 1] ** 3 / (both[0, 0] * both[1, 1] ** 2)))
    less_null = largest - slope * nearest
    return {
        "largest logit": largest,
        "softmax": probabilities.amax(1),
        "entropy": 1 - entropy / math.log(classes),
        "energy": (logits.logsumexp(1) - math.log(classes)) / found.scale,
        "margin": largest - second,
        "null: mean, spread": (largest - null.mean(1)) / null.std(1),
        "null: nearest 10": largest - nearest,
        "null: softmax": logits.logsumexp(1) - (null * found.scale).logsumexp(1),
        "null: class lists": (largest - lists.mean(1)) / lists.std(1),
        "null: share of lists": (lists < largest[:, None]).double().mean(1) + 1e-6 * largest,
        "unlabelled": _standard(largest, unlabelled),
        "unlabelled, less null": _standard(less_null, unlabelled),
    }


def _standard(scores: Tensor, of: Tensor) -> Tensor:
    return (scores - scores[of].mean()) / scores[of].std()


def mixed(known: Tensor, share: float, seed: int) -> Tensor:
    """Return the images that are given unlabelled, a share of them of known classes."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(known), generator=generator)
    there, out = order[known[order]], order[~known[order]]
    count = min(UNLABELLED, int(len(there) // 2 / share), int(len(out) // 2 / (1 - share)))
    return torch.cat([there[: int(count * share)], out[: count - int(count * share)]])


Scored = dict[str, dict[tuple[str, float], list[tuple[np.ndarray, np.ndarray]]]]


def rows(found: Scored, encoder_alone: bool) -> Iterator[str]:
    """Say of each way its AUROC, and what is accepted at thresholds of other sets, of unknowns by mix too."""
    for way, sets in found.items():
        areas: dict[str, list[float]] = {}
        got, accepted, power = {}, {}, []
        for key, draws in sets.items():
            for out, there in draws:
                truth = np.r_[np.zeros(len(out)), np.ones(len(there))]
                areas.setdefault(key[0], []).append(100 * roc_auc_score(truth, np.r_[out, there]))
            pool = [
                np.quantile(np.concatenate([out for out, _ in draws]), np.linspace(0, 1, 1001))
                for other, draws in sets.items()
                if other[0] != key[0] and (not encoder_alone or ENCODERS[other[0]] == ENCODERS[key[0]])
            ]
            threshold = np.quantile(np.concatenate(pool), 1 - RATE)
            got[key] = 100 * float(np.mean([(out >= threshold).mean() for out, _ in draws]))
            accepted[key] = 100 * float(np.mean([(there >= threshold).mean() for _, there in draws]))
            power.append(accepted[key])
        columns = [
            f"{np.mean(areas[name]):5.1f} {np.mean([got[name, mix] for mix in MIXES]):5.1f}"
            f" {np.mean([accepted[name, mix] for mix in MIXES]):5.1f}"
            for name in ENCODERS
        ]
        least, most = min(got.values()), max(got.values())
        area = np.mean([np.mean(own) for own in areas.values()])
        by_mix = [np.mean([got[name, mix] for name in ENCODERS]) for mix in MIXES]
        told = f"{area:5.1f}  {least:4.1f} to {most:4.1f}  {np.mean(power):4.1f}  " + " ".join(
            f"{mean:4.1f}" for mean in by_mix
        )
        yield f"{way:22} {'  '.join(columns)}   {told}"


def one_a_class(found: Draw, seed: int) -> list[float]:
    """False accepts and accepts of known images, of other unknowns, by one threshold and by one a class.

    First by images of no class, at `RATE`; then by labelled images of the classes, of which 95 % are kept.
    A class whose images are fewer than 20 has the common threshold.
    """
    generator = torch.Generator().manual_seed(seed)
    largest, best = found.scores.max(1)
    half = torch.rand(len(largest), generator=generator) < 0.5
    answers: list[float] = []
    for given, level in ((~found.known & half, 1 - RATE), (found.known & half, RATE)):
        common = largest[given].quantile(level)
        each = common.repeat(found.scores.shape[1])
        for position in range(len(each)):
            own = largest[given & (best == position)]
            if len(own) >= 20:
                each[position] = own.quantile(level)
        for least in (common, each[best]):
            accepted = (largest >= least).double()
            answers += [100 * float(accepted[~half & which].mean()) for which in (~found.known, found.known)]
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True, help="folder of the measuring data")
    parser.add_argument("--photo-words", type=Path, required=True, help="the built model")
    parser.add_argument("--draws", type=int, default=DRAWS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    phrases = nulls(given.shared, given.photo_words)
    found: Scored = {}
    nominal: dict[str, list[float]] = {name: [] for name in ENCODERS}
    separate: dict[str, list[list[float]]] = {name: [] for name in ENCODERS}
    for name, head, images, labels in problems(given.shared, given.photo_words, ""):
        if name not in ENCODERS:
            continue
        for seed in range(given.draws):
            drawn = draw(head, images, labels, phrases[ENCODERS[name]], seed)
            beaten = candidates(drawn, torch.arange(len(images)))["null: share of lists"]
            nominal[name].append(100 * float((beaten[~drawn.known] > 1 - RATE).double().mean()))
            separate[name].append(one_a_class(drawn, seed))
            for mix in MIXES:
                unlabelled = mixed(drawn.known, mix, seed)
                rest = torch.ones_like(drawn.known)
                rest[unlabelled] = False
                for way, scores in candidates(drawn, unlabelled).items():
                    halves = tuple(scores[rest & part].numpy() for part in (~drawn.known, drawn.known))
                    found.setdefault(way, {}).setdefault((name, mix), []).append(halves)  # type: ignore[arg-type]
    for encoder_alone in (False, True):
        where = "of the same encoder" if encoder_alone else "whatever the encoder"
        print(f"AUROC, false accepts and known accepted in %, thresholds at 5 % on the other sets {where}")
        print(
            f"{'':22} " + "  ".join(f"{name[-17:]:>17}" for name in ENCODERS), "  mean, least to most, known"
        )
        print("\n".join(rows(found, encoder_alone)))
    print("\nfalse accepts where an image beats 95 % of the null class lists:")
    print("  ".join(f"{name} {np.mean(own):.1f}" for name, own in nominal.items()))
    print(
        "\nfalse accepts and known accepted: at 5 % of no class, one threshold, one a class; at 95 % of known"
    )
    for name, answers in separate.items():
        print(f"{name:27}" + " ".join(f"{value:6.1f}" for value in np.mean(answers, 0)))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
