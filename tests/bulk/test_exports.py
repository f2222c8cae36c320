"""What follows from results: CSV, Lance, parquet by class, a folder for each class, and the page."""

import csv
import os
import re
import shutil
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from s3clip import SynonymousSpaceHead
from s3clip.bulk import export, label, sort_into, write_summary_page
from s3clip.bulk.sorting import folder_names
from s3clip.bulk.summary import Summary
from s3clip.demo import held_out_digits, model_folder, synonym_file
from s3clip.files.folders import make_for_pictures
from tests.bulk.test_bulk import write_tar
from tests.bulk.test_bulk_inputs import rows_of
from tests.bulk.test_bulk_safety import command


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of the same names in two folders, one that is none, one with a bad name, and a tar."""
    root = tmp_path_factory.mktemp("photos") / "photos"
    for folder in ("a", "b"):
        (root / folder).mkdir(parents=True)
        for i, image in enumerate(held_out_digits()[0][:12]):
            image.convert("RGB").save(root / folder / f"{i}.png")
    (root / "a" / "broken.png").write_text("no picture")
    shutil.copy(root / "a" / "3.png", os.fsencode(root / "a") + b"/\xff=x.png")
    write_tar(root / "c.tar", [(root / "a" / "1.png").read_bytes()])
    return root


@pytest.fixture(scope="module")
def labelled(photos: Path) -> tuple[Path, Summary]:
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())
    head.save_pretrained(photos.parent / "head")
    out = photos.parent / "labels"
    return out, label(photos, head, out, workers=0, batch_size=8, part_size=8, keep_embeddings=True)


def test_csv_has_all_rows(labelled, tmp_path: Path):
    out, _ = labelled
    with export(out, tmp_path / "rows.csv", "csv").open(encoding="utf-8", newline="") as file:
        found = sorted(csv.DictReader(file), key=lambda row: (row["shard"], int(row["position"])))
    rows = rows_of(out)
    assert set(rows[0]) - set(found[0]) == {"embedding", "top_class_index", "top_score"}
    for row, written in zip(rows, found, strict=True):
        assert {name: written[name] for name in ("key", "label", "text", "error")} == {
            name: row[name] or "" for name in ("key", "label", "text", "error")
        }
        assert float(written["score"] or 0) == (row["score"] or 0)


def test_hive_has_a_folder_for_each_class(labelled, tmp_path: Path):
    out, summary = labelled
    folder = export(out, tmp_path / "by class", "hive")
    table = ds.dataset(folder, format="parquet", partitioning="hive").to_table()
    rows = table.to_pylist()
    rows.sort(key=lambda row: (row["shard"], row["position"]))
    assert [{**row} for row in rows_of(out)] == [
        {name: row[name] for name in rows_of(out)[0]} for row in rows
    ]
    found = {path.name for path in folder.iterdir()}
    counted = zip(summary.class_names, summary.class_rows, strict=True)
    assert found == {f"label={name}" for name, count in counted if count} | {
        "label=__HIVE_DEFAULT_PARTITION__"
    }
    with pytest.raises(FileExistsError, match="is there already"):
        export(out, folder, "hive")
    assert [path.name for path in tmp_path.iterdir()] == ["by class"]


@pytest.mark.filterwarnings("ignore:.*are truncated")
@pytest.mark.parametrize(("length", "fits"), [(41, True), (42, False)])
def test_hive_takes_names_as_long_as_folders_may_have(photos: Path, tmp_path: Path, length: int, fits: bool):
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(
        {"ж" * length: ["seven"], "б": ["one"]}
    )
    label(photos / "a", head, tmp_path / "labels", workers=0)
    if fits:  # 6 bytes for each letter, and those of label=
        export(tmp_path / "labels", tmp_path / "hive", "hive")
    else:
        with pytest.raises(ValueError, match="name of 258 bytes"):
            export(tmp_path / "labels", tmp_path / "hive", "hive")
    assert {each.name for each in tmp_path.iterdir()} == {"labels", "hive"} - (
        {"hive"} if not fits else set()
    )


def test_lance_has_all_rows(labelled, tmp_path: Path):
    lance = pytest.importorskip("lance")
    out, _ = labelled
    rows = lance.dataset(str(export(out, tmp_path / "rows.lance", "lance"))).to_table().to_pylist()
    assert sorted(rows, key=lambda row: (row["shard"], row["position"])) == rows_of(out)


@pytest.mark.parametrize("how", ["symlink", "hardlink", "copy"])
def test_pictures_are_sorted_and_nothing_is_written_over(labelled, photos: Path, tmp_path: Path, how):
    out, _ = labelled
    folder = tmp_path / "sorted"
    kept = next(row for row in rows_of(out) if row["key"].endswith("a/5.png"))
    make_for_pictures(folder)
    (folder / kept["label"]).mkdir()
    (folder / kept["label"] / "5.png").write_text("mine")
    before = {path for path in folder.rglob("*") if not path.is_dir()}
    done = sort_into(out, folder, how)
    assert (done.new, done.there, done.rejected) == (25, 0, 0)
    assert len(done.errors) == 1
    assert "c.tar/0000.jpg: no file of its own" in done.errors[0]
    assert (folder / kept["label"] / "5.png").read_text() == "mine"
    made = {path for path in folder.rglob("*") if not path.is_dir()} - before
    contents = sorted((path.parent.name, path.read_bytes()) for path in made)
    expected = [(row["label"], row["key"]) for row in rows_of(out) if row["error"] is None]
    files = {os.fsencode(path).replace(b"\xff", b"\\xff").decode(): path for path in photos.rglob("*.png")}
    assert contents == sorted((name, files[key].read_bytes()) for name, key in expected if key in files)
    assert {path.is_symlink() for path in made} == {how == "symlink"}
    assert {path.stat().st_nlink > 1 for path in made} == {how == "hardlink"}
    again = sort_into(out, folder, how)
    assert (again.new, again.there) == (0, 25)
    assert {path for path in folder.rglob("*") if not path.is_dir()} == made | before


@pytest.mark.parametrize("how", ["symlink", "hardlink", "copy"])
def test_a_picture_that_was_moved_stays_where_it_is(labelled, tmp_path: Path, how):
    out, _ = labelled
    folder = tmp_path / "sorted"
    sort_into(out, folder, how)
    moved = next(folder.rglob("*=x.png"))  # a copy has its content and name alone to be known by
    (folder / "wrong" / "deep").mkdir(parents=True)
    moved.rename(folder / "wrong" / "deep" / moved.name)
    before = sorted(folder.rglob("*"))
    again = sort_into(out, folder, how)
    assert (again.new, again.there, again.elsewhere) == (0, 25, 1)
    assert sorted(folder.rglob("*")) == before


def test_pictures_that_are_gone_are_listed(labelled, photos: Path, tmp_path: Path):
    other = Path(shutil.copytree(photos, tmp_path / "photos"))
    label(other, photos.parent / "head", tmp_path / "out", workers=0)
    (other / "a" / "7.png").unlink()
    done = sort_into(tmp_path / "out", tmp_path / "sorted")
    assert done.new == 24
    assert [line for line in done.errors if line.endswith("a/7.png: No such file or directory")]
    assert not [path for path in (tmp_path / "sorted").rglob("*") if path.is_symlink() and not path.exists()]


def test_classes_have_folders_of_their_own(tmp_path: Path):
    names = ["a/b", "a_b", "A_B", "..", "", "CON?", " x ", "x", "ü" * 300, "犬" * 100, "犬" * 101, "a🙂" * 90]
    found = folder_names(names)
    for name in found:
        (tmp_path / name).mkdir()  # which no system would with more than 255 bytes
    assert len({name.casefold() for name in found}) == len(names)
    assert all(name and name == name.strip(" .") and not re.search(r'[/\\:*?"<>|]', name) for name in found)
    assert found[0] == "a_b"


def test_tens_of_thousands_of_classes_have_folders_whether_alike_or_not():
    """Twenty thousand: a search of all names for each class takes too long."""
    many = range(20_000)
    assert folder_names([f"class {i}" for i in many]) == [f"class {i}" for i in many]
    alike = ["dog", "Dog-2", *(f"dog-{i + 3}" for i in many)]
    assert folder_names(["dog", "Dog", *["dog"] * 20_000]) == alike


def test_the_page_has_all_classes_and_nothing_from_elsewhere(labelled, tmp_path: Path):
    out, summary = labelled
    page = write_summary_page(out, summary)
    text = page.read_text(encoding="utf-8")
    assert page == out / "_s3clip" / "summary.html"
    found = re.findall(r'<span><span>([^<]*)</span>.*?class="count">([\d,]+)<', text)
    assert sorted(found) == sorted(
        (name, f"{count:,}") for name, count in zip(summary.class_names, summary.class_rows, strict=True)
    )
    assert text.count("<figure>") == 25
    assert "default-src 'none'; img-src data:" in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert ds.dataset(out, format="parquet").count_rows() == summary.rows
    evil = Summary(["<script>"], rows=1, class_rows=[1], score_histogram=[0, 1])
    write_summary_page(tmp_path, evil)
    assert "<script>" not in (tmp_path / "_s3clip" / "summary.html").read_text()


def test_the_command_does_all_of_it(labelled, photos: Path, tmp_path: Path):
    run = ("label", photos, "--head", photos.parent / "head", "--out", tmp_path / "out", "--workers", 0)
    also = (
        "--csv",
        tmp_path / "rows.csv",
        "--partition",
        tmp_path / "hive",
        "--sort-into",
        tmp_path / "sorted",
    )
    status, said, warned = command(*run, *also)
    assert status == 0, warned
    assert "Sorted 25 pictures into" in said
    assert "not sorted" in warned
    for file in ("rows.csv", "hive", "sorted", "out/_s3clip/summary.html"):
        assert (tmp_path / file).exists()
    for wrong, message in (
        (("--sort-into", photos / "sorted"), "which is labelled"),
        (("--sort-into", tmp_path / "out" / "sorted"), "lies in the results"),
        (("--partition", tmp_path / "hive"), "is there already"),
        (("--csv", tmp_path / "none" / "x.csv"), "there is no folder"),
        (("--csv", photos / "a" / "1.png"), "called as what is labelled"),
        (("--csv", tmp_path / "out" / "rows.csv"), "lies in the results"),
        (("--partition", tmp_path / "out" / "hive"), "lies in the results"),
        (("--partition", photos / "hive"), "which is labelled"),
        (("--partition", tmp_path / "x", "--csv", tmp_path / "x"), "--partition, --csv"),
        (("--partition", tmp_path / "x", "--sort-into", tmp_path / "x" / "y"), "--sort-into, --partition"),
    ):
        there = everything(tmp_path), everything(photos)
        status, said, warned = command(*run, *wrong)
        assert (status, said) == (2, "")
        assert message in warned
        assert (everything(tmp_path), everything(photos)) == there  # nothing was lost, and nothing begun


@pytest.mark.parametrize("form", ["csv", "hive"])
def test_an_export_spoils_neither_results_nor_pictures(labelled, photos: Path, form):
    out, _ = labelled
    there = everything(out), everything(photos)
    for wrong in (
        out / "rows",
        out / "_s3clip" / "rows",
        *([photos / "a" / "1.png"] if form == "csv" else []),
    ):
        with pytest.raises(ValueError, match=r"lies in the results|called as what is labelled"):
            export(out, wrong, form)
    assert (everything(out), everything(photos)) == there


def everything(folder: Path) -> dict[Path, bytes | None]:
    return {each: each.read_bytes() if each.is_file() else None for each in folder.rglob("*")}
