"""What a point of a space should be, and what the filter finds: the tables of docs/choices.md on concepts.

    python examples/studies/concepts_study.py --shared ../shared --photo-words FOLDER --out concepts

FOLDER is what ../shared/models/photo_words/build.py makes. The first run encodes some 13,000 texts (minutes),
later ones find them in the text cache. Some minutes more on one CPU core; the same figures every time. Sets
with descriptors and photographs, the real CLIP sets of `study_sets.py`, and built-in lists without
photographs, on which the filter alone is measured.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from study import Page, dealt
from study_sets import clip_sets, fashion_sets
from torch import Tensor
from torch.nn.functional import normalize

from s3clip import Backbone, HeadConfig, SynonymousSpaceHead, SynonymSet
from s3clip.backbone.encoding import encode_texts

SHARES = (0.1, 0.2, 0.3, 0.4)
WORDS = "caltech101 dtd oxford_pets voc20 food101 cifar100 eurosat".split()
MIN_IMAGES = 20
"""Recall is the mean over the classes with so many images, or over all where none has."""

Concept = Tensor  # (texts, dim): the bare name's row first
Lists = list[list[Concept]]


class Words(NamedTuple):
    """Classes of concepts, and labelled images (n, dim) where there are some."""

    name: str
    source: str
    concepts: Lists
    images: Tensor | None = None
    labels: Tensor | None = None


class Files(NamedTuple):
    """A synonym file with descriptors, its model, and the set that it makes."""

    synonyms: SynonymSet
    backbone: Backbone
    words: Words


class Swapped(NamedTuple):
    """Concepts of each class, and which of them are another class's (n_c,)."""

    concepts: Lists
    wrong: list[Tensor]


DEFAULT = HeadConfig()
BEFORE = HeadConfig(points="texts", scale_options={"epsilon": 1.0, "share": 0.75})
CONTROL = HeadConfig(points="texts", metric="center", scale_rule=None)
METHODS = {
    "name": CONTROL,  # on the bare names alone
    "center": CONTROL,
    "texts, as before": BEFORE,
    "concepts, no filter": HeadConfig(scale_rule=None),
    "default": DEFAULT,
}


def rows(words: Lists, points: str) -> list[Tensor]:
    """Return the rows of each class: of its texts, or of its concepts."""
    if points == "texts":
        return [torch.cat(own) for own in words]
    return [torch.stack([normalize(concept.mean(0), dim=0) for concept in own]) for own in words]


def fitted(config: HeadConfig, words: Lists) -> SynonymousSpaceHead:
    """Return a head on these concepts."""
    head = SynonymousSpaceHead(config=config)
    return head.fit_embeddings(
        rows(words, config.points), list(map(str, range(len(words)))), logit_scale=100.0
    )


def right(config: HeadConfig, each: Words, words: Lists, *, kept: list[Tensor] | None = None) -> Tensor:
    """Return (images,) whether each is answered right; with `kept`, by the texts of those concepts alone."""
    assert each.images is not None
    if kept is not None:
        words = [
            [own[i] for i in torch.nonzero(k)[:, 0].tolist()] for own, k in zip(words, kept, strict=True)
        ]
    with torch.inference_mode():
        return fitted(config, words)(image_embeds=each.images).argmax(1) == each.labels


def score(correct: Tensor, each: Words) -> Tensor:
    """Return (2,) top-1 and mean per-class recall in percent."""
    assert each.labels is not None
    counts = torch.bincount(each.labels)
    scored = torch.nonzero(counts >= (MIN_IMAGES if bool((counts >= MIN_IMAGES).any()) else 1))[:, 0]
    recall = torch.stack([correct[each.labels == c].double().mean() for c in scored]).mean()
    return 100 * torch.stack([correct.double().mean(), recall])


def kept_of(config: HeadConfig, words: Lists) -> list[Tensor]:
    """Return (n_c,) which concepts of each class the filter keeps; one that repeats another is kept as it."""
    space = fitted(config, words).space
    kept = torch.zeros(len(space.owners), dtype=torch.bool)
    kept[space.kept] = True
    return list(kept[space.duplicate_of].split([len(own) for own in words]))


def swap(words: Lists, share: float, seed: int) -> Swapped:
    """Exchange a share of all synonyms, with their variants, between classes; never a class's own name."""
    draw = random.Random(seed)
    every = [(c, i) for c, own in enumerate(words) for i in range(1, len(own))]
    places = draw.sample(every, max(2, round(share * len(every))))
    given = dealt(places, draw)
    new, wrong = [list(own) for own in words], [torch.zeros(len(own), dtype=torch.bool) for own in words]
    for (c, i), (giver, word) in zip(places, given, strict=True):
        new[c][i], wrong[c][i] = words[giver][word], giver != c
    return Swapped(new, wrong)


