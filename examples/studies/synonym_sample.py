"""Classes of the builtin synonym sets drawn at random, for somebody to read against their meaning.

    python examples/studies/synonym_sample.py --seed 1

The draw is over the classes of all files; subsets (`imagenet_a`) are classes of another set and left out.
The same seed draws the same classes as long as the sets have the same number of them.
"""

import argparse
import random

from s3clip import SynonymSet
from s3clip.texts.sets import SETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
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


if __name__ == "__main__":
    main()
