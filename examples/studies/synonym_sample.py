"""Classes of the builtin synonym sets drawn at random, for somebody to read against their meaning.

    python examples/studies/synonym_sample.py --seed 1
    python examples/studies/synonym_sample.py --names 320 --seed 28

With `--names`, what a class is called in a language is drawn instead. The draw is over the classes of all
files; subsets (`imagenet_a`) are classes of another set and left out. The same seed draws the same classes as
long as the sets have the same number of them.
"""

import argparse
import random

from s3clip import SynonymSet
from s3clip.texts.sets import SETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--names", type=int, help="draw so many names in other languages instead")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.names is not None:
        show_names(arguments.names, arguments.seed)
        return
    sets = {name: SynonymSet.builtin(name) for name in SETS}
    everything = [(name, position) for name, own in sets.items() for position in range(len(own.classes))]
    if not 1 <= arguments.classes <= len(everything):
        parser.error(f"--classes: expected 1 to {len(everything)}, got {arguments.classes}")
    entries = 0
    described = None
    for name, position in sorted(random.Random(arguments.seed).sample(everything, arguments.classes)):
        if name != described:
            print(f"\n{name} ({sets[name].description})")
            described = name
        drawn = sets[name].classes[position]
        entries += len(drawn.synonyms) + len(drawn.descriptors)
        print(f"  {position} {drawn.name}" + ("" if drawn.id is None else f" ({drawn.id})"))
        print(f"    synonyms: {'; '.join(drawn.synonyms) or 'none'}")
        if drawn.descriptors:
            print(f"    descriptors: {'; '.join(drawn.descriptors)}")
    print(f"\n{arguments.classes} classes, {entries} synonyms and descriptors")


def show_names(count: int, seed: int) -> None:
    """Show names of classes in other languages, drawn at random, by language and set."""
    sets = {name: SynonymSet.builtin(name) for name in SETS if name != "voc20"}  # which voc21 holds
    everything = [
        (language, name, f"{each.name}: {'; '.join(names)}")
        for name, own in sets.items()
        for each in own.classes
        for language, names in each.names.items()
    ]
    heading = None
    for language, name, line in sorted(random.Random(seed).sample(everything, count)):
        if heading != (language, name):
            heading = (language, name)
            print(f"\n{language}, {name}")
        print(f"  {line}")
    print(f"\n{count} of {len(everything)} entries")


if __name__ == "__main__":
    main()
