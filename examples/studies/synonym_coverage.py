"""How many names of other published synonym lists the builtin sets have, and which they do not.

    python examples/studies/synonym_coverage.py --shared ../shared                    # a line for each list
    python examples/studies/synonym_coverage.py --shared ../shared --only flowers102  # and by class

Only names that may be right count: those that the check of s3clip (`texts/check.py`) finds nothing
against in their list (no text of two classes, no other class's name, no hypernym that it knows, five words at
most), and that are not the class's own name again. NeglectedTails says how many captions of LAION-400M use a
name: those that none uses are left out, and those that many use are counted a second time, by themselves.
Case, accents, spaces, hyphens and a plural's "s" make no difference.
"""

import argparse
import json
import unicodedata
import warnings
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from s3clip import SynonymSet
from s3clip.texts.check import check_synonyms
from s3clip.texts.synonyms import SynonymClass, collisions

LISTS = {
    "neglected_tails/{}-LAION400M.json": {
        "imagenet_1k": "imagenet1k",
        **{each: each for each in ("flowers102", "food101", "fgvc_aircraft", "oxford_pets", "stanford_cars")},
        **{each: each for each in ("dtd", "eurosat")},
    },
    "fcclip_openseg/{}_with_prompt_eng.txt": {
        "ade20k_150": "ade20k150",
        "cityscapes": "cityscapes",
        "coco_stuff": "coco_stuff171",
        "pascal_ctx_59": "pascal_context59",
        "pascal_voc_21": "voc21",
    },
    # NACLIP's other lists are names without synonyms.
    "naclip_cls/cls_{}.txt": {"coco_object": "coco_object", "voc20": "voc20", "voc21": "voc21"},
}
REFUSED = {"hypernym", "letters", "nearly_shared", "repeated", "too_long"}  # beside the texts of two classes
MANY_CAPTIONS = 100


class Name(NamedTuple):
    """A name that another list has for a class."""

    label: str
    text: str
    in_ours: bool
    captions: int | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--only", help="a builtin set: print its differences too")
    arguments = parser.parse_args()
    print(f"| list | set | names | in ours | share | in {MANY_CAPTIONS} captions or more | in ours | share |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    compared = []
    for pattern, files in LISTS.items():
        for file, name in files.items():
            if arguments.only in (None, name):
                path = arguments.shared / "data" / "synonyms" / pattern.format(file)
                names = names_of(path, SynonymSet.builtin(name))
                often = [each for each in names if (each.captions or 0) >= MANY_CAPTIONS]
                print(f"| {path.parent.name} | {name} | {share(names)} | {share(often)} |")
                compared.append((path.parent.name, names))
    if arguments.only is not None:
        for source, names in compared:
            absent = [each for each in names if not each.in_ours]
            for label, group in groupby(absent, key=lambda each: each.label):
                print(f"{source} {label}: {'; '.join(each.text for each in group)}")


def share(names: list[Name]) -> str:
    """Return three cells: how many names there are, how many of them are in ours, and their share."""
    ours = sum(each.in_ours for each in names)
    return f"{len(names)} | {ours} | {ours / len(names):.0%}" if names else "- | - | -"


def names_of(path: Path, ours: SynonymSet) -> list[Name]:
    """Return the names of a list that may be right, class by class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of texts in two classes, which are left out
        theirs = SynonymSet.read(path)
    captions = captions_of(path) if path.parent.name == "neglected_tails" else None
    refused = {(each.position, each.text) for each in check_synonyms(theirs) if each.rule in REFUSED}
    shared = collisions(theirs)
    found = []
    for position, (label, own) in enumerate(matched(theirs, ours)):
        known, seen = {plain(text) for text in own.synonyms}, {plain(own.name)}
        for text in (theirs.classes[position].name, *theirs.classes[position].synonyms):
            is_used = captions is None or captions.get((position, text), 0) > 0
            may_be_right = text.casefold() not in shared and (position, text) not in refused
            if is_used and may_be_right and plain(text) not in seen:
                seen.add(plain(text))
                count = None if captions is None else captions[position, text]
                found.append(Name(label, text, plain(text) in known, count))
    return found


def captions_of(path: Path) -> dict[tuple[int, str], int]:
    """Return how many captions use a name, by position and name."""
    records = json.loads(path.read_text(encoding="utf-8"))
    return {
        (position, text.strip()): count
        for position, key in enumerate(sorted(records, key=int))
        for text, count in records[key]["alternates"].items()
    }


def matched(theirs: SynonymSet, ours: SynonymSet) -> list[tuple[str, SynonymClass]]:
    """Return our class for each of theirs: that of the same name, or at the position if most stand there."""
    positions = {plain(own.name): position for position, own in enumerate(ours.classes)}
    by_name = [positions.get(plain(each.name)) for each in theirs.classes]
    in_place = sum(own == position for position, own in enumerate(by_name))
    if 2 * in_place > len(ours.classes):
        by_name = list(range(len(theirs.classes)))
    own_positions = [at if own is None else own for at, own in enumerate(by_name)]
    return [(f"{own} {ours.classes[own].name}", ours.classes[own]) for own in own_positions]


def plain(text: str) -> str:
    """Leave out what two spellings of a name differ in."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in letters if letter.isalnum()).removesuffix("s")


if __name__ == "__main__":
    main()
