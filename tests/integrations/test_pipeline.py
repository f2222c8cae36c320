"""The pipeline against transformers' own, on tiny models: same calls, same answers."""

import base64
import io
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset
from typer.testing import CliRunner

from s3clip import HeadConfig, S3ZeroShotImageClassificationPipeline, SynonymousSpaceHead, SynonymSet, cli
from s3clip.backbone.backbone import Backbone
from s3clip.demo import held_out_digits, model_folder
from s3clip.integrations.pipeline import KEPT_LABEL_SETS
from tests import ROOT
from tests.checkpoints import put, saved
from tests.serving import serving_folder
from tests.tiny_models import FAMILIES, SIGLIP_TEXT, build, siglip_tokenizer

TASK = "zero-shot-image-classification"
LABELS = ["cat", "dog", "a very big house"]
SYNONYMS = {"cat": ["feline", "kitty"], "dog": ["hound", "puppy", "wolf"], "a very big house": []}

# These read 16 tokens here, but transformers' own pads the texts of SigLIP to 64, whatever the model reads,
# and truncates no others: they are built for 64. OWL-ViT is not, and FLAVA has no logits per image.
SHORT = [family for family in ("siglip", "siglip2", "tipsv2") if family in FAMILIES]
OTHERS = [family for family in FAMILIES if family not in (*SHORT, "owlvit", "owlv2", "flava")]


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    sizes = [(40, 50), (64, 32), (33, 90), (50, 50), (32, 40)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def parts(family):
    """A model, and its tokenizer and image processor by name."""
    model, processor = build(family)
    halves = processor if isinstance(processor, tuple) else (processor.tokenizer, processor.image_processor)
    return {"model": model, "tokenizer": halves[0], "image_processor": halves[1]}


@pytest.fixture(scope="module")
def clip():
    return parts("clip")


def ours(clip, **kwargs):
    return pipeline(TASK, pipeline_class=S3ZeroShotImageClassificationPipeline, **clip, **kwargs)


def theirs(clip, **kwargs):
    return pipeline(TASK, **clip, **kwargs)


def assert_same(found, expected, tolerance=1e-5):
    """Same shape, and the same score for each label; equal scores may come in either order."""
    if isinstance(expected[0], list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, tolerance)
        return
    assert {type(answer) for answer in found} == {dict}
    assert [list(answer) for answer in found] == [list(answer) for answer in expected]
    scores = [answer["score"] for answer in found]
    assert scores == sorted(scores, reverse=True)
    assert {a["label"]: a["score"] for a in found} == pytest.approx(
        {a["label"]: a["score"] for a in expected}, abs=tolerance
    )


@pytest.fixture
def encoded(clip, monkeypatch):
    """The number of texts in each encoding of a label set; the text tower is watched besides."""
    counts, used = [], []
    encode_texts = Backbone.encode_texts

    def count(backbone, texts, **kwargs):
        used.clear()
        rows = encode_texts(backbone, texts, **kwargs)
        assert used, "no text went through the tower"
        used.clear()
        counts.append(len(texts))
        return rows

    monkeypatch.setattr(Backbone, "encode_texts", count)
    feed_forward = clip["model"].text_model.encoder.layers[0].mlp
    hook = feed_forward.register_forward_hook(lambda *_: used.append(True))
    yield counts
    hook.remove()
    assert not used, "the text tower was used besides"


# ---- the same as transformers' own -----------------------------------------------------------------------


@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_scores_are_those_of_transformers(family, batch_size, images):
    made = parts(family)
    if family == "blip":
        # Before version 5 transformers' own fails at what BERT's tokenizer gives besides.
        made["tokenizer"].model_input_names = ["input_ids", "attention_mask"]
    for centered in ({}, {"head_config": HeadConfig(centering=None)}):
        found = ours(made, **centered)(images, candidate_labels=LABELS, batch_size=batch_size)
        assert_same(found, theirs(made)(images, candidate_labels=LABELS))


@pytest.mark.parametrize("family", SHORT)
def test_scores_of_models_with_fixed_text_lengths_are_those_of_transformers(family, images, monkeypatch):
    monkeypatch.setitem(SIGLIP_TEXT, "max_position_embeddings", 64)
    made = parts(family)
    made["tokenizer"] = siglip_tokenizer(64)
    # As the published checkpoints of SigLIP have it; transformers' own passes on a mask that it is given.
    made["tokenizer"].model_input_names = ["input_ids"]
    found = ours(made)(images, candidate_labels=LABELS, batch_size=2)
    assert_same(found, theirs(made)(images, candidate_labels=LABELS))
    is_softmax = sum(answer["score"] for answer in found[0]) == pytest.approx(1, abs=1e-3)
    assert is_softmax == (family == "tipsv2")


def test_siglip_is_padded_to_the_length_it_reads_and_not_masked(images):
    # 16 tokens here, where transformers' own fails, as with siglip-so400m-patch14-224.
    made = parts("siglip")
    labels = ["cat", "dog"]
    found = ours(made)(images[0], candidate_labels=labels, hypothesis_template="a {}")
    tokens = made["tokenizer"](
        ["a cat", "a dog"], padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )
    pixels = made["image_processor"](images=[images[0]], return_tensors="pt")
    with torch.no_grad():
        logits = made["model"](input_ids=tokens["input_ids"], **pixels).logits_per_image[0]
    expected = dict(zip(labels, logits.sigmoid().tolist(), strict=True))
    assert {answer["label"]: answer["score"] for answer in found} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("labels", [["cat"], ["cat", "dog", "cat"], ("cat", "dog")])
def test_label_sets_of_odd_shapes(clip, images, labels):
    if len(set(labels)) < len(labels):
        with pytest.warns(UserWarning, match="two classes or more"):
            found = ours(clip)(images[0], candidate_labels=labels)
    else:
        found = ours(clip)(images[0], candidate_labels=labels)
    assert_same(found, theirs(clip)(images[0], candidate_labels=labels))
    assert sorted(answer["label"] for answer in found) == sorted(labels)


def test_calls_are_those_of_transformers(clip, images, tmp_path):
    mine, stock = ours(clip), theirs(clip)
    path = str(tmp_path / "image.png")
    images[0].save(path)
    buffer = io.BytesIO()
    images[0].save(buffer, "png")
    single = stock(images[0], candidate_labels=LABELS)
    assert_same(mine(images[0], LABELS), single)
    assert_same(mine(path, candidate_labels=LABELS), single)
    assert_same(mine(base64.b64encode(buffer.getvalue()).decode(), candidate_labels=LABELS), single)
    assert_same(mine(images=images[0], candidate_labels=LABELS, timeout=3.0), single)
    assert_same(mine([path], candidate_labels=LABELS), [single])
    for template in ("{}", "a drawing of {}"):
        asked = {"candidate_labels": LABELS, "hypothesis_template": template}
        assert_same(mine(images, **asked), stock(images, **asked))
    assert mine([], candidate_labels=LABELS) == []


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_generators_and_datasets_stream(clip, images, batch_size):
    mine, expected = ours(clip), theirs(clip)(images, candidate_labels=LABELS)
    drawn = []

    def generate():
        for image in images:
            drawn.append(image)
            yield image

    streamed = mine(generate(), candidate_labels=LABELS, batch_size=batch_size)
    assert not isinstance(streamed, list)
    assert len(drawn) <= 1
    assert_same(list(streamed), expected)
    dataset = KeyDataset([{"image": image} for image in images], "image")
    assert_same(list(mine(dataset, candidate_labels=LABELS, batch_size=batch_size)), expected)


def test_two_streams_with_other_labels_do_not_mix(clip, images):
    mine, stock = ours(clip), theirs(clip)
    first = mine((image for image in images), candidate_labels=LABELS)
    second = mine((image for image in images), candidate_labels=["sea", "sun"], top_k=1)
    pairs = list(zip(first, second, strict=True))
    assert_same([one for one, _ in pairs], stock(images, candidate_labels=LABELS))
    best = [answers[:1] for answers in stock(images, candidate_labels=["sea", "sun"])]
    assert_same([other for _, other in pairs], best)


def test_arguments_of_a_call_may_be_given_once(clip, images):
    asked = {"candidate_labels": LABELS, "hypothesis_template": "a {}"}
    mine = ours(clip, **asked, top_k=2, batch_size=2)
    expected = theirs(clip)(images, **asked)
    assert_same(mine(images), [answers[:2] for answers in expected])
    assert_same(mine(images, top_k=1), [answers[:1] for answers in expected])
    other = mine(images[0], candidate_labels=["sea"])
    assert [answer["label"] for answer in other] == ["sea"]


def test_loads_by_name_as_transformers_does():
    digits, _ = held_out_digits()
    mine = pipeline(TASK, model=str(model_folder()), pipeline_class=S3ZeroShotImageClassificationPipeline)
    stock = pipeline(TASK, model=str(model_folder()))
    assert_same(
        mine(digits[:4], candidate_labels=["one", "two", "three"]),
        stock(digits[:4], candidate_labels=["one", "two", "three"]),
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.005), (torch.bfloat16, 0.03)])
def test_half_precision_is_as_close_as_that_of_transformers(dtype, tolerance):
    digits, _ = held_out_digits()
    model = transformers.CLIPModel.from_pretrained(model_folder()).eval()
    processor = transformers.CLIPProcessor.from_pretrained(model_folder())
    made = {"model": model, "tokenizer": processor.tokenizer, "image_processor": processor.image_processor}
    asked = {"candidate_labels": ["zero", "one", "two", "three"]}
    expected = theirs(made)(digits[:20], **asked)
    model.to(dtype)
    assert_same(ours(made)(digits[:20], **asked), expected, tolerance)
    assert_same(theirs(made)(digits[:20], **asked), expected, tolerance)


