"""Files, tars and tables as shards, broken ones too, and the reader over them."""

import gzip
import io
import multiprocessing
import pickle
import re
import tarfile
import warnings
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stream_memory
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from s3clip.files import addresses as files
from s3clip.images.opening import BrokenImageError
from s3clip.images.sources import BrokenShardError, Listed, Record, Sample, Span, file_shards, natural, read
from s3clip.images.table_shards import TableShard
from s3clip.images.tables import open_table
from s3clip.images.tars import TarShard
from tests import hub_server


def png(shade: int) -> bytes:
    """A picture that can be told apart by its one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (shade, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


def shade(image: Image.Image) -> int:
    return image.getpixel((0, 0))[0]


def write_tar(path: Path, members: list[tuple[str, bytes]], **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples_of(first: int, count: int) -> list[tuple[str, bytes]]:
    """Members as webdataset's writer orders them."""
    return [
        member
        for i in range(first, first + count)
        for member in ((f"s{i:07d}.cls", str(i % 7).encode()), (f"s{i:07d}.png", png(i)))
    ]


def write_folder(root: Path, count: int) -> list[Listed]:
    root.mkdir(exist_ok=True)
    for i in range(count):
        (root / f"{i:03d}.png").write_bytes(png(i))
    return [Listed(f"{i:03d}.png", i % 3) for i in range(count)]


def all_of(shard, start: int = 0) -> tuple[list[Sample], BrokenShardError | None]:
    found = []
    try:
        for sample in shard.samples(start):
            found.append(sample)
    except BrokenShardError as error:
        return found, error
    return found, None


def shades(images: list[Image.Image]) -> torch.Tensor:
    """A transform; at the top of the module, so that it can be pickled."""
    return torch.tensor([shade(image) for image in images])


# Files


def test_files_are_shards_of_consecutive_files_in_the_order_given(tmp_path):
    files = write_folder(tmp_path / "photos", 7)
    shards = file_shards(tmp_path / "photos", files, size=3)
    assert [shard.name for shard in shards] == ["files-0000000", "files-0000003", "files-0000006"]
    found = [sample for shard in shards for sample in shard.samples()]
    assert [(s.key, s.label, shade(s.open())) for s in found] == [
        (f"{i:03d}.png", i % 3, i) for i in range(7)
    ]
    assert [s.key for s in shards[1].samples(2)] == ["005.png"]
    with pytest.raises(ValueError, match=r"000.png is listed 2 times"):
        file_shards(tmp_path, [*files, files[0]])


def test_a_picture_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(png(1)[:-30])
    (tmp_path / "text.png").write_bytes(b"not a picture")
    with pytest.raises(FileNotFoundError, match=r"^cats/gone.png: no such file$"):
        Sample("cats/gone.png", 0, tmp_path / "gone.png").open()
    for name in ("empty.png", "cut.png", "text.png"):
        path = tmp_path / name
        for data in (path, path.read_bytes(), Span(path, 0, path.stat().st_size)):
            with pytest.raises(BrokenImageError, match=f"^cats/{name}: not a readable image") as caught:
                Sample(f"cats/{name}", 0, data).open()
            assert "0x" not in str(caught.value)
            assert str(caught.value).count("not a readable image") == 1
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("loop.png", "folder.png"):  # errors of the system, whose own text holds the whole path
        for data in (tmp_path / name, Span(tmp_path / name, 0, 1)):
            with pytest.raises(BrokenImageError, match=rf"^cats/{name}: not a readable image \([^/]+\)$"):
                Sample(f"cats/{name}", 0, data).open()


def test_numbers_in_names_are_compared_as_numbers():
    names = ["10.tar", "9.tar", "a/2.tar", "a/10.tar", "test-00002-of-3", "test-00010-of-3"]
    assert sorted(reversed(names), key=natural) == ["9.tar", "10.tar", *names[2:]]


# Tars


def test_a_tar_gives_pictures_and_labels_in_its_own_order(tmp_path):
    members = [*samples_of(0, 3), ("b/z.cls", b"cat\n"), ("b/z.extra.jpg", png(9)), ("b/a.webp", png(8))]
    shard = TarShard("test/0.tar", write_tar(tmp_path / "0.tar", members))
    found = list(shard.samples())
    assert [(s.key, s.label, shade(s.open())) for s in found] == [
        ("test/0.tar/s0000000", 0, 0),
        ("test/0.tar/s0000001", 1, 1),
        ("test/0.tar/s0000002", 2, 2),
        ("test/0.tar/b/z", "cat", 9),
        ("test/0.tar/b/a", None, 8),
    ]
    assert all(isinstance(sample.data, Span) for sample in found)  # the bytes are read where it is opened
    assert list(pickle.loads(pickle.dumps(shard)).samples(3)) == found[3:]


