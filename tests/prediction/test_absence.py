"""Negatives: what a class is worth beside texts that say that it is not there, wherever logits go."""

import copy
import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from s3clip import HeadConfig, SynonymousSpaceHead, SynonymSet, TestTimeAdapter
from s3clip.class_space import Examples
from s3clip.space.metrics import METRICS
from tests.tiny_models import build

RECORDS = [
    {"name": "cat", "synonyms": ["kitty", "tomcat"], "negatives": ["an empty sofa", "a basket"]},
    {"name": "dog", "synonyms": ["hound"]},
    {"name": "car", "synonyms": ["motorcar", "auto"], "negatives": ["a street", "an empty sofa", "a lane"]},
    {"name": "sea", "negatives": ["a desert"]},
]
WITH = [0, 2, 3]


def fitted(family="clip", records=RECORDS, **settings):
    model, processor = build(family)
    head = SynonymousSpaceHead(model, processor, config=HeadConfig(**settings)).eval()
    return head.fit_classes(records, templates="{}", cache=False, progress=False)


def without(head):
    """The same head, of the very same rows, without its negatives."""
    space = head.class_space
    classes = tuple(each.model_copy(update={"negatives": []}) for each in space.classes)
    return copy.deepcopy(head)._take(replace(space, classes=classes, negatives=None))


def images(head, count=9, seed=0):
    return torch.randn(count, head.backbone.dim, generator=torch.Generator().manual_seed(seed))


def by_hand(head, plain, embeds):
    """The logit plus the log of CLIP's own softmax between the class and its negatives, image by image."""
    scale, space = float(head.logit_scale), head.space
    bias = 0.0 if head.logit_bias is None else float(head.logit_bias)
    expected = plain(image_embeds=embeds).double()
    for i, image in enumerate(normalize(embeds.double(), dim=1)):
        for c, record in enumerate(RECORDS):
            logits = [float(expected[i, c])]
            for text in record.get("negatives", ()):
                row = normalize(head.backbone.encode_texts([text])[0].double(), dim=0)
                score = float(image @ row)
                if space.centered:
                    mean = space.mean.double()
                    seen = normalize(row - mean, dim=0)
                    score = float(image @ mean) + float(space.spread) * float(image @ seen)
                logits.append(score * scale + bias)
            expected[i, c] += torch.tensor(logits, dtype=torch.float64).log_softmax(0)[0]
    return expected


SETTINGS = [{"metric": name} for name in METRICS if name != "hull"] + [
    {"centering": "class_mean"},
    {"centering": None},
    {"logit_scale": 300.0},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("family", ["clip", "siglip"])
@torch.no_grad()
def test_a_logit_is_worth_what_negatives_leave_of_it(family, settings):
    head = fitted(family, **settings)
    plain = without(head)
    embeds = images(head)
    found, before = head(image_embeds=embeds), plain(image_embeds=embeds)
    expected = by_hand(head, plain, embeds)
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-5)
    assert torch.equal(found[:, 1], before[:, 1])
    assert (found <= before).all()
    assert (found < before).any()
    assert plain.folded.absence is None


@torch.no_grad()
def test_a_softmax_weight_is_multiplied_by_the_choice_between_class_and_negatives():
    """Of two probabilities, the ratio is what it was times the ratio of p(present), to 1e-6."""
    head = fitted()
    plain = without(head)
    embeds = images(head)
    against = head.folded.absence(head.folded.unit_embeds(embeds), head.logit_scale)
    z = plain(image_embeds=embeds)
    here = torch.where(torch.isinf(against), 1.0, torch.sigmoid(z - against))
    expected = plain.probabilities(z) * here
    torch.testing.assert_close(
        head.predict_proba(image_embeds=embeds), expected / expected.sum(1, keepdim=True), atol=1e-6, rtol=0
    )


@pytest.mark.filterwarnings("ignore:.*texts given twice in a class")
@torch.no_grad()
def test_order_repeats_and_other_classes_of_a_negative_change_nothing():
    head = fitted()
    embeds = images(head)
    turned = copy.deepcopy(RECORDS)
    turned[0]["negatives"] = ["a basket", "an empty sofa", "a basket"]
    torch.testing.assert_close(fitted(records=turned)(image_embeds=embeds), head(image_embeds=embeds))
    order = [3, 1, 0, 2]
    moved = fitted(records=[RECORDS[i] for i in order])(image_embeds=embeds)
    torch.testing.assert_close(moved, head(image_embeds=embeds)[:, order], atol=1e-4, rtol=0)
    taken = copy.deepcopy(RECORDS)
    taken[2]["negatives"].remove("an empty sofa")  # which the first class has too
    assert torch.equal(fitted(records=taken)(image_embeds=embeds)[:, :2], head(image_embeds=embeds)[:, :2])


