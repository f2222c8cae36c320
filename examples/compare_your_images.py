"""Do synonyms help on your images? Score several ways to classify on a folder that you labelled.

    python examples/compare_your_images.py
    python examples/compare_your_images.py --images PHOTOS --classes pets.json --backbone MODEL

MODEL is a Hub repository, such as openai/clip-vit-base-patch32, or a folder. PHOTOS has a folder for each
class, named like it. Without --images, a folder of handwritten digits is written first. `s3clip compare` does
the same, and tries every method.
"""

import argparse
from pathlib import Path

from s3clip import HeadConfig, SynonymSet
from s3clip.demo import held_out_digits, model_folder, synonym_file
from s3clip.evaluation import compare


def write_digits(folder: Path, count: int) -> Path:
    """Write digits as PNG files into a folder for each class."""
    names = SynonymSet.read(synonym_file()).class_names
    images, labels = held_out_digits()
    for i, (image, label) in enumerate(zip(images[:count], labels, strict=False)):
        place = folder / names[label]
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{i:03}.png")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folders of images, each named like its class")
    parser.add_argument("--classes", default=str(synonym_file()), help="a synonym file")
    parser.add_argument("--backbone", default=str(model_folder()), help="a Hub repository or a folder")
    given = parser.parse_args()
    folder = given.images or write_digits(Path("digits"), 300)
    files = sorted(path for path in folder.glob("*/*") if path.is_file())

    # Images are encoded once, and each distinct text once, whatever the number of methods.
    result = compare(
        given.classes,
        [path.parent.name for path in files],
        backbone=given.backbone,
        images=files,
        methods=["name", "center", "default"],  # names alone; the usual prompt ensemble; what a head does
        configs={"default, no filter": HeadConfig(scale_rule=None)},
        control="name",
        bootstrap=500,
    )
    print(result.table())
    print(result.summary())

    gain = result["default"].top1_difference
    if gain.low > 0:
        print(f"Synonyms help here: {gain} points of top-1 over names alone.")
    elif gain.high < 0:
        print(f"Synonyms harm here: {gain} points of top-1 over names alone; s3clip inspect shows which.")
    else:
        print(f"{result.images} images show no difference from names alone: {gain} points of top-1.")
    print(f"Saved to {result.save('comparison')}.")


if __name__ == "__main__":
    main()