def test_long_names_and_other_members_of_a_tar(tmp_path):
    long = "folder/" * 30 + "x" * 120  # more than a header holds: a member before says the name
    members = [("._hidden.png", b"mac"), ("meta.json", b"{}"), (f"{long}.png", png(4)), (f"{long}.cls", b"5")]
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        shard = TarShard("t", write_tar(tmp_path / f"{format}.tar", members, format=format))
        assert [(s.key, s.label, shade(s.open())) for s in shard.samples()] == [(f"t/{long}", 5, 4)]


DOTTED = [
    [(f"IMG_22.{i:02d}.{kind}", kind) for i in range(5) for kind in ("png", "cls")],
    [(f"{name}.{side}.png", "png") for name in "abc" for side in ("left", "right")],
    [(f"v1.{i}/{name}.0.{kind}", kind) for i in range(3) for name in "ab" for kind in ("png", "cls")],
]


@pytest.mark.parametrize("names", DOTTED)
def test_where_dots_tear_every_sample_the_reader_says_how_to_name_them(tmp_path, names):
    members = [(name, b"1" if kind == "cls" else png(i)) for i, (name, kind) in enumerate(names)]
    found, error = all_of(TarShard("t", write_tar(tmp_path / "0.tar", members)))
    assert found == []
    assert error.position == 0
    torn, advised = re.search(r"so (\S+) belongs .*give each name one dot: (\S+)$", str(error)).groups()
    assert torn in {name.rpartition("/")[2] for name, _ in names}
    assert advised.count(".") == 1
    # So named, nothing is lost.
    renamed = [(f"{n.rpartition('.')[0].replace('.', '_')}.{n.rpartition('.')[2]}", c) for n, c in members]
    again = list(TarShard("t", write_tar(tmp_path / "1.tar", renamed)).samples())
    assert len(again) == sum(kind == "png" for _, kind in names)
    # Each for itself, they need no other names.
    alone = list(TarShard("t", tmp_path / "0.tar", grouped=False).samples())
    assert len(alone) == len(again)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.from_regex(r"[ab]{1,2}(\.[01]){0,2}\.(png|cls)", fullmatch=True), max_size=12, unique=True)
)
def test_whatever_the_names_are_each_file_is_taken_or_named(tmp_path_factory, names):
    names = sorted(names)  # what has one key lies together, as the convention asks
    path = tmp_path_factory.mktemp("tar") / "0.tar"
    write_tar(path, [(name, str(i).encode()) for i, name in enumerate(names)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found, error = all_of(TarShard("t", path))
    pictures = sum(sample.data != b"" for sample in found)
    labels = sum(sample.label is not None for sample in found)
    if error is not None:
        assert "give each name one dot" in str(error)
        return
    # Others come from what is left of earlier tests: a loop or a socket that is collected meanwhile.
    lost = sum(int(str(each.message).split()[1]) for each in caught if each.category is UserWarning)
    assert pictures + labels + lost == len(names)
    for sample in found:  # the plain one is taken where there is one
        if f"{sample.key.removeprefix('t/')}.png" in names:
            assert sample.data.read() == str(names.index(f"{sample.key.removeprefix('t/')}.png")).encode()


def test_a_label_without_a_picture_is_a_sample_that_fails(tmp_path):
    members = [("a.cls", b"1"), ("a.bin", b"?"), ("b.cls", b"2"), ("b.png", png(3))]
    first, second = TarShard("t", write_tar(tmp_path / "0.tar", members)).samples()
    assert (first.label, second.label, shade(second.open())) == (1, 2, 3)
    with pytest.raises(BrokenImageError, match=r"^t/a: "):
        first.open()


@pytest.mark.parametrize("members", [5, 6])
def test_wherever_a_tar_is_cut_nothing_is_lost_silently(tmp_path, members):
    # An odd number ends with the label of a sample whose picture is gone.
    whole = write_tar(tmp_path / "whole.tar", samples_of(0, 3)[:members]).read_bytes()
    expected = list(TarShard("t", tmp_path / "whole.tar").samples())
    path = tmp_path / "cut.tar"
    shard = TarShard("t", path)
    with tarfile.open(tmp_path / "whole.tar") as tar:
        ends = [member.offset_data + member.size for member in tar]
        mark = max(end + -end % 512 for end in ends)  # two blocks of zeros follow
    for size in [*range(1, mark, 97), *ends, *range(0, mark, 512), mark]:
        path.write_bytes(whole[:size])
        found, error = all_of(shard)
        read_whole = sum(end <= size for end in ends) // 2
        assert error is not None, size
        assert len(found) == error.position == read_whole, size
        assert [(s.key, s.label) for s in found] == [(s.key, s.label) for s in expected[: len(found)]]
        assert all(shade(sample.open()) == i for i, sample in enumerate(found))
        assert str(error).startswith("t: not a readable tar: ")
        resumed, again = all_of(shard, len(found) + 3)
        assert not resumed
        assert again.position == error.position
    path.write_bytes(whole[: mark + 512])
    assert all_of(shard)[1] is None


def test_a_tar_in_gzip_is_the_same_tar(tmp_path):
    plain = write_tar(tmp_path / "0.tar", samples_of(0, 40))
    content = plain.read_bytes()
    (tmp_path / "0.tgz").write_bytes(gzip.compress(content))
    expected = [(s.key, s.label, shade(s.open())) for s in TarShard("t", plain).samples()]
    shard = TarShard("t", tmp_path / "0.tgz")
    for start in (0, 1, 38, 41):
        assert [(s.key, s.label, shade(s.open())) for s in shard.samples(start)] == expected[start:]
    # Cut before it was compressed, and after.
    for size in range(1, 40 * 4 * 512 + 1, 1733):
        (tmp_path / "0.tgz").write_bytes(gzip.compress(content[:size]))
        (tmp_path / "cut.tar").write_bytes(content[:size])
        found, error = all_of(shard)
        same, same_error = all_of(TarShard("t", tmp_path / "cut.tar"))
        assert [s.key for s in found] == [s.key for s in same]
        assert error.position == same_error.position == len(found)
    whole = gzip.compress(content)
    for size in range(1, len(whole), 97):
        (tmp_path / "0.tgz").write_bytes(whole[:size])
        found, error = all_of(shard)
        assert [(s.key, s.label, shade(s.open())) for s in found] == expected[: len(found)]
        # The picture of the last sample may be there while the mark behind it is not.
        assert error is not None or len(found) == len(expected)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    (tmp_path / "0.tgz").write_bytes(damaged)
    assert all_of(shard)[1] is not None


def test_every_picture_of_a_tar_by_itself(tmp_path):
    members = [
        ("a.cls", b"1"),
        ("a.png", png(1)),
        ("a.mask.png", png(2)),
        ("b/c.JPG", png(3)),
        ("._a.png", b""),
    ]
    shard = TarShard("t", write_tar(tmp_path / "0.tar", [*members, ("a.png", png(4))]), grouped=False)
    found = [(s.key, s.label, shade(s.open())) for s in shard.samples()]
    assert found == [
        ("t/a.png", None, 1),
        ("t/a.mask.png", None, 2),
        ("t/b/c.JPG", None, 3),
        ("t/a.png", None, 4),
    ]
    assert [shade(s.open()) for s in shard.samples(2)] == [3, 4]


def test_what_is_no_tar_is_named(tmp_path):
    (tmp_path / "text.tar").write_bytes(b"an error page" * 100)
    write_tar(tmp_path / "zip.tar", samples_of(0, 1))
    for name in ("text.tar", "gone.tar"):
        found, error = all_of(TarShard(f"test/{name}", tmp_path / name))
        assert (found, error.position) == ([], 0)
        assert f"test/{name}: no" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    damaged = bytearray((tmp_path / "zip.tar").read_bytes())
    damaged[1024:1034] = b"0123456789"  # the second header
    (tmp_path / "zip.tar").write_bytes(damaged)
    found, error = all_of(TarShard("t", tmp_path / "zip.tar"))
    assert (found, error.position) == ([], 0)


# Parquet


def write_parquet(path: Path, rows: list[dict], names: list[str] | None = None, rows_in_group: int = 2):
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=names) if names else datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(decode=False), "label": label})
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows, features=features).to_parquet(path, batch_size=rows_in_group)
    return path


