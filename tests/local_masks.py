"""A set of digits with masks, for the segmentation of `s3clip eval`, and a command that evaluates it.

python -m tests.local_masks FOLDER OUT [LOG]     # also under torchrun; LOG counts what is written
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from s3clip.demo import held_out_digits, synonym_file
from s3clip.evaluation.benchmarks.opening import open_benchmark
from s3clip.evaluation.benchmarks.table import find_benchmark
from s3clip.evaluation.runs import encoding
from tests.local_sets import ADD_IMAGES, evaluate_one, logged

PICTURES = 12
ABSENT = 9
"""No picture has it."""
BROKEN = {
    "a/broken-picture": "not a readable image",
    "a/broken-mask": "broken-mask.png is not a readable mask (empty, or no format that is known)",
    "a/no-mask": "there is no mask no-mask.png",
    "a/other-size": "the mask has 5 x 4 pixels, the picture 48 x 32",
    "a/other-label": "the mask has a label 10; expected positions of 10 classes, or 255",
}
LISTED = PICTURES + len(BROKEN)


def write_masks(folder, pictures=PICTURES):
    """Write pictures of up to six digits each, their masks, five that cannot be scored, and the row."""
    images, masks = folder / "images" / "a", folder / "masks" / "a"
    for place in (images, masks):
        place.mkdir(parents=True)
    digits, labels = held_out_digits()
    usable = [i for i, label in enumerate(labels) if label != ABSENT]
    draw = np.random.default_rng(0)
    for number in range(pictures):
        canvas, mask = Image.new("RGB", (48, 32)), np.full((32, 48), 255, np.uint8)
        for cell in draw.choice(6, 4, replace=False).tolist():
            which = int(draw.choice(usable))
            left, top = cell % 3 * 16, cell // 3 * 16
            canvas.paste(digits[which].resize((16, 16)), (left, top))
            mask[top : top + 16, left : left + 16] = labels[which]
        canvas.save(images / f"{number:02}.png")
        Image.fromarray(mask).save(masks / f"{number:02}.png")
    for key in BROKEN:
        name = f"{Path(key).name}.png"
        canvas.save(images / name)
        Image.fromarray(mask).save(masks / name)
    (images / "broken-picture.png").write_bytes(b"no picture")
    (masks / "broken-mask.png").write_bytes(b"no mask")
    (masks / "no-mask.png").unlink()
    Image.new("L", (5, 4)).save(masks / "other-size.png")
    Image.new("L", (48, 32), 10).save(masks / "other-label.png")
    (folder / "words.json").write_bytes(Path(synonym_file()).read_bytes())
    write_row(folder)
    return folder


def write_row(folder, name="digit_masks", images=LISTED, **layout):
    """Write the row of the set, and return its path."""
    layout = {"kind": "masks", "images": "images", "masks": "masks", "image_suffix": ".png", **layout}
    convention = {"split": "val", "images": images, "templates": ["{}"], "headline": "miou"}
    row = {
        "name": name,
        "synonyms": "words.json",
        "conventions": {"own": {**convention, "layouts": [layout]}},
    }
    (folder / f"{name}.json").write_text(json.dumps(row))
    return folder / f"{name}.json"


def open_masks(folder, name="digit_masks"):
    return open_benchmark(find_benchmark(folder / f"{name}.json"), "nowhere")


def main(folder, out, log=None):
    encoding.add_images = ADD_IMAGES if log is None else logged(log)
    evaluate_one(open_masks(Path(folder)), out)


if __name__ == "__main__":
    os.environ["S3CLIP_CACHE"] = ""
    main(*sys.argv[1:])
