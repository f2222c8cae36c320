"""Artifacts and state dicts of strangers: numbers that no tensor holds, changed words, repeated keys."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from s3clip import HeadConfig, SynonymousSpaceHead
from s3clip.artifact.folder import DamagedFileError, load_artifact
from s3clip.class_space import Calibration
from s3clip.texts.labels import composed
from tests.artifact.test_artifact import rewrite

RECORDS = [{"name": "ox", "id": 3}, {"name": "cat", "synonyms": ["kitty"]}, {"name": "ox 2"}]


@pytest.fixture
def saved(head: SynonymousSpaceHead, tmp_path: Path) -> Path:
    return head.fit_classes(RECORDS).save_pretrained(tmp_path / "space")


def rows(*counts: int):
    def change(config: dict) -> None:
        config["classes"] = [{**config["classes"][0], "rows": n, "texts": None} for n in counts]

    return change


def retyped(dtype: torch.dtype):
    return lambda tensors: tensors.update(owners=tensors["owners"].to(dtype))


CONFIGS = {
    "rows that wrap to the right sum": rows(2**62, 2**62, 2**62, 2**62, 4),
    "rows of 10^30": rows(10**30),
    "rows below 1": rows(-1, 5),
    "an id of 70 bits": lambda c: c["classes"][0].update(id=2**70),
    "a scale below 0": lambda c: c["head"].update(logit_scale=-5.0),
    "a scale of 0": lambda c: c["head"].update(logit_scale=0.0),
    "a scale of NaN": lambda c: c["head"].update(logit_scale=math.nan),
    "a scale of 10^300": lambda c: c["head"].update(logit_scale=1e300),
    "a temperature of 1e-320": lambda c: c.update(
        calibration={"activation": "softmax", "temperature": 1e-320}
    ),
    "a temperature of 1e300": lambda c: c.update(calibration={"activation": "softmax", "temperature": 1e300}),
    "a bias of 1e300": lambda c: c.update(calibration={"activation": "sigmoid", "bias": 1e300}),
    "a threshold of NaN": lambda c: c.update(calibration={"activation": "softmax", "thresholds": [math.nan]}),
    "thresholds of 2 classes": lambda c: c.update(
        calibration={"activation": "softmax", "thresholds": [1.0, 2.0]}
    ),
    "a name with a line break": lambda c: c["classes"][0].update(name="a\nb"),
    "a name with ESC": lambda c: c["classes"][0].update(name="a\x1b[2Jb"),
    "a name that turns round": lambda c: c["classes"][0].update(name="a\u202eb"),
    "a name of a lone surrogate": lambda c: c["classes"][0].update(name="a\ud800"),
    "a name of 10 MB": lambda c: c["classes"][0].update(name="a" * 10_000_000),
    "a text with ESC": lambda c: c["classes"][0].update(texts=["\x1b]0;x\x07"]),
    "a text of 10 MB": lambda c: c["classes"][0].update(texts=["a" * 10_000_000]),
    "a backbone with ESC": lambda c: c.update(backbone={"name": "a\x1b", "revision": None}),
    "a template with ESC": lambda c: c.update(templates=["{}\x1b"]),
}
TENSORS = {
    "owners of uint16": retyped(torch.uint16),
    "owners of uint32": retyped(torch.uint32),
    "owners of uint64": retyped(torch.uint64),
    "owners of float8": retyped(torch.float8_e4m3fn),
    "owners of bool": retyped(torch.bool),
    "owners of int32": retyped(torch.int32),
    "owners in two dimensions": lambda t: t.update(owners=t["owners"][None]),
    "no owners": lambda t: t.update(owners=t["owners"][:0]),
    "an owner of 10^9": lambda t: t["owners"].__setitem__(-1, 10**9),
    "an owner below 0": lambda t: t["owners"].__setitem__(0, -1),
    "embeddings of float8": lambda t: t.update(raw=t["raw"].to(torch.float8_e5m2)),
    "embeddings of complex numbers": lambda t: t.update(raw=t["raw"].to(torch.complex64)),
    "embeddings of dimension 0": lambda t: t.update(raw=t["raw"][:, :0].clone()),
    "a dimension of 2^60, and no rows": lambda t: t.update(raw=torch.empty(0, 2**60)),
    "a scale of 0 in the tensors": lambda t: t.update(logit_scale=torch.zeros((), dtype=torch.float64)),
    "a scale below 0 in the tensors": lambda t: t.update(logit_scale=torch.tensor(-5.0)),
    "a scale of complex numbers": lambda t: t.update(logit_scale=torch.tensor(1j)),
    "a scale of float8": lambda t: t.update(logit_scale=torch.ones(()).to(torch.float8_e5m2)),
    "a fitted scale below 0": lambda t: t.update(fitted_logit_scale=torch.tensor(-1.0)),
    "a bias of 1e300": lambda t: t.update(logit_bias=torch.tensor(1e300, dtype=torch.float64)),
    "margins of fewer texts": lambda t: t.update(margins=t["margins"][1:].clone()),
    "margins in two dimensions": lambda t: t.update(margins=t["margins"][None].clone()),
    "margins of whole numbers": lambda t: t.update(margins=t["margins"].long()),
    "margins of float8": lambda t: t.update(margins=t["margins"].to(torch.float8_e5m2)),
    "a margin of NaN": lambda t: t["margins"].__setitem__(0, math.nan),
    "a margin of 0": lambda t: t["margins"].__setitem__(0, 0.0),
    "a margin that no two unit vectors have": lambda t: t["margins"].__setitem__(0, 3.0),
    "a fingerprint of float8": lambda t: t.update(
        {"fingerprint.image": t["fingerprint.image"].to(torch.float8_e5m2)}
    ),
    "a fingerprint of no rows": lambda t: t.update({"fingerprint.more": t["fingerprint.texts"][:0].clone()}),
    "a fingerprint of three dimensions": lambda t: t.update(
        {"fingerprint.more": t["fingerprint.texts"][None].clone()}
    ),
    "a fingerprint of another name": lambda t: t.update({"fingerprint.A b": torch.ones(3)}),
}


@pytest.mark.parametrize("change", CONFIGS.values(), ids=CONFIGS)
def test_a_config_of_a_stranger_is_refused_by_name(saved: Path, change):
    rewrite(saved, change_config=change)
    with pytest.raises(DamagedFileError, match=r"config\.json: .*save the head again"):
        load_artifact(saved)


@pytest.mark.parametrize("change", TENSORS.values(), ids=TENSORS)
def test_tensors_of_a_stranger_are_refused_by_name(saved: Path, change):
    rewrite(saved, change_tensors=change)
    with pytest.raises(
        DamagedFileError, match=r"(space-\w+\.safetensors|config\.json): .*save the head again"
    ):
        load_artifact(saved)


def test_a_fingerprint_of_other_parts_is_kept(saved: Path, tmp_path: Path):
    more = {"fingerprint.more_texts": torch.ones(6, 16), "fingerprint.tokenizer": torch.arange(32).byte()}
    rewrite(saved, change_tensors=lambda tensors: tensors.update(more))
    space = load_artifact(saved)
    again = load_artifact(
        SynonymousSpaceHead.from_pretrained(saved, backbone=None).save_pretrained(tmp_path / "again")
    )
    for kept in (space, again):
        assert set(kept.backbone.fingerprint) == {"image", "texts", "more_texts", "tokenizer"}
        assert torch.equal(kept.backbone.fingerprint["tokenizer"], torch.arange(32).byte())


SILENT = {
    "names swapped": lambda c: c["classes"].insert(2, c["classes"].pop(0)),
    "a name changed": lambda c: c["classes"][0].update(name="cow"),
    "an id changed": lambda c: c["classes"][0].update(id=4),
    "a text changed": lambda c: c["classes"][1].update(texts=["cat", "dog"]),
    "a text that is gone": lambda c: c["classes"][1].update(texts=None),
    "another template": lambda c: c.update(templates=["a {}."]),
    "another metric": lambda c: c["head"].update(metric="center", metric_options={}),
    "another option": lambda c: c["head"]["metric_options"].update(k=0.9),
    "another scale": lambda c: c["head"].update(logit_scale=3.0),
    "no rule": lambda c: c["head"].update(scale_rule=None, scale_options={}),
    "another activation": lambda c: c.update(activation="sigmoid"),
    "a calibration": lambda c: c.update(calibration={"activation": "softmax", "temperature": 2.0}),
    "another backbone": lambda c: c.update(backbone={"name": "org/clip", "revision": None}),
    "no backbone": lambda c: c.update(backbone=None),
    "an older format, which has no digest": lambda c: c.update(format="s3clip-space/1"),
    "a setting left to its default": lambda c: c["head"].pop("keep_name"),
}


@pytest.mark.parametrize("change", SILENT.values(), ids=SILENT)
def test_what_decides_the_answers_does_not_change_silently(saved: Path, change):
    rewrite(saved, change_config=change, digest=False)
    with pytest.raises(DamagedFileError, match=r"config\.json: it is not the one that space-|owners"):
        load_artifact(saved)


def test_a_config_that_is_laid_out_anew_is_the_same(saved: Path):
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4, sort_keys=True))
    assert [each.name for each in load_artifact(saved).classes] == ["ox", "cat", "ox 2"]


def test_a_digest_that_is_missing_is_missed(saved: Path):
    name = json.loads((saved / "config.json").read_text())["space_file"]
    content = (saved / name).read_bytes()
    rewrite(saved, change_tensors=lambda tensors: None)  # the same again
    assert (saved / name).read_bytes() == content
    from safetensors.torch import load, save

    (saved / name).write_bytes(save(load(content)))
    rewrite_name(saved, name)
    with pytest.raises(DamagedFileError, match=r"the digest of config\.json is missing"):
        load_artifact(saved)


def rewrite_name(folder: Path, name: str) -> None:
    """Name a space file after its own content, in config.json too."""
    import hashlib

    sha256 = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / name).rename(folder / f"space-{sha256[:16]}.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config |= {"space_file": f"space-{sha256[:16]}.safetensors", "space_sha256": sha256}
    (folder / "config.json").write_text(json.dumps(config))


def test_a_key_that_stands_twice_is_refused(saved: Path):
    path = saved / "config.json"
    text = path.read_text()
    for key in ('"activation": "softmax"', '"metric": "local_center"', '"name": "cat"'):
        assert key in text
        path.write_text(text.replace(key, f"{key}, {key}", 1))
        with pytest.raises(DamagedFileError, match="is given twice"):
            load_artifact(saved)


@pytest.mark.parametrize("name", ["config.json", "space"])
def test_a_pipe_is_not_waited_for(saved: Path, name: str):
    path = saved / "config.json" if name == "config.json" else next(saved.glob("space-*"))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DamagedFileError, match="a pipe or a device"):
        load_artifact(saved)


# ---- state dicts -------------------------------------------------------------------------------------------


def changed_state(head: SynonymousSpaceHead, change) -> dict:
    state = head.state_dict()
    key = next(key for key in state if key.endswith("_extra_state"))
    content = json.loads(bytes(state[key].numpy()))
    changed = change(content)
    content = content if changed is None else changed
    return {**state, key: torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)}


STATES = {
    "rows of 10^30": lambda s: s["classes"][0].update(rows=10**30),
    "rows that wrap": lambda s: s.update(
        classes=[{**s["classes"][0], "rows": n, "texts": None} for n in (2**62, 2**62, 2**62, 2**62, 4)]
    ),
    "no classes": lambda s: s.update(classes=[]),
    "a list": lambda s: [],
    "no settings": lambda s: s.pop("config"),
    "a name with ESC": lambda s: s["classes"][0].update(name="\x1b"),
    "a fitted scale below 0": lambda s: s.update(fitted_logit_scale=-1.0),
    "a temperature of 1e-320": lambda s: s.update(
        calibration={"activation": "softmax", "temperature": 1e-320}
    ),
    "a scale below 0": lambda s: s["backbone"].update(logit_scale=-5.0),
    "a bias of 1e300": lambda s: s["backbone"].update(logit_bias=1e300),
    "a fingerprint of words": lambda s: s["backbone"]["fingerprint"].update(image=["a"]),
    "a fingerprint that is ragged": lambda s: s["backbone"]["fingerprint"].update(image=[[1.0], [1.0, 2.0]]),
    "a fingerprint of 10^400": lambda s: s["backbone"]["fingerprint"].update(image=[10**400]),
    "an unknown field": lambda s: s.update(more=1),
}


@pytest.mark.parametrize("change", STATES.values(), ids=STATES)
def test_the_words_of_a_state_dict_are_checked(saved: Path, change):
    state = changed_state(SynonymousSpaceHead.from_pretrained(saved, backbone=None), change)
    with pytest.raises(ValueError, match=r"\w"):
        SynonymousSpaceHead().load_state_dict(state, strict=False)


STATE_TENSORS = {
    "an owner of 10^9": ("owners", lambda t: t.index_fill(0, torch.tensor([0]), 10**9)),
    "owners of uint16": ("owners", lambda t: t.to(torch.uint16)),
    "owners of float8": ("owners", lambda t: t.to(torch.float8_e5m2)),
    "embeddings of float8": ("text_embeddings", lambda t: t.to(torch.float8_e5m2)),
    "embeddings of dimension 0": ("text_embeddings", lambda t: t[:, :0]),
    "embeddings expanded to 10^12 numbers": ("text_embeddings", lambda t: t[:, :1].expand(-1, 10**12)),
    "embeddings of whole numbers": ("text_embeddings", lambda t: t.long()),
    "words in float8": ("_extra_state", lambda t: t.to(torch.float8_e5m2)),
    "words in two dimensions": ("_extra_state", lambda t: t[None]),
    "words that are no JSON": ("_extra_state", lambda t: t[:5]),
}


@pytest.mark.parametrize(("ending", "change"), STATE_TENSORS.values(), ids=STATE_TENSORS)
def test_the_tensors_of_a_state_dict_are_checked(head: SynonymousSpaceHead, ending: str, change):
    state = head.fit_classes(RECORDS).state_dict()
    key = next(key for key in state if key.endswith(ending))
    with pytest.raises(ValueError, match=r"\w"):
        SynonymousSpaceHead().load_state_dict({**state, key: change(state[key])}, strict=False)


# ---- names, whatever way they come in ----------------------------------------------------------------------

UNREADABLE = [
    "a\nb",
    "a\rb",
    "a\x1b[31mb",
    "a\x00b",
    "a\x9bb",
    "a\u202eb",
    "a\u2066b",
    "a\u2028b",
    "a\ud800b",
]


@pytest.mark.parametrize("name", [*UNREADABLE, "a" * 1001, " "], ids=lambda name: ascii(name[:4]))
def test_a_name_that_cannot_be_shown_is_refused_in_all_ways(name: str):
    rows = [torch.randn(1, 8), torch.randn(1, 8)]
    head = SynonymousSpaceHead().fit_embeddings(rows, ["a", "b"], logit_scale=1.0)
    said = "holds the control character|characters, more than|is empty"
    for fails in (
        lambda: SynonymousSpaceHead().fit_embeddings(rows, ["a", name], logit_scale=1.0),
        lambda: SynonymousSpaceHead().fit_embeddings(
            dict(zip(["a", name], rows, strict=True)), logit_scale=1.0
        ),
        lambda: head.rename_class("a", name),
    ):
        with pytest.raises(ValueError, match=said):
            fails()
    assert head.class_names == ["a", "b"]


def test_texts_that_cannot_be_shown_are_refused():
    rows = [torch.randn(1, 8)]
    with pytest.raises(ValueError, match=r"class 0: texts\.0: holds the control character U\+001B"):
        SynonymousSpaceHead().fit_embeddings(rows, ["a"], texts=[["a\x1b"]], logit_scale=1.0)
    head = SynonymousSpaceHead().fit_embeddings(rows, ["a"], texts=[["It has:\n\t- fur"]], logit_scale=1.0)
    assert head.classes[0].texts == ["It has:\n\t- fur"]


@pytest.mark.parametrize("name", ["नमस्ते", "שָׁלוֹם \u200f", "👨‍👩‍👧", "a\u00a0b", "naïve", "ｎ"])
def test_names_of_all_scripts_are_names(name: str, tmp_path: Path):
    head = SynonymousSpaceHead().fit_embeddings([torch.randn(1, 8)], [name], logit_scale=1.0)
    assert load_artifact(head.save_pretrained(tmp_path)).class_names == [name]
    assert head.rename_class(0, f"{name}2").class_names == [composed(f"{name}2")]


def test_scales_and_temperatures_have_bounds():
    for wrong in (0.0, -1.0, math.inf, math.nan, 1e13):
        with pytest.raises(ValueError, match="logit_scale: expected a number > 0"):
            SynonymousSpaceHead().fit_embeddings([torch.randn(1, 8)], ["a"], logit_scale=wrong)
        with pytest.raises(ValueError, match="logit_scale"):
            HeadConfig(logit_scale=wrong)
    for wrong in (0.0, 1e-7, 1e7, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            Calibration(activation="softmax", temperature=wrong)