def test_workers_and_pickling(clip, images):
    mine = ours(clip)
    expected = mine(images, candidate_labels=LABELS)
    assert_same(pickle.loads(pickle.dumps(mine))(images, candidate_labels=LABELS), expected, 1e-7)
    assert_same(mine(images, candidate_labels=LABELS, num_workers=1), expected, 1e-7)


# ---- texts are encoded once ------------------------------------------------------------------------------


def test_a_label_set_is_encoded_once(clip, images, encoded):
    mine = ours(clip)
    for image in images:
        mine(image, candidate_labels=list(LABELS))
    mine(images, candidate_labels=tuple(LABELS))
    list(mine((image for image in images), candidate_labels=LABELS, batch_size=2))
    assert encoded == [3]


def test_a_thousand_labels_are_one_encoding(clip, images, encoded):
    names = [f"{i}" for i in range(1000)]
    mine = ours(clip)
    for image in images:
        assert len(mine(image, candidate_labels=names)) == 1000
    assert encoded == [1000]


def test_what_changes_the_texts_encodes_them_again(clip, images, encoded):
    mine = ours(clip)
    calls = [
        {"candidate_labels": LABELS},
        {"candidate_labels": LABELS[::-1]},
        {"candidate_labels": LABELS, "hypothesis_template": "{}"},
        {"candidate_labels": LABELS, "tokenizer_kwargs": {"max_length": 6}},
        {"candidate_labels": SYNONYMS},
        {"candidate_labels": {**SYNONYMS, "dog": []}},
    ]
    for _ in range(2):
        for asked in calls:
            mine(images[0], **asked)
    assert len(encoded) == len(calls)


