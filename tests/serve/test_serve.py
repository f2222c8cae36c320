"""The service by real HTTP: predict's answers, whoever asks together with whom, and what is refused."""

import base64
import http.client
import io
import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from s3clip import SynonymousSpaceHead
from s3clip.backbone import precision
from s3clip.demo import held_out_digits, model_folder, synonym_file

pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install 's3clip[serve]'")
pytest.importorskip(
    "prometheus_client", reason="prometheus_client is not installed: pip install 's3clip[serve]'"
)

from s3clip.images.opening import open_image
from s3clip.images.walking import find_images
from s3clip.prediction.precision import set_precision
from s3clip.serve import Bounds, HeadSource, create_app
from s3clip.serve.batching import Batcher, Work
from s3clip.texts.formats import FORMAT
from tests.hub_server import TOKEN, Hub
from tests.processes import wait_for
from tests.serve.client import ask, serving


@pytest.fixture(scope="module")
def head() -> SynonymousSpaceHead:
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())
    pictures, _ = held_out_digits()
    head.fit_rejection([each.rotate(90) for each in pictures[:40]], false_accept_rate=0.5)
    return head


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    def png(image: Image.Image) -> bytes:
        content = io.BytesIO()
        image.save(content, "PNG")
        return content.getvalue()

    return [png(image) for image in held_out_digits()[0][:24]]


@pytest.fixture(scope="module")
def address(head: SynonymousSpaceHead):
    with serving(create_app(head, bounds=Bounds(pictures=40, body_bytes=1 << 20, pixels=10_000))) as found:
        yield found


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def expected(head: SynonymousSpaceHead, contents: list[bytes], **options) -> list[list[dict]]:
    answers = head.predict([open_image(each) for each in contents], **options)
    return [[vars(each) for each in answer] for answer in answers]


def assert_same(found: list[dict], wanted: list[list[dict]]) -> None:
    assert [each["error"] for each in found] == [None] * len(wanted)
    for own, answer in zip(found, wanted, strict=True):
        assert own["accepted"] is answer[0]["accepted"]
        assert [{**each, "score": 0} for each in own["predictions"]] == [
            {**each, "score": 0} for each in answer
        ]
        # Rows of one batch and of another differ in their last digits.
        scores = [each["score"] for each in own["predictions"]]
        np.testing.assert_allclose(scores, [each["score"] for each in answer], atol=1e-5)


def test_files_base64_and_embeddings_get_predicts_answers(head, pictures, address):
    wanted = expected(head, pictures, top_k=3)
    files = [(f"{i}.png", each) for i, each in enumerate(pictures)]
    by_files = ask(address, "/predict", files=files, fields=[("top_k", "3")])
    texts = [text(each) for each in pictures]
    texts[1] = f"data:image/png;base64,{texts[1]}"
    by_texts = ask(address, "/predict", content={"images": texts, "top_k": 3})
    embedded = ask(address, "/embed", content={"images": texts}).json
    embeds = [each["embedding"] for each in embedded["results"]]
    by_embeds = ask(address, "/predict", content={"embeddings": embeds, "top_k": 3})
    for answer in (by_files, by_texts, by_embeds):
        assert answer.status == 200
        assert_same(answer.json["results"], wanted)
        assert answer.json["head"] == embedded["head"] == head.class_space.digest()[:16]
    assert {each["accepted"] for each in by_files.json["results"]} == {True, False}
    inputs = head.backbone.preprocess([open_image(each) for each in pictures])
    own = torch.nn.functional.normalize(head.backbone.encode_images(**inputs), dim=-1)
    torch.testing.assert_close(torch.tensor(embeds), own, atol=1e-5, rtol=0)


def test_whoever_asks_together_gets_their_own_answers(head, pictures, address):
    wanted = expected(head, pictures, top_k=10)

    def one(number: int) -> None:
        mine = [(number + i) % len(pictures) for i in range(1 + number % 3)]
        top_k = 1 + number % 4
        files = [(f"{i}.png", pictures[i]) for i in mine]
        answer = ask(address, "/predict", files=files, fields=[("top_k", str(top_k))])
        assert_same(answer.json["results"], [wanted[i][:top_k] for i in mine])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(96)))
    metrics = ask(address, "/metrics").content.decode()
    batches = int(float(re.search(r"^s3clip_batch_size_count (\S+)", metrics, re.M)[1]))
    pictures_seen = int(float(re.search(r"^s3clip_pictures_total (\S+)", metrics, re.M)[1]))
    assert pictures_seen >= 96 * 2
    assert batches < pictures_seen  # some went together
    assert re.search(r'^s3clip_requests_total{path="/predict",status="200"} \d', metrics, re.M)
    assert "s3clip_waiting 0.0" in metrics


