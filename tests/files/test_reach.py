"""What a file names is opened below its own folder, and where the caller says so, by every way in."""

import http.server
import io
import json
import os
import random
import socket
from pathlib import Path

import pytest
from PIL import Image

from s3clip.evaluation.benchmarks.layouts import open_layout
from s3clip.evaluation.benchmarks.table import Convention
from s3clip.evaluation.inputs import labelled_images
from s3clip.files import web
from s3clip.files.reach import Named, OutOfReachError, Reach, allowed_places
from s3clip.images.opening import BrokenImageError
from s3clip.images.sources import Sample, open_samples
from s3clip.images.table_shards import TableShard
from tests.serving import serving

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def png(shade: int) -> bytes:
    sink = io.BytesIO()
    Image.new("L", (2, 2), shade).save(sink, "PNG")
    return sink.getvalue()


def shade_of(sample: Sample) -> int | None:
    """The shade of the picture that a sample opens; None where it is an error, as a row has it."""
    errors: dict[int, str] = {}
    opened = [picture.getpixel((0, 0))[0] for picture in open_samples([sample], errors)]
    assert len(opened) + len(errors) == 1
    return opened[0] if opened else None


@pytest.fixture
def places(tmp_path):
    """A folder of a table with links in it, pictures inside and outside; shades by their real paths."""
    shades = {}
    for number, name in enumerate(("own/a.png", "own/sub/b.png", "out/c.png", "ownother/d.png", "e.png")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(10 + number))
        shades[os.path.realpath(path)] = 10 + number
    own = tmp_path / "own"
    (own / "in.png").symlink_to("sub/b.png")
    (own / "away.png").symlink_to("../out/c.png")
    (own / "away").symlink_to("../out")
    (own / "home").symlink_to(tmp_path / "own")
    os.mkfifo(own / "pipe.png")
    (own / "device.png").symlink_to("/dev/zero")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(own / "socket.png"))
    bound.close()
    return tmp_path, shades


def drawn_names(root: Path, rng: random.Random) -> list[str]:
    """Names as people and attackers write them, of files that are inside, outside, or nowhere."""
    parts = ["a.png", "sub", "b.png", "..", ".", "away", "away.png", "in.png", "home", "out", "c.png", "own"]
    parts += ["ownother", "d.png", "e.png", "pipe.png", "device.png", "socket.png", "", "own\\..", "%2e%2e"]
    names = ["a.png", "sub/b.png", "in.png", "home/home/a.png", "away/c.png", "../e.png", "../ownother/d.png"]
    names += ["a.png\0", "x" * 5000, f"{root}/own/a.png", f"{root}/own/../own/in.png", f"{root}/e.png"]
    names += ["file:///etc/passwd", f"file://{root}/own/a.png", f"file://{root}/e.png", "file://own/a.png"]
    names += [f"local://{root}/e.png", "http://127.0.0.1:9/a.png", "HTTP://[::1]/a.png", "memory://a.png"]
    names += [f"simplecache::file://{root}/e.png", f"zip://e.png::file://{root}/x.zip", "s3://bucket/a.png"]
    for _ in range(80):
        name = "/".join(rng.choice(parts) for _ in range(rng.randint(1, 4)))
        names.append(rng.choice(["", "", f"{root}/", f"{root}/own/", f"file://{root}/"]) + name)
    return [name for name in dict.fromkeys(names) if name]


def expected(name: str, own: Path, shades: dict[str, int], *, anywhere: bool) -> int | None:
    """What a name opens, by the rule as the docs say it: a file of this machine below the table's folder."""
    scheme, mark, rest = name.partition("://")
    if mark and scheme in ("file", "local"):
        name = rest if rest.startswith("/") else ""
    elif mark:
        return None
    if not name or "\0" in name:
        return None
    real = os.path.realpath(own / name)
    inside = os.path.commonpath([real, os.path.realpath(own)]) == os.path.realpath(own)
    # The system goes through "x/.." only where there is a folder x, and `realpath` through any.
    there = os.path.exists(own / name)
    return shades.get(real) if (inside or anywhere) and there else None


def by_parquet(own, names, allowed):
    pq.write_table(pa.table({"image": names}), own / "t.parquet")
    return list(TableShard("t", own / "t.parquet", label_column=None, allowed=allowed).samples())


def by_records_in_arrow(own, names, allowed):
    table = pa.table({"image": [{"bytes": None, "path": name} for name in names]})
    with pa.ipc.new_file(own / "t.arrow", table.schema) as writer:
        writer.write_table(table)
    return list(TableShard("t", own / "t.arrow", label_column=None, allowed=allowed).samples())


def by_csv(own, names, allowed):
    rows = "".join(f'"{name}",x\n' for name in names if "\0" not in name)
    (own / "t.csv").write_text(f"file,label\n{rows}")
    rule = Convention.model_validate({"layouts": [{"kind": "csv", "file": "t.csv"}]})
    return [each for shard in open_layout("t", rule, own, allowed).shards for each in shard.samples()]