def test_only_the_last_label_sets_are_kept(clip, images, encoded):
    mine = ours(clip)
    for i in range(KEPT_LABEL_SETS):
        mine(images[0], candidate_labels=["cat"])  # again and again, so never the oldest
        mine(images[0], candidate_labels=[f"{i}"])
    assert len(encoded) == KEPT_LABEL_SETS + 1
    mine(images[0], candidate_labels=["cat"])
    mine(images[0], candidate_labels=["1"])
    assert len(encoded) == KEPT_LABEL_SETS + 1
    mine(images[0], candidate_labels=["0"])
    assert len(encoded) == KEPT_LABEL_SETS + 2


# ---- what transformers' own does not do ------------------------------------------------------------------


def by_label(answers):
    return {answer["label"]: answer["score"] for answer in answers}


@pytest.mark.parametrize("config", [None, HeadConfig(metric="nearest", centering="class_mean")])
def test_synonyms_give_the_scores_of_the_head(clip, images, config):
    found = ours(clip, head_config=config)(images, candidate_labels=SYNONYMS, batch_size=2)
    processor = (clip["tokenizer"], clip["image_processor"])
    head = SynonymousSpaceHead(clip["model"], processor, config=config)
    head.fit_classes(SYNONYMS, templates="This is a photo of {}.")
    expected = head.predict_proba(images)
    for answers, row in zip(found, expected.tolist(), strict=True):
        assert by_label(answers) == pytest.approx(dict(zip(SYNONYMS, row, strict=True)), abs=1e-6)


