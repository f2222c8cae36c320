"""Concepts as points: their rows, what their head keeps and says, and what older heads stay."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch.nn.functional import normalize

import s3clip.backbone.encoding
from s3clip import HeadConfig, SynonymousSpaceHead, SynonymSet
from s3clip.backbone.encoding import encode_texts
from s3clip.evaluation.method_texts import MethodTexts
from s3clip.evaluation.methods import METHODS
from s3clip.inspection import inspect_head
from s3clip.inspection.neighbours import find_neighbours

CATS = [
    {"name": "cat", "synonyms": ["kitty", "feline"], "descriptors": ["fur", "a tail"], "id": 3},
    {"name": "dog", "descriptors": ["fur"], "prompts": ["A dog barks.", "dog"]},
    {"name": "bird"},
]
TEMPLATES = ("a photo of a {}.", "{} on a table")


def variants(name: str, descriptors: list[str]) -> list[str]:
    """All that is said of a name, written out."""
    bare = [template.replace("{}", name) for template in TEMPLATES]
    joined = [f"{prompt.removesuffix('.')}, {said}." for said in descriptors for prompt in bare]
    return [*bare, *joined]


def test_the_row_of_a_concept_is_the_mean_of_its_prompts(head: SynonymousSpaceHead):
    head.fit_classes(CATS, templates=TEMPLATES, cache=False)
    said = ["which has fur", "which is a tail"]
    expected = [variants(name, said) for name in ("cat", "kitty", "feline")]
    expected += [variants("dog", said[:1]), ["A dog barks."], ["dog"], variants("bird", [])]
    rows = [normalize(head.backbone.encode_texts(own).mean(0), dim=0) for own in expected]
    torch.testing.assert_close(head.space.raw, torch.stack(rows), atol=1e-6, rtol=0)
    assert [own.texts for own in head.classes] == [
        ["cat", "kitty", "feline"],
        ["dog", "A dog barks.", "dog"],
        ["bird"],
    ]
    assert head.classes[0].variants is not None
    assert head.classes[0].variants[1] == ["kitty, which has fur", "kitty, which is a tail"]
    assert (head.classes[1].variants, head.classes[2].variants) == ([["dog, which has fur"], [], []], None)


def test_without_descriptors_concepts_are_texts(head: SynonymousSpaceHead):
    names = {"cat": ["kitty", "feline"], "dog": ["hound"]}
    concepts = head.fit_classes(names).space.raw
    texts = SynonymousSpaceHead(head.backbone, config=HeadConfig(points="texts")).fit_classes(names)
    assert torch.equal(concepts, texts.space.raw)


@pytest.mark.parametrize("points", ["concepts", "texts"])
def test_a_prompt_is_encoded_once_however_small_the_blocks(head: SynonymousSpaceHead, monkeypatch, points):
    texts = SynonymSet.read([*CATS, {"name": "puss", "synonyms": ["cat"], "descriptors": ["fur"]}]).texts(
        TEMPLATES, points
    )
    backbone, seen = head.backbone, []
    expected = encode_texts(backbone, texts, cache=False)
    encode = backbone.encode_texts
    monkeypatch.setattr(
        backbone, "encode_texts", lambda own, **more: (seen.extend(own), encode(own, **more))[1]
    )
    monkeypatch.setattr(s3clip.backbone.encoding, "PROMPT_BLOCK", 3)
    torch.testing.assert_close(encode_texts(backbone, texts, cache=False), expected, atol=1e-6, rtol=0)
    assert sorted(seen) == sorted({prompt for own in texts for text in own for prompt in text.prompts})


def test_the_matched_text_is_a_name(head: SynonymousSpaceHead):
    head.fit_classes(CATS[:1] + CATS[2:])
    answers = head.predict(image_embeds=torch.randn(20, head.backbone.dim), top_k=2)
    assert {answer.text for own in answers for answer in own} <= {"cat", "kitty", "feline", "bird"}


def test_other_points_are_another_fit(head: SynonymousSpaceHead):
    head.fit_classes(CATS, templates=TEMPLATES)
    before = head.space.raw
    with pytest.raises(ValueError, match=r"points: .*fit again with HeadConfig\(points='texts'\)"):
        head.reconfigure(points="texts")
    other = SynonymousSpaceHead(head.backbone, config=HeadConfig(points="texts"))
    other.fit_classes([{"name": "fish"}], templates=TEMPLATES)
    with pytest.raises(ValueError, match="fitted with points texts, this head with concepts"):
        head.merge(other)
    assert head.space.raw is before or torch.equal(head.space.raw, before)
    unfitted = SynonymousSpaceHead(head.backbone).reconfigure(points="texts").fit_classes(CATS)
    assert [own.rows for own in unfitted.classes] == [9, 4, 1]


def test_rows_of_embeddings_are_points_as_given():
    rows = torch.randn(5, 8)
    for points in ("concepts", "texts"):
        head = SynonymousSpaceHead(config=HeadConfig(points=points)).fit_embeddings(
            {"a": rows}, logit_scale=1.0
        )
        assert torch.equal(head.space.raw, rows)


def test_a_state_dict_that_knows_no_points_is_one_of_texts(head: SynonymousSpaceHead):
    config = HeadConfig(points="texts")
    state = SynonymousSpaceHead(head.backbone, config=config).fit_classes(CATS).state_dict()
    content = json.loads(bytes(state["_extra_state"].numpy().data))
    del content["config"]["points"]
    for own in content["classes"]:
        del own["variants"]
    state["_extra_state"] = torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)
    loaded = SynonymousSpaceHead(copy.deepcopy(head.backbone))
    loaded.load_state_dict(state)
    assert (loaded.config.points, [own.rows for own in loaded.classes]) == ("texts", [9, 4, 1])


def test_methods_have_the_rows_that_their_points_say(head: SynonymousSpaceHead):
    texts = MethodTexts(head.backbone, SynonymSet.read(CATS), TEMPLATES)
    assert {
        name: [len(own) for own in texts.of(METHODS[name], 0)] for name in ("name", "center", "default")
    } == {
        "name": [1, 1, 1],
        "center": [9, 4, 1],
        "default": [3, 3, 1],
    }
    fit = SynonymousSpaceHead(head.backbone).fit_classes(CATS, templates=TEMPLATES)
    torch.testing.assert_close(torch.cat(texts.of(METHODS["default"], 0)), fit.space.raw, atol=1e-6, rtol=0)
    fit = SynonymousSpaceHead(head.backbone, config=HeadConfig(points="texts"))
    fit.fit_classes(CATS, templates=TEMPLATES)
    torch.testing.assert_close(torch.cat(texts.of(METHODS["center"], 0)), fit.space.raw, atol=1e-6, rtol=0)
    # METHODS of our own stand on concepts; the control and the published ones on texts.
    assert METHODS["nearest"].config is not None
    assert (METHODS["nearest"].config.points, METHODS["center"].config.points) == ("concepts", "texts")


# ---- what the filter does with few concepts, and what is said of it ----


def classes_with_strangers(sizes: list[int], seed: int = 0) -> tuple[list[torch.Tensor], list[list[int]]]:
    """Classes around far centres; in some, the last rows lie at another class's centre."""
    draw = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(len(sizes), 24, generator=draw)
    rows = [c + 0.5 * torch.randn(n, 24, generator=draw) for c, n in zip(centres, sizes, strict=True)]
    strangers: list[list[int]] = []
    for i, own in enumerate(rows):
        count = {1: 0, 2: 1, 3: 1, 4: 1, 5: 2}.get(len(own), len(own) // 4)
        for j in range(count):
            own[-1 - j] = centres[(i + 1 + j) % len(sizes)] + 0.5 * torch.randn(24, generator=draw)
        strangers.append(list(range(len(own) - count, len(own))))
    return rows, strangers


@pytest.mark.parametrize("seed", range(4))
def test_three_outvote_a_stranger_and_one_name_does_not(seed: int):
    sizes = [1, 2, 3, 4, 5, 8, 3, 12]
    rows, strangers = classes_with_strangers(sizes, seed)
    head = SynonymousSpaceHead().fit_embeddings(rows, [str(i) for i in range(len(sizes))], logit_scale=1.0)
    for report, size, wrong in zip(inspect_head(head), sizes, strangers, strict=True):
        dropped = [row for row, text in enumerate(report.texts) if text.status == "dropped"]
        assert dropped == ([] if size < 3 else wrong)
        assert len(dropped) <= 0.4 * size


@pytest.mark.parametrize("rule", ["margin", "fixed", "kept_share"])
def test_reasons_against_scipy_and_by_doing_what_they_say(rule: str):
    rows, _ = classes_with_strangers([3, 9, 5, 8], seed=3)
    config = HeadConfig(scale_rule=rule, scale_options={"epsilon": 0.7} if rule == "fixed" else {})
    head = SynonymousSpaceHead(config=config).fit_embeddings(rows, ["a", "b", "c", "d"], logit_scale=1.0)
    space, start, reasons = head.space, 0, 0
    other_class = find_neighbours(space).other_class.tolist()
    for report, own in zip(inspect_head(head), rows, strict=True):
        at = torch.arange(start, start + len(own))
        lengths = space.edge_lengths(at[None])[0].numpy()
        tree = linkage(squareform(lengths, checks=False), "single")
        kept = [row for row, text in enumerate(report.texts) if text.status == "kept"]
        for row, text in enumerate(report.texts):
            assert (text.reason is not None) == (text.status == "dropped")
            if text.reason is None:
                continue
            reasons += 1
            assert text.reason.leans_to == other_class[start + row] != report.index
            for scale, joined in ((0.999, False), (1.001, True)):
                labels = fcluster(tree, scale * text.reason.distance, "distance")
                assert (labels[row] in labels[kept]) == joined
            changed = SynonymousSpaceHead(config=config).fit_embeddings(rows, list("abcd"), logit_scale=1.0)
            changed.reconfigure(**text.reason.kept_by)
            assert inspect_head(changed)[report.index].texts[row].status == "kept"
            if rule == "margin" and row:
                epsilon = text.reason.kept_by["scale_options"]["epsilon"]
                assert epsilon - 0.01 <= text.reason.distance <= epsilon
        start += len(own)
    assert reasons >= 2


@pytest.mark.parametrize("rule", ["margin", "kept_share"])
def test_reports_of_some_classes_are_those_of_all(rule: str, monkeypatch: pytest.MonkeyPatch):
    rows, _ = classes_with_strangers([3, 9, 1, 5, 8, 12], seed=4)
    head = SynonymousSpaceHead(config=HeadConfig(scale_rule=rule))
    head.fit_embeddings(rows, list("abcdef"), logit_scale=1.0)
    every = inspect_head(head)
    assert sum(report.count("dropped") for report in every) > 2
    for classes in ([], [4], [5, 1, 2]):
        assert inspect_head(head, classes) == [every[i] for i in classes]
    # Classes whose trees come from tiles: the same, up to the rounding of lengths.
    monkeypatch.setattr("s3clip.space.edges.LARGEST_MATRIX", 20)
    for one, other in zip(inspect_head(head), every, strict=True):
        for text, same in zip(one.texts, other.texts, strict=True):
            assert text.status == same.status
            if same.reason is not None:
                assert text.reason == replace(same.reason, distance=pytest.approx(same.reason.distance))


def test_a_head_of_one_class_gives_no_reason():
    head = SynonymousSpaceHead().fit_embeddings({"a": torch.randn(6, 8)}, logit_scale=1.0)
    assert [text.reason for text in inspect_head(head)[0].texts] == [None] * 6
    assert np.isinf(inspect_head(head)[0].scale)