def test_pictures_that_cannot_be_read_spoil_no_others(head, pictures, address):
    big = io.BytesIO()
    Image.new("L", (101, 100)).save(big, "PNG")
    bad = [b"no picture", pictures[0][:60], big.getvalue(), b""]
    answer = ask(address, "/predict", files=[("x", each) for each in [*bad, pictures[0]]])
    assert answer.status == 200
    results = answer.json["results"]
    assert [each["predictions"] for each in results[:4]] == [[]] * 4
    assert "images[2]: 101 x 100 pixels, and 10,000 are decoded at most" in results[2]["error"]
    assert all(each["error"].startswith("images[") for each in results[:4])
    assert_same(results[4:], expected(head, pictures[:1]))
    only = ask(address, "/embed", files=[("x", b"no picture")]).json["results"]
    assert only[0]["embedding"] is None


def test_no_text_is_a_path_and_no_address_is_fetched(address, tmp_path: Path, pictures):
    (tmp_path / "secret.png").write_bytes(pictures[0])
    names = [
        str(tmp_path / "secret.png"),
        f"file://{tmp_path}/secret.png",
        address + "/",
        "s3://bucket/x.png",
    ]
    results = ask(address, "/predict", content={"images": names}).json["results"]
    assert [each["predictions"] for each in results] == [[]] * 4
    assert "expected base64" in results[0]["error"]
    assert all("allow" in each["error"] or "not fetched" in each["error"] for each in results[1:])


def test_addresses_are_fetched_where_they_are_allowed(head, pictures, tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(pictures[0])
    (tmp_path / "b.png").write_bytes(pictures[0])
    with serving(create_app(head, bounds=Bounds(addresses=(f"file://{tmp_path}/in",)))) as found:
        names = [
            f"file://{tmp_path}/in/a.png",
            f"file://{tmp_path}/b.png",
            f"file://{tmp_path}/in/../b.png",
            "a.png",
        ]
        names += [f"file://{Path.cwd()}/README.md", "http://127.0.0.1:9/a.png"]
        results = ask(found, "/predict", content={"images": names}).json["results"]
    assert_same(results[:1], expected(head, pictures[:1]))
    assert all(each["error"] for each in results[1:])


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        ({}, 422, "expected images or embeddings"),
        ({"images": []}, 422, "expected images or embeddings"),
        ({"images": ["aaaa"], "embeddings": [[1.0]]}, 422, "one of the two"),
        ({"images": ["aaaa"], "top_k": 0}, 422, "top_k"),
        ({"images": ["aaaa"], "topk": 1}, 422, "topk"),
        ({"images": ["aaaa"] * 41}, 413, "at most 40"),
        ({"embeddings": [[1.0, 2.0]]}, 422, "expected 64 numbers, got 2"),
        ({"embeddings": [[1.0] * 64, [0.0] * 64]}, 422, "embeddings[1]: zero, NaN or Inf"),
        ({"embeddings": [[float("nan")] * 64]}, 422, "embeddings[0]: zero, NaN or Inf"),
        ({"embeddings": [["x"]]}, 422, "embeddings"),
        ({"embeddings": [["0.1"] * 64]}, 422, "embeddings"),
        ({"embeddings": [[True] * 64]}, 422, "embeddings"),
        ({"embeddings": [[1.0] * 64], "top_k": True}, 422, "top_k"),
        ({"embeddings": [[1.0] * 64], "top_k": "2"}, 422, "top_k"),
        ({"embeddings": [[1.0] * 64], "among": [True]}, 422, "among"),
        ({"embeddings": [[1.0] * 64], "among": [1.0]}, 422, "among"),
        ({"embeddings": [[1.0] * 64], "among": [None]}, 422, "among"),
        ([], 422, "the body"),
    ],
)
def test_what_is_wrong_is_said(address, content, status, said):
    answer = ask(address, "/predict", content=content)
    assert answer.status == status, answer.content
    assert said in answer.json["error"]


def test_bodies_are_bounded_and_of_two_kinds(address):
    # Without its body: who is still sending one when the answer comes may find the pipe broken first.
    long = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    long.putrequest("POST", "/predict")
    long.putheader("Content-Length", str((1 << 20) + 1))
    long.endheaders()
    assert long.getresponse().status == 413
    long.close()
    assert ask(address, "/predict", body=b"x", headers={"Content-Type": "text/plain"}).status == 415
    assert ask(address, "/predict", body=b"{", headers={"Content-Type": "application/json"}).status == 422
    assert ask(address, "/predict").status == 405
    assert ask(address, "/nothing").status == 404


