"""What is fuzzed: for each target how its files are made, and what may come of reading one."""

import gzip
import hashlib
import io
import json
import random
import tarfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from tests.fuzz.mutations import dumped, mutated_bytes, mutated_json


class Case(Protocol):
    """Makes one case of a target in a folder, and reads it; raises what is not documented."""

    def __call__(self, rng: random.Random, folder: Path) -> None: ...


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        prepare: makes real files once, in a folder of its own, and returns what makes a case.
        long: how many cases a run by hand has to make.
    """

    prepare: Callable[[Path], Case]
    long: int = 100_000


class WrongAnswer(Exception):
    """Something was read that is not what was written, and nobody said so."""


# ---- texts -------------------------------------------------------------------------------------------------

SYNONYMS = {
    "json": (
        b'{"format": "s3clip-synonyms/1", "description": "Cats", "license": "Apache-2.0", '
        b'"templates": ["a photo of a {}."], "generated": {"model": "m", "prompt_version": 1, "date": "d"}, '
        b'"classes": [{"name": "cat", "synonyms": ["tabby"], "descriptors": ["striped coat"], "id": 281}, '
        b'{"name": "fish", "prompts": ["It has\\nfins."]}]}',
        b'{"cat": ["kitty", "feline"], "dog": []}',
        b'["cat", "dog", {"name": "ox", "id": "n1"}]',
        b'{"0": {"name": "tench", "alternates": {"tench": 4, "f": 2}}, "1": {"name": "a", "alternates": {}}}',
        b'{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}',
        b'[{"id": 1, "synset": "a.n.01", "synonyms": ["spray_can"], "name": "spray_can"}]',
    ),
    "txt": (
        b"road, street\nu.s. flag\n",
        b"0:invalid_class_id\n7:a:b, c\n3:d\n",
        b"/m/01yrx,Cat\n/m/02,Dog\n",
        b"n02123045 tabby, tabby cat\nn01440764 tench\n",
        b"['cat', 'dog',\n 'bird']",
        b'"a ""so-called"" cat", x\n# comment\nb\n',
    ),
    "csv": (b"id,name,synonyms,descriptors\n0,cat,kitty;feline,striped\n1,dog,,\n", b"name;id\ncat;1\n"),
    "yaml": (
        b"format: s3clip-synonyms/1\nclasses:\n- name: cat\n  synonyms: [kitty]\n- {name: dog, id: 3}\n",
        b"cat: [kitty, &a feline]\ndog: [*a]\n",
        b"- cat\n- dog\n",
    ),
}


def synonyms(base: Path) -> Case:
    from s3clip import SynonymSet

    weighted = [
        kind for kind, count in (("json", 9), ("txt", 4), ("csv", 2), ("yaml", 1)) for _ in range(count)
    ]
    parsed = [json.loads(each) for each in SYNONYMS["json"]]

    def case(rng: random.Random, folder: Path) -> None:
        kind = rng.choice(weighted)
        if kind == "json" and rng.random() < 0.6:
            content = dumped(rng, mutated_json(rng, rng.choice(parsed)))
        else:
            content = mutated_bytes(rng, rng.choice(SYNONYMS[kind]), SYNONYMS[kind])
        path = folder / f"file.{kind}"
        path.write_bytes(content)
        values = rng.choice(("synonyms", "synonyms", "prompts", "descriptors"))
        try:
            found = SynonymSet.read(path, values=values)
        except ValueError:
            return
        found.write(folder / "again.json")
        if SynonymSet.read(folder / "again.json") != found:
            raise WrongAnswer("what was read is not what is written of it")

    return case


def answers(base: Path) -> Case:
    from s3clip.texts.generation.questions import read_answer

    good = {
        "classes": [
            {"number": 0, "name": "cat", "synonyms": ["kitty"], "descriptors": ["has fur"]},
            {"number": 1, "name": "dog", "synonyms": [], "descriptors": []},
        ]
    }

    def case(rng: random.Random, folder: Path) -> None:
        content = dumped(rng, mutated_json(rng, good) if rng.random() < 0.7 else good)
        text = mutated_bytes(rng, content) if rng.random() < 0.5 else content
        found, _ = read_answer(
            text.decode("utf-8", rng.choice(("replace", "surrogateescape"))), {0: "cat", 1: "dog"}
        )
        for number, own in found.items():
            own.model_dump_json()  # it can be written
            if own.name != ("cat", "dog")[number]:
                raise WrongAnswer(f"{number} is called {own.name}")

    return case


def journal(base: Path) -> Case:
    from s3clip.texts.generation.journal import Journal, Question
    from s3clip.texts.synonyms import SynonymClass

    question = Question(model="m", prompt_version=1, domain=None)
    written = Journal(base / "x", question)
    written.add({0: SynonymClass(name="cat", synonyms=("kitty",)), 1: SynonymClass(name="dog")})
    written.add({2: SynonymClass(name="ox", descriptors=("has horns",))})
    written.close()
    content = (base / "x").read_bytes()
    lines = [json.loads(line) for line in content.splitlines() if line]

    def case(rng: random.Random, folder: Path) -> None:
        changed = mutated_bytes(rng, content)
        if rng.random() < 0.6:
            changed = b"\n".join(dumped(rng, mutated_json(rng, line)) for line in lines)
        (folder / "j").write_bytes(changed)
        found = Journal(folder / "j", question).read({0: "cat", 1: "dog", 2: "ox"})
        if any(own.name != ("cat", "dog", "ox")[position] for position, own in found.items()):
            raise WrongAnswer("an answer of another class")

    return case


# ---- artifacts ---------------------------------------------------------------------------------------------


def _head(base: Path, taught: str = "") -> Any:
    """Save a class space, with labelled images ("examples") or what was learned of some ("residual")."""
    import torch

    from s3clip.artifact.folder import load_artifact, save_artifact
    from s3clip.class_space import Examples, LearnedResidual
    from s3clip.class_space.fitted import ClassSpaceModule
    from s3clip.class_space.fitted_space import FittedSpace
    from tests import ROOT

    space = load_artifact(ROOT / "tests" / "artifact" / "saved" / "2")
    if taught:
        shown = torch.randn(24, space.raw.shape[1], generator=torch.Generator().manual_seed(0))
        embeds = torch.nn.functional.normalize(shown, dim=1).half()
        examples = Examples(embeds, torch.arange(24) % 4 - 1, logit_scale=10.0)
        space = FittedSpace(replace(space, few_shot=examples)).value
        strong = space.few_shot.report.model_copy(update={"strength": 1.0})
        space = replace(space, few_shot=replace(space.few_shot, report=strong))
        if taught == "residual":
            weights = torch.ones(space.raw.shape[1], len(space.classes))
            space = replace(space, few_shot=LearnedResidual(weights, weights[0].clone(), strong))
    save_artifact(base / "space", space)
    torch.set_num_threads(1)
    return space, ClassSpaceModule


def artifact(base: Path, taught: str = "examples") -> Case:
    """Files that were damaged: what loads is what was saved, bit for bit."""
    from s3clip.artifact.folder import load_artifact

    space, _ = _head(base, taught)
    expected, files = space.digest(), {path.name: path.read_bytes() for path in (base / "space").iterdir()}
    config = json.loads(files["config.json"])

    def case(rng: random.Random, folder: Path) -> None:
        which = rng.choice(("config.json", "config.json", config["space_file"]))
        changed = mutated_bytes(rng, files[which], list(files.values()))
        if which == "config.json" and rng.random() < 0.5:
            changed = dumped(rng, mutated_json(rng, config))
        for name, content in files.items():
            (folder / name).write_bytes(changed if name == which else content)
        try:
            found = load_artifact(folder)
        except (ValueError, FileNotFoundError):
            return
        if found.digest() != expected or found.backbone.reference != space.backbone.reference:
            raise WrongAnswer("another class space was loaded")

    return case


def artifact_mended(base: Path, taught: str = "examples") -> Case:  # noqa: C901
    """Files of somebody who also mends the checksums: they are refused, or give logits that are numbers."""
    import torch
    from safetensors.torch import load, save

    from s3clip import SynonymousSpaceHead
    from s3clip.artifact.folder import config_digest

    _head(base, taught)
    config = json.loads((base / "space" / "config.json").read_text())
    original = (base / "space" / config["space_file"]).read_bytes()
    tensors = load(original)
    dtypes = [
        torch.float16,
        torch.bfloat16,
        torch.int32,
        torch.uint16,
        torch.bool,
        torch.float8_e5m2,
        torch.complex64,
    ]

    def changed_tensors(rng: random.Random) -> dict[str, Any]:
        own = dict(tensors)
        for _ in range(rng.choice((0, 1, 1, 2))):
            name = rng.choice(list(own))
            kind = rng.randrange(6)
            if kind == 0:
                del own[name]
                if not own:
                    return dict(tensors)
            elif kind == 1:
                own[name] = own[name].to(rng.choice(dtypes))
            elif kind == 2:
                own[name] = own[name].reshape(-1)[: rng.randrange(4)].clone()
            elif kind == 3 and own[name].dtype in (torch.float32, torch.float64):
                own[name] = own[name] * rng.choice((0.0, -1.0, float("nan"), 1e30, 1e-30))
            elif kind == 4 and own[name].ndim:
                own[name] = own[name][:, None].clone()
            else:
                own[f"fingerprint.{rng.choice(('more', 'A', 'x' * 50))}"] = torch.ones(rng.randrange(5), 64)
        return own

    def case(rng: random.Random, folder: Path) -> None:
        said = mutated_json(rng, config) if rng.random() < 0.7 else dict(config)
        if not isinstance(said, dict):
            return
        content = save(changed_tensors(rng), {"config_sha256": config_digest(said)})
        if rng.random() < 0.3:
            content = mutated_bytes(rng, content)
        sha256 = hashlib.sha256(content).hexdigest()
        said |= {"space_file": f"space-{sha256[:16]}.safetensors", "space_sha256": sha256}
        (folder / said["space_file"]).write_bytes(content)
        (folder / "config.json").write_bytes(dumped(rng, said))
        try:
            head = SynonymousSpaceHead.from_pretrained(folder, backbone=None)
        except (ValueError, FileNotFoundError):
            return
        image = torch.randn(2, head.text_embeddings.shape[1], generator=torch.Generator().manual_seed(0))
        logits = head(image_embeds=image)
        if logits.shape != (2, len(head.class_names)) or not bool(torch.isfinite(logits).all()):
            raise WrongAnswer(f"logits {logits}")
        if not bool(torch.isfinite(head.probabilities(logits)).all()):
            raise WrongAnswer(f"probabilities {head.probabilities(logits)}")

    return case


def state_dict(base: Path, taught: str = "examples") -> Case:
    """State dicts, as torch.load gives them: refused, or taken."""
    import torch

    from s3clip import SynonymousSpaceHead

    _head(base, taught)
    state = SynonymousSpaceHead.from_pretrained(base / "space", backbone=None).state_dict()
    key = next(key for key in state if key.endswith("_extra_state"))
    content = json.loads(bytes(state[key].numpy()))

    def case(rng: random.Random, folder: Path) -> None:
        said = dumped(rng, mutated_json(rng, content))
        if rng.random() < 0.2:
            said = mutated_bytes(rng, said)
        changed = {**state, key: torch.frombuffer(bytearray(said or b" "), dtype=torch.uint8)}
        if rng.random() < 0.2:
            name = rng.choice(list(state))
            changed[name] = changed[name][: rng.randrange(4)].to(
                rng.choice((torch.float32, torch.uint16, torch.int64))
            )
        try:
            SynonymousSpaceHead().load_state_dict(changed, strict=False)
        except ValueError:
            return

    return case


# ---- what is labelled --------------------------------------------------------------------------------------


def _png() -> bytes:
    from PIL import Image

    sink = io.BytesIO()
    Image.new("RGB", (4, 4)).save(sink, "PNG")
    return sink.getvalue()


def tar(base: Path) -> Case:
    from s3clip.images.sources import BrokenShardError
    from s3clip.images.tars import TarShard

    seeds: dict[str, bytes] = {}
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for mode, ending in (("w", "tar"), ("w:gz", "tar.gz"), ("w:xz", "tar.xz")):
            sink = io.BytesIO()
            with tarfile.open(fileobj=sink, mode=mode, format=form) as file:
                for name, content in (
                    ("a.png", _png()),
                    ("a.cls", b"3"),
                    ("é" * (20 if form == tarfile.USTAR_FORMAT else 80) + ".png", _png()),
                ):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    info.pax_headers = {"comment": "x" * 20} if form == tarfile.PAX_FORMAT else {}
                    file.addfile(info, io.BytesIO(content))
            seeds[f"{form}.{ending}"] = sink.getvalue()

    def headers(rng: random.Random) -> bytes:
        """Headers of every kind in any order, whose sizes are true or not."""
        found = b""
        for _ in range(rng.choice((1, 2, 5, 40))):
            kind = rng.choice((b"0", b"L", b"K", b"x", b"g", b"X", b"S", b"1", b"2", b"5"))
            content = rng.choice(
                (b"", b"a.png", b"x" * 700, b"11 path=b\n", b"20 size=99999999999\n", _png())
            )
            content = rng.choice((content, b"30 GNU.sparse.major=1\n", b"1" * 300, b"9" * 40 + b" a=b\n"))
            info = tarfile.TarInfo(rng.choice(("a.png", "a.cls", "x/b.jpg", "././@LongLink")))
            info.type = kind
            info.size = rng.choice((len(content), len(content), 2**20, 2**33 - 1, 2**62))
            times = rng.choice((1, 1, 1, 60, 400))
            found += (info.tobuf(tarfile.GNU_FORMAT) + content + b"\0" * (-len(content) % 512)) * times
        return found + b"\0" * rng.choice((0, 1024))

    def case(rng: random.Random, folder: Path) -> None:
        name = rng.choice(list(seeds))
        path = folder / f"x.{name.partition('.')[2]}"
        content = mutated_bytes(rng, seeds[name], list(seeds.values()))
        if rng.random() < 0.3:
            content = headers(rng)
            content = gzip.compress(content, 1) if rng.random() < 0.5 else content
        path.write_bytes(content)
        try:
            for sample in TarShard("x", path, grouped=rng.random() < 0.7).samples(rng.choice((0, 0, 1))):
                assert isinstance(sample.key, str)
        except BrokenShardError:
            return

    return case


def arrays(base: Path) -> Case:
    import numpy as np
    from safetensors.numpy import save

    from s3clip.bulk.embedding_shards import ArrayShard
    from s3clip.images.sources import BrokenShardError

    rows = np.arange(24, dtype=np.float32).reshape(6, 4)
    seeds: list[tuple[str, bytes]] = []
    for array in (rows, rows.astype(np.float16), rows.astype(np.float64)):
        sink = io.BytesIO()
        np.save(sink, array)
        seeds.append(("npy", sink.getvalue()))
        seeds.append(("safetensors", save({"a": array, "labels": np.arange(6)})))
    for writer in (np.savez, np.savez_compressed):
        sink = io.BytesIO()
        writer(sink, embeds=rows, labels=np.arange(6))
        seeds.append(("npz", sink.getvalue()))
    header = json.loads(seeds[1][1][8 : 8 + int.from_bytes(seeds[1][1][:8], "little")])

    def case(rng: random.Random, folder: Path) -> None:
        kind, content = rng.choice(seeds)
        content = mutated_bytes(rng, content, [each for _, each in seeds])
        if kind == "safetensors" and rng.random() < 0.6:
            said = dumped(rng, mutated_json(rng, header))
            content = len(said).to_bytes(8, "little") + said + rows.tobytes()
        path = folder / f"x.{kind}"
        path.write_bytes(content)
        try:
            for keys, block, _ in ArrayShard(str(path)).blocks(
                rng.choice((1, 4, 1000)), rng.choice((0, 0, 2))
            ):
                if len(keys) != len(block) or block.ndim != 2:
                    raise WrongAnswer(f"{len(keys)} keys of {block.shape}")
        except BrokenShardError:
            return

    return case


def tables(base: Path) -> Case:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from s3clip.bulk.embedding_shards import EmbeddingTable
    from s3clip.images.sources import BrokenShardError
    from s3clip.images.table_shards import TableShard

    pictures = pa.table(
        {
            "image": [{"bytes": _png(), "path": None}, {"bytes": None, "path": "a.png"}, None],
            "label": [0, 1, 2],
        }
    )
    embeddings = pa.table({"embedding": [[1.0, 2.0], None, [3.0, 4.0]], "error": [None, "x", None]})
    seeds: list[tuple[str, bool, bytes]] = []
    for is_pictures, table in ((True, pictures), (False, embeddings)):
        for compression in ("none", "snappy", "zstd", "gzip"):
            sink = io.BytesIO()
            pq.write_table(table, sink, compression=compression)
            seeds.append(("parquet", is_pictures, sink.getvalue()))
        for writer in (pa.ipc.new_file, pa.ipc.new_stream):
            sink = io.BytesIO()
            with writer(sink, table.schema) as out:
                out.write_table(table)
            seeds.append(("arrow", is_pictures, sink.getvalue()))

    def case(rng: random.Random, folder: Path) -> None:
        kind, is_pictures, content = rng.choice(seeds)
        path = folder / f"x.{kind}"
        path.write_bytes(mutated_bytes(rng, content, [each for *_, each in seeds]))
        start = rng.choice((0, 0, 1))
        try:
            if is_pictures:
                for sample in TableShard("x", path).samples(start):
                    assert isinstance(sample.key, str)
            else:
                for keys, block, _ in EmbeddingTable(str(path)).blocks(2, start):
                    if len(keys) != len(block):
                        raise WrongAnswer(f"{len(keys)} keys of {block.shape}")
        except BrokenShardError:
            return

    return case


def addresses(base: Path) -> Case:  # noqa: C901
    """Tables whose cells name files: nothing outside of their folder is opened, here or in the network."""
    import os
    import socket

    import pyarrow as pa
    import pyarrow.parquet as pq

    from s3clip.images.sources import open_samples
    from s3clip.images.table_shards import TableShard

    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    port = server.getsockname()[1]
    (base / "own" / "sub").mkdir(parents=True)
    (base / "out").mkdir()
    for name in ("own/a.png", "own/sub/b.png"):
        (base / name).write_bytes(_png())
    from PIL import Image

    for name in ("out/c.png", "e.png", "ownother.png"):
        Image.new("RGB", (7, 7)).save(base / name)  # told from the others by its size
    for name, target in (
        ("away", "../out"),
        ("away.png", "../e.png"),
        ("home", "."),
        ("in.png", "sub/b.png"),
    ):
        (base / "own" / name).symlink_to(target)
    os.mkfifo(base / "own" / "pipe.png")
    parts = (
        "a.png",
        "sub",
        "b.png",
        "..",
        ".",
        "away",
        "away.png",
        "home",
        "in.png",
        "c.png",
        "e.png",
        "out",
    )
    parts += ("own", "ownother.png", "pipe.png", "", "%2e%2e", "\\..", "~", "\0", "*", "x" * 300)
    starts = ("", "", "/", f"{base}/", f"{base}/own/", "file://", f"file://{base}/", f"local://{base}/own/")
    starts += (
        f"file://localhost{base}/",
        f"simplecache::file://{base}/",
        f"zip://c.png::file://{base}/",
        "file:",
    )
    starts += (f"http://127.0.0.1:{port}/", f"HTTP://user@127.0.0.1:{port}/", f"https://127.0.0.1:{port}/")
    starts += (f"http://[::ffff:127.0.0.1]:{port}/", f"http://2130706433:{port}/", f"ftp://127.0.0.1:{port}/")
    starts += (
        f"simplecache::http://127.0.0.1:{port}/",
        "memory://",
        "data:image/png;base64,",
        "//",
        "\\\\host\\",
    )
    private = (f"http://127.0.0.1:{port}/", f"http://localhost:{port}/", f"http://2130706433:{port}/")

    def case(rng: random.Random, folder: Path) -> None:
        names = []
        for _ in range(8):
            name = rng.choice(starts) + "/".join(rng.choice(parts) for _ in range(rng.randrange(1, 5)))
            if rng.random() < 0.2:
                name = mutated_bytes(rng, name.encode()).decode("utf-8", "replace")
            names.append(name)
        allowed: tuple[str, ...] = ()
        if rng.random() < 0.3:  # a scheme does not allow what is private
            allowed, names = ("http", "https"), [rng.choice(private) + name for name in names]
        path = base / "own" / "t.parquet"
        cells: Any = names if rng.random() < 0.5 else [{"bytes": None, "path": name} for name in names]
        pq.write_table(pa.table({"image": cells}), path)
        errors: dict[int, str] = {}
        shard = TableShard("t", path, label_column=None, allowed=allowed)
        for picture in open_samples(list(shard.samples()), errors):
            if picture.size == (7, 7):
                raise WrongAnswer(f"opened outside: {names}")
        try:
            server.accept()
        except BlockingIOError:
            return
        raise WrongAnswer(f"asked this machine: {names}")

    return case


def output(base: Path) -> Case:
    """What a folder of results says of itself: manifest, listing, and the footers of its parts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from s3clip.bulk.inputs import InputFile, read_listing, write_listing
    from s3clip.bulk.output import _FOOTER, LAYOUT, Manifest, Output, Part
    from s3clip.files.state import FileState

    written = Output(base / "out")
    written.make()
    manifest = Manifest(settings={"format": "x"}, fingerprint=[1.0], classes=[{"name": "a", "id": 1}])
    written.write(LAYOUT.manifest, manifest.model_dump_json().encode())
    write_listing(written, [InputFile("/a", FileState(3, "1"), "s"), InputFile("/b", FileState(4, "2"), "s")])
    part = Part(shard="s", start=0, settings="d", version="v", ends_shard=True, broken=None)
    table = pa.table({key: pa.array(["a"]) for key in ("key", "shard", "label", "text")})
    written.write_part(part, table)
    files = {
        name: (base / "out" / name).read_bytes() for name in (LAYOUT.manifest, LAYOUT.listing, part.file)
    }
    footer = part.model_dump(mode="json")

    def case(rng: random.Random, folder: Path) -> None:
        out = Output(folder)
        which = rng.choice((*files, "footer"))
        (folder / LAYOUT.books).mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(mutated_bytes(rng, content) if name == which else content)
        if which == LAYOUT.manifest and rng.random() < 0.7:
            (folder / which).write_bytes(dumped(rng, mutated_json(rng, json.loads(files[which]))))
        if which == "footer":
            said = dumped(rng, mutated_json(rng, footer))
            changed = table.replace_schema_metadata({_FOOTER: said})
            pq.write_table(changed, folder / part.file)
        for read in (out.manifest, lambda: read_listing(out), lambda: list(out.parts())):
            try:
                read()
            except ValueError:
                continue

    return case


