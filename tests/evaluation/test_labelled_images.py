"""Labels in a CSV: an image has one, however its path is written, and a column is there once."""

import itertools
from pathlib import Path

import pytest
from PIL import Image

from s3clip.evaluation.inputs import labelled_images, rows_of_labels

SAME = ["a.png", "./a.png", "sub/../a.png", "{folder}/a.png", "sub/link.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    (tmp_path / "sub" / "link.png").symlink_to("../a.png")
    return tmp_path


def read(folder: Path, *lines: str, header: str = "file,label") -> tuple[list[Path], list[str]]:
    text = "\n".join([header, *lines]).replace("{folder}", str(folder))
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return labelled_images(None, folder / "labels.csv")


@pytest.mark.parametrize(("first", "again"), itertools.product(SAME, SAME))
def test_an_image_that_is_listed_again_is_one_image(folder: Path, first: str, again: str):
    with pytest.warns(UserWarning, match="images listed again are used once: 1"):
        files, labels = read(folder, f"{first},cat", "b.png,dog", f"{again}, cat ")
    assert [file.resolve().name for file in files] == ["a.png", "b.png"]
    assert labels == ["cat", "dog"]
    with pytest.raises(ValueError, match=r"\.png' is listed twice, as 'cat' and as 'dog'; give each"):
        read(folder, f"{first},cat", f"{again},dog")


def test_a_link_gives_no_image_two_classes(folder: Path):
    for name in ("cat", "dog", "all"):
        (folder / "tree" / name).mkdir(parents=True)
        (folder / "tree" / name / "a.png").symlink_to(folder / "a.png")
    with pytest.raises(ValueError, match="'dog', and by a link in that of 'cat'; give each image one"):
        labelled_images(folder / "tree", None, is_class={"cat", "dog"}.__contains__)
    files, labels = labelled_images(
        folder / "tree", None, is_class={"dog"}.__contains__
    )  # the others are of no class
    assert (len(files), labels) == (3, ["all", "cat", "dog"])


def test_from_within_the_folder_too(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder / "sub")
    (folder / "labels.csv").write_text(f"file,label\na.png,cat\n{folder}/a.png,dog\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is listed twice"):
        labelled_images(None, Path("../labels.csv"))


def test_what_is_not_there_is_said_before_any_image_is_read(folder: Path):
    with pytest.raises(FileNotFoundError, match=r"labels\.csv: 'c\.png' is not there; .*--im"):
        read(folder, "a.png,cat", "c.png,dog")
    with pytest.raises(ValueError, match=r"line 3: expected a file and a label, .*; fill"):
        read(folder, "a.png,cat", "b.png,")


def test_a_column_that_is_there_twice_is_refused(folder: Path):
    with pytest.raises(ValueError, match=r"labels.csv: 2 columns are called 'label'; it has: file, la"):
        read(folder, "a.png,cat,dog", header="file,label,label")
    assert rows_of_labels(folder / "labels.csv", "file") == [["a.png"]]
