"""How many names of other published synonym lists the builtin sets have, and which they do not.

    python examples/synonym_coverage.py --shared ../shared              # a line a list
    python examples/synonym_coverage.py --shared ../shared --only flowers102   # with the differences by class

Only valid names count: those that the check of s3clip (`s3clip/synonym_check.py`) finds nothing against in
their list: no text of two classes, no other class's name, no hypernym and none of more than five words; nor a
class's own name. Case, accents, spaces, hyphens and a plural's "s" make no difference.
"""

import argparse
import unicodedata
import warnings
from pathlib import Path

from s3clip import SynonymSet
from s3clip.synonym_check import check_synonyms
from s3clip.synonyms import collisions

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
    "naclip_cls/cls_{}.txt": {
        "ade20k": "ade20k150",
        "city_scapes": "cityscapes",
        "coco_object": "coco_object",
        "coco_stuff": "coco_stuff171",
        "context59": "pascal_context59",
        "context60": "pascal_context60",
        "voc20": "voc20",
        "voc21": "voc21",
    },
}
REFUSED = {"hypernym", "letters", "nearly_shared", "too_long"}  # beside the texts of two classes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--only", help="a builtin set: print its differences too")
    arguments = parser.parse_args()
    print("| list | set | valid names | in ours | share |")
    print("| --- | --- | ---: | ---: | ---: |")
    missing = {}
    for pattern, files in LISTS.items():
        for file, name in files.items():
            if arguments.only not in (None, name):
                continue
            theirs = quiet_read(arguments.shared / "data" / "synonyms" / pattern.format(file))
            valid, absent = compare(theirs, SynonymSet.builtin(name))
            count, left = sum(map(len, valid.values())), sum(map(len, absent.values()))
            share = f"{1 - left / count:.0%}" if count else "-"
            print(f"| {pattern.split('/')[0]} | {name} | {count} | {count - left} | {share} |")
            missing[pattern.split("/")[0], name] = absent
    if arguments.only is not None:
        for (source, name), absent in missing.items():
            for label, texts in absent.items():
                print(f"{source} {name} {label}: {'; '.join(texts)}")


def quiet_read(path: Path) -> SynonymSet:
    """Read a list without the warnings of texts in two classes, which are counted out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return SynonymSet.read(path)


def compare(theirs: SynonymSet, ours: SynonymSet) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the valid names of `theirs` by class, and those of them that `ours` has not.

    A class of theirs is ours at its position, or in a list of another order ours of the same name.
    """
    refused = {(each.position, each.text) for each in check_synonyms(theirs) if each.rule in REFUSED}
    shared = set(collisions(theirs))
    positions = {plain(own.name): position for position, own in enumerate(ours.classes)}
    in_place = sum(positions.get(plain(each.name)) == at for at, each in enumerate(theirs.classes))
    if 2 * in_place > len(ours.classes):
        positions = {}
    valid, absent = {}, {}
    for position, each in enumerate(theirs.classes):
        own = ours.classes[positions.get(plain(each.name), position)]
        names = {
            plain(text): text
            for text in (each.name, *each.synonyms)
            if text.casefold() not in shared and (position, text) not in refused
        }
        names.pop(plain(own.name), None)
        known = {plain(text) for text in own.synonyms}
        label = f"{position} {own.name}"
        valid[label] = list(names.values())
        absent[label] = [text for key, text in names.items() if key not in known]
    return valid, {label: texts for label, texts in absent.items() if texts}


def plain(text: str) -> str:
    """Leave out what two spellings of a name differ in."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in letters if letter.isalnum()).removesuffix("s")


if __name__ == "__main__":
    main()
