"""Class spaces pushed to and loaded from a Hub on loopback, by huggingface_hub itself."""

import hashlib
import json
import re
import shutil
import socket
import threading
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from PIL import Image
from typer.testing import CliRunner

from s3clip import SynonymousSpaceHead, SynonymSet, cli
from s3clip.artifact.card import model_card
from s3clip.class_space import BackboneReference
from s3clip.demo import model_folder
from s3clip.files.hub import is_repository
from tests import ROOT
from tests.docs.pages import blocks
from tests.hub_server import TOKEN, Hub, Pointer, Repository

NAMES = ["zebra", "ant", "zebra", "möwe | `x`"]  # neither sorted nor unique, and not plain in Markdown
OPTIONS = {"token": TOKEN}


def space(seed: int = 0, names: list[str] = NAMES) -> SynonymousSpaceHead:
    torch.manual_seed(seed)
    return SynonymousSpaceHead().fit_embeddings(
        [torch.randn(2 + i, 6) for i in range(len(names))], names, logit_scale=50.0
    )


def load(name: str = "user/space", **options) -> SynonymousSpaceHead:
    return SynonymousSpaceHead.from_pretrained(name, backbone=None, **OPTIONS | options)


def same(one: SynonymousSpaceHead, other: SynonymousSpaceHead) -> bool:
    images = torch.randn(5, 6)
    logits = one(image_embeds=images), other(image_embeds=images)
    return one.class_names == other.class_names and torch.equal(*logits)


def test_pushed_and_loaded_again(hub: Hub):
    head = space()
    address = head.push_to_hub("user/space", **OPTIONS)
    assert address.endswith(f"/user/space/commit/{hub.repositories['user/space'].branches['main']}")
    assert same(load(), head)


def test_a_push_replaces_the_space_in_one_commit_and_keeps_the_card(hub: Hub):
    space(0).push_to_hub("user/space", **OPTIONS)
    repository = hub.repositories["user/space"]
    edited = {**repository.commits[repository.branches["main"]], "README.md": b"mine", "more.txt": b"?"}
    pinned = repository.add(edited)
    commits = len(repository.commits)
    space(1, ["b", "a"]).push_to_hub("user/space", **OPTIONS)
    assert len(repository.commits) == commits + 1
    files = repository.commits[repository.branches["main"]]
    assert sorted(files) == [
        "README.md",
        "config.json",
        "more.txt",
        json.loads(files["config.json"])["space_file"],
    ]
    assert files["README.md"] == b"mine"
    assert same(load(), space(1, ["b", "a"]))
    assert same(load(revision=pinned), space(0))
    space(1, ["b", "a"]).push_to_hub("user/space", replace_card=True, **OPTIONS)
    assert b"s3clip" in repository.commits[repository.branches["main"]]["README.md"]


def test_a_branch_is_made_and_leaves_main_alone(hub: Hub):
    space(0).push_to_hub("user/space", **OPTIONS)
    space(1).push_to_hub("user/space", revision="next", **OPTIONS)
    assert same(load(revision="next"), space(1))
    assert same(load(), space(0))
    with pytest.raises(RevisionNotFoundError):
        load(revision="no-such-branch")


def test_private_repositories_are_not_there_without_a_token(hub: Hub):
    space().push_to_hub("user/space", private=True, **OPTIONS)
    assert same(load(), space())
    with pytest.raises(RepositoryNotFoundError):
        load(token=False, cache_dir=Path(huggingface_hub.constants.HF_HUB_CACHE) / "other")
    with pytest.raises(RepositoryNotFoundError):
        load("user/no-such-space")
    with pytest.raises(HfHubHTTPError, match="401"):
        space().push_to_hub("user/mine", token=False)


def test_the_config_of_a_model_is_not_overwritten(hub: Hub):
    hub.repositories["user/model"] = Repository()
    hub.repositories["user/model"].add({"config.json": b'{"model_type": "clip"}'})
    with pytest.raises(ValueError, match="something else"):
        space().push_to_hub("user/model", **OPTIONS)
    with pytest.raises(ValueError, match="format"):
        load("user/model")


def test_two_pushes_at_once_leave_one_of_them_whole(hub: Hub):
    space(0).push_to_hub("user/space", **OPTIONS)
    barrier = threading.Barrier(2)
    waited = threading.local()

    def wait_for_the_other():
        if barrier.n_waiting < 2 and not barrier.broken and not getattr(waited, "done", False):
            waited.done = True
            try:
                barrier.wait(5)
            except threading.BrokenBarrierError:
                pass
            barrier.abort()

    hub.before_commit = wait_for_the_other
    heads = [space(seed, [f"{seed}", "x"]) for seed in (1, 2)]
    errors: list[Exception] = []

    def push(head: SynonymousSpaceHead) -> None:
        try:
            head.push_to_hub("user/space", **OPTIONS)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=push, args=(head,)) for head in heads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    loaded = load()
    assert any(same(loaded, head) for head in heads)
    repository = hub.repositories["user/space"]
    assert sum(name.startswith("space-") for name in repository.commits[repository.branches["main"]]) == 1
    assert sum("/commit/" in request for request in hub.requests) == 4, "one came too late, and began again"