def test_synonyms_and_the_default_settings_change_the_scores(clip, images):
    mine = ours(clip)
    plain, wide = (by_label(mine(images[0], candidate_labels=labels)) for labels in (LABELS, SYNONYMS))
    assert max(abs(plain[label] - wide[label]) for label in LABELS) > 1e-3


def test_top_k(clip, images):
    mine = ours(clip)
    whole = mine(images, candidate_labels=LABELS)
    assert mine(images, candidate_labels=LABELS, top_k=2) == [answers[:2] for answers in whole]
    assert mine(images, candidate_labels=LABELS, top_k=99) == whole


def test_a_string_is_split_at_commas(clip, images):
    mine = ours(clip)
    assert mine(images[0], candidate_labels=" cat, a very big house,") == mine(
        images[0], candidate_labels=["cat", "a very big house"]
    )


def test_any_collection_of_names_will_do(clip, images):
    mine = ours(clip)
    expected = mine(images[0], candidate_labels=LABELS)
    for labels in (tuple(LABELS), np.array(LABELS), dict.fromkeys(LABELS).keys(), (name for name in LABELS)):
        assert_same(mine(images[0], candidate_labels=labels), expected)


def test_labels_come_back_as_they_were_given(clip, images):
    found = ours(clip)(images[0], candidate_labels="cat, dog".split(","))
    assert {answer["label"] for answer in found} == {"cat", " dog"}
    assert_same(
        [{**answer, "label": answer["label"].strip()} for answer in found],
        ours(clip)(images[0], ["cat", "dog"]),
    )


def test_a_synonym_set_brings_its_templates(clip, images):
    records = [{"name": "cat", "descriptors": ["long whiskers"]}, {"name": "dog", "synonyms": ["hound"]}]
    content = {"format": "s3clip-synonyms/1", "templates": ["a drawing of {}."], "classes": records}
    synonyms = SynonymSet.read(content)
    mine, stock = ours(clip), theirs(clip)
    names = ["cat", "dog"]
    bare = SynonymSet.read({**content, "classes": names})
    drawn = stock(images[0], candidate_labels=names, hypothesis_template="a drawing of {}.")
    assert_same(mine(images[0], bare), drawn)
    assert_same(
        mine(images[0], bare, hypothesis_template="{}"),
        stock(images[0], candidate_labels=names, hypothesis_template="{}"),
    )
    assert (
        max(abs(by_label(mine(images[0], synonyms))[name] - by_label(drawn)[name]) for name in names) > 1e-4
    )


def test_several_templates_are_averaged(clip, images):
    found = ours(clip)(images[0], LABELS, hypothesis_template=["a {}.", "a drawing of {}."])
    with torch.no_grad():
        texts = [[f"a {label}.", f"a drawing of {label}."] for label in LABELS]
        tokens = clip["tokenizer"]([text for own in texts for text in own], padding=True, return_tensors="pt")
        pixels = clip["image_processor"](images=[images[0]], return_tensors="pt")
        output = clip["model"](**tokens, **pixels)
        centres = output.text_embeds.unflatten(0, (3, 2)).mean(1)
        centres = centres / centres.norm(dim=-1, keepdim=True)
        logits = clip["model"].logit_scale.exp() * output.image_embeds @ centres.T
    expected = dict(zip(LABELS, logits[0].softmax(-1).tolist(), strict=True))
    assert by_label(found) == pytest.approx(expected, abs=1e-5)


