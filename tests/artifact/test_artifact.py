"""Saved class spaces: whole, checked, and never half-loaded."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save

from s3clip import HeadConfig, SynonymousSpaceHead
from s3clip.artifact.folder import config_digest, load_artifact, save_artifact
from s3clip.demo import model_folder
from tests.processes import memory_grown
from tests.tiny_models import DIM, build

PETS = {"cat": ["feline", "kitty"], "dog": ["hound"], "bird": []}
RECORDS = {
    "format": "s3clip-synonyms/1",
    "templates": ["a {}", "the {}"],
    "classes": [
        {"name": "ox", "id": 3},
        {"name": "cat", "synonyms": ["kitty"], "id": "n1"},
        {"name": "ox 2"},
    ],
}


@pytest.fixture
def saved(head: SynonymousSpaceHead, tmp_path: Path) -> Path:
    return head.fit_classes(RECORDS).save_pretrained(tmp_path / "space")


def rewrite(folder: Path, change_config=None, change_tensors=None, *, digest: bool = True) -> None:
    """Edit an artifact as somebody would who also mends the checksums, but for the digest if so asked."""
    config = json.loads((folder / "config.json").read_text())
    path = folder / config["space_file"]
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    if change_tensors is not None:
        change_tensors(tensors)
    named = {key: config[key] for key in ("space_file", "space_sha256")}
    if change_config is not None:
        change_config(config)
    if digest:
        metadata = {"config_sha256": config_digest(config)}
    content = save(tensors, metadata)
    sha256 = hashlib.sha256(content).hexdigest()
    path.unlink()
    (folder / f"space-{sha256[:16]}.safetensors").write_bytes(content)
    if {key: config.get(key) for key in named} == named:
        config |= {"space_file": f"space-{sha256[:16]}.safetensors", "space_sha256": sha256}
    (folder / "config.json").write_text(json.dumps(config))


def test_saved_and_loaded_with_the_same_logits(head: SynonymousSpaceHead, saved: Path):
    pixels = torch.randn(3, 3, 32, 32)
    expected = head(pixels)
    loaded = SynonymousSpaceHead.from_pretrained(saved, backbone=head.backbone)
    torch.testing.assert_close(loaded(pixels), expected, atol=0, rtol=0)
    assert loaded.class_names == ["ox", "cat", "ox 2"]
    assert [c.id for c in loaded.classes] == [3, "n1", None]
    assert loaded.templates == ("a {}", "the {}")
    assert [c.texts for c in loaded.classes] == [c.texts for c in head.classes]
    again = loaded.add_classes({"fish": []}).remove_classes(["fish"])
    torch.testing.assert_close(again(pixels), expected)


def test_the_folder_holds_the_class_space_and_not_the_backbone(saved: Path):
    names = sorted(path.name for path in saved.iterdir())
    assert [name.split("-")[0] for name in names] == ["config.json", "space"]
    tensors = load_file(saved / names[1])
    assert set(tensors) == {
        "raw",
        "owners",
        "margins",
        "logit_scale",
        "fingerprint.image",
        "fingerprint.texts",
        "fingerprint.more_texts",
        "fingerprint.tokenizer",
    }
    assert tensors["raw"].shape == (4, DIM)


def test_without_its_backbone_the_head_takes_embeddings(head: SynonymousSpaceHead, saved: Path):
    loaded = SynonymousSpaceHead.from_pretrained(saved, backbone=None)
    image = torch.randn(4, DIM)
    torch.testing.assert_close(loaded(image_embeds=image), head(image_embeds=image))
    assert loaded.logit_scale.item() == pytest.approx(head.logit_scale.item())
    resaved = loaded.save_pretrained(saved.parent / "again")
    assert (resaved / "config.json").read_bytes() == (saved / "config.json").read_bytes()
    with pytest.raises(ValueError, match="no backbone"):
        loaded(torch.randn(1, 3, 32, 32))


def test_new_embeddings_are_not_said_to_be_of_the_old_backbone(saved: Path, tmp_path: Path):
    loaded = SynonymousSpaceHead.from_pretrained(saved, backbone=None)
    loaded.fit_embeddings([torch.randn(1, 5), torch.randn(2, 5)], ["a", "b"], logit_scale=2.0)
    again = load_artifact(loaded.save_pretrained(tmp_path / "again"))
    assert (again.backbone, again.fitted_logit_scale) == (None, 2.0)


def test_a_state_dict_keeps_what_an_artifact_said_of_its_backbone(tmp_path: Path):
    head = SynonymousSpaceHead(*build("siglip")).fit_classes(["ox", "cat"], templates="{}")
    loaded = SynonymousSpaceHead.from_pretrained(head.save_pretrained(tmp_path / "a"), backbone=None)
    torch.save(loaded.state_dict(), tmp_path / "head.pt")
    again = SynonymousSpaceHead()
    again.load_state_dict(torch.load(tmp_path / "head.pt", weights_only=True))
    image = torch.randn(4, head.space.raw.shape[1])
    assert torch.equal(again(image_embeds=image), loaded(image_embeds=image))
    assert torch.equal(again.predict_proba(image_embeds=image), loaded.predict_proba(image_embeds=image))
    assert load_artifact(again.save_pretrained(tmp_path / "b")).backbone.reference.name == (
        load_artifact(tmp_path / "a").backbone.reference.name
    )


def test_a_sigmoid_family_keeps_bias_and_activation(tmp_path: Path):
    head = SynonymousSpaceHead(*build("siglip")).fit_classes(["ox", "cat"], templates="{}")
    loaded = SynonymousSpaceHead.from_pretrained(head.save_pretrained(tmp_path), backbone=None)
    image = torch.randn(4, DIM * 2)[:, : head.space.raw.shape[1]]
    torch.testing.assert_close(loaded(image_embeds=image), head(image_embeds=image))
    torch.testing.assert_close(
        loaded.predict_proba(image_embeds=image), head(image_embeds=image).sigmoid().detach()
    )


def test_a_head_of_embeddings_keeps_its_scale(tmp_path: Path):
    head = SynonymousSpaceHead(config=HeadConfig(metric="nearest", scale_rule=None))
    head.fit_embeddings([torch.randn(3, 8), torch.randn(1, 8)], ["a", "b"], logit_scale=12.0)
    loaded = SynonymousSpaceHead.from_pretrained(head.save_pretrained(tmp_path))
    assert (loaded.logit_scale.item(), loaded.config) == (12.0, head.config)
    assert loaded.predict(image_embeds=torch.randn(1, 8))[0][0].text is None


def test_the_named_backbone_is_loaded_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, processor = build("clip")
    model.save_pretrained(tmp_path / "clip")
    processor.save_pretrained(tmp_path / "clip")
    monkeypatch.chdir(tmp_path)
    head = SynonymousSpaceHead.from_backbone("clip").fit_classes(PETS)
    head.save_pretrained("space")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = SynonymousSpaceHead.from_pretrained(tmp_path / "space")
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(pixels), head(pixels))


def test_saving_again_replaces_the_artifact_whole(head: SynonymousSpaceHead, saved: Path):
    (saved / "notes.txt").write_text("mine")
    first = {path.name for path in saved.glob("space-*")}
    head.fit_classes(PETS).save_pretrained(saved)
    second = {path.name for path in saved.glob("space-*")}
    assert len(first) == len(second) == 1
    assert first != second
    assert (saved / "notes.txt").read_text() == "mine"
    assert SynonymousSpaceHead.from_pretrained(saved, backbone=None).class_names == list(PETS)


def test_a_save_that_fails_leaves_the_old_artifact(
    head: SynonymousSpaceHead, saved: Path, monkeypatch: pytest.MonkeyPatch
):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    head.fit_classes(PETS)
    replace, calls = os.replace, []

    def full_disk(source: str, target: str) -> None:
        calls.append(target)
        if len(calls) == 2:  # the space file is in place, config.json is not
            raise OSError("no space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        head.save_pretrained(saved)
    monkeypatch.undo()
    assert {name: (saved / name).read_bytes() for name in before} == before
    assert not [path for path in saved.iterdir() if path.name.startswith(".")]
    assert SynonymousSpaceHead.from_pretrained(saved, backbone=None).class_names == ["ox", "cat", "ox 2"]
    head.save_pretrained(saved)
    assert len(list(saved.glob("space-*"))) == 1


def test_a_reader_beside_a_writer_sees_whole_artifacts_only(tmp_path: Path):
    heads = []
    for classes in (4, 7):
        given = [torch.randn(3, 8) for _ in range(classes)]
        names = [f"{classes}-{i}" for i in range(classes)]
        heads.append(SynonymousSpaceHead().fit_embeddings(given, names, logit_scale=1.0))
    heads[0].save_pretrained(tmp_path)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for head in heads:
                head.save_pretrained(tmp_path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen, deadline = set(), time.monotonic() + 20
        while len(seen) < 2 and time.monotonic() < deadline:
            for _ in range(20):
                artifact = load_artifact(tmp_path)
                seen.add(len(artifact.classes))
                assert {c.name.split("-")[0] for c in artifact.classes} == {str(len(artifact.classes))}
        assert seen == {4, 7}
    finally:
        stop.set()
        writer.join()


KILLED = """
import sys, torch
from s3clip import SynonymousSpaceHead
heads = []
for n in (30, 40):
    names = [f"{n}-{i}" for i in range(n)]
    heads.append(SynonymousSpaceHead().fit_embeddings([torch.randn(200, 64)] * n, names, logit_scale=1.0))