# ---- runs and caches ---------------------------------------------------------------------------------------


def run_json(base: Path) -> Case:
    from s3clip.evaluation.report.page import run_page
    from s3clip.evaluation.report.run import Run
    from tests import ROOT

    original = json.loads((ROOT / "tests" / "fuzz" / "run.json").read_text())

    def case(rng: random.Random, folder: Path) -> None:
        content = dumped(rng, mutated_json(rng, original))
        if rng.random() < 0.2:
            content = mutated_bytes(rng, content)
        (folder / "run.json").write_bytes(content)
        try:
            run = Run.read(folder)
        except ValueError:
            return
        page = run_page([(folder, run)])
        if page.count("<script") > 1:
            raise WrongAnswer("the page has a script that is not ours")
        run.markdown()

    return case


def store(base: Path) -> Case:
    from s3clip.evaluation.runs.store import Store

    with Store(base).writer("log") as writer:
        for i in range(4):
            writer.append({"image": i, "file": "a.png"}, bytes([i]) * 20)
    files = {path.name: path.read_bytes() for path in base.iterdir()}
    whole = {json.dumps(entry.content): entry.read() for entry in Store(base).new_entries()}

    def case(rng: random.Random, folder: Path) -> None:
        which = rng.choice(list(files))
        for name, content in files.items():
            (folder / name).write_bytes(mutated_bytes(rng, content) if name == which else content)
        for entry in Store(folder).new_entries():
            if whole.get(json.dumps(entry.content)) != entry.read():
                raise WrongAnswer(f"an entry that was not written: {entry.content}")
        with Store(folder).writer("log") as writer:
            writer.append({"image": 9}, b"x")
        if [entry.read() for entry in Store(folder).new_entries()][-1:] != [b"x"]:
            raise WrongAnswer("what is appended is not read")

    return case