def test_a_label_that_is_too_long_is_truncated_with_a_warning(clip, images):
    long = "very " * 40 + "long"
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        theirs(clip)(images[0], candidate_labels=[long, "cat"])
    with pytest.warns(UserWarning, match="1 of 2 distinct texts are longer than the 77 tokens"):
        found = ours(clip)(images[0], candidate_labels=[long, "cat"])
    tokens = clip["tokenizer"](
        [f"This is a photo of {label}." for label in (long, "cat")],
        padding=True,
        truncation=True,
        return_tensors="pt",
    )
    pixels = clip["image_processor"](images=[images[0]], return_tensors="pt")
    with torch.no_grad():
        scores = clip["model"](**tokens, **pixels).logits_per_image[0].softmax(-1)
    assert by_label(found) == pytest.approx({long: scores[0].item(), "cat": scores[1].item()}, abs=1e-5)


def test_tokenizer_arguments_reach_the_tokenizer(clip, images):
    asked = {"max_length": 8, "truncation": True}
    found = ours(clip)(images[0], LABELS, hypothesis_template="{}", tokenizer_kwargs=asked)
    tokens = clip["tokenizer"](LABELS, padding=True, return_tensors="pt", **asked)
    pixels = clip["image_processor"](images=[images[0]], return_tensors="pt")
    with torch.no_grad():
        scores = clip["model"](**tokens, **pixels).logits_per_image[0].softmax(-1)
    assert tokens["input_ids"].shape[1] == 8
    assert by_label(found) == pytest.approx(dict(zip(LABELS, scores.tolist(), strict=True)), abs=1e-5)


# ---- with a head -----------------------------------------------------------------------------------------


@pytest.fixture
def fitted(clip):
    processor = (clip["tokenizer"], clip["image_processor"])
    return SynonymousSpaceHead(clip["model"], processor).fit_classes(SYNONYMS)


def answers_of(head, images):
    names = head.class_names
    return [dict(zip(names, row, strict=True)) for row in head.predict_proba(images).tolist()]


def test_a_fitted_head_stands_for_the_labels(clip, fitted, images, encoded):
    mine = ours(clip, head=fitted)
    found = mine(images, batch_size=2)
    assert [by_label(answers) for answers in found] == [
        pytest.approx(each, abs=1e-6) for each in answers_of(fitted, images)
    ]
    assert_same(mine(images[0], top_k=1), found[0][:1])
    assert encoded == []


def test_a_head_brings_its_model(fitted, images, clip):
    alone = S3ZeroShotImageClassificationPipeline(head=fitted)
    assert alone.model is clip["model"]
    assert alone(images) == ours(clip, head=fitted)(images)


def test_changes_to_the_head_take_effect(clip, fitted, images):
    mine = ours(clip, head=fitted)
    mine(images[0])
    fitted.remove_classes(["dog"]).reconfigure(metric="nearest")
    assert by_label(mine(images[0])) == pytest.approx(answers_of(fitted, images[:1])[0], abs=1e-6)


def test_labels_of_a_call_go_before_the_head_and_use_its_settings(clip, fitted, images):
    fitted.reconfigure(metric="nearest")
    found = ours(clip, head=fitted)(images[0], candidate_labels=SYNONYMS)
    assert found == ours(clip, head_config=fitted.config)(images[0], candidate_labels=SYNONYMS)
    assert found != ours(clip)(images[0], candidate_labels=SYNONYMS)


def test_a_saved_head_is_used_without_a_backbone_of_its_own(clip, fitted, images, tmp_path):
    loaded = SynonymousSpaceHead.from_pretrained(fitted.save_pretrained(tmp_path / "space"), backbone=None)
    assert_same(ours(clip, head=loaded)(images), ours(clip, head=fitted)(images))
    with pytest.raises(ValueError, match="made with another backbone"):
        ours({**clip, "model": build("clip", seed=1)[0]}, head=loaded)


def test_a_head_of_another_model_is_refused(clip, fitted):
    other = {**clip, "model": build("clip", seed=1)[0]}
    with pytest.raises(ValueError, match="head: made with another backbone"):
        ours(other, head=fitted)
    own_copy = {**clip, "model": build("clip")[0]}
    assert ours(own_copy, head=fitted).model is own_copy["model"]