@pytest.mark.parametrize(
    "asked",
    [
        {"language": "de"},
        {"language": "xx"},
        {"language": "de", "level": "kind"},
        {"level": "kind", "among": ["one", "two"]},
        {"level": "kind", "among": "kind=even"},
        {},
    ],
)
def test_an_answer_says_what_predict_warns_of(asked: dict, pictures):
    words = [
        {"name": "one", "groups": {"kind": "odd"}, "names": {"de": ["Eins"]}},
        {"name": "two", "groups": {"kind": "even"}},
        {"name": "odd"},  # as the group is called that it is not in
    ]
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(words)
    with serving(create_app(head)) as address:
        found = ask(address, "/predict", content={"images": [text(pictures[0])], **asked})
        unread = ask(address, "/predict", content={"images": ["aGk="], **asked})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wanted = expected(head, pictures[:1], **asked)
    assert_same(found.json["results"], wanted)
    said = [str(each.message) for each in caught if str(each.message).startswith(("language:", "level:"))]
    assert found.json.get("warnings", []) == unread.json.get("warnings", []) == said
    assert len(said) == ("language" in asked) + ("level" in asked)


def test_what_an_embedding_does_not_depend_on_is_refused(pictures, address):
    for more in ({"level": "kind"}, {"among": "one"}, {"language": "de"}):
        found = ask(address, "/embed", content={"images": [text(pictures[0])], **more})
        assert (found.status, *more) == (422, found.json["error"].partition(":")[0])


def test_groups_scopes_and_languages_are_those_of_predict(pictures):
    words = [
        {"name": name, "groups": {"kind": kind}, "names": {"de": german}}
        for name, kind, german in (("zero", "even", "null"), ("one", "odd", "eins"), ("two", "even", "zwei"))
    ]
    grouped = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(
        {"format": FORMAT, "classes": words}
    )
    texts = [text(each) for each in pictures[:4]]
    with serving(create_app(grouped)) as found, ThreadPoolExecutor(6) as pool:
        asked = (
            {},
            {"level": "kind"},
            {"among": {"kind": "even"}},
            {"among": ["one", 2]},
            {"among": "odd"},
            {"among": 2},
            {"among": [{"kind": "even"}, "one"], "level": "kind"},
            {"language": "de"},
        )
        answers = pool.map(lambda each: ask(found, "/predict", content={"images": texts, **each}), asked)
        for options, answer in zip(asked, answers, strict=True):
            assert_same(answer.json["results"], expected(grouped, pictures[:4], **options))
        wrong = ask(found, "/predict", content={"images": texts, "level": "order"})
        assert (wrong.status, "order" in wrong.json["error"]) == (422, True)
        for bad in (
            {"level": True},
            {"level": ["kind"]},
            {"among": [True]},  # not the class at 1
            {"among": [1.0]},
            {"among": [["one"]]},
            {"among": {}},
            {"among": []},
            {"language": 1},
            {"language": "DE"},
            {"negatives": ["six"]},
        ):
            refused = ask(found, "/predict", content={"images": texts, **bad})
            assert refused.status == 422, bad
            assert next(iter(bad)) in refused.json["error"], bad
        by_form = ask(
            found, "/predict", files=[("x", pictures[0])], fields=[("among", "one"), ("among", "two")]
        )
        assert_same(by_form.json["results"], expected(grouped, pictures[:1], among=["one", "two"]))
        by_level = ask(found, "/predict", files=[("x", pictures[0])], fields=[("among", "kind=even")])
        assert_same(by_level.json["results"], expected(grouped, pictures[:1], among={"kind": "even"}))
        assert ask(found, "/classes").json["classes"][0]["groups"] == {"kind": "even"}


def test_more_than_may_wait_is_told_to_come_again(head, pictures):
    begun, go_on = threading.Event(), threading.Event()
    real = head.backbone.encode_images

    def slow(*arguments, **more):
        begun.set()
        assert go_on.wait(30)
        return real(*arguments, **more)

    files = [("x", pictures[0])]
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(create_app(head, bounds=Bounds(pictures=2, waiting=2))) as found,
        ThreadPoolExecutor(1) as pool,
    ):
        patch.setattr(head.backbone, "encode_images", slow)
        first = pool.submit(ask, found, "/predict", files=files)
        assert begun.wait(30)
        refused = ask(found, "/predict", files=files * 2)
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert ask(found, "/healthz").status == ask(found, "/readyz").status == 200
        go_on.set()
        assert_same(first.result().json["results"], expected(head, pictures[:1]))
        assert ask(found, "/predict", files=files * 2).status == 200


