"""`s3clip demo`: what the choice of names does to the answers, on handwritten digits, offline.

The same small CLIP reads the same 500 digits with one name for each class, whichever of eight; with the usual
ensemble of all names; with their space; and with both again when a fifth of the synonyms are wrong.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s3clip.artifact.folder import check_place
from s3clip.config import HeadConfig
from s3clip.demo import held_out_digits, model_folder, synonym_file
from s3clip.demo.picture import BLUE, MUTED, Bar, Tile, draw
from s3clip.files.folders import check_own
from s3clip.head import SynonymousSpaceHead
from s3clip.texts.synonyms import SynonymSet

WRONG = 0.2  # of the synonyms
DRAWS = 10

USUAL_ENSEMBLE = HeadConfig(metric="center", scale_rule=None)


@dataclass(frozen=True)
class OneName:
    """One name for each class.

    Attributes:
        words: the names, by class.
        accuracy: top-1 in [0, 1].
    """

    words: tuple[str, ...]
    accuracy: float


@dataclass(frozen=True)
class AllNames:
    """All names of each class, by one method.

    Attributes:
        accuracy: top-1 in [0, 1].
        wrong_words: the same with `WRONG` of the synonyms in other classes, by draw.
    """

    accuracy: float
    wrong_words: tuple[float, ...]

    @property
    def mean(self) -> float:
        """With wrong words, over the draws."""
        return float(np.mean(self.wrong_words))


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured and wrote.

    Attributes:
        images: how many held-out digits were classified.
        single: one name for each class, the best choice first.
        ensemble: the normalised mean of all names of a class.
        space: their synonymous space.
        head_folder: where the head was saved.
        picture: where the picture was written.
    """

    images: int
    single: tuple[OneName, ...]
    ensemble: AllNames
    space: AllNames
    head_folder: Path
    picture: Path

    def __str__(self) -> str:
        """Return it as it is printed."""
        best, *_, worst = self.single
        rows = [
            ("one name, the worst choice", worst.accuracy, _some(worst.words)),
            ("one name, the best choice", best.accuracy, _some(best.words)),
            ("all, the usual ensemble", self.ensemble.accuracy, _with_wrong_words(self.ensemble)),
            ("all, synonymous space", self.space.accuracy, _with_wrong_words(self.space)),
        ]
        lines = [f"  {name:<27} {accuracy:6.1%}   {rest}" for name, accuracy, rest in rows]
        head = (
            f"Right answers on {self.images} unseen digits, with {len(self.single)} names for each of "
            f"{len(best.words)} classes:"
        )
        return "\n".join([head, "", *lines])


def run_demo(out: Path) -> DemoResult:
    """Classify the held-out digits in all four ways, and write picture and head into the folder `out`.

    Raises:
        ValueError: it holds something else than an earlier demo.
    """
    check_own(out, "out", lambda place: (place / "head").is_dir(), "demo of s3clip")
    check_place(out / "head", "out")
    images, labels = held_out_digits()
    synonyms = SynonymSet.read(synonym_file())
    words = [(each.name, *each.synonyms) for each in synonyms.classes]
    head = SynonymousSpaceHead.from_backbone(model_folder())
    backbone = head.backbone
    assert backbone is not None  # from_backbone gave it
    with torch.inference_mode():
        embeds = backbone.encode_images(**backbone.preprocess(images))

    def accuracy(fitted: SynonymousSpaceHead) -> float:
        with torch.inference_mode():
            return float((fitted(image_embeds=embeds).argmax(1).numpy() == labels).mean())

    def fitted(config: HeadConfig | None, of: list[tuple[str, ...]]) -> SynonymousSpaceHead:
        records = [{"name": own[0], "synonyms": own[1:]} for own in of]
        return SynonymousSpaceHead(backbone, config=config).fit_classes(
            records, templates=synonyms.templates, progress=False
        )

    single = [
        OneName(own, accuracy(fitted(None, [(name,) for name in own]))) for own in zip(*words, strict=True)
    ]
    draws = [with_wrong_words(words, seed) for seed in range(DRAWS)]
    ensemble, space = (
        AllNames(accuracy(fitted(config, words)), tuple(accuracy(fitted(config, draw)) for draw in draws))
        for config in (USUAL_ENSEMBLE, None)
    )
    folder = fitted(None, words).save_pretrained(out / "head")
    result = DemoResult(
        images=len(images),
        single=tuple(sorted(single, key=lambda each: -each.accuracy)),
        ensemble=ensemble,
        space=space,
        head_folder=folder,
        picture=out / "digits.png",
    )
    predictions = [best for best, *_ in SynonymousSpaceHead.from_pretrained(folder).predict(images, top_k=1)]
    names = synonyms.class_names
    tiles = [
        Tile(image, best.label, best.text or "", None if best.class_index == label else names[label])
        for image, best, label in zip(images, predictions, labels, strict=True)
    ]
    right = [next(tile for tile in tiles if tile.truth is None and tile.answer == name) for name in names]
    wrong = [tile for tile in tiles if tile.truth is not None]
    draw(
        [Bar(", ".join(each.words), each.accuracy) for each in result.single],
        [
            Bar("the usual ensemble", ensemble.accuracy, MUTED),
            Bar("synonymous space", space.accuracy, BLUE),
        ],
        [Bar("the usual ensemble", ensemble.mean, MUTED), Bar("synonymous space", space.mean, BLUE)],
        [*right, *wrong[:2]],
    ).save(result.picture)
    return result


def _some(words: tuple[str, ...]) -> str:
    return ", ".join(words[-3:])


def _with_wrong_words(method: AllNames) -> str:
    worst = min(method.wrong_words)
    return f"{method.mean:.1%} if a fifth is wrong, at worst {worst:.1%}"


def with_wrong_words(words: list[tuple[str, ...]], seed: int, share: float = WRONG) -> list[tuple[str, ...]]:
    """Move synonyms into other classes, which keep their number; names stay.

    Args:
        words: of each class, its name first.
        seed: which synonyms are drawn.
        share: of all synonyms, in [0, 1].

    Returns:
        The same, with each drawn synonym in a class that is not its own, as long as none has more than half
        of those that are drawn.
    """
    places = [(c, i) for c, own in enumerate(words) for i in range(1, len(own))]
    drawn = np.random.default_rng(seed).choice(len(places), round(share * len(places)), replace=False)
    # In the order of the classes, and moved on by as many as the largest class has among them.
    chosen = [places[j] for j in sorted(drawn)]
    step = int(np.bincount([c for c, _ in chosen]).max(initial=0))
    moved: list[Any] = [list(own) for own in words]
    for (c, i), (from_c, from_i) in zip(chosen, chosen[step:] + chosen[:step], strict=True):
        moved[c][i] = words[from_c][from_i]
    return [tuple(own) for own in moved]