def test_a_head_without_its_text_tower_still_classifies(images):
    model, processor = build("clip")
    head = SynonymousSpaceHead(model, processor).fit_classes(SYNONYMS)
    expected = answers_of(head, images)
    mine = S3ZeroShotImageClassificationPipeline(head=head.drop_text_tower())
    assert [by_label(answers) for answers in mine(images)] == [
        pytest.approx(each, abs=1e-6) for each in expected
    ]
    with pytest.raises(ValueError, match="no text tower"):
        mine(images, candidate_labels=LABELS)


def test_a_head_of_embeddings_must_answer_as_the_model_does(clip):
    embeddings = [torch.randn(2, 16), torch.randn(1, 16)]
    head = SynonymousSpaceHead().fit_embeddings(embeddings, ["a", "b"], logit_scale=10.0)
    assert ours(clip, head=head) is not None
    wide = [torch.randn(1, 32), torch.randn(1, 32)]
    head = SynonymousSpaceHead().fit_embeddings(wide, ["a", "b"], logit_scale=10.0)
    with pytest.raises(ValueError, match="head: its texts have dimension 32"):
        ours(clip, head=head)
    with pytest.raises(ValueError, match="head: it answers with a softmax, SiglipModel with a sigmoid"):
        ours(parts("siglip"), head=head)


# ---- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({}, ValueError, "candidate_labels: expected a list of names"),
        ({"candidate_labels": None}, ValueError, "candidate_labels: expected a list of names"),
        ({"candidate_labels": []}, ValueError, "candidate_labels: .*there are no classes"),
        ({"candidate_labels": {}}, ValueError, "candidate_labels: .*there are no classes"),
        ({"candidate_labels": " , "}, ValueError, "candidate_labels: .*there are no classes"),
        ({"candidate_labels": ["cat", ""]}, ValueError, "candidate_labels: .*class 1.*name is empty"),
        ({"candidate_labels": [["cat"]]}, ValueError, "candidate_labels: .*class 0.*must be a text"),
        ({"candidate_labels": {"cat": "feline"}}, ValueError, "candidate_labels: .*'cat'.*list of texts"),
        ({"candidate_labels": {"cat": [""]}}, ValueError, "candidate_labels: .*'cat'.*is empty"),
        ({"candidate_labels": {None: []}}, ValueError, "candidate_labels: .*must be a text, not nothing"),
        ({"candidate_labels": 7}, TypeError, "candidate_labels: expected a list of names.*got int"),
        ({"candidate_labels": b"cat"}, TypeError, "candidate_labels: expected a list of names.*got bytes"),
        ({"candidate_labels": LABELS, "hypothesis_template": "a cat"}, ValueError, "'a cat'"),
        ({"candidate_labels": LABELS, "hypothesis_template": ""}, ValueError, "placeholder"),
        ({"candidate_labels": LABELS, "top_k": 0}, ValueError, "top_k: expected a whole number >= 1.*got 0"),
        ({"candidate_labels": LABELS, "top_k": 1.5}, ValueError, "top_k: expected a whole number"),
    ],
)
def test_a_wrong_argument_is_named(clip, images, asked, error, message):
    mine = ours(clip)
    for given in (images[0], (image for image in images)):  # at once, not when a stream is drawn from
        with pytest.raises(error, match=message):
            mine(given, **asked)


def test_no_image_is_an_error(clip):
    with pytest.raises(ValueError, match="image: expected an image"):
        ours(clip)(candidate_labels=LABELS)


def test_a_wrong_constructor_argument_is_named(clip, fitted):
    with pytest.raises(TypeError, match="head: expected a SynonymousSpaceHead, got dict"):
        ours(clip, head={})
    with pytest.raises(TypeError, match="head_config: expected a HeadConfig, got dict"):
        ours(clip, head_config={"metric": "nearest"})
    with pytest.raises(ValueError, match=r"head\.reconfigure"):
        ours(clip, head=fitted, head_config=HeadConfig())
    with pytest.raises(ValueError, match="the head is not fitted"):
        ours(clip, head=SynonymousSpaceHead(clip["model"]))
    with pytest.raises(ValueError, match="image_processor: images cannot be read"):
        S3ZeroShotImageClassificationPipeline(model=clip["model"], tokenizer=clip["tokenizer"])
    with pytest.raises(TypeError, match="no joint space"):
        ours({**clip, "model": transformers.CLIPVisionModel(clip["model"].config.vision_config)})