def test_a_token_is_asked_for(head, pictures):
    with serving(create_app(head, token="secret")) as found:
        for path in ("/healthz", "/readyz", "/", "/openapi.json"):
            assert ask(found, path).status == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            for path in ("/classes", "/metrics"):
                assert ask(found, path, headers=headers).status == 401
            assert ask(found, "/predict", files=[("x", pictures[0])], headers=headers).status == 401
        right = {"Authorization": "Bearer secret"}
        assert ask(found, "/predict", files=[("x", pictures[0])], headers=right).status == 200
    with pytest.raises(ValueError, match="token"):
        create_app(head, token="")


def test_classes_page_and_description(address, head):
    classes = ask(address, "/classes").json["classes"]
    assert [each["name"] for each in classes] == list(head.class_names)
    assert classes[0]["texts"] == list(head.classes[0].texts)
    page = ask(address, "/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(rb"(src|href)=|https?://", page.content)
    described = ask(address, "/openapi.json").json
    for path in ("/predict", "/embed"):
        body = described["paths"][path]["post"]["requestBody"]["content"]
        assert body.keys() == {"application/json", "multipart/form-data"}
        assert body["application/json"]["examples"].keys() == {"pictures", "embeddings"}
    answer = ask(address, "/predict", content=body["application/json"]["examples"]["pictures"]["value"])
    assert answer.status == 200
    example = described["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"][
        "example"
    ]
    assert answer.json.keys() == example.keys() - {"warnings"}  # there are none
    result = answer.json["results"][0]
    assert result["error"] is None
    assert result.keys() == example["results"][0].keys() | {"error"}  # FastAPI leaves out what is null
    assert result["predictions"][0].keys() == example["results"][0]["predictions"][0].keys() | {"class_id"}


def test_a_head_that_changes_is_taken_over_whole(head, pictures, tmp_path: Path):
    """Two heads, saved over each other while many ask: every answer is that of the head it names."""
    other = SynonymousSpaceHead(head.backbone).fit_classes({"curly": ["round"], "straight": ["line"]})
    own = {each.class_space.digest()[:16]: expected(each, pictures[:4]) for each in (head, other)}
    head.save_pretrained(tmp_path / "head")
    seen, stop = set(), threading.Event()
    source = HeadSource(str(tmp_path / "head"), backbone=model_folder())
    with serving(create_app(source, look_every=0.02)) as found, ThreadPoolExecutor(4) as pool:

        def keep_asking(number: int) -> None:
            while not stop.is_set():
                answer = ask(found, "/predict", files=[("x", pictures[number])])
                assert_same(answer.json["results"], own[answer.json["head"]][number : number + 1])
                seen.add(answer.json["head"])

        asking = [pool.submit(keep_asking, number) for number in range(4)]
        try:
            for each in (other, head, other):
                seen.clear()
                each.save_pretrained(tmp_path / "head")
                wait_for(lambda each=each: each.class_space.digest()[:16] in seen, 30)
            # What is damaged is not taken over, and is tried again.
            config = tmp_path / "head" / "config.json"
            whole = config.read_bytes()
            config.write_bytes(whole[:-20])
            wait_for(lambda: b'outcome="failed"' in ask(found, "/metrics").content, 30)
            assert ask(found, "/readyz").status == 200
            head.save_pretrained(tmp_path / "new")
            for file in (tmp_path / "new").iterdir():
                file.rename(tmp_path / "head" / file.name)
            seen.clear()
            wait_for(lambda: head.class_space.digest()[:16] in seen, 30)
        finally:
            stop.set()
        for each in asking:
            each.result()


def test_a_head_on_the_hub_is_taken_over(hub: Hub):
    spaces = [
        SynonymousSpaceHead().fit_embeddings([torch.eye(4)[:2], torch.eye(4)[2:]], names, logit_scale=10.0)
        for names in (["a", "b"], ["c", "d"])
    ]
    rows = torch.eye(4).tolist()
    spaces[0].push_to_hub("user/space", token=TOKEN)
    with serving(create_app(HeadSource("user/space"), look_every=0.05)) as found:
        for space in spaces:
            space.push_to_hub("user/space", token=TOKEN)
            name = space.class_space.digest()[:16]
            wait_for(lambda name=name: ask(found, "/classes").json["head"] == name, 30)
            answer = ask(found, "/predict", content={"embeddings": rows})
            assert_same(
                answer.json["results"],
                [[vars(each) for each in own] for own in space.predict(image_embeds=torch.eye(4))],
            )
        assert "no image tower" in ask(found, "/predict", content={"images": ["aaaa"]}).json["error"]


def test_a_batch_has_one_head_and_is_full_or_has_waited():
    spaces = [
        SynonymousSpaceHead().fit_embeddings([torch.eye(4)[:2], torch.eye(4)[2:]], names, logit_scale=10.0)
        for names in (["a", "b"], ["c", "d"])
    ]
    sizes: list[int] = []
    batcher = Batcher(4, 0.2, lambda pictures, _: sizes.append(pictures))
    works = [
        Work(spaces[which], "predict", count, embeds=torch.eye(4)[:count], top_k=1)
        for which, count in ((0, 2), (0, 2), (0, 1), (1, 1), (1, 6 - 2), (1, 1))
    ]
    answers = [batcher.submit(work) for work in works]
    batcher.close()
    assert [answer.result()[0][0]["label"] for answer in answers] == ["a", "a", "a", "c", "c", "c"]
    assert sizes == [4, 1, 1, 4, 1]
    with pytest.raises(RuntimeError, match="ends"):
        batcher.submit(works[0])


def test_what_is_wrong_with_one_work_is_not_the_others_fault():
    head = SynonymousSpaceHead().fit_embeddings(
        [torch.eye(4)[:2], torch.eye(4)[2:]], ["a", "b"], logit_scale=1.0
    )
    batcher = Batcher(4, 0.5)
    good = batcher.submit(Work(head, "predict", 1, embeds=torch.eye(4)[:1]))
    bad = batcher.submit(Work(head, "predict", 1, embeds=torch.zeros(1, 4)))
    batcher.close()
    assert good.result()[0][0]["label"] == "a"
    with pytest.raises(ValueError, match="image 0"):
        bad.result()


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"waiting": 3}, {"longest_wait": -1}, {"addresses": ("nothing at all",)}]
)
def test_bounds_out_of_range(wrong: dict):
    with pytest.raises(
        ValueError, match=next(iter(wrong)) if "addresses" not in wrong else "allow_addresses"
    ):
        Bounds(**wrong)