def by_json(own, names, allowed):
    (own.parent / "split.json").write_text(json.dumps({"test": [[name, 0, "x"] for name in names]}))
    row = {"kind": "coop_split", "folder": ".", "file": "split.json", "images": "own"}
    rule = Convention.model_validate({"layouts": [row]})
    found = open_layout("t", rule, own.parent, allowed)
    return [each for shard in found.shards for each in shard.samples()]


@pytest.mark.parametrize("way", [by_parquet, by_records_in_arrow, by_csv, by_json])
@pytest.mark.parametrize("anywhere", [False, True])
def test_every_way_in_gives_the_same_decision(places, way, anywhere):
    root, shades = places
    own = root / "own"
    names = drawn_names(root, random.Random(22))
    samples = []
    for name in names:  # one by one: some lists refuse a key that stands twice
        if way is by_csv and "\0" in name:
            continue
        samples += [(name, each) for each in way(own, [name], ("file",) if anywhere else ())]
    opened = 0
    for name, sample in samples:
        found = shade_of(sample)
        assert found == expected(name, own, shades, anywhere=anywhere), name
        opened += found is not None
    assert opened > 5  # the rule opens, too


@pytest.mark.parametrize("anywhere", [False, True])
def test_a_list_of_labelled_images_is_refused_by_the_line(places, anywhere):
    root, shades = places
    own = root / "own"
    for name in drawn_names(root, random.Random(23)):
        if "\0" in name:
            continue
        (own / "t.csv").write_text(f'file,label\n"{name}",x\n')
        try:
            (path,), _ = labelled_images(None, own / "t.csv", allow_addresses="file" if anywhere else ())
            found = shades.get(os.path.realpath(path)) if path.exists() else None
        except (ValueError, OSError):
            found = None
        assert found == expected(name, own, shades, anywhere=anywhere), name


def test_keys_of_masks_stay_in_their_folders(places):
    root, _ = places
    own = root / "own"
    (own / "masks").mkdir()
    (own / "masks" / "m.png").write_bytes(png(1))
    (own / "pictures").symlink_to(root / "out")  # the folder itself may be a link: the caller named it
    (root / "out" / "m.png").write_bytes(png(2))
    (own / "masks" / "c.png").symlink_to(root / "e.png")
    (own / "keys.txt").write_text("m\nc\n../own/a\n" + str(root / "e") + "\n")
    row = {"kind": "masks", "images": "pictures", "masks": "masks", "listed": "keys.txt"}
    rule = Convention.model_validate({"headline": "miou", "layouts": [{**row, "image_suffix": ".png"}]})
    found = [(s.key, shade_of(s)) for shard in open_layout("t", rule, own).shards for s in shard.samples()]
    assert [shade for _, shade in found] == [2, None, None, None]
    wide = [shade_of(s) for shard in open_layout("t", rule, own, ("file",)).shards for s in shard.samples()]
    assert wide[:2] == [2, 12]


def test_links_of_a_download_from_the_hub_are_followed_to_its_own_blobs(tmp_path):
    repository = tmp_path / "datasets--user--pets"
    snapshot = repository / "snapshots" / "abc"
    (repository / "blobs").mkdir(parents=True)
    (snapshot / "photos").mkdir(parents=True)
    (repository / "blobs" / "0f").write_bytes(png(5))
    (tmp_path / "secret.png").write_bytes(png(6))
    (snapshot / "photos" / "a.png").symlink_to("../../../blobs/0f")
    (snapshot / "photos" / "b.png").symlink_to("../../../../secret.png")
    (repository / "blobs" / "1f").symlink_to(tmp_path / "secret.png")
    (snapshot / "photos" / "c.png").symlink_to("../../../blobs/1f")
    reach = Reach(str(snapshot))
    found = [shade_of(Sample("k", None, Named(f"photos/{name}.png", reach))) for name in "abc"]
    assert found == [5, None, None]


@pytest.mark.parametrize(
    ("allowed", "opened"),
    [
        ((), []),
        (("s3",), ["s3://b/x.png", "s3://a/x/y.png", "s3://a/xy.png"]),
        (("s3://a/x/",), ["s3://a/x/y.png"]),
        (("https",), ["https://one.example/x.png", "https://one.example.more/x.png"]),
        (("https://one.example",), ["https://one.example/x.png"]),
        (("http://127.0.0.1:80/in",), ["http://127.0.0.1:80/in/x.png"]),
        (("http",), ["http://one.example/x.png"]),
    ],
)
def test_more_is_opened_by_scheme_or_by_what_addresses_begin_with(allowed, opened):
    names = ["s3://b/x.png", "s3://a/x/y.png", "https://one.example/x.png", "http://127.0.0.1:80/in/x.png"]
    names += ["http://one.example/x.png", "s3://a/xy.png", "s3://a/x/../y.png", "http://localhost/x.png"]
    names += ["https://one.example@127.0.0.1/x.png", "https://one.example.more/x.png", "gs://a/x/y.png"]
    names += ["s3://a/x::file:///etc/passwd", "http://127.0.0.1:80/in/%2e%2e/x.png", "ftp://a.example/x.png"]
    names += ["http://127.0.0.1:80/inner.png"]
    reach = Reach("/data", allowed_places(allowed))
    found = []
    for name in names:
        try:
            found.append(str(reach.find(name)))
        except OutOfReachError:
            continue
    assert found == opened