def swap_in_file(each: Files, share: float, seed: int) -> Swapped:
    """Exchange synonyms in the file: a stranger is joined with the descriptors of the class it comes to."""
    names: Lists = [
        [torch.tensor([[c, i]]) for i in range(1 + len(own.synonyms))]
        for c, own in enumerate(each.synonyms.classes)
    ]
    classes, wrong = [], []
    for own, chosen in zip(each.synonyms.classes, swap(names, share, seed).concepts, strict=True):
        words = (
            [each.synonyms.classes[c].synonyms[i - 1] for c, i in torch.cat(chosen[1:]).tolist()]
            if chosen[1:]
            else []
        )
        classes.append(own.model_copy(update={"synonyms": tuple(words)}))
        wrong.append(torch.cat(chosen)[:, 0] != len(wrong))
    return Swapped(encoded(each.backbone, SynonymSet(classes=tuple(classes))), wrong)


def few(words: Lists, count: int, seed: int, *, foreign: bool) -> Swapped | None:
    """Cut every class down to `count` concepts, the last of which is another class's if `foreign`."""
    draw = random.Random(seed)
    cut = [[own[0], *draw.sample(own[1:], count - 1)] for own in words if len(own) >= count]
    if len(cut) < 3:
        return None
    wrong = [torch.zeros(count, dtype=torch.bool) for _ in cut]
    if foreign:
        step = draw.randrange(1, len(cut))
        for c, own in enumerate(wrong):
            own[-1] = True
            cut[c] = [*cut[c][:-1], cut[(c + step) % len(cut)][-1]] if c + step < len(cut) else cut[c]
            own[-1] = c + step < len(cut)
    return Swapped(cut, wrong)


def found(kept: list[Tensor], wrong: list[Tensor]) -> Tensor:
    """Return (3,) how many concepts are wrong and dropped, dropped, and wrong."""
    dropped, is_wrong = ~torch.cat(kept), torch.cat(wrong)
    return torch.tensor([(dropped & is_wrong).sum(), dropped.sum(), is_wrong.sum()]).double()


def distinct(words: Lists) -> Lists:
    """Leave out concepts that repeat an earlier one of their class."""
    left = []
    for own in words:
        points = rows([own], "concepts")[0]
        first = (points @ points.T > 1 - 1e-6).double().argmax(1)
        left.append([concept for i, concept in enumerate(own) if int(first[i]) == i])
    return left


def encoded(backbone: Backbone, synonyms: SynonymSet) -> Lists:
    """Encode every text, and put them together by their concepts."""
    texts = synonyms.texts("a photo of a {}.")
    flat = encode_texts(backbone, texts).split([len(own) for own in texts])
    words = []
    for own, vectors in zip(texts, flat, strict=True):
        groups: dict[str | None, list[Tensor]] = {}
        for text, vector in zip(own, vectors, strict=True):
            groups.setdefault(text.concept, []).append(vector)
        words.append([torch.stack(group) for group in groups.values()])
    return words


def bare(each: Words) -> Words:
    """Return the same lists without descriptors."""
    name = each.name.replace(" with descriptors", "")
    return each._replace(name=name, concepts=distinct([[c[:1] for c in own] for own in each.concepts]))


