"""Probabilities that mean something, and "none of these": what both need, and what they give.

    python examples/calibrate_and_reject.py
    python examples/calibrate_and_reject.py --backbone openai/clip-vit-base-patch32

The images are handwritten digits, whatever the backbone. The head knows zero to six; sevens and eights stand
for things that it has no class for, and nines for things that nobody thought of.
"""

import argparse
import warnings

from PIL import Image

from s3clip import SynonymousSpaceHead, SynonymSet
from s3clip.demo import held_out_digits, model_folder, synonym_file

KNOWN, UNKNOWN, UNSEEN = range(7), (7, 8), (9,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default=str(model_folder()), help="a Hub repository or a folder")
    given = parser.parse_args()
    images, digits = held_out_digits()

    def showing(which: range | tuple[int, ...]) -> tuple[list[int], list[int]]:
        """Return the positions of the images of some digits: a half to fit with, a half to measure on."""
        own = [i for i, digit in enumerate(digits) if digit in which]
        return own[::2], own[1::2]

    def pictures(positions: list[int]) -> list[Image.Image]:
        return [images[i] for i in positions]

    words = SynonymSet.read(synonym_file())
    head = SynonymousSpaceHead.from_backbone(given.backbone)
    head.fit_classes([each.model_dump() for each in words.classes[: len(KNOWN)]])
    fitting, measuring = showing(KNOWN)

    def report(when: str) -> None:
        answers = [own[0] for own in head.predict(pictures(measuring), top_k=1)]
        sure = sum(each.score for each in answers) / len(answers)
        right = sum(each.class_index == digits[i] for each, i in zip(answers, measuring, strict=True))
        print(f"{when}: on average {sure:.1%} sure, and {right / len(answers):.1%} right")

    report("before calibration")
    with warnings.catch_warnings(record=True) as caught:
        head.calibrate(pictures(fitting), [int(digits[i]) for i in fitting])
    report("after calibration")
    print(f"  {head.calibration}", *(f"  ({each.message})" for each in caught))

    # Images of no class say where to stop. Of those that look like them, this share is accepted; of others
    # that look more like the classes, more are.
    unknown, other_unknown = showing(UNKNOWN)
    head.fit_rejection(pictures(unknown), false_accept_rate=0.05)
    for name, positions in (
        ("digits it has a class for", measuring),
        ("unknown ones such as it was shown", other_unknown),
        ("unknown ones of another kind", showing(UNSEEN)[1]),
    ):
        accepted = [own[0].accepted for own in head.predict(pictures(positions), top_k=1)]
        print(f"accepted of {len(accepted)} {name}: {sum(accepted) / len(accepted):.1%}")

    best = head.predict(images[int(unknown[0])], top_k=1)[0][0]
    print("a seven or an eight:", best.label if best.accepted else "none of these")


if __name__ == "__main__":
    main()
