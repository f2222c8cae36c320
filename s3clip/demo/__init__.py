"""The embedded default: a small CLIP that reads handwritten digits, its synonyms and its pictures.

Everything here comes with the package or with scikit-learn, so the whole path from a synonym file to
predictions runs offline in seconds. `examples/studies/train_demo.py` trained the model. Digits show that the
software works; they say nothing about how good the method is on photographs.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from s3clip.files.folders import check_own, visible
from s3clip.texts.synonyms import SynonymSet

__all__ = ["held_out_digits", "model_folder", "synonym_file", "training_digits", "write_photos"]

TRAINING_DIGITS = 1_297  # of 1,797
SIDE = 32  # pixels; the digits themselves are 8 x 8
PHOTOS = 10  # of each class, that `write_photos` writes


def model_folder() -> Path:
    """Return the folder of the demo CLIP, in the layout that ``from_pretrained`` of transformers reads."""
    return Path(__file__).parent / "model"


def synonym_file() -> Path:
    """Return the path of the demo's synonym file: ten classes, "zero" to "nine", in label order."""
    return Path(__file__).parent / "digits.json"


def training_digits() -> tuple[list[Image.Image], np.ndarray[Any, np.dtype[np.int64]]]:
    """Return the 1,297 digits that the demo CLIP was trained on, as `held_out_digits` returns the others."""
    return _digits(slice(None, TRAINING_DIGITS))


def held_out_digits() -> tuple[list[Image.Image], np.ndarray[Any, np.dtype[np.int64]]]:
    """Return the 500 digits that the demo CLIP never saw.

    The split is by position, not drawn: scikit-learn keeps the digits writer by writer, so the last 500 are
    mostly by people of whose hand the model saw nothing. (One nearest neighbour is right on 96.0 % of them,
    and on 99.2 % of 500 drawn at random.)

    Returns:
        The pictures, greyscale of 32 x 32 pixels, dark ink on white; their labels, 0 to 9, shape ``(500,)``.
    """
    return _digits(slice(TRAINING_DIGITS, None))


def write_photos(folder: str | Path) -> list[Path]:
    """Write ten held-out digits of each class into a folder of its name, such as ``seven/0.png``.

    Args:
        folder: made if need be; one that is there is empty, or one of an earlier call.

    Returns:
        The files, in the order of the classes.

    Raises:
        ValueError: the folder holds something else.
        FileExistsError: one of the files is there, and is another picture.
    """
    images, labels = held_out_digits()
    names = SynonymSet.read(synonym_file()).class_names
    # No mark, which code that walks over classes would take for one.
    check_own(folder, "folder", lambda place: set(names).issuperset(visible(os.listdir(place))), "digits")
    written = []
    for digit, name in enumerate(names):
        own = np.flatnonzero(labels == digit)
        for i, position in enumerate(own[:: len(own) // PHOTOS][:PHOTOS]):  # of all hands
            path = Path(folder, name, f"{i}.png")
            if path.exists():
                with Image.open(path) as found:
                    same = found.mode == "L" and found.tobytes() == images[position].tobytes()
                if not same:
                    raise FileExistsError(f"{path} is there, and is another picture; give another folder")
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                images[position].save(path)
            written.append(path)
    return written


def _digits(part: slice) -> tuple[list[Image.Image], np.ndarray[Any, np.dtype[np.int64]]]:
    digits = load_digits()
    paper = np.rint(255 * (1 - digits.images[part] / 16)).astype(np.uint8)  # the ink is given from 0 to 16
    pictures = [Image.fromarray(page).resize((SIDE, SIDE), Image.Resampling.NEAREST) for page in paper]
    return pictures, digits.target[part].astype(np.int64)