def all_sets(shared: Path, photo_words: Path) -> tuple[list[Words], list[Files]]:
    """Return the sets of all sources, those with photographs first; and the files with descriptors."""
    sets = [
        Words(
            each.name,
            "real CLIP" if each.encoder != "fashion_clip" else "fashion_clip",
            distinct([[text[None] for text in normalize(own, dim=1)] for own in each.texts]),
            each.images,
            each.labels,
        )
        for each in (*clip_sets(shared), *fashion_sets(shared)[0])
    ]
    backbone, files = Backbone.from_pretrained(str(photo_words)), []
    folder, imagenet = shared / "data" / "photo_words", SynonymSet.builtin("imagenet1k")
    descriptors = json.loads(
        (shared / "data/synonyms/dclip_waffleclip/descriptors_imagenet.json").read_text()
    )
    ids = [each.id for each in imagenet.classes]
    joined = [
        each.model_copy(update={"descriptors": tuple(own)})
        for each, own in zip(imagenet.classes, descriptors.values(), strict=True)
    ]
    for file, name, synonyms in (
        ("cifar10_2000", "CIFAR-10 with descriptors", SynonymSet.builtin("cifar10")),
        ("tiny_imagenet_1010", "Tiny ImageNet with descriptors", SynonymSet(classes=tuple(joined))),
        ("imagenet_samples", "ImageNet", imagenet),
    ):
        stored = np.load(folder / f"{file}.npz")
        images, labels = torch.from_numpy(stored["embeddings"].astype(np.float32)), stored["labels"].tolist()
        keys = synonyms.class_names if file.startswith("cifar") else ids
        used = [i for i, key in enumerate(keys) if key in set(labels)]
        part = SynonymSet(classes=tuple(synonyms.classes[i] for i in used))
        position = {keys[i]: at for at, i in enumerate(used)}
        each = Words(
            name,
            f"photo_words, {name.split(' with')[0]}",
            distinct(encoded(backbone, part)),
            images,
            torch.tensor([position[label] for label in labels]),
        )
        sets += [each, bare(each)] if "with descriptors" in name else [each]
        files += [Files(part, backbone, each)] if "with descriptors" in name else []
    for name in WORDS:
        synonyms = SynonymSet.builtin(name)
        each = Words(f"{name} with descriptors", "words alone", distinct(encoded(backbone, synonyms)))
        sets += [each, bare(each)]
        files.append(Files(synonyms, backbone, each))
    return sets, files


def interval(difference: Tensor, resamples: int = 2000) -> str:
    """Return a mean (n,) in points with its 95 % bootstrap interval over the images."""
    draw = torch.Generator().manual_seed(0)
    means = torch.stack(
        [
            difference[torch.randint(len(difference), difference.shape, generator=draw)].mean()
            for _ in range(resamples)
        ]
    )
    low, high = (100 * means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype))).tolist()
    return f"{100 * difference.mean():+.1f} [{low:+.1f}, {high:+.1f}]"


def two(scores: Tensor, sign: str = "") -> str:
    """Write (2,) numbers."""
    return f"{scores[0]:{sign}.1f} / {scores[1]:{sign}.1f}"


def clean(sets: list[Words], page: Page) -> None:
    """Score every set with images as it is."""
    lines, gains = [], []
    for each in sets:
        if each.images is None:
            continue
        names = [[own[0][:1]] for own in each.concepts]
        correct = {m: right(c, each, names if m == "name" else each.concepts) for m, c in METHODS.items()}
        scores = {m: score(own, each) for m, own in correct.items()}
        kept = torch.cat(kept_of(DEFAULT, each.concepts))
        gains.append((each.source, scores["default"] - scores["center"]))
        against = [interval(correct["default"].double() - correct[m].double()) for m in ("center", "name")]
        texts = sum(len(concept) for own in each.concepts for concept in own)
        lines.append(
            [
                each.name,
                each.source,
                f"{len(kept)} of {texts}",
                *map(two, scores.values()),
                *against,
                f"{100 * (~kept).double().mean():.1f}",
            ]
        )
    for source in dict.fromkeys(source for source, _ in gains):
        own = torch.stack([gain for where, gain in gains if where == source])
        lines.append(
            [
                f"**{source}**, mean and worst",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                f"{two(own.mean(0), '+')}, {two(own.amin(0), '+')}",
                "",
                "",
            ]
        )
    header = ["set", "source", "concepts of texts", *METHODS, "default - center", "default - name", "dropped"]
    page.table(
        "Lists as they are", header, lines, "Top-1 / recall in percent; differences of top-1 in points."
    )
    page.data["clean"] = lines