def text_cache(base: Path) -> Case:
    import numpy as np

    from s3clip.backbone.text_cache import TextCache, never_fatal

    texts = [f"text {i}" for i in range(12)]
    vectors = np.arange(12 * 8, dtype=np.float32).reshape(12, 8)
    written = TextCache(base / "texts.sqlite", b"encoder")
    written.write(texts, vectors)
    content = (base / "texts.sqlite").read_bytes()

    def case(rng: random.Random, folder: Path) -> None:
        for left in folder.iterdir():
            left.unlink()
        path = folder / "texts.sqlite"
        path.write_bytes(mutated_bytes(rng, content))
        cache = TextCache(path, b"encoder")
        with never_fatal(cache):
            for text, vector in cache.read([*texts, "more"], 8).items():
                if text not in texts or not np.array_equal(vector, vectors[texts.index(text)]):
                    raise WrongAnswer(f"another embedding of {text!r}")
        with never_fatal(cache):
            cache.write(["more"], vectors[:1])

    return case


TARGETS = {
    "synonyms": Target(synonyms, 1_000_000),
    "answers": Target(answers),
    "journal": Target(journal),
    "artifact": Target(artifact),
    "artifact-mended": Target(artifact_mended),
    "artifact-residual": Target(lambda base: artifact_mended(base, "residual")),
    "state-dict": Target(state_dict),
    "tar": Target(tar),
    "arrays": Target(arrays),
    "tables": Target(tables),
    "addresses": Target(addresses),
    "output": Target(output),
    "run-json": Target(run_json),
    "store": Target(store),
    "text-cache": Target(text_cache),
}


def quiet() -> None:
    """What is wrong with a file may be said as a warning; a run of a million cases prints none."""
    warnings.simplefilter("ignore")