@pytest.mark.parametrize("k", [1, 4])
@torch.no_grad()
def test_every_way_to_an_answer_says_the_same(k, tmp_path, monkeypatch):
    head = fitted()
    embeds = images(head)
    logits = head(image_embeds=embeds)
    with monkeypatch.context() as patched:
        patched.setattr("s3clip.space.folding.BLOCK_ROWS", 2)  # a block for nearly every class
        small = copy.deepcopy(head).reconfigure(keep_name="always").reconfigure(keep_name="tie")
    assert len(small.folded.blocks) > 1
    best = small.top_classes(image_embeds=embeds, k=k)
    expected = logits.topk(k, dim=1)
    torch.testing.assert_close(best.logits, expected.values)
    assert torch.equal(best.class_index, expected.indices)
    views = embeds[:, None]
    for method in ("shift", "shared_shift", "mean_views"):
        adapter = TestTimeAdapter(head, method, views=1, confidence=1.0, steps=0)
        torch.testing.assert_close(adapter(views).softmax(1), logits.softmax(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(head.word_logits(embeds), logits)
    for loaded in (
        SynonymousSpaceHead.from_pretrained(head.save_pretrained(tmp_path), backbone=head.backbone),
        SynonymousSpaceHead.from_pretrained(tmp_path, backbone=None),
    ):
        assert torch.equal(loaded(image_embeds=embeds), logits)
    empty = SynonymousSpaceHead(head.backbone)
    empty.load_state_dict(head.state_dict())
    assert torch.equal(empty(image_embeds=embeds), logits)


@torch.no_grad()
def test_edits_give_what_fitting_anew_gives():
    head, embeds = fitted(centering=None), images(fitted())
    logits = head(image_embeds=embeds)
    dropped = copy.deepcopy(head).remove_classes([0])
    torch.testing.assert_close(dropped(image_embeds=embeds), logits[:, 1:])
    dropped.add_classes(RECORDS[:1], cache=False)
    torch.testing.assert_close(dropped(image_embeds=embeds), logits[:, [1, 2, 3, 0]])
    merged = copy.deepcopy(head).remove_classes([2, 3]).merge(copy.deepcopy(head).remove_classes([0, 1]))
    torch.testing.assert_close(merged(image_embeds=embeds), logits)
    wide = copy.deepcopy(head).reconfigure(metric="center")(image_embeds=embeds)
    torch.testing.assert_close(wide, fitted(centering=None, metric="center")(image_embeds=embeds))


@torch.no_grad()
def test_words_come_first_then_labelled_images_then_shares():
    head = fitted()
    plain = without(head)
    embeds = images(head, 40)
    labels = (plain(image_embeds=embeds) + 3 * torch.randn(40, 4, generator=torch.manual_seed(1))).argmax(1)
    words = head(image_embeds=embeds)
    head.fit_few_shot(image_embeds=embeds, labels=labels.tolist())
    # The residual is what it is for any other words with these logits.
    assert isinstance(head.examples, Examples)
    residual = head.residual(normalize(embeds, dim=1))
    taught = words if residual is None else words + residual
    torch.testing.assert_close(head(image_embeds=embeds), taught)
    head.set_class_shares({"cat": 0.7})
    torch.testing.assert_close(head(image_embeds=embeds), taught + head.share_offsets)
    head.set_class_shares(None)
    head.calibrate(image_embeds=embeds, labels=labels)
    again = head.calibration
    assert again is not None
    torch.testing.assert_close(
        head.predict_proba(image_embeds=embeds), (taught / again.temperature).softmax(1), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(head(image_embeds=embeds), taught)


@torch.no_grad()
def test_groups_are_sums_of_what_is_left():
    records = [{**each, "groups": [kind]} for each, kind in zip(RECORDS, "aabb", strict=True)]
    head = fitted(records=records, centering=None, scale_rule=None)
    embeds = images(head)
    left = head(image_embeds=embeds).softmax(1)
    for own, row in zip(head.predict(image_embeds=embeds, level="0", top_k=2), left, strict=True):
        expected = {"a": float(row[:2].sum()), "b": float(row[2:].sum())}
        assert {p.label: p.score for p in own} == pytest.approx(expected, abs=1e-6)
    alone = copy.deepcopy(head).remove_classes([1, 3])
    for own, those in zip(
        head.predict(image_embeds=embeds, among=[0, 2]), alone.predict(image_embeds=embeds), strict=True
    ):
        assert [p.label for p in own] == [p.label for p in those]
        assert [p.score for p in own] == pytest.approx([p.score for p in those], abs=1e-6)


@torch.no_grad()
def test_a_table_calibrates_what_negatives_left():
    head = fitted()
    embeds = images(head, 60, seed=3)
    logits = head(image_embeds=embeds)
    table = logits + torch.randn(60, 4, generator=torch.manual_seed(0)) > logits.median()
    head.calibrate(image_embeds=embeds, labels=table.long())
    found = head.calibration
    assert found is not None
    assert found.activation == "sigmoid"
    assert len(found.thresholds or ()) == 4
    expected = torch.sigmoid(logits / found.temperature + found.bias)
    torch.testing.assert_close(head.predict_proba(image_embeds=embeds), expected)
    for own, row in zip(head.predict(image_embeds=embeds, top_k=4), logits, strict=True):
        least = found.thresholds or ()
        assert all(each.accepted == (row[each.class_index] >= least[each.class_index]) for each in own)


@torch.no_grad()
def test_half_precision_and_compilers_read_it():
    head = fitted()
    embeds = images(head)
    logits = head(image_embeds=embeds)
    exported = torch.export.export(
        head, (), {"image_embeds": embeds}, dynamic_shapes={"image_embeds": {0: torch.export.Dim("batch")}}
    )
    torch.testing.assert_close(exported.module()(image_embeds=embeds[:5]), logits[:5])
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image_embeds=embeds), logits)
    half = copy.deepcopy(head).to(torch.bfloat16)(image_embeds=embeds)
    assert half.isfinite().all()
    torch.testing.assert_close(half.float(), logits, atol=0.6, rtol=0.1)


def test_gradients_flow_through_negatives_and_where_there_are_none():
    head = fitted()
    embeds = images(head).requires_grad_()
    head(image_embeds=embeds).sum().backward()
    assert embeds.grad is not None
    assert embeds.grad.isfinite().all()


def test_a_matrix_is_refused():
    head = fitted(metric="center")
    with pytest.raises(ValueError, match="to_linear: logits that are measured against negatives"):
        head.to_linear()
    assert copy.deepcopy(head).remove_classes(WITH).to_linear().shape[1] == 1


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"name": "cat", "negatives": ["Cat"]},
            r"class 0 \('cat'\): negatives has 'Cat', a text of",
        ),
        ({"name": "cat", "synonyms": ["kitty"], "negatives": ["x", "kitty"]}, "negatives has 'kitty'"),
        ({"name": "cat", "prompts": ["a cat."], "negatives": ["A cat."]}, "negatives has 'A cat.'"),
        ({"negatives": ["an empty sofa"]}, "name is missing"),
        ({"name": "cat", "negatives": [""]}, r"negatives\[0\] is empty"),
    ],
)
def test_what_cannot_say_that_a_class_is_not_there_is_refused(record, message):
    with pytest.raises(ValueError, match=message):
        SynonymSet.read([record, "dog"])


def test_names_of_other_classes_may_be_negatives():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SynonymSet.read([{"name": "cat", "negatives": ["dog"]}, {"name": "dog", "negatives": ["cat"]}])


@torch.no_grad()
def test_a_negative_far_above_costs_as_much_again_as_it_is_above():
    head = fitted(logit_scale=1e4)
    plain = without(head)
    embeds = images(head)
    z = plain(image_embeds=embeds)
    against = head.folded.absence(head.folded.unit_embeds(embeds), 1e4)
    far = (against - z).abs() > 50
    expected = torch.where(against > z, 2 * z - against, z)
    torch.testing.assert_close(head(image_embeds=embeds)[far], expected[far], atol=1e-2, rtol=1e-5)
    assert not math.isnan(float(head(image_embeds=embeds).sum()))