def test_a_template_for_a_head_is_an_error(clip, fitted, images):
    with pytest.raises(ValueError, match="texts of the head are encoded already"):
        ours(clip, head=fitted)(images[0], hypothesis_template="a {}")


# ---- the package -----------------------------------------------------------------------------------------


# What else than objects of transformers.


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A saved head over the demo model."""
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes({"zero": ["nought"], "one": []})
    return head.save_pretrained(tmp_path_factory.mktemp("digits") / "space"), head


def digit():
    return held_out_digits()[0][0].convert("RGB")


def test_a_saved_class_space_is_a_model_for_pipeline(digits, clip, images):
    folder, head = digits
    classify = pipeline(TASK, model=str(folder), pipeline_class=S3ZeroShotImageClassificationPipeline)
    expected = [{"score": one.score, "label": one.label} for one in head.predict([digit()], top_k=2)[0]]
    assert_same(classify(digit()), expected)
    # The class says the task, more than once.
    for _ in range(2):
        unsaid = pipeline(model=str(folder), pipeline_class=S3ZeroShotImageClassificationPipeline)
        assert unsaid.task == TASK
        assert_same(unsaid(digit()), expected)
    # Other labels than its own: the text tower is fetched.
    other = pipeline(TASK, model=str(model_folder()), pipeline_class=S3ZeroShotImageClassificationPipeline)
    labels = ["two", "three"]
    assert_same(classify(digit(), candidate_labels=labels), other(digit(), candidate_labels=labels))


def test_a_pushed_class_space_is_a_model_for_pipeline(digits, hub):
    _, head = digits
    head.push_to_hub("user/digits-s3", token="hf_of_the_tests")
    # Its backbone is a folder of this machine, which is not pushed.
    with pytest.raises(Exception, match="the backbone it was made with has no name"):
        pipeline(TASK, model="user/digits-s3", pipeline_class=S3ZeroShotImageClassificationPipeline)
    classify = S3ZeroShotImageClassificationPipeline(model=str(model_folder()), head="user/digits-s3")
    assert classify(digit())[0]["label"] == "zero"


def test_a_pushed_class_space_says_its_task(clip, images, hub):
    put(hub, "user/tiny-clip", saved(clip["model"], clip["tokenizer"], clip["image_processor"]))
    head = SynonymousSpaceHead.from_backbone("user/tiny-clip").fit_classes(LABELS)
    head.push_to_hub("user/pets-s3", token="hf_of_the_tests")
    for given in ({}, {"task": TASK}):
        classify = pipeline(
            model="user/pets-s3", pipeline_class=S3ZeroShotImageClassificationPipeline, **given
        )
        expected = [{"score": one.score, "label": one.label} for one in head.predict(images[:1], top_k=9)[0]]
        assert_same(classify(images[0]), expected)


def test_a_head_by_its_name(digits):
    folder, head = digits
    expected = [{"score": one.score, "label": one.label} for one in head.predict([digit()], top_k=2)[0]]
    for given in (folder, str(folder)):
        assert_same(S3ZeroShotImageClassificationPipeline(head=given)(digit()), expected)
    assert_same(S3ZeroShotImageClassificationPipeline(model=model_folder(), head=folder)(digit()), expected)


class Foreign(torch.nn.Module):
    """A CLIP behind open_clip's interface, with nothing of transformers around it."""

    def __init__(self, model):
        super().__init__()
        self.visual = model.vision_model
        self.visual.image_size = model.config.vision_config.image_size
        self.inner = model
        self.logit_scale = model.logit_scale

    def encode_image(self, pixels):
        return embedding(self.inner.get_image_features(pixels))

    def encode_text(self, tokens):
        # 513 pads, and ends; what comes after the first is masked by causality.
        return embedding(self.inner.get_text_features(tokens))


def embedding(output):
    return output if torch.is_tensor(output) else output.pooler_output


