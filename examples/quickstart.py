"""Words in, answers out: fit a head, classify images, change it, save it and load it again.

    python examples/quickstart.py
    python examples/quickstart.py --backbone openai/clip-vit-base-patch32 --classes pets.json photo.jpg

Without arguments it reads handwritten digits with the small CLIP that comes with s3clip, offline.
"""

import argparse

import torch
from PIL import Image

from s3clip import SynonymousSpaceHead
from s3clip.demo import held_out_digits, model_folder, synonym_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="*", help="image files; without them, six digits")
    parser.add_argument("--backbone", default=str(model_folder()), help="a Hub repository or a folder")
    parser.add_argument("--classes", default=str(synonym_file()), help="a synonym file")
    parser.add_argument("--out", default="quickstart-space", help="where to save the head")
    given = parser.parse_args()
    images = [Image.open(path) for path in given.images] or held_out_digits()[0][:6]
    names = given.images or [f"digit {i}" for i in range(6)]

    # Each distinct text is encoded once, here. Nothing below encodes a text again.
    head = SynonymousSpaceHead.from_backbone(given.backbone).fit_classes(given.classes)
    texts, kept = len(head.space.raw), len(head.space.kept)
    print(f"{len(head.classes)} classes with {texts} texts; their spaces keep {kept} of them.")

    answers = head.predict(images, top_k=2)
    for name, (best, *others) in zip(names, answers, strict=True):
        second = f", then {others[0].label} {others[0].score:.1%}" if others else ""
        print(f"{name}: {best.label} {best.score:.1%}, because of {best.text!r}{second}")

    # The head is an nn.Module, and gives logits on the scale of CLIP's logits_per_image.
    with torch.inference_mode():
        logits = head(**head.backbone.preprocess(images))
    print(f"logits: {logits.shape[0]} images x {logits.shape[1]} classes, the largest {logits.max():.1f}")

    # Settings change in milliseconds. These are the usual prompt ensemble: no filter, one mean a class.
    before = head.config
    head.reconfigure(metric="center", scale_rule=None)
    usual = [own[0].label for own in head.predict(images, top_k=1)]
    same = sum(label == own[0].label for label, own in zip(usual, answers, strict=True))
    print(f"The usual prompt ensemble says the same of {same} of {len(images)} images.")
    head.reconfigure(**before.model_dump())

    # Saved is the class space, without the backbone; it names the one that it was made with.
    head.save_pretrained(given.out)
    loaded = SynonymousSpaceHead.from_pretrained(given.out)
    again = [own[0].label for own in loaded.predict(images, top_k=1)]
    print(f"Saved to {given.out} and loaded; it answers {', '.join(again)}.")


if __name__ == "__main__":
    main()
