"""A Hub that fails in every way: a head is loaded whole, of one commit, or an error says what to do."""

import json
import logging
import os
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError

from s3clip import Backbone, SynonymousSpaceHead, SynonymSet
from s3clip.artifact.folder import save_artifact
from s3clip.demo import model_folder
from s3clip.files import hub as hub_files
from tests.artifact.test_hub import OPTIONS, load, same, space
from tests.hub_server import Fault, Hub, Repository
from tests.proxy_server import FAULTS, Proxy, proxy_server

ALWAYS = {
    "401": Fault(401),
    "403": Fault(403),
    "gated": Fault(403, code="GatedRepo"),
    "404, no repository": Fault(404, code="RepoNotFound"),
    "404, no file": Fault(404, code="EntryNotFound"),
    "404, no revision": Fault(404, code="RevisionNotFound"),
    "407 of a proxy": Fault(407),
    "429": Fault(429),
    "429, Retry-After 1": Fault(429, after="1"),
    "429, Retry-After of a year": Fault(429, after="31536000"),
    "429, Retry-After of 400 digits": Fault(429, after="9" * 400),
    "500": Fault(500),
    "503": Fault(503),
    "503, Retry-After 1": Fault(503, after="1"),
    "503 of the content": Fault(503, "GET"),
    "time-out": Fault("time-out"),
    "reset": Fault("reset"),
    "reset of the content": Fault("reset", "GET"),
    "cut": Fault("cut", "GET"),
    "short": Fault("short", "GET"),
    "short, as announced": Fault("short"),
    "long": Fault("long", "GET"),
    "long, as announced": Fault("long"),
    "no length": Fault("no length"),
    "wrong hash": Fault("wrong hash"),
    "LFS pointer": Fault("LFS pointer"),
    "HTML": Fault("HTML"),
    "{}": Fault("{}"),
    "redirect loop": Fault("redirect loop"),
    "no Hub": Fault("no Hub"),
}
OLD = int(huggingface_hub.__version__.split(".")[0]) < 1
"""Of huggingface_hub: it asks again by itself while it downloads, and takes no file of unknown length."""
WHOLE = () if OLD else ("no length",)  # what is no failure, in the end


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that anybody would have slept."""
    slept: list[float] = []
    clock = time.monotonic
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("time.monotonic", lambda: clock() + sum(slept))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.4)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.4)
    return slept


def end_sessions() -> None:
    """Let huggingface_hub make its connections anew: they keep what they found, proxies and being offline."""
    utils = huggingface_hub.utils
    (utils.reset_sessions if OLD else utils.close_session)()


@pytest.fixture
def new_sessions() -> Iterator[None]:
    """Connections of this test alone."""
    end_sessions()
    yield
    end_sessions()


def push(hub: Hub, seed: int) -> tuple[SynonymousSpaceHead, dict[str, str]]:
    """A head that is on the Hub, and the paths of its two files."""
    head = space(seed)
    with tempfile.TemporaryDirectory() as folder:
        head.save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    hub.repositories.setdefault("user/space", Repository()).add(files)
    return head, {"config": "config.json", "tensors": json.loads(files["config.json"])["space_file"]}


def failing(hub: Hub, path: str, fault: Fault) -> None:
    hub.faults[path] = replace(fault)


@pytest.mark.parametrize("cached", [False, True], ids=["nothing cached", "an older one cached"])
@pytest.mark.parametrize("which", ["config", "tensors"])
@pytest.mark.parametrize("fault", ALWAYS)
def test_a_head_is_whole_or_an_error(hub: Hub, waits: list[float], fault: str, which: str, cached: bool):
    old, _ = push(hub, 0)
    if cached:
        assert same(load(), old)
    new, paths = push(hub, 1)
    failing(hub, paths[which], ALWAYS[fault])
    lines = 0
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            loaded = load()
        except huggingface_hub.errors.HfHubHTTPError:  # in its own words, which are several lines
            loaded = None
        except (OSError, ValueError) as error:
            loaded = None
            lines = str(error).count("\n")
    assert lines == 0
    assert sum(waits) < 2 * hub_files.PATIENCE
    if loaded is not None:
        assert same(loaded, new) or (cached and same(loaded, old))
        assert fault in WHOLE or any(
            "the copy of it in the cache is used" in str(each.message) for each in said
        )
    else:
        assert fault not in WHOLE
    hub.faults.clear()
    assert same(load(), new)


@pytest.mark.parametrize("which", ["config", "tensors"])
@pytest.mark.parametrize(
    ("fault", "least"),
    [
        (Fault(429, times=1, after="1"), 1),
        (Fault(429, times=2), 0.5 + 1),
        (Fault(500, times=1), 0.5),
        (Fault(500, times=3), 3.5),
        (Fault(503, times=1, after="7"), 7),
        (Fault(503, "GET", times=1), 0.5),
        (Fault("reset", times=1), 0.5),
        (Fault("cut", "GET", times=1), 0),
        (Fault("wrong hash", times=2), 0),
        (Fault("HTML", times=2), 0),
    ],
    ids=lambda each: f"{each.kind} {each.method} {each.times}" if isinstance(each, Fault) else None,
)
def test_what_fails_for_a_while_is_asked_again(hub: Hub, waits: list[float], which: str, fault: Fault, least):
    head, paths = push(hub, 0)
    failing(hub, paths[which], fault)
    assert same(load(), head)
    assert least <= sum(waits) <= hub_files.PATIENCE


@pytest.mark.parametrize("fault", [Fault(503), Fault(500), Fault(429), Fault("reset"), Fault("time-out")])
def test_a_head_that_is_cached_is_used_and_said_to_be(hub: Hub, waits: list[float], fault: Fault):
    head, _ = push(hub, 0)
    load()
    failing(hub, "config.json", fault)
    with pytest.warns(UserWarning, match=r"user/space/config\.json: the Hub .*; the copy of it in the cache"):
        assert same(load(), head)
    assert not waits


def test_a_server_that_asks_for_more_than_is_waited_for_is_named(hub: Hub, waits: list[float]):
    push(hub, 0)
    failing(hub, "config.json", Fault(503, after="900"))
    with pytest.raises(
        ConnectionError, match=r"HTTP 503, which asks to wait 900 s; without a network, give"
    ) as said:
        load()
    assert not waits
    assert "\n" not in str(said.value)


def test_a_branch_that_moves_between_the_two_files(hub: Hub):
    old, _ = push(hub, 0)

    def move(path: str) -> None:
        if path == "config.json":
            hub.after_file = lambda path: None
            push(hub, 1)

    hub.after_file = move
    assert same(load(), old)
    assert same(load(), space(1))


def test_a_history_that_is_written_anew_between_the_two_files(hub: Hub):
    push(hub, 0)

    def rewrite(path: str) -> None:
        if path == "config.json":
            hub.after_file = lambda path: None
            before = hub.repositories["user/space"].branches["main"]
            push(hub, 1)
            del hub.repositories["user/space"].commits[before]

    hub.after_file = rewrite
    assert same(load(), space(1))


@pytest.mark.parametrize("which", ["config", "tensors"])
def test_a_damaged_cache_is_mended_once_and_named_else(
    hub: Hub, tmp_path: Path, waits: list[float], which: str
):
    head, paths = push(hub, 0)
    load()
    (link,) = (tmp_path / "cache").glob(f"**/snapshots/*/{paths[which]}")
    blob = Path(os.path.realpath(link))
    content = bytearray(blob.read_bytes())
    at = content.index(b"zebra") if which == "config" else len(content) - 9
    content[at] ^= 1  # of the right size
    blob.write_bytes(content)
    with pytest.raises(ValueError, match="if the repository is whole, delete") as offline:
        load(local_files_only=True)
    assert str(blob) in str(offline.value)
    assert same(load(), head)
    assert same(load(local_files_only=True), head)
    # And one that comes damaged each time:
    failing(hub, paths[which], Fault("wrong hash"))
    blob.write_bytes(content)
    with pytest.raises(ValueError, match="it was fetched twice; if the repository is whole, delete") as twice:
        load()
    assert str(blob) in str(twice.value)
    hub.faults.clear()
    assert same(load(), head)


def test_files_that_are_not_of_the_head_are_not_fetched(hub: Hub, tmp_path: Path):
    push(hub, 0)
    repository = hub.repositories["user/space"]
    files = repository.commits[repository.branches["main"]]
    repository.add({**files, f"space-{'0' * 16}.safetensors": b"x" * 1000, "model.bin": b"pickle"})
    hub.requests.clear()
    load()
    assert not [request for request in hub.requests if "0000" in request or "bin" in request]


def test_a_pushed_head_does_not_say_which_folder_is_read(hub: Hub, head: SynonymousSpaceHead):
    facts = head.fit_classes(["ox", "cat"]).class_space
    for name in ("/etc", "../secret", "http://127.0.0.1/x", "//host/share", "C:\\models"):
        changed = replace(
            facts, backbone=replace(facts.backbone, reference=type(facts.backbone.reference)(name=name))
        )
        repository = hub.repositories["user/space"] = Repository()
        folder = save_artifact(Path(huggingface_hub.constants.HF_HUB_CACHE).parent / "out", changed)
        repository.add({path.name: path.read_bytes() for path in folder.iterdir()})
        with pytest.raises(ValueError, match="is no repository of the Hub; give one as backbone="):
            SynonymousSpaceHead.from_pretrained("user/space", **OPTIONS)


# ---- models ------------------------------------------------------------------------------------------------


@pytest.fixture
def clip(hub: Hub) -> Hub:
    hub.repositories["org/clip"] = Repository()
    hub.repositories["org/clip"].add({path.name: path.read_bytes() for path in model_folder().iterdir()})
    return hub


def test_a_model_in_the_cache_is_used_where_the_hub_fails(clip: Hub, waits: list[float]):
    cache = huggingface_hub.constants.HF_HUB_CACHE
    backbone = Backbone.from_pretrained("org/clip", cache_dir=cache)
    clip.faults = {path.name: Fault(503) for path in model_folder().iterdir()}
    with pytest.warns(UserWarning, match=r"org/clip/config\.json: the Hub answers HTTP 503; the copy"):
        again = Backbone.from_pretrained("org/clip", cache_dir=cache)
    assert torch.equal(backbone.encode_texts(["a"]), again.encode_texts(["a"]))
    assert not waits or OLD  # transformers 4 looks for the processor on the Hub, whatever it is told


def test_a_model_that_is_not_there_is_named_in_one_sentence(hub: Hub):
    with pytest.raises(
        FileNotFoundError, match=r"no model 'org/clipp' .*check how it is spelt.*demo model"
    ) as said:
        Backbone.from_pretrained("org/clipp")
    assert "\n" not in str(said.value)


def test_without_a_network_it_fails_in_seconds_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd
):
    constants = huggingface_hub.constants
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    for module in (constants, huggingface_hub.file_download):
        if hasattr(module, "HUGGINGFACE_CO_URL_TEMPLATE"):
            template = address + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for attempt in (
        lambda: Backbone.from_pretrained("org/clip"),
        lambda: SynonymousSpaceHead.from_pretrained("user/space"),
        lambda: SynonymSet.read("hf://datasets/user/words/animals.json"),
    ):
        began = time.monotonic()
        with caplog.at_level(logging.WARNING), pytest.raises(ConnectionError) as said:
            attempt()
        assert time.monotonic() - began < 5
        assert "not in the cache, and the Hub cannot be reached" in str(said.value)
        assert "without a network, give a folder" in str(said.value)
        assert "\n" not in str(said.value)
    assert "Retry" not in caplog.text + capfd.readouterr().err


def test_offline_says_that_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new_sessions: None):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConnectionError, match="not in the cache, and HF_HUB_OFFLINE is set"):
        SynonymousSpaceHead.from_pretrained("user/space")


def test_synonyms_of_the_hub_fall_back_too(hub: Hub, waits: list[float]):
    uri = SynonymSet.read({"zebra": ["equus"]}).push_to_hub("user/words", "animals.json", **OPTIONS)
    first = SynonymSet.read(uri)
    hub.faults["animals.json"] = Fault(503)
    with pytest.warns(UserWarning, match="the copy of it in the cache is used"):
        assert SynonymSet.read(uri) == first


def test_many_load_at_once_from_a_hub_that_is_busy(hub: Hub, waits: list[float]):
    head, paths = push(hub, 0)
    failing(hub, paths["tensors"], Fault(503, times=5))
    found: list[bool] = []
    threads = [threading.Thread(target=lambda: found.append(same(load(), head))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 6


def test_a_repository_that_is_gone_is_not_mended_by_waiting(hub: Hub, waits: list[float]):
    with pytest.raises(RepositoryNotFoundError):
        load("user/none")
    assert not waits


# ---- through a proxy ---------------------------------------------------------------------------------------


@pytest.fixture
def proxy(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy between huggingface_hub and the Hub."""
    with proxy_server() as server:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, server.address)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        end_sessions()
        yield server
    monkeypatch.undo()
    end_sessions()