def test_parquet_as_datasets_writes_it(tmp_path):
    rows = [{"image": {"bytes": png(i), "path": None}, "label": i % 3} for i in range(7)]
    path = write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", rows, ["cat", "dog", "cow"])
    shard = TableShard("data/test", path)
    found = list(shard.samples())
    assert [(s.key, s.label, shade(s.open())) for s in found] == [
        (f"data/test#{i}", i % 3, i) for i in range(7)
    ]
    assert shard.class_names() == ["cat", "dog", "cow"]
    for start in range(9):
        assert list(shard.samples(start)) == found[start:]


def test_parquet_with_strings_paths_and_holes(tmp_path):
    (tmp_path / "0.png").write_bytes(png(6))
    rows = [
        {"image": {"bytes": None, "path": "0.png"}, "label": "a"},
        {"image": None, "label": None},
    ]
    shard = TableShard("t", write_parquet(tmp_path / "t.parquet", rows))
    first, second = shard.samples()
    assert (first.label, shade(first.open()), second.label) == ("a", 6, None)
    with pytest.raises(BrokenImageError, match=r"^t#1: "):
        second.open()
    misnamed = TableShard("t", tmp_path / "t.parquet", image_column="img")
    with pytest.raises(BrokenShardError, match=r"t: no column 'img'; it has: image, label"):
        list(misnamed.samples())
    with pytest.raises(ValueError, match=r"t: no column 'img'; it has: image, label"):
        misnamed.class_names()


