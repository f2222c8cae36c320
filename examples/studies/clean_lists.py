"""Clean published synonym lists, count what goes by rule, and show ten of the removals.

    python examples/studies/clean_lists.py neglected_tails/*.json

A class's own name that its list lacks is counted as `name missing`: reading puts it first.
"""

import argparse
import json
import random
import warnings
from collections import Counter
from pathlib import Path

from s3clip import SynonymSet
from s3clip.texts.cleaning import REMOVING, clean_synonyms


def names_missing(path: Path) -> int:
    """Count the classes of a NeglectedTails file whose alternates lack the class's name, but for case."""
    records = json.loads(path.read_text(encoding="utf-8")).values()
    return sum(
        record["name"].casefold() not in {text.casefold() for text in record["alternates"]}
        for record in records
        if isinstance(record, dict) and "alternates" in record
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lists", nargs="+", type=Path)
    parser.add_argument("--show", type=int, default=10)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # shared and repeated texts: counted below
    shown = []
    header = ["list", "classes", "texts", "name missing", *REMOVING]
    print("| " + " | ".join(header) + " |")
    print("|---" + "|---:" * (len(header) - 1) + "|")
    for path in arguments.lists:
        own = SynonymSet.read(path)
        _, removals = clean_synonyms(own)
        counts = Counter(each.rule for each in removals)
        texts = sum(len(each.synonyms) for each in own.classes)
        row = [path.stem, len(own.classes), texts, names_missing(path), *(counts[rule] for rule in REMOVING)]
        print("| " + " | ".join(map(str, row)) + " |")
        shown += [(path.stem, each) for each in removals]
    print()
    for name, each in random.Random(0).sample(shown, min(arguments.show, len(shown))):
        instead = "" if each.instead is None else f" -> {each.instead!r}"
        print(f"- {name} {each.class_name}: {each.text!r}{instead}; {each.rule}: {each.message}")


if __name__ == "__main__":
    main()