heads[0].save_pretrained(sys.argv[1])
print("ready", flush=True)
while True:
    for head in heads:
        head.save_pretrained(sys.argv[1])
"""


def test_a_writer_killed_at_any_moment_leaves_one_whole_artifact(tmp_path: Path):
    for pause in (0.05, 0.21):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(pause)
        process.kill()
        process.wait()
        artifact = load_artifact(tmp_path)
        assert len(artifact.classes) in (30, 40)
        assert {c.name.split("-")[0] for c in artifact.classes} == {str(len(artifact.classes))}


# ---- what is refused ----


def test_another_backbone_is_refused(saved: Path):
    other, processor = build("clip", seed=1)
    with pytest.raises(
        ValueError, match=r"made with another backbone: the \w+ fingerprints agree to a cosine of"
    ):
        SynonymousSpaceHead.from_pretrained(saved, backbone=other, processor=processor)
    wide, processor = build("siglip")
    with pytest.raises(ValueError, match="with a backbone of dimension 16, this one has 32"):
        SynonymousSpaceHead.from_pretrained(saved, backbone=wide, processor=processor)


def test_the_same_backbone_in_half_precision_is_accepted(tmp_path: Path):
    # A trained one: random weights, made large for other tests, round to below the cosine that is asked for.
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(PETS)
    head.save_pretrained(tmp_path)
    SynonymousSpaceHead.from_pretrained(tmp_path, backbone=head.backbone.bfloat16())


def test_a_backbone_without_a_name_must_be_given(saved: Path):
    with pytest.raises(ValueError, match=r"has no name; give it as backbone=$"):
        SynonymousSpaceHead.from_pretrained(saved)


def test_a_backbone_that_moved_is_named_and_can_be_given(tmp_path: Path):
    model, processor = build("clip")
    model.save_pretrained(tmp_path / "clip")
    processor.save_pretrained(tmp_path / "clip")
    head = SynonymousSpaceHead.from_backbone(tmp_path / "clip").fit_classes(PETS)
    with pytest.raises(ValueError, match=r"holds a config.json of something else"):
        head.save_pretrained(tmp_path / "clip")
    SynonymousSpaceHead.from_backbone(tmp_path / "clip")  # nothing of it was lost
    head.save_pretrained(tmp_path / "space")
    (tmp_path / "clip").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"is not at .*clip any more"):
        SynonymousSpaceHead.from_pretrained(tmp_path / "space")
    loaded = SynonymousSpaceHead.from_pretrained(tmp_path / "space", backbone=tmp_path / "moved")
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(pixels), head(pixels))


def test_a_backbone_of_another_width_is_refused_without_a_fingerprint_too(tmp_path: Path):
    head = SynonymousSpaceHead().fit_embeddings([torch.randn(2, 8)], ["a"], logit_scale=1.0)
    model, processor = build("clip")
    with pytest.raises(ValueError, match="of dimension 8, this one has 16"):
        SynonymousSpaceHead.from_pretrained(
            head.save_pretrained(tmp_path), backbone=model, processor=processor
        )


def test_a_truncated_file_is_refused(saved: Path):
    path = next(saved.glob("space-*"))
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"the file was cut or edited; save the head again"):
        load_artifact(saved)


def test_an_edited_file_is_refused(saved: Path):
    path = next(saved.glob("space-*"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cut or edited"):
        load_artifact(saved)


def test_a_missing_file_is_refused(saved: Path):
    next(saved.glob("space-*")).unlink()
    with pytest.raises(ValueError, match="is missing from"):
        load_artifact(saved)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_artifact(saved / "none")
    (saved / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json in it"):
        load_artifact(saved)


def swap_classes(config: dict) -> None:
    config["classes"] = [{**c, "rows": 1} for c in config["classes"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="s3clip-space/6"), "is newer than 's3clip-space/5'; update s3clip"),
        (lambda c: c.update(format="other"), "format: expected 's3clip-space/5', got 'other'"),
        (lambda c: c.pop("format"), "got nothing"),
        (lambda c: c.update(extra=1), "extra"),
        (lambda c: c.pop("activation"), "activation"),
        (lambda c: c["head"].update(metric="best"), "unknown metric 'best'"),
        (lambda c: c["classes"][0].update(rows=0), "rows"),
        (lambda c: c["classes"][0].update(rows="1"), "rows"),
        (lambda c: c["classes"].pop(), "the classes name 3 texts, the space file holds 4"),
        (lambda c: c["classes"].clear(), "the classes name 0 texts"),
        (lambda c: c["classes"].reverse(), "owners do not agree"),
        (lambda c: c["classes"][0]["texts"].append("more"), "2 texts for 1 rows"),
        (lambda c: c.update(space_file="../../secret.safetensors"), "is not named after"),
        (lambda c: c.update(space_file="/etc/passwd"), "is not named after"),
    ],
)
def test_an_edited_config_is_refused(saved: Path, change, message: str):
    rewrite(saved, change_config=change)
    if message == "owners do not agree":
        rewrite(saved, change_config=lambda c: c["classes"][0].update(texts=["a", "b"], rows=2))
        rewrite(saved, change_config=lambda c: c["classes"][1].update(texts=["a"], rows=1))
    with pytest.raises(ValueError, match=message):
        load_artifact(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"x"', "nan", "[" * 100_000, "\udcff"])
def test_a_config_that_is_no_object_is_refused(saved: Path, text: str):
    (saved / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"config\.json"):
        load_artifact(saved)


def set_nan(tensors: dict) -> None:
    tensors["raw"][1, 2] = torch.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_nan, "raw holds NaN or Inf"),
        (lambda t: t.update(raw=t["raw"].half()), "float16"),
        (lambda t: t.update(raw=t["raw"].long()), "int64"),
        (lambda t: t.update(raw=t["raw"][0]), "expected \\(texts, dim\\)"),
        (lambda t: t.update(raw=t["raw"][:2]), "the space file holds 2"),
        (lambda t: t.pop("raw"), "'raw' and 'owners' are missing"),
        (lambda t: t.update(owners=t["owners"].flip(0)), "owners do not agree"),
        (lambda t: t.update(logit_scale=torch.tensor(torch.inf)), "logit_scale: expected one finite number"),
        (lambda t: t.update(logit_bias=torch.ones(2)), "logit_bias"),
        (lambda t: t.update({"fingerprint.image": torch.ones(3)}), "fingerprint.image"),
        (lambda t: t.update(weights=torch.ones(3)), "unknown tensors \\['weights'\\]"),
    ],
)
def test_edited_tensors_are_refused(saved: Path, change, message: str):
    rewrite(saved, change_tensors=change)
    with pytest.raises(ValueError, match=message):
        load_artifact(saved)


def test_a_header_that_lies_is_refused(saved: Path):
    header = json.dumps({"raw": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}).encode()
    content = len(header).to_bytes(8, "little") + header + b"1234"
    digest = hashlib.sha256(content).hexdigest()
    name = f"space-{digest[:16]}.safetensors"
    (saved / name).write_bytes(content)
    rewrite(saved, change_config=lambda c: c.update(space_file=name, space_sha256=digest))
    with pytest.raises(ValueError, match=name):
        load_artifact(saved)


def test_nothing_is_saved_into_a_file(head: SynonymousSpaceHead, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="folder: expected a folder"):
        head.fit_classes(PETS).save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_head_is_saved_beside_what_else_lies_there(head: SynonymousSpaceHead, tmp_path: Path):
    (tmp_path / "README.md").write_text("mine")
    head.fit_classes(PETS).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert SynonymousSpaceHead.from_pretrained(tmp_path, backbone=None).class_names == head.class_names


def test_load_artifact_returns_what_save_artifact_took(saved: Path, tmp_path: Path):
    artifact = load_artifact(saved)
    save_artifact(tmp_path / "copy", artifact)
    assert (tmp_path / "copy" / "config.json").read_bytes() == (saved / "config.json").read_bytes()


# Whatever bytes lie there, the loader answers with a head or with one of our errors.


def _mutated(content: bytes, edits: list[tuple[float, int, int]]) -> bytes:
    changed = bytearray(content)
    for where, byte, kind in edits:
        at = int(where * max(1, len(changed) - 1))
        if kind == 0:
            changed[at : at + 1] = bytes([byte])
        elif kind == 1:
            changed[at:at] = bytes([byte]) * 3
        else:
            del changed[at : at + 1 + byte]
    return bytes(changed)


EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255), st.integers(0, 2)), min_size=1, max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
CONFIG_KEYS = ["head", "backbone", "activation", "templates", "space_file", "classes", "calibration", "more"]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model, processor = build("clip")
    folder = tmp_path_factory.mktemp("fuzz")
    return SynonymousSpaceHead(model, processor).fit_classes(RECORDS).save_pretrained(folder / "space")


def _load(folder: Path) -> None:
    """Load, or fail in one of the ways that the docstring of the loader names."""
    with contextlib.suppress(ValueError, FileNotFoundError):
        with warnings.catch_warnings(action="ignore"):
            head = SynonymousSpaceHead.from_pretrained(folder, backbone=None)
        logits = head(image_embeds=torch.ones(1, DIM))
        assert logits.shape == (1, len(head.class_names))
        assert bool(torch.isfinite(logits).all())


@settings(max_examples=150, deadline=None)
@given(edits=EDITS, mend=st.booleans())
def test_fuzzed_space_files_are_refused_or_load(fuzzed: Path, edits, mend: bool):
    config = json.loads((fuzzed / "config.json").read_text())
    content = _mutated((fuzzed / config["space_file"]).read_bytes(), edits)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if mend:  # as somebody would who means harm
            digest = hashlib.sha256(content).hexdigest()
            config |= {"space_file": f"space-{digest[:16]}.safetensors", "space_sha256": digest}
        (folder / config["space_file"]).write_bytes(content)
        (folder / "config.json").write_text(json.dumps(config))
        _load(folder)


@settings(max_examples=150, deadline=None)
@given(edits=EDITS)
def test_fuzzed_config_bytes_are_refused_or_load(fuzzed: Path, edits):
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "copy"
        shutil.copytree(fuzzed, folder)
        (folder / "config.json").write_bytes(_mutated((folder / "config.json").read_bytes(), edits))
        _load(folder)


@settings(max_examples=150, deadline=None)
@given(key=st.sampled_from(CONFIG_KEYS), value=JSON, which=st.integers(0, 3))
def test_fuzzed_config_values_are_refused_or_load(fuzzed: Path, key: str, value, which: int):
    config = json.loads((fuzzed / "config.json").read_text())
    if which < 3:
        config["classes"][which][("name", "id", "rows", "texts")[len(key) % 4]] = value
    else:
        config[key] = value
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "copy"
        shutil.copytree(fuzzed, folder)
        (folder / "config.json").write_text(json.dumps(config))
        _load(folder)


def test_very_many_classes_in_the_config_are_refused_in_bounded_memory(saved: Path, tmp_path: Path):
    config = json.loads((saved / "config.json").read_text())
    one = json.dumps({"name": "x", "id": None, "rows": 1, "texts": None})
    text = json.dumps(config | {"classes": []}).replace(
        '"classes": []', '"classes": [' + ",".join([one] * 200_000) + "]"
    )
    (saved / "config.json").write_text(text)
    code = """
import sys
import s3clip.artifact.folder
from tests.processes import peak_memory
print(peak_memory())
try:
    s3clip.artifact.folder.load_artifact(sys.argv[1])
except ValueError as error:
    print(error)
print(peak_memory())
"""
    grown, said = memory_grown(code, str(saved))
    assert "it is not the one" in said[0]
    assert grown < 500 << 20  # the file has 11 MiB


def test_a_config_that_is_too_large_is_not_read(saved: Path):
    with (saved / "config.json").open("ab") as file:
        file.truncate(300 << 20)
    with pytest.raises(ValueError, match="more than is read"):
        SynonymousSpaceHead.from_pretrained(saved, backbone=None)