def test_tables_in_a_store_open_what_lies_beside_them():
    reach = Reach("s3://bucket/set")
    assert reach.find("a/b.png") == "s3://bucket/set/a/b.png"
    assert reach.find("s3://bucket/set/c.png") == "s3://bucket/set/c.png"
    names = ["/etc/passwd", "../b.png", "a::file", "..\\b", "%2e%2e/b", "s3://bucket/settle/b", "file:///x"]
    for name in names:
        with pytest.raises(OutOfReachError):
            reach.find(name)


@pytest.mark.parametrize("given", ["/data", "../x", "", "https://a/../b", "file://data", "two words"])
def test_what_is_neither_a_scheme_nor_an_address_is_refused(given):
    with pytest.raises(ValueError, match=r"allow_addresses: expected schemes"):
        allowed_places([given])
    with pytest.raises(TypeError, match="allow_addresses"):
        allowed_places([3])  # type: ignore[list-item]


class _Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        port = self.server.server_address[1]
        targets = {"/private": f"http://127.0.0.2:{port}/a.png", "/file": "file:///etc/hostname"}
        targets |= {"/ftp": "ftp://127.0.0.1/a", "/moved": "/a.png", "/loop": "/loop"}
        self.server.asked.append((self.headers["Host"].split(":")[0], self.path))
        if self.path in targets:
            self.send_response(302)
            self.send_header("Location", targets[self.path])
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(png(9))

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server; for these tests 127.0.0.2 alone is private, and 127.0.0.1 is the wide world."""
    monkeypatch.setattr(web, "_is_private", lambda ip: ip == "127.0.0.2")
    monkeypatch.setenv("no_proxy", "*")
    running = http.server.ThreadingHTTPServer(("0.0.0.0", 0), _Web)
    running.asked = []
    with serving(running):
        yield running


def test_no_redirect_to_another_scheme_or_to_a_private_host(server):
    port = server.server_address[1]
    world, inside = f"http://127.0.0.1:{port}", f"http://127.0.0.2:{port}"
    any_http = Reach("/data", ("http",))

    def shade(address: str, reach: Reach) -> int | None:
        return shade_of(Sample("k", None, Named(address, reach)))

    assert shade(f"{world}/a.png", Reach("/data")) is None
    assert not server.asked
    assert [shade(f"{world}{path}", any_http) for path in ("/a.png", "/moved")] == [9, 9]
    for path in ("/file", "/ftp", "/loop", "/private"):
        assert shade(f"{world}{path}", any_http) is None
    assert shade(f"{inside}/a.png", any_http) is None
    assert "127.0.0.2" not in {host for host, _ in server.asked}
    assert shade(f"{inside}/a.png", Reach("/data", (inside,))) == 9
    with pytest.raises(BrokenImageError, match=r"private network.*not the scheme alone"):
        Sample("k", None, Named(f"{inside}/a.png", any_http)).open()
    # What the caller passes is opened; where it is redirected to, he has not said.
    assert Sample("k", None, f"{inside}/a.png").open().getpixel((0, 0)) == (9, 9, 9)
    with pytest.raises(ConnectionError, match="private"):
        Sample("k", None, f"{world}/private").open()


def test_a_name_that_resolves_to_another_host_when_it_is_connected_to(server, monkeypatch):
    port = server.server_address[1]
    answers = iter(["127.0.0.1", "127.0.0.2"])
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *a, **k: [(socket.AF_INET, 1, 6, "", (next(answers), port))]
    )
    sample = Sample("k", None, Named(f"http://turning.example:{port}/a.png", Reach("/data", ("http",))))
    assert shade_of(sample) is None
    assert not server.asked


def test_hosts_of_this_machine_and_of_private_networks_in_every_spelling():
    private = ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "192.168.0.1"]
    private += ["169.254.169.254", "::1", "::", "fe80::1", "fd00::1", "::ffff:127.0.0.1", "100.64.0.1"]
    private += ["2002:7f00:1::", "224.0.0.1", "172.16.0.1"]
    public = ["8.8.8.8", "2606:4700::1111", "example.org", "127.0.0.1.example.org", "notlocalhost"]
    assert [host for host in private if not web.is_private_name(host)] == []
    assert [host for host in public if web.is_private_name(host)] == []
    for spelled in ("2130706433", "0x7f000001", "127.1", "0177.0.0.1"):  # which the system reads as 127.0.0.1
        with pytest.raises(web.PrivateHostError):
            web.fetch(f"http://{spelled}:9/a.png", 100)