def damaged(sets: list[Words], page: Page, seeds: int) -> None:
    """Swap synonyms with their variants: what the filter finds, and what is lost."""
    for share in SHARES:
        lines, losses = [], {}
        for each in sets:
            counts, after = {m: torch.zeros(3).double() for m in ("before", "now")}, []
            for seed in range(seeds):
                words, wrong = swap(each.concepts, share, seed)
                counts["now"] += found(kept_of(DEFAULT, words), wrong)
                texts = [
                    torch.cat([w[None].expand(len(c)) for w, c in zip(is_wrong, own, strict=True)])
                    for is_wrong, own in zip(wrong, words, strict=True)
                ]
                counts["before"] += found(
                    kept_of(BEFORE, [[t[None] for t in torch.cat(own)] for own in words]), texts
                )
                if each.images is not None:
                    lists = {m: words for m in ("center", "texts, as before", "default")}
                    now = [score(right(METHODS[m], each, own), each) for m, own in lists.items()]
                    after.append(
                        torch.stack(
                            [
                                *now,
                                score(
                                    right(
                                        METHODS["concepts, no filter"], each, words, kept=[~w for w in wrong]
                                    ),
                                    each,
                                ),
                            ]
                        )
                    )
            cells = [_share(c) for c in counts.values()]
            if after:
                base = torch.stack(
                    [
                        score(right(METHODS[m], each, each.concepts), each)
                        for m in ("center", "texts, as before", "default", "concepts, no filter")
                    ]
                )
                lost = base - torch.stack(after).mean(0)
                losses.setdefault(each.source, []).append(lost)
                cells += map(two, lost)
            else:
                cells += ["-"] * 4
            lines.append([each.name, each.source, *cells])
        total = torch.zeros(4, 2).double()
        for source, own in losses.items():
            lost = torch.stack(own).mean(0)
            total += torch.stack(own).sum(0)
            lines.append(
                [
                    f"**{source}**, part of center's loss",
                    "",
                    "",
                    "",
                    two(lost[0]),
                    *(_part(lost, i) for i in (1, 2, 3)),
                ]
            )
        lines.append(
            ["**all sets**, part of center's loss", "", "", "", "", *(_part(total, i) for i in (1, 2, 3))]
        )
        header = [
            "set",
            "source",
            "texts, as before: found / precision",
            "concepts: found / precision",
            "center loses",
            "texts, as before",
            "default",
            "the wrong ones alone dropped",
        ]
        page.table(
            f"{100 * share:.0f} % of the synonyms swapped, {seeds} draws",
            header,
            lines,
            "Percent of the wrong words that are dropped, and of the dropped that are wrong; points lost.",
        )
        page.data[f"swapped {share}"] = lines


def damaged_files(files: list[Files], page: Page, seeds: int) -> None:
    """Swap 20 % of the synonyms of a file before its texts are made."""
    lines, total = [], torch.zeros(3).double()
    for each in files:
        counts, after, whole = torch.zeros(3).double(), [], each.words
        for seed in range(seeds):
            words, wrong = swap_in_file(each, 0.2, seed)
            counts += found(kept_of(DEFAULT, words), wrong)
            if whole.images is not None:
                after.append(
                    torch.stack(
                        [score(right(METHODS[m], whole, words), whole) for m in ("center", "default")]
                    )
                )
        cells = ["-", "-"]
        if after:
            before = [score(right(METHODS[m], whole, whole.concepts), whole) for m in ("center", "default")]
            cells = [two(own) for own in torch.stack(before) - torch.stack(after).mean(0)]
        total += counts
        lines.append([whole.name, _share(counts), *cells])
    lines.append(["**all**", _share(total), "", ""])
    header = ["set", "found / precision", "center loses", "default"]
    page.table(
        f"20 % of the synonyms swapped in the file, {seeds} draws",
        header,
        lines,
        "A stranger is then said with the descriptors of the class it came to.",
    )
    page.data["swapped in the file"] = lines


def _share(counts: Tensor) -> str:
    return f"{100 * counts[0] / counts[2]:.0f} / {100 * counts[0] / max(1, float(counts[1])):.0f}"


def _part(lost: Tensor, method: int) -> str:
    return " / ".join(f"{a:.2f}" for a in (lost[method] / lost[0]).tolist())


def short(sets: list[Words], page: Page, seeds: int) -> None:
    """Classes of two, three and four names: one of another class dropped, and good ones lost."""
    lines = []
    for kind, chosen in _kinds(sets).items():
        cells = []
        for count in (2, 3, 4):
            wrong, good = torch.zeros(3).double(), torch.zeros(3).double()
            for each in chosen:
                for seed in range(seeds):
                    for foreign in (True, False):
                        cut = few(each.concepts, count, seed, foreign=foreign)
                        if cut is not None:
                            one = found(kept_of(DEFAULT, cut.concepts), cut.wrong)
                            if foreign:
                                wrong += one
                            else:
                                good += torch.tensor([0, one[1], (count - 1) * len(cut.wrong)])
            cells.append(f"{100 * wrong[0] / max(1, wrong[2]):.0f} / {100 * good[1] / max(1, good[2]):.0f}")
        lines.append([kind, str(len(chosen)), *cells])
    page.table(
        "Short classes",
        ["lists", "sets", "two names", "three", "four"],
        lines,
        "Percent of the other class's words dropped / of good words lost in lists without one.",
    )
    page.data["short"] = lines