def test_a_head_serves_in_the_type_that_is_asked_for(head, pictures, tmp_path: Path, monkeypatch, caplog):
    """Also once another head of the same image tower has taken over, whose trial is not made again."""
    monkeypatch.setattr(precision, "_FASTER", 0.0)
    monkeypatch.setattr(precision, "_candidates", lambda device: ["bfloat16"])
    other = SynonymousSpaceHead(head.backbone).fit_classes({"curly": ["round"], "straight": ["line"]})
    (tmp_path / "some").mkdir()
    for number, content in enumerate(pictures):
        (tmp_path / "some" / f"{number}.png").write_bytes(content)
    head.save_pretrained(tmp_path / "head")
    place = str(tmp_path / "head")
    for dtype, images in (("float16", ()), ("auto", find_images([tmp_path / "some"])), (None, ())):
        source = HeadSource(place, backbone=model_folder(), dtype=dtype, images=images)
        wanted = getattr(torch, {"auto": "bfloat16", None: "float32"}.get(dtype, dtype))
        head.save_pretrained(tmp_path / "head")
        first = source.load()
        assert first.backbone.dtype == wanted
        plain = SynonymousSpaceHead.from_pretrained(place, backbone=model_folder())
        set_precision(plain, str(wanted).removeprefix("torch."), inputs=dict)
        with serving(create_app(source)) as found:
            answer = ask(found, "/predict", files=[("x", each) for each in pictures[:6]])
            assert_same(answer.json["results"], expected(plain, pictures[:6]))
        other.save_pretrained(tmp_path / "head")
        second = source.load(first)
        assert second.class_names == other.class_names
        assert second.backbone.model is first.backbone.model
        assert second.backbone.dtype == wanted
    said = [record.getMessage() for record in caplog.records if "dtype" in record.getMessage()]
    assert [each.split(":")[1].strip() for each in said] == ["auto takes bfloat16"] * 2
    with pytest.raises(ValueError, match="dtype: expected one of auto"):
        HeadSource(place, dtype="int8")