def test_every_kind_of_table_gives_the_same_rows_from_any_start(tmp_path):
    table = pa.table({"picture": [png(i) for i in range(50)], "id": [f"k{i}" for i in range(50)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=7)
    with pa.ipc.new_file(tmp_path / "file.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=9)
    with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=11)
    fsspec.filesystem("memory").pipe_file("/tables/t.parquet", (tmp_path / "t.parquet").read_bytes())
    paths = [tmp_path / name for name in ("t.parquet", "file.arrow", "stream.arrow")]
    for path in (*paths, "memory://tables/t.parquet"):
        shard = TableShard("t", path, "picture", None, "id")
        for start in (0, 6, 7, 8, 49, 50, 60):
            found = [(s.key, s.label, shade(s.open())) for s in shard.samples(start)]
            assert found == [(f"k{i}", None, i) for i in range(start, 50)]
        for start in (0, 5, 30):
            with open_table(path) as opened:
                sizes = [len(batch) for batch in opened.batches(["id"], 8, start)]
            assert sizes == [8] * ((50 - start) // 8) + [(50 - start) % 8]
    pq.write_table(pa.table({"n": [1]}), tmp_path / "n.parquet")
    with pytest.raises(BrokenShardError, match=r"column 'n': expected bytes, paths, or records .* got int64"):
        list(TableShard("t", tmp_path / "n.parquet", "n", None).samples())


def test_pictures_that_a_table_names_lie_beside_it(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/0.png", "1.png"):
        (tmp_path / name).write_bytes(png(len(name)))
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/beside/a/0.png", png(7))
    names = ["0.png", str(tmp_path / "1.png"), "memory://beside/a/0.png", "gone.png", None]
    pq.write_table(pa.table({"image": names}), tmp_path / "a" / "t.parquet")
    memory.pipe_file("/beside/a/t.parquet", (tmp_path / "a" / "t.parquet").read_bytes())
    wide = {"label_column": None, "allowed": ("file", "memory")}
    here = list(TableShard("t", tmp_path / "a" / "t.parquet", **wide).samples())
    assert [shade(sample.open()) for sample in here[:3]] == [7, 5, 7]
    own = list(TableShard("t", tmp_path / "a" / "t.parquet", label_column=None).samples())
    assert shade(own[0].open()) == 7
    for sample in own[1:3]:
        with pytest.raises(
            BrokenImageError, match=r"outside of the folder .* allow_addresses='(file|memory)'"
        ):
            sample.open()
    for sample, error in ((here[3], FileNotFoundError), (here[4], BrokenImageError)):
        with pytest.raises(error):
            sample.open()
    coded = pa.table({"image": pa.array(["0.png", "0.png"]).dictionary_encode()})
    pq.write_table(coded, tmp_path / "a" / "coded.parquet")
    coded = TableShard("t", tmp_path / "a" / "coded.parquet", label_column=None).samples()
    assert [shade(sample.open()) for sample in coded] == [7, 7]
    there = list(TableShard("t", "memory://beside/a/t.parquet", label_column=None).samples())
    assert [shade(there[i].open()) for i in (0, 2)] == [7, 7]
    with pytest.raises(BrokenImageError):  # what somebody wrote far away does not open files of this machine
        there[1].open()


def test_broken_parquet_is_named(tmp_path):
    rows = [{"image": {"bytes": png(i), "path": None}, "label": "a"} for i in range(8)]
    whole = write_parquet(tmp_path / "t.parquet", rows).read_bytes()
    for content in (b"", b"an error page", whole[: len(whole) // 2]):
        (tmp_path / "t.parquet").write_bytes(content)
        found, error = all_of(TableShard("t", tmp_path / "t.parquet"))
        assert (found, error.position) == ([], 0)
        assert str(error).startswith("t: not a readable table")
    assert str(all_of(TableShard("t", tmp_path / "gone"))[1]) == "t: no such file"


# The reader


@pytest.fixture
def mixed(tmp_path):
    """Shards of three kinds, one of them cut, with a picture that is gone and one that is broken."""
    files = write_folder(tmp_path / "photos", 7)
    (tmp_path / "photos" / "002.png").unlink()
    (tmp_path / "photos" / "005.png").write_bytes(b"")
    whole = write_tar(tmp_path / "0.tar", samples_of(50, 5)).read_bytes()
    (tmp_path / "1.tar").write_bytes(whole[:-12000])
    (tmp_path / "2.tar").write_bytes(b"")
    return [
        *file_shards(tmp_path / "photos", files, size=4),
        TarShard("0.tar", tmp_path / "0.tar"),
        TarShard("1.tar", tmp_path / "1.tar"),
        TarShard("2.tar", tmp_path / "2.tar"),
    ]


def contents(batches):
    return [(batch.records, None if batch.value is None else batch.value.tolist()) for batch in batches]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_are_the_same_for_any_number_of_workers(mixed):
    alone = contents(read(mixed, transform=shades, batch_size=2))
    for workers in (1, 3):
        assert contents(read(mixed, transform=shades, batch_size=2, workers=workers)) == alone
    # A plain loop over the same shards.
    expected = []
    for shard in mixed:
        found, error = all_of(shard)
        for index, sample in enumerate(found):
            try:
                expected.append((shard.name, index, sample.key, sample.label, None, shade(sample.open())))
            except (OSError, BrokenImageError) as broken:
                expected.append((shard.name, index, sample.key, sample.label, str(broken), None))
        if error:
            expected.append((shard.name, len(found), shard.name, None, str(error), None))
    flat = []
    for records, values in alone:
        readable = iter(values or [])
        flat += [
            (r.shard, r.index, r.key, r.label, r.error, None if r.error else next(readable)) for r in records
        ]
        assert next(readable, None) is None
    assert flat == expected
    assert sum(row[4] is not None for row in flat) == 4
    assert all(len({record.shard for record in records}) == 1 for records, _ in alone)


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_goes_on_where_it_stopped(mixed, workers):
    whole = contents(read(mixed, transform=shades, batch_size=2))
    for done in range(len(whole)) if not workers else (1, 4):
        last = whole[done][0][0]  # the first record that was not seen
        position = next(i for i, shard in enumerate(mixed) if shard.name == last.shard)
        rest = read(mixed[position:], transform=shades, batch_size=2, start=last.index, workers=workers)
        assert contents(rest) == whole[done:]


def test_a_break_is_not_reported_again(mixed):
    broken = mixed[3]
    *_, last = [record for batch in read([broken], batch_size=2) for record in batch.records]
    assert last == Record("1.tar", last.index, "1.tar", None, last.error)
    assert contents(read([broken], start=last.index, batch_size=2)) == [((last,), None)]
    assert not list(read([broken], start=last.index + 1, batch_size=2))
    # But one that was there before is missed.
    (batch,) = read([TarShard("gone", broken.path.parent / "gone.tar")], start=4)
    assert batch.records == (Record("gone", 4, "gone", None, "gone: no such file"),)


def test_pictures_are_kept_without_a_transform(mixed):
    batch = next(iter(read(mixed)))
    assert [shade(image) for image in batch.value] == [0, 1, 3]
    assert np.asarray(batch.value[0]).shape == (2, 3, 3)


def test_an_error_of_the_transform_is_one_of_the_reader(mixed):
    with pytest.raises(ZeroDivisionError):
        list(read(mixed, transform=lambda images: 1 / 0))
    with pytest.raises(ValueError, match=r"workers: expected 0 or more, got -1"):
        list(read(mixed, workers=-1))


def test_no_more_than_two_batches_a_worker_are_listed_ahead(tmp_path):
    class Counting:
        name = "counted"
        given = 0

        def samples(self, start: int = 0):
            for i in range(start, 1000):
                self.given += 1
                yield Sample(str(i), None, png(1))

    shard = Counting()
    batches = read([shard], batch_size=5, workers=2)
    for taken in range(1, 20):
        next(batches)
        assert shard.given <= 5 * (taken + 2 * 2) + 1
    batches.close()
    assert not multiprocessing.active_children()


# The Hub


@pytest.fixture
def repository(hub):
    hub.repositories["user/photos"] = repository = hub_server.Repository()
    return repository


def test_a_tar_on_the_hub_is_read_in_pieces_and_not_stored(hub, repository, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_HUB_BLOCK", 16384)
    path = write_tar(tmp_path / "0.tar", samples_of(0, 40))
    commit = repository.add({"test/0.tar": path.read_bytes()})
    shard = TarShard("test/0.tar", f"hf://datasets/user/photos@{commit}/test/0.tar")
    local = [(s.key, s.label, shade(s.open())) for s in TarShard("test/0.tar", path).samples()]
    assert [(s.key, s.label, shade(s.open())) for s in shard.samples()] == local
    pieces = [request for request in hub.requests if request.startswith("GET") and "0.tar" in request]
    read_through = 40 * 4 * 512 + 512  # up to the first block of the end mark
    assert len(set(pieces)) == 1
    assert len(pieces) <= -(-read_through // 16384) + 1  # each once, and one ahead
    assert not list((tmp_path / "cache").rglob("*.tar"))
    hub.requests.clear()
    assert [s.key for s in shard.samples(38)] == [key for key, *_ in local[38:]]
    batches = contents(read([shard], transform=shades, batch_size=16, workers=2))
    assert batches == contents(read([TarShard("test/0.tar", path)], transform=shades, batch_size=16))


def test_what_is_wrong_with_a_tar_on_the_hub(hub, repository, tmp_path):
    whole = write_tar(tmp_path / "0.tar", samples_of(0, 9)).read_bytes()
    commit = repository.add({"cut.tar": whole[:-12000], "empty.tar": b""})
    (tmp_path / "cut.tar").write_bytes(whole[:-12000])
    place = f"hf://datasets/user/photos@{commit}"
    found, error = all_of(TarShard("cut.tar", f"{place}/cut.tar"))
    assert (len(found), str(error)) == (
        error.position,
        str(all_of(TarShard("cut.tar", tmp_path / "cut.tar"))[1]),
    )
    assert str(all_of(TarShard("gone.tar", f"{place}/gone.tar"))[1]) == "gone.tar: no such file"
    assert "an empty file" in str(all_of(TarShard("empty.tar", f"{place}/empty.tar"))[1])


def test_a_connection_that_breaks_is_no_broken_shard(hub, repository, tmp_path, monkeypatch):
    path = write_tar(tmp_path / "0.tar", samples_of(0, 9))
    commit = repository.add({"0.tar": path.read_bytes()})
    hub.cut.add("0.tar")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's tries
    with pytest.raises(ConnectionError) as caught:
        list(read([TarShard("0.tar", f"hf://datasets/user/photos@{commit}/0.tar")]))
    assert not isinstance(caught.value, BrokenShardError)


def test_parquet_on_the_hub(hub, repository, tmp_path):
    rows = [{"image": {"bytes": png(i), "path": None}, "label": i % 2} for i in range(7)]
    path = write_parquet(tmp_path / "t.parquet", rows, ["cat", "dog"])
    commit = repository.add({"data/t.parquet": path.read_bytes()})
    shard = TableShard("t", f"hf://datasets/user/photos@{commit}/data/t.parquet")
    assert list(shard.samples(3)) == list(TableShard("t", path).samples(3))
    assert shard.class_names() == ["cat", "dog"]


# The example


def test_the_example_scores_every_picture_and_compares_rates(capfd):
    stream_memory.evaluate_synthetic(70, 0, ["name"])
    assert " 70 pictures: peak " in capfd.readouterr().out
    stream_memory.main(["rates", "--images", "4", "--workers", "1", "--device", "cpu"])
    lines = capfd.readouterr().out.splitlines()
    assert lines[1].startswith("encoder alone: ")
    assert lines[2].startswith("1 workers: loader alone ")
