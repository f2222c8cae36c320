"""A folder of results is one table, whoever reads it; and folders of an older s3clip go on as they are."""

import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from s3clip import SynonymousSpaceHead
from s3clip.bulk import label
from s3clip.bulk.output import FORMAT, OLDER_LAYOUT
from tests.bulk.test_bulk_inputs import rows_of

OLDER = Path(__file__).parent / "saved" / "1"
"""A head, two arrays, and their results as s3clip wrote them when `manifest.json` lay among the parts."""


@pytest.fixture(scope="module")
def space() -> SynonymousSpaceHead:
    return SynonymousSpaceHead.from_pretrained(OLDER / "space", backbone=None)


@pytest.fixture(scope="module")
def results(space: SynonymousSpaceHead, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with labels, parts with errors alone, with no rows, and one that broke off."""
    root = tmp_path_factory.mktemp("results")
    (root / "train").mkdir()
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    vectors[7] = 0
    np.save(root / "train" / "some.npy", vectors)
    np.save(root / "train" / "none.npy", vectors[:0])
    np.save(root / "train" / "_errors.npy", np.zeros((3, 8), np.float32))
    (root / "train" / "broken.npy").write_bytes((root / "train" / "some.npy").read_bytes()[:-1])
    summary = label(root / "train", space, root / "labels", keep_embeddings=True, max_error_share=1)
    assert (summary.rows, summary.errors, len(summary.broken)) == (54, 5, 1)
    return root / "labels"


def comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in one order, numbers as Python has them; what is missing is None in each library's own way."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray | list | tuple):
            return [plain(each) for each in value]
        if isinstance(value, np.generic):
            value = value.item()
        return None if isinstance(value, float) and np.isnan(value) else value

    found = [{name: plain(value) for name, value in row.items()} for row in rows]
    return sorted(found, key=lambda row: (row["shard"], row["position"]))


def by_pandas(folder: Path, cache: Path) -> list[dict[str, Any]]:
    import pandas

    frame = pandas.read_parquet(folder)
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def by_polars(folder: Path, cache: Path) -> list[dict[str, Any]]:
    return pytest.importorskip("polars").read_parquet(folder / "*.parquet").to_dicts()


def by_duckdb(folder: Path, cache: Path) -> list[dict[str, Any]]:
    found = pytest.importorskip("duckdb").sql(f"select * from '{folder}/**/*.parquet'")
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def by_datasets(folder: Path, cache: Path) -> list[dict[str, Any]]:
    datasets = pytest.importorskip("datasets")
    files = str(folder / "*.parquet")
    return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(cache)).to_list()


@pytest.mark.parametrize("read", [by_pandas, by_polars, by_duckdb, by_datasets])
def test_every_reader_finds_the_same_rows_and_columns(results: Path, tmp_path: Path, read):
    expected = ds.dataset(results, format="parquet").to_table()
    assert expected.num_rows == json.loads((results / "_s3clip" / "summary.json").read_text())["rows"]
    found = comparable(read(results, tmp_path))
    assert [list(row) for row in found] == [expected.column_names] * 54
    assert found == comparable(expected.to_pylist())


def test_all_parts_have_one_schema_of_plain_columns(results: Path):
    schemas = [pq.read_schema(file).remove_metadata() for file in results.glob("*.parquet")]
    assert len(schemas) == 4
    assert all(schema.equals(schemas[0]) for schema in schemas)
    assert not any(pa.types.is_dictionary(kind) for kind in schemas[0].types)
    manifest = json.loads((results / "_s3clip" / "manifest.json").read_text())
    assert list(manifest["columns"]) == schemas[0].names
    assert all(manifest["columns"][each.name] == "string" for each in schemas[0] if each.type == pa.string())
    assert {file.name for file in results.iterdir()} == {
        "_s3clip",
        *(f"train-{name}-000000000000.parquet" for name in ("some", "none", "_errors", "broken")),
    }


def test_no_part_is_called_what_readers_pass_over(space: SynonymousSpaceHead, tmp_path: Path):
    for folder in ("_hidden", ".", "x"):
        (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "in" / folder / "_e.npy", np.ones((2, 8), np.float32))
    label(tmp_path / "in" / "**" / "*.npy", space, tmp_path / "out")
    assert ds.dataset(tmp_path / "out", format="parquet").count_rows() == 6


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The older folder; its inputs are where they were."""
    memory = fsspec.filesystem("memory")
    for name in ("e.npy", "f.npy"):
        memory.pipe_file(f"/saved/{name}", (OLDER / name).read_bytes())
    return Path(shutil.copytree(OLDER / "labels", tmp_path / "labels"))


def options(**more: object) -> dict[str, Any]:
    return {"keep_embeddings": True, "max_error_share": 1, **more}


def test_an_older_folder_goes_on_as_it_was(older: Path, space: SynonymousSpaceHead, tmp_path: Path):
    files = {file.name: file.read_bytes() for file in older.iterdir()}
    parts = {name: pq.read_table(older / name) for name in files if name.startswith("saved-")}
    assert label("memory://saved", space, older, **options()).labelled_now == 0
    (older / "saved-f-000000000000.parquet").unlink()
    assert label("memory://saved", space, older, **options()).labelled_now == 20
    assert {file.name for file in older.iterdir()} - {".lock"} == files.keys()
    for name in ("saved-e-000000000000.parquet", "manifest.json"):
        assert (older / name).read_bytes() == files[name]
    for name, before in parts.items():
        now = pq.read_table(older / name)
        assert now.schema.equals(before.schema, check_metadata=True)
        assert now.drop_columns(["score", "logit", "margin", "top_score"]).equals(
            before.drop_columns(["score", "logit", "margin", "top_score"])
        )
        np.testing.assert_allclose(now["logit"], before["logit"], atol=1e-4)
    with pytest.raises(ValueError, match=r"other settings \(top_k differ\)"):
        label("memory://saved", space, older, **options(top_k=1))


def test_an_older_folder_is_labelled_again(older: Path, space: SynonymousSpaceHead, tmp_path: Path):
    new = tmp_path / "new"
    assert label(older, space, new, **options()).rows == 40
    parts = sorted(older.glob("saved-*.parquet"))
    before = [row for part in parts for row in pq.read_table(part).to_pylist()]
    names = ("label", "text", "error", "embedding")
    assert [[row[name] for name in names] for row in rows_of(new)] == [
        [row[name] for name in names] for row in before
    ]
    # Inside a folder of inputs it is none of them, and neither is a new one.
    np.save(tmp_path / "g.npy", np.ones((1, 8), np.float32))
    assert label(tmp_path, space, tmp_path / "other").rows == 1


@pytest.mark.parametrize("kept", ["manifest.json", "listing.parquet"])
def test_an_older_folder_is_known_by_what_is_left_of_it(older: Path, space, kept: str):
    for name in {"manifest.json", "listing.parquet"} - {kept}:
        (older / name).unlink()
    assert label("memory://saved", space, older, **options()).labelled_now == 0
    settings = json.loads((older / "manifest.json").read_text())["settings"]
    assert settings["format"] == OLDER_LAYOUT.format
    assert not (older / "_s3clip").exists()


def test_a_newer_folder_is_refused(space: SynonymousSpaceHead, results: Path, tmp_path: Path):
    copy = Path(shutil.copytree(results, tmp_path / "labels"))
    manifest = copy / "_s3clip" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(FORMAT, "s3clip-labels/9"))
    for call in ((results, space, copy), (copy, space, tmp_path / "out")):
        with pytest.raises(
            ValueError, match=r"expected results of format .*, got 's3clip-labels/9'; a newer"
        ):
            label(*call, **options())