def test_all_goes_through_a_proxy(hub: Hub, proxy: Proxy):
    head = space(0)
    head.push_to_hub("user/space", **OPTIONS)
    assert same(load(), head)
    assert set(proxy.passed) == set(hub.requests)


@pytest.mark.parametrize("which", ["config", "tensors"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_proxy_that_fails(hub: Hub, proxy: Proxy, waits: list[float], fault: str, which: str):
    old, _ = push(hub, 0)
    new, paths = push(hub, 1)
    proxy.fault, proxy.fails = fault, lambda path: path.endswith(paths[which])
    for kept in (False, True):
        loaded = None
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with suppress(OSError, ValueError):
                loaded = load()
        assert kept or loaded is None
        if loaded is not None:
            assert same(loaded, new)
            # What is cached needs no body of an answer.
            is_told = any("the copy of it in the cache is used" in str(each.message) for each in said)
            assert is_told or which == "tensors" or fault in ("cut", "changed")
        assert sum(waits) < 4 * hub_files.PATIENCE
        proxy.fault = None
        assert same(load(), new)
        proxy.fault = fault
    assert not same(new, old)


def test_a_proxy_that_is_not_there(
    hub: Hub, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, waits: list[float]
):
    push(hub, 0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{closed.getsockname()[1]}")
        end_sessions()
        with pytest.raises(ConnectionError, match="cannot be reached") as said:
            load()
    assert "\n" not in str(said.value)
    assert sum(waits) < hub_files.PATIENCE