def test_offline_a_whole_cache_loads_and_a_part_of_one_is_refused(hub: Hub, tmp_path: Path):
    space(0).push_to_hub("user/space", **OPTIONS)
    assert same(load(), space(0))
    asked = len(hub.requests)
    assert same(load(local_files_only=True), space(0))
    assert len(hub.requests) == asked
    with pytest.raises(FileNotFoundError) as missing:
        load(local_files_only=True, cache_dir=tmp_path / "empty")
    assert "no folder 'user/space' here" in missing.value.__notes__[-1]
    part = tmp_path / "part"
    snapshot_download("user/space", allow_patterns="config.json", cache_dir=part, token=TOKEN)
    with pytest.raises((ValueError, OSError), match=r"missing|space"):
        load(local_files_only=True, cache_dir=part)


@pytest.mark.parametrize("way", ["lfs", "xet"])
def test_large_files_go_through_their_own_storage(
    way: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hub.large = way
    head = space()
    (file,) = head.save_pretrained(tmp_path / "space").glob("*.safetensors")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    if way == "xet":
        hf_xet = pytest.importorskip("hf_xet", reason="huggingface_hub is not installed with hf_xet")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
        hub.xet_folder = str(tmp_path / "storage")
        (tmp_path / "storage").mkdir()
        hub.xet_hashes[sha256] = hf_xet.hash_files([str(file)])[0].hash
    head.push_to_hub("user/space", **OPTIONS)
    repository = hub.repositories["user/space"]
    files = repository.commits[repository.branches["main"]]
    assert files[file.name] == Pointer(sha256, file.stat().st_size)
    assert isinstance(files["config.json"], bytes)
    assert same(load(), head)
    assert set(hub.objects) == (set() if way == "xet" else {sha256})
    assert any(tmp_path.glob("storage/**/*")) == (way == "xet")
    hub.cut = {sha256}
    shutil.rmtree(tmp_path / "storage", ignore_errors=True)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(Exception, match=r"(?i)complete|consisten|closed|broken|should be|size|not found|xet"):
        load(cache_dir=tmp_path / "empty")


def test_without_a_connection_a_push_is_an_os_error(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(
            huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}"
        )
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        with pytest.raises(OSError, match="refused"):
            space().push_to_hub("user/space", **OPTIONS)
        with pytest.raises(OSError, match="refused"):
            SynonymSet.read(["cat"]).push_to_hub("user/words", **OPTIONS)
        with pytest.raises(OSError):  # noqa: PT011  # huggingface_hub's own, of several kinds
            load()


def test_a_connection_that_breaks_off_gives_no_head(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    space().push_to_hub("user/space", **OPTIONS)
    repository = hub.repositories["user/space"]
    hub.cut = {name for name in repository.commits[repository.branches["main"]] if name.startswith("space-")}
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    # Three HTTP libraries in three versions of huggingface_hub, and the check of the size it was promised.
    with pytest.raises(OSError, match=r"(?i)complete|consisten|closed|broken|should be|size"):
        load()
    hub.cut = set()
    assert same(load(), space())


def test_a_space_without_its_file_is_refused(hub: Hub):
    space().push_to_hub("user/space", **OPTIONS)
    repository = hub.repositories["user/space"]
    files = repository.commits[repository.branches["main"]]
    repository.add({"config.json": files["config.json"], "pytorch_model.bin": b"pickle"})
    with pytest.raises(ValueError, match="is missing"):
        load()


def test_a_folder_goes_before_a_repository_and_has_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_repository("user/space")
    space().save_pretrained("user/space")
    assert not is_repository("user/space")
    assert same(SynonymousSpaceHead.from_pretrained("user/space"), space())
    with pytest.raises(ValueError, match="revision"):
        SynonymousSpaceHead.from_pretrained("user/space", revision="main")
    with pytest.raises(FileNotFoundError):
        SynonymousSpaceHead.from_pretrained("no-such-folder")


def test_the_snippet_of_the_card_runs(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    Image.new("RGB", (32, 32)).save("photo.jpg")
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes({"zero": ["nought"], "one": []})
    for name, fitted in (("user/digits", head), ("user/space", space())):
        fitted.push_to_hub(name, **OPTIONS)
        repository = hub.repositories[name]
        card = repository.commits[repository.branches["main"]]["README.md"].decode()
        # A folder of this machine means nothing to others.
        assert str(model_folder()) not in card + str(repository.commits[repository.branches["main"]])
        (snippet,) = re.findall(r"```python\n(.*?)```", card, re.S)
        exec(compile(snippet, "card", "exec"), {})
        assert "zero" in capsys.readouterr().out or fitted is not head


def test_the_card_of_a_backbone_on_the_hub_names_it():
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(["ox", "möwe | `x`"])
    facts = replace(
        head.class_space.backbone, reference=BackboneReference(name="org/clip", revision="a" * 40)
    )
    card = str(model_card(replace(head.class_space, backbone=facts), "user/space"))
    for said in ("base_model: org/clip", "library_name: s3clip", "2 classes", "a" * 40, "a photo of a {}."):
        assert said in card
    assert "`` möwe | `x` ``" in card
    assert 'SynonymousSpaceHead.from_pretrained("user/space")\n' in card


def test_the_card_offers_its_classes_to_try():
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(["ox", "möwe: `x`", "a, b"])
    data = ModelCard(str(model_card(head.class_space, "user/space"))).data
    (example,) = data.widget
    assert example["candidate_labels"].split(", ") == ["ox", "möwe: `x`"]  # a comma would cut a name in two
    assert data.pipeline_tag == "zero-shot-image-classification"
    assert (
        model_card(head.remove_classes(["ox", "möwe: `x`"]).class_space, "user/space")
        .data.to_dict()
        .get("widget")
        is None
    )


def test_the_entry_for_the_hubs_page(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Its snippet runs, and a load reads the file that counts as a download once."""
    entry = (ROOT / "docs" / "site" / "huggingface_js.ts").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"=> \[\s*`(.*?)`,\s*\];", entry, re.S)
    (counted,) = re.findall(r'countDownloads: `path:"(.*?)"`', entry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    Image.new("RGB", (32, 32)).save("photo.jpg")
    hub.repositories["user/clip"] = Repository()
    hub.repositories["user/clip"].add({path.name: path.read_bytes() for path in model_folder().iterdir()})
    head = SynonymousSpaceHead.from_backbone("user/clip").fit_classes({"zero": ["nought"], "one": []})
    head.push_to_hub("user/digits", **OPTIONS)
    repository = hub.repositories["user/digits"]
    card = ModelCard(repository.commits[repository.branches["main"]]["README.md"].decode())
    assert f"\t{card.data.library_name}: {{" in entry
    before = len(hub.requests)
    exec(compile(snippet.replace("${model.id}", "user/digits"), "snippet", "exec"), {})
    assert "zero" in capsys.readouterr().out
    asked = [
        each
        for each in hub.requests[before:]
        if each.startswith("GET") and "digits" in each and each.endswith(counted)
    ]
    assert len(asked) == 1


def test_the_command_line_pushes_and_reads(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    space().save_pretrained(tmp_path / "space")
    pushed = CliRunner().invoke(cli.app, ["push", str(tmp_path / "space"), "user/space", "--private"])
    assert pushed.exit_code == 0, pushed.output
    assert hub.repositories["user/space"].private
    assert "--head user/space" in pushed.output
    assert "--revision" not in pushed.output
    shown = CliRunner().invoke(cli.app, ["inspect", "user/space", "--revision", "main"])
    assert shown.exit_code == 0, shown.output
    assert "0 zebra" in shown.output


def test_a_synonym_set_is_pushed_and_read_again(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    classes = SynonymSet.read({"zebra": ["equus quagga"], "ant": []})
    uri = classes.push_to_hub("user/words", "more/animals.json", **OPTIONS)
    assert uri == "hf://datasets/user/words/more/animals.json"
    assert SynonymSet.read(uri) == classes
    with pytest.raises(ValueError, match="path_in_repo"):
        classes.push_to_hub("user/words", "animals.txt", **OPTIONS)


def test_the_hub_blocks_of_the_docs_run(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    space(2, ["dog"]).push_to_hub("user/more-pets-s3")
    namespace = {"head": space(1, ["cat", "fish"]), "SynonymousSpaceHead": SynonymousSpaceHead}
    for block in blocks(ROOT / "docs" / "hub.md"):
        exec(compile(block["code"], "hub.md", "exec"), namespace)
    assert namespace["head"].class_names == ["house cat", "fish", "dog"]
    assert (
        hub.repositories.keys() >= {"user/pets-s3", "user/words"} or "datasets/user/words" in hub.repositories
    )
