"""One rule for which files are pictures: one folder in ten shapes gives one list, through every reader."""

import io
import os
import re
import warnings
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from s3clip.bulk.inputs import list_files
from s3clip.evaluation.benchmarks.layouts import open_layout
from s3clip.evaluation.benchmarks.table import Convention
from s3clip.evaluation.inputs import labelled_images
from s3clip.images.opening import BrokenImageError, image_suffixes, open_image
from s3clip.images.walking import find_images

PIXELS = np.full((8, 8, 3), 90, np.uint8)
NAMES = ["cat/1.png", "cat/2.png", "cat/deep/er/1.png", "dog-2/1.png", "dog/1.png", "dog/2.png"]


def png(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(path, format="PNG")


def plain(folder: Path, names=NAMES) -> None:
    for name in names:
        png(folder / name)


def linked_folder(folder: Path) -> None:
    """A class that is a link."""
    plain(folder.parent / "pool", NAMES)
    folder.mkdir()
    for name in ("cat", "dog", "dog-2"):
        (folder / name).symlink_to(folder.parent / "pool" / name)


def linked_files(folder: Path) -> None:
    plain(folder.parent / "pool")
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(folder.parent / "pool" / name)


def link_to_the_folder(folder: Path) -> None:
    plain(folder.parent / "pool")
    folder.symlink_to(folder.parent / "pool")


def loops(folder: Path) -> None:
    plain(folder)
    (folder / "cat" / "up").symlink_to(folder)
    (folder / "dog" / "here").symlink_to(folder / "dog")


def notebooks(folder: Path) -> None:
    plain(folder)
    plain(folder, ["cat/.ipynb_checkpoints/1-checkpoint.png", ".thumbnails/9.png"])


def mac(folder: Path) -> None:
    plain(folder)
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "cat" / "._1.png").write_bytes(b"resource fork")


def other_files(folder: Path) -> None:
    plain(folder)
    for name in (
        "notes.txt",
        "cat/labels.json",
        "cat/movie.mp4",
        "dog/LICENSE",
        "dog/features.h5",
        "dog/a.pdf",
    ):
        (folder / name).write_bytes(b"x")


def pipes(folder: Path) -> None:
    plain(folder)
    os.mkfifo(folder / "cat" / "pipe.png")


def empty_folders(folder: Path) -> None:
    plain(folder)
    (folder / "empty.png").mkdir()


SHAPES = [
    (plain, None),
    (linked_folder, None),
    (linked_files, None),
    (link_to_the_folder, None),
    (loops, None),
    (notebooks, r"passed over: 1 \.ipynb_checkpoints/, 1 \.thumbnails/"),
    (mac, r"passed over: 1 hidden \.png"),
    (other_files, r"passed over: 1 \.h5, 1 \.json, 1 \.mp4, 1 \.pdf, 1 \.txt, 1 without a suffix"),
    (pipes, r"passed over: 1 \.png"),
    (empty_folders, None),
]


@pytest.mark.parametrize(("shape", "warning"), SHAPES, ids=lambda each: getattr(each, "__name__", ""))
def test_one_folder_in_ten_shapes_gives_one_list_through_every_reader(tmp_path, shape, warning):
    folder = tmp_path / "photos"
    shape(folder)
    expected = [f"{folder}/{name}" for name in NAMES]

    def check(listed) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            paths, labels = listed()
        assert [str(path) for path in paths] == expected
        assert labels in (None, ["cat", "cat", "cat", "dog-2", "dog", "dog"])
        said = [str(each.message) for each in caught if issubclass(each.category, UserWarning)]
        assert said == [] if warning is None else re.fullmatch(f"{re.escape(str(folder))}: {warning}", *said)

    def evaluated():
        layout = Convention.model_validate({"layouts": [{"kind": "folders", "folder": "photos"}]})
        samples = [each for shard in open_layout("mine", layout, tmp_path).shards for each in shard.samples()]
        return [folder / sample.key for sample in samples], [sample.label for sample in samples]

    check(lambda: (find_images([folder]), None))
    check(lambda: ([file.path for file in list_files([folder])], None))
    check(lambda: labelled_images(folder, None))
    check(evaluated)
    with warnings.catch_warnings():  # a star does not match what is hidden, so less is passed over
        warnings.simplefilter("ignore")
        assert [str(path) for path in find_images([folder / "**" / "*"])] == expected
        assert [file.path for file in list_files([folder / "**" / "*"])] == expected


def test_a_store_is_searched_by_the_same_rule(tmp_path):
    memory = fsspec.filesystem("memory")
    for name in (*NAMES, ".ipynb_checkpoints/1.png", "cat/._1.png", "notes.txt"):
        memory.pipe_file(f"/walked/photos/{name}", b"x")
    for given in ("memory://walked/photos", "memory://walked/photos/**/*.*"):
        with pytest.warns(UserWarning, match="passed over"):
            found = [file.path.rpartition("photos/")[2] for file in list_files([given])]
        assert found == NAMES


def written_formats() -> list[str]:
    """The suffixes of the formats that Pillow writes as well."""
    from PIL import Image as pil

    pil.init()
    return sorted(
        suffix
        for suffix, kind in pil.registered_extensions().items()
        if kind in pil.SAVE and suffix in image_suffixes()
    )


@pytest.mark.parametrize("suffix", written_formats())
def test_what_pillow_writes_and_reads_is_found_and_opened(tmp_path, suffix):
    content = io.BytesIO()
    kind = Image.registered_extensions()[suffix]
    modes = {"MSP": "1", "XBM": "1", "BLP": "P", "SPIDER": "F"}
    Image.fromarray(PIXELS).resize((32, 32)).convert(modes.get(kind, "RGB")).save(content, format=kind)
    (tmp_path / f"a{suffix.upper()}").write_bytes(content.getvalue())
    (found,) = find_images([tmp_path])
    assert [file.path for file in list_files([tmp_path])] == [str(found)]
    side = 1024 if kind == "ICNS" else 32  # of the largest icon
    assert open_image(found).size == (side, side)


def test_formats_that_are_no_pictures_are_not_searched_for():
    assert not image_suffixes() & {
        ".pdf",
        ".ps",
        ".eps",
        ".h5",
        ".hdf",
        ".mpg",
        ".wmf",
        ".grib",
        ".txt",
        ".json",
    }
    assert image_suffixes() >= {
        ".jpg",
        ".jpeg",
        ".jfif",
        ".jpe",
        ".png",
        ".webp",
        ".bmp",
        ".dib",
        ".gif",
        ".tif",
    }
    assert image_suffixes() >= {".jp2", ".tga", ".ico", ".pnm", ".pgm", ".ppm", ".mpo"}


def test_what_is_named_is_taken_whatever_it_is_called(tmp_path):
    for name in (".hidden.png", "no_suffix", "scan.dat"):
        png(tmp_path / name)
    named = [tmp_path / name for name in (".hidden.png", "no_suffix", "scan.dat")]
    assert find_images(named) == named


def test_a_link_to_nothing_fails_where_it_is_opened_and_is_not_missing(tmp_path):
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "self.png").symlink_to("self.png")
    found = find_images([tmp_path])
    assert [path.name for path in found] == ["gone.png", "self.png"]
    for file in found:
        with pytest.raises(BrokenImageError, match=r"self\.png|gone\.png: .*a link to nothing"):
            open_image(file)


def test_a_folder_without_pictures_says_what_is_there(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with (
        pytest.warns(UserWarning, match=r"passed over: 1 \.txt"),
        pytest.raises(FileNotFoundError, match="no images in this folder"),
    ):
        find_images([tmp_path])