@pytest.fixture
def foreign(clip):
    def tokenizer(texts, context_length=77):
        options = {"padding": "max_length", "truncation": True, "max_length": context_length}
        return clip["tokenizer"](texts, return_tensors="pt", **options)["input_ids"]

    def preprocess(image):
        return clip["image_processor"](images=[image], return_tensors="pt")["pixel_values"][0]

    return {"model": Foreign(clip["model"]), "tokenizer": tokenizer, "image_processor": preprocess}


def test_a_model_with_the_interface_of_open_clip(clip, foreign, images):
    expected = theirs(clip)(images, candidate_labels=LABELS)
    classify = S3ZeroShotImageClassificationPipeline(**foreign)
    assert classify.model is foreign["model"]
    assert_same(classify(images, candidate_labels=LABELS), expected)
    halves = (foreign["tokenizer"], foreign["image_processor"])
    backbone = Backbone(foreign["model"], halves)
    assert_same(
        S3ZeroShotImageClassificationPipeline(model=backbone)(images, candidate_labels=LABELS), expected
    )
    head = SynonymousSpaceHead(backbone).fit_classes(LABELS, templates="This is a photo of {}.")
    assert_same(S3ZeroShotImageClassificationPipeline(head=head)(images), expected)


def test_a_wrapped_model_is_unwrapped(clip, images):
    wrapped = {**clip, "model": torch.nn.DataParallel(clip["model"])}
    classify = S3ZeroShotImageClassificationPipeline(**wrapped)
    assert_same(classify(images, candidate_labels=LABELS), theirs(clip)(images, candidate_labels=LABELS))


def test_a_number_in_the_template(clip, images):
    asked = {"candidate_labels": LABELS, "hypothesis_template": "a drawing of {0}"}
    assert_same(ours(clip)(images[0], **asked), theirs(clip)(images[0], **asked))


def test_numbers_as_labels(clip, images):
    for labels in ([0, 1, 12], [0.5, 2], np.arange(3)):
        found = ours(clip)(images[0], candidate_labels=labels)
        assert_same(found, theirs(clip)(images[0], candidate_labels=labels))
        assert {type(answer["label"]) for answer in found} == {type(label) for label in labels}


def test_unknown_arguments_are_passed_over_with_a_warning(clip, images):
    with pytest.warns(UserWarning, match="does not know: multi_label"):
        found = ours(clip)(images[0], candidate_labels=LABELS, multi_label=True)
    assert_same(found, theirs(clip)(images[0], candidate_labels=LABELS, multi_label=True))


def test_every_way_in_takes_what_transformers_takes(digits, tmp_path):
    """And with the same answer: the command line too, but for what is not written as words."""
    folder, head = digits
    path = tmp_path / "a.png"
    digit().save(path)
    text = base64.b64encode(path.read_bytes()).decode()
    with serving_folder(tmp_path) as address:
        words = [str(path), f"{address}/a.png", f"data:image/png;base64,{text}"]
        records = [{"bytes": path.read_bytes(), "path": None}, {"bytes": None, "path": str(path)}]
        given = [digit(), *words, text, path, path.read_bytes(), *records]
        (first, *others) = head.predict(given, top_k=2)
        assert others == [first] * (len(given) - 1)
        assert [one.label for one in head.predict(words[1], top_k=2)[0]] == [one.label for one in first]
        expected = [{"score": one.score, "label": one.label} for one in first]
        classify = S3ZeroShotImageClassificationPipeline(head=folder)
        for answer in (*classify(given), classify(words[1], timeout=5.0)):
            assert_same(answer, expected)
        asked = ["predict", *words, "--head", str(folder), "--top-k", "2", "--format", "json"]
        said = CliRunner().invoke(cli.app, asked)
        assert said.exit_code == 0, said.output
        for row, word in zip(json.loads(said.stdout), words, strict=True):
            assert row["file"] == word
            assert [one["label"] for one in row["predictions"]] == [one.label for one in first]


def test_imports_without_torchvision_and_only_when_asked():
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "import s3clip; assert 'transformers' not in sys.modules\n"
        "assert s3clip.S3ZeroShotImageClassificationPipeline.__module__ == 's3clip.integrations.pipeline'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ})