def _kinds(sets: list[Words]) -> dict[str, list[Words]]:
    kinds: dict[str, list[Words]] = {}
    for each in sets:
        photo = each.source not in ("real CLIP", "fashion_clip")
        kind = (
            each.source
            if not photo
            else (
                "photo_words, with descriptors"
                if each.name.endswith("descriptors")
                else "photo_words, bare names"
            )
        )
        kinds.setdefault(kind, []).append(each)
    return kinds


def left_out(sets: list[Words], page: Page, seeds: int) -> None:
    """Choose ε and the share on all sources but one, by clean and damaged lists, and look at that one."""
    grid = [(e, q) for e in (1.0, 1.05, 1.1, 1.15, 1.2) for q in (0.5, 0.6, 0.75)]
    gain: dict[str, list[Tensor]] = {}
    for each in sets:
        if each.images is None:
            continue
        lists = [each.concepts, *(swap(each.concepts, 0.2, seed).concepts for seed in range(seeds))]
        control = [score(right(CONTROL, each, words), each).mean() for words in lists]
        by_setting = []
        for epsilon, share in grid:
            config = HeadConfig(scale_options={"epsilon": epsilon, "share": share})
            gains = [
                score(right(config, each, words), each).mean() - base
                for words, base in zip(lists, control, strict=True)
            ]
            by_setting.append((gains[0] + torch.stack(gains[1:]).mean()) / 2)
        gain.setdefault(each.source, []).append(torch.stack(by_setting))
    means, lines = {source: torch.stack(own).mean(0) for source, own in gain.items()}, []
    default = grid.index((DEFAULT.scale_options["epsilon"], DEFAULT.scale_options["share"]))
    for source, own in means.items():
        others = torch.stack([other for name, other in means.items() if name != source]).mean(0)
        best = int(others.argmax())
        lines.append(
            [
                source,
                str(len(gain[source])),
                f"ε {grid[best][0]}, share {grid[best][1]}",
                f"{own[best]:+.2f}",
                f"{own[default]:+.2f}",
                f"{own.min():+.2f} to {own.max():+.2f}",
            ]
        )
    page.table(
        f"ε and share chosen on the other sources, of {len(grid)}",
        ["left out", "sets", "best elsewhere", "its gain over center", "the default's", "over all settings"],
        lines,
        "Mean of top-1 and recall, of lists as they are and with 20 % swapped, in points.",
    )
    page.data["left out"] = lines


def cost(files: list[Files], page: Page) -> None:
    """Fit the files, with texts and with concepts as points: rows, bytes on disk, and time for 64 images."""
    lines, images = [], torch.randn(64, files[0].backbone.dim, generator=torch.Generator().manual_seed(0))
    for each in files:
        cells = []
        for config in (BEFORE, DEFAULT):
            head = SynonymousSpaceHead(each.backbone, config=config)
            head.fit_classes(each.synonyms, templates="a photo of a {}.")
            with tempfile.TemporaryDirectory() as folder:
                size = sum(path.stat().st_size for path in head.save_pretrained(folder).iterdir())
            times = []
            with torch.inference_mode():
                for _ in range(50):
                    started = time.perf_counter()
                    head(image_embeds=images)
                    times.append(time.perf_counter() - started)
            cells.append([f"{len(head.space.raw)}", f"{size / 1e6:.2f}", f"{1e3 * min(times):.2f}"])
        lines.append([each.words.name, *(cell for pair in zip(*cells, strict=True) for cell in pair)])
    header = [
        "set",
        "rows, texts",
        "concepts",
        "MB on disk, texts",
        "concepts",
        "ms for 64 images, texts",
        "concepts",
    ]
    page.table("What it costs", header, lines, "512 dimensions; the best of 50, one core.")
    page.data["cost"] = lines


def main() -> None:
    """Run the whole study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True, help="the folder with data/ and models/")
    parser.add_argument(
        "--photo-words", type=Path, required=True, help="what models/photo_words/build.py made"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    parser.add_argument("--seeds", type=int, default=5, help="draws of the swapped words")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    page, (sets, files) = Page(), all_sets(arguments.shared, arguments.photo_words)
    parts: list[Callable[[], None]] = [
        lambda: clean(sets, page),
        lambda: short(sets, page, arguments.seeds),
        lambda: damaged(sets, page, arguments.seeds),
        lambda: damaged_files(files, page, arguments.seeds),
        lambda: left_out(sets, page, arguments.seeds),
        lambda: cost(files, page),
    ]
    for part in parts:
        part()
        (arguments.out / "concepts.md").write_text("\n".join(page.lines) + "\n", encoding="utf-8")
    (arguments.out / "concepts.json").write_text(json.dumps(page.data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
