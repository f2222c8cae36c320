"""Labelled images in a head: what they add, where it reaches, and that every change is a fit anew."""

import copy
import warnings

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch.nn.functional import normalize

from s3clip import HeadConfig, SynonymousSpaceHead
from s3clip.class_space.examples import SAME_IMAGE, copies
from s3clip.integrations.estimator import SynonymousSpaceClassifier
from s3clip.prediction import few_shot
from s3clip.prediction.adaptation import TestTimeAdapter
from s3clip.space.residual import basis, fit, residual
from tests.tiny_models import build

NAMES = ["cat", "dog", "bird", "bee", "ant"]
DIM, SCALE = 16, 20.0


def data(seed=0, images=150, classes=5):
    """Texts of classes, and images that lie beside them in a way that texts do not say."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, DIM, generator=generator)
    texts = [centre + torch.randn(3, DIM, generator=generator) for centre in centres]
    labels = torch.randint(classes, (images,), generator=generator)
    moved = centres + 0.8 * torch.randn(classes, DIM, generator=generator)
    return texts, moved[labels] + torch.randn(images, DIM, generator=generator), labels


TEXTS, _images, _labels = data(images=400)
IMAGES, LABELS, OTHERS, OTHER_LABELS = _images[:150], _labels[:150], _images[150:], _labels[150:]
ASKED = OTHERS[:40]


def fitted(**settings):
    texts = [[f"{name} {i}" for i in range(3)] for name in NAMES]
    head = SynonymousSpaceHead().fit_embeddings(TEXTS, NAMES, texts=texts, logit_scale=SCALE)
    return head.reconfigure(**settings).eval()


@pytest.fixture(scope="module")
def words():
    return fitted()


@pytest.fixture(scope="module")
def taught():
    head = fitted().fit_few_shot(image_embeds=IMAGES, labels=LABELS)
    assert head.few_shot.strength is not None
    return head


def named(labels=LABELS):
    return [NAMES[i] for i in labels.tolist()]


def test_logits_are_those_of_the_space_and_a_linear_residual(words, taught):
    kept = normalize(normalize(IMAGES, dim=1).half().double(), dim=1)
    found = basis(kept)
    offsets, strengths = words(image_embeds=kept.float()), [taught.few_shot.strength]
    (weights,) = fit(found.images, offsets, LABELS, found.eigenvalues, strengths)
    expected = residual(found, weights)
    unit = normalize(ASKED, dim=1).double()
    torch.testing.assert_close(
        taught(image_embeds=ASKED).double(),
        words(image_embeds=ASKED).double() + unit @ expected.weights + expected.bias,
        atol=2e-3,
        rtol=0,
    )


def test_they_are_better_on_images_that_were_not_shown(words, taught):
    right = [head(image_embeds=OTHERS).argmax(1) == OTHER_LABELS for head in (words, taught)]
    before, after = (each.double().mean() for each in right)
    assert after > before
    report = taught.few_shot
    assert report.top1.low < after - before
    assert report.seen == tuple(LABELS.bincount(minlength=5).tolist())


@pytest.mark.parametrize("how", ["positions", "names", "tensor", "array", "mixed"])
def test_labels_are_positions_or_names(taught, how):
    labels = {
        "positions": LABELS.tolist(),
        "names": named(),
        "tensor": LABELS,
        "array": np.array(named()),
        "mixed": [name if i % 2 else int(LABELS[i]) for i, name in enumerate(named())],
    }[how]
    head = fitted().fit_few_shot(image_embeds=IMAGES.numpy(), labels=labels)
    assert torch.equal(head(image_embeds=ASKED), taught(image_embeds=ASKED))


def test_labels_are_ids():
    from s3clip.demo import held_out_digits, model_folder

    head = SynonymousSpaceHead.from_backbone(str(model_folder()))
    head.fit_classes([{"name": "zero", "id": "n0"}, {"name": "one", "id": "n1"}])
    pictures, digits = held_out_digits()
    chosen = [i for i in range(60) if digits[i] < 2]
    head.fit_few_shot([pictures[i] for i in chosen], [f"n{digits[i]}" for i in chosen])
    assert sum(head.few_shot.seen) == len(chosen)
    embeds = head.backbone.encode_images(**head.backbone.preprocess([pictures[i] for i in chosen]))
    kept = copy.deepcopy(head)
    kept.fit_few_shot(image_embeds=embeds.detach(), labels=[int(digits[i]) for i in chosen])
    assert kept.few_shot == head.few_shot


def same(first, second):
    assert torch.equal(first(image_embeds=ASKED), second(image_embeds=ASKED))
    assert first.few_shot == second.few_shot
    assert first.current_calibration == second.current_calibration


NONE = [*named()[:140], *[None] * 10]


@pytest.mark.parametrize("labels", [named(), NONE], ids=["classes", "some of none"])
def test_adding_removing_renaming_merging_and_reconfiguring_is_fitting_anew(labels):
    def teach(head, labels=labels):
        return head.fit_few_shot(image_embeds=IMAGES, labels=labels)

    whole = teach(fitted())
    same(
        teach(fitted()).reconfigure(metric="center", scale_rule=None),
        teach(fitted(metric="center", scale_rule=None)),
    )
    same(teach(fitted()).reconfigure(logit_scale=7.0), teach(fitted(logit_scale=7.0)))
    renamed = teach(fitted()).rename_class("cat", "lion")
    assert torch.equal(renamed(image_embeds=ASKED), whole(image_embeds=ASKED))
    left = [i for i, label in enumerate(labels) if label != "dog"]
    removed = teach(fitted()).remove_classes("dog")
    anew = (
        fitted()
        .remove_classes("dog")
        .fit_few_shot(image_embeds=IMAGES[left], labels=[labels[i] for i in left])
    )
    same(removed, anew)
    some = SynonymousSpaceHead().fit_embeddings(TEXTS[:3], NAMES[:3], logit_scale=SCALE)
    others = SynonymousSpaceHead().fit_embeddings(TEXTS[3:], NAMES[3:], logit_scale=SCALE)
    own = [i for i, label in enumerate(labels) if label in NAMES[:3]]
    rest = [i for i in range(150) if i not in own]
    some.fit_few_shot(image_embeds=IMAGES[own], labels=[labels[i] for i in own])
    others.fit_few_shot(image_embeds=IMAGES[rest], labels=[labels[i] for i in rest])
    both = SynonymousSpaceHead().fit_embeddings(TEXTS, NAMES, logit_scale=SCALE)
    both.fit_few_shot(image_embeds=IMAGES[own + rest], labels=[labels[i] for i in own + rest])
    same(some.merge(others), both)


def test_merged_heads_have_an_image_of_both_once():
    some = SynonymousSpaceHead().fit_embeddings(TEXTS[:3], NAMES[:3], logit_scale=SCALE)
    others = SynonymousSpaceHead().fit_embeddings(TEXTS[3:], NAMES[3:], logit_scale=SCALE)
    both = SynonymousSpaceHead().fit_embeddings(TEXTS, NAMES, logit_scale=SCALE)
    # Each says "none of these" of what the other one names, and both of the last ten.
    said = [[name if name in own else None for name in NONE] for own in (NAMES[:3], NAMES[3:])]
    for head, labels in zip((some, others), said, strict=True):
        head.fit_few_shot(image_embeds=IMAGES, labels=labels)
    merged = copy.deepcopy(some).merge(others)
    labels = [None if label < 0 else label for label in merged.examples.labels.tolist()]
    both.fit_few_shot(image_embeds=merged.examples.embeds.float(), labels=labels)
    same(merged, both)
    counts = [NONE.count(name) for name in NAMES]
    assert (merged.few_shot.seen, merged.few_shot.none) == (tuple(counts), 10)

    before = some.class_space.digest()
    others.fit_few_shot(image_embeds=IMAGES[:1], labels=["ant"])
    some.fit_few_shot(image_embeds=IMAGES[:1], labels=["cat"], add=True)
    with pytest.raises(ValueError, match="other: an image is labelled 'cat' here and 'ant' there"):
        some.merge(others)
    assert some.class_names == NAMES[:3]
    assert some.class_space.digest() != before


def test_what_is_learned_is_learned_beside_the_logits_that_there_are():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(3, 16, generator=generator)[(labels := torch.arange(60) % 3)]
    pictures = pictures + torch.randn(60, 16, generator=generator) / 2
    model = build("clip")

    def head(**settings):
        return SynonymousSpaceHead(*model, config=HeadConfig(**settings)).fit_classes(NAMES[:3], cache=False)

    def teach(head):
        return head.fit_few_shot(image_embeds=pictures, labels=labels)

    def asked(head):
        return head(image_embeds=pictures).detach()

    assert head().logit_scale.item() != 60.0
    # The scale of the model again; and that of the first of two heads.
    assert torch.equal(
        asked(teach(head(logit_scale=60.0)).reconfigure(logit_scale=None)), asked(teach(head()))
    )
    first = SynonymousSpaceHead(config=HeadConfig(logit_scale=3.0)).fit_embeddings(TEXTS[:2], NAMES[:2])
    second = SynonymousSpaceHead(config=HeadConfig(logit_scale=60.0)).fit_embeddings(TEXTS[2:], NAMES[2:])
    own = LABELS >= 2
    second.fit_few_shot(image_embeds=IMAGES[own], labels=LABELS[own] - 2)
    whole = SynonymousSpaceHead(config=HeadConfig(logit_scale=3.0)).fit_embeddings(TEXTS, NAMES)
    same(first.merge(second), whole.fit_few_shot(image_embeds=IMAGES[own], labels=LABELS[own]))


@pytest.mark.filterwarnings("error::UserWarning")
def test_images_of_no_class_set_the_threshold_of_a_family_with_a_bias():
    head = SynonymousSpaceHead(*build("siglip")).fit_classes(NAMES[:3], templates="{}", cache=False)
    strange = torch.randn(20, head.backbone.dim, generator=torch.Generator().manual_seed(1))
    head.fit_few_shot(image_embeds=strange, labels=[None] * 20, false_accept_rate=0.1)
    torch.set_warn_always(True)
    try:
        (threshold,) = head.current_calibration.thresholds
    finally:
        torch.set_warn_always(False)
    kept = head.examples.embeds.float()
    assert (head(image_embeds=kept).amax(1) >= threshold).sum() == 2


def test_no_image_that_can_be_read_is_no_answer(taught, tmp_path):
    assert taught.predict(image_embeds=ASKED[:0]) == []
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"none")
    head = SynonymousSpaceHead(*build("clip")).fit_classes(NAMES[:3], cache=False)
    embeds = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    report = head.fit_few_shot(
        image_embeds=embeds.repeat(9, 1) + torch.randn(27, 16) / 9, labels=[0, 1, 2] * 9
    )
    assert report.few_shot.strength is not None
    with pytest.warns(UserWarning, match="no prediction for it"):
        assert head.predict([broken]) == [[]]


def test_added_classes_have_no_images_and_the_others_keep_theirs():
    from s3clip.demo import held_out_digits, model_folder

    names = ["zero", "one", "two", "three"]
    pictures, digits = held_out_digits()
    chosen = [i for i in range(80) if digits[i] < 3]
    shown, labels = [pictures[i] for i in chosen], [names[digits[i]] for i in chosen]
    head = SynonymousSpaceHead.from_backbone(str(model_folder()))
    head.fit_classes(names[:3]).fit_few_shot(shown, labels).add_classes(names[3:])
    anew = (
        SynonymousSpaceHead.from_backbone(str(model_folder())).fit_classes(names).fit_few_shot(shown, labels)
    )
    embeds = torch.randn(9, head.backbone.dim, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(image_embeds=embeds), anew(image_embeds=embeds), atol=1e-4, rtol=0)
    assert head.few_shot.seen[3] == 0


def test_examples_that_come_later_are_as_if_all_came_at_once(taught):
    head = fitted().fit_few_shot(image_embeds=IMAGES[:70], labels=LABELS[:70])
    head.fit_few_shot(image_embeds=IMAGES[70:], labels=LABELS[70:], add=True)
    same(head, taught)
    head.fit_few_shot(image_embeds=IMAGES[:5], labels=LABELS[:5])
    assert sum(head.few_shot.seen) == 5


def test_a_correction_takes_the_place_of_the_label_before(taught):
    wrong = LABELS.clone()
    wrong[:20] = (wrong[:20] + 1) % 5
    head = fitted().fit_few_shot(image_embeds=IMAGES, labels=wrong)
    head.fit_few_shot(image_embeds=IMAGES[:20], labels=LABELS[:20], add=True)
    assert head.few_shot.seen == taught.few_shot.seen
    torch.testing.assert_close(head(image_embeds=ASKED), taught(image_embeds=ASKED), atol=2e-2, rtol=0)


def test_an_image_in_another_batch_is_the_same_image():
    from s3clip.demo import held_out_digits, model_folder, synonym_file

    pictures, digits = held_out_digits()
    head = SynonymousSpaceHead.from_backbone(str(model_folder())).fit_classes(synonym_file())
    one_by_one = [head.backbone.encode_images(**head.backbone.preprocess([each])) for each in pictures[:60]]
    alone = torch.cat(one_by_one).detach()
    head.fit_few_shot(pictures[:60], digits[:60])
    assert not torch.equal(head.examples.embeds, alone.half())  # some are rounded to another number
    others = [(digit + 1) % 10 for digit in digits[:60]]
    head.fit_few_shot(image_embeds=alone, labels=others, add=True)
    assert head.examples.labels.tolist() == others
    with pytest.raises(ValueError, match="is image 3 again, with another label"):
        head.fit_few_shot(image_embeds=torch.cat([alone[:5], alone[3:4] + 1e-6]), labels=[0, 1, 2, 3, 4, 5])


@hypothesis.settings(max_examples=30)
@hypothesis.given(seed=st.integers(0, 2**32), count=st.integers(1, 10), width=st.integers(1, 20))
def test_copies_are_those_of_a_plain_loop(seed, count, width):
    generator = torch.Generator().manual_seed(seed)
    images = normalize(torch.randn(count, width, generator=generator), dim=1)
    images = images[torch.randint(count, (2 * count,), generator=generator)]
    images = normalize(
        images + 10.0 ** torch.randint(-8, -1, (2 * count, 1), generator=generator) / width, dim=1
    )
    images = images.half()
    expected = list(range(2 * count))
    for _ in range(2 * count):  # the least number of all that are near, until nothing changes
        for i in range(2 * count):
            near = (images.float() - images[i].float()).norm(dim=1) < SAME_IMAGE
            expected[i] = min(number for number, is_near in zip(expected, near, strict=True) if is_near)
    found = copies(images).tolist()
    assert sorted(set(found)) == list(range(len(set(expected))))
    assert len(set(zip(found, expected, strict=True))) == len(set(expected)) == len(set(found))


def test_repeated_images_count_once(taught):
    twice = torch.cat([IMAGES, IMAGES[:50], 3 * IMAGES[:10]])
    labels = torch.cat([LABELS, LABELS[:50], LABELS[:10]])
    same(fitted().fit_few_shot(image_embeds=twice, labels=labels), taught)


def test_forgetting_gives_the_words_back(words, taught):
    head = copy.deepcopy(taught).forget_examples()
    assert head.few_shot is None
    assert head.examples is None
    assert torch.equal(head(image_embeds=ASKED), words(image_embeds=ASKED))
    assert head.class_space.digest() == words.class_space.digest()


# ---- where it reaches --------------------------------------------------------------------------------------


def test_every_way_to_ask_says_the_same(taught):
    logits = taught(image_embeds=ASKED)
    best = taught.top_classes(image_embeds=ASKED, k=5)
    torch.testing.assert_close(best.logits, logits.sort(1, descending=True).values)
    torch.testing.assert_close(taught.predict_proba(image_embeds=ASKED), logits.softmax(1))
    answers = taught.predict(image_embeds=ASKED, top_k=1)
    assert [own[0].class_index for own in answers] == logits.argmax(1).tolist()


def test_by_blocks_it_is_the_same(monkeypatch, taught):
    logits = taught(image_embeds=ASKED)
    monkeypatch.setattr("s3clip.space.folding.BLOCK_ROWS", 7)
    head = fitted().fit_few_shot(image_embeds=IMAGES, labels=LABELS)
    best = head.top_classes(image_embeds=ASKED, k=5)
    torch.testing.assert_close(best.logits, logits.sort(1, descending=True).values, atol=1e-3, rtol=0)


def test_state_dicts_copies_and_dtypes_keep_it(taught):
    expected = taught(image_embeds=ASKED)
    loaded = SynonymousSpaceHead()
    loaded.load_state_dict(taught.state_dict())
    same(loaded, taught)
    assert torch.equal(copy.deepcopy(taught)(image_embeds=ASKED), expected)
    half = copy.deepcopy(taught).to(torch.bfloat16)(image_embeds=ASKED.bfloat16())
    torch.testing.assert_close(half.float(), expected, atol=0.3, rtol=0.05)


@pytest.mark.parametrize("examples", [True, False])
def test_artifacts_keep_it_to_the_bit(tmp_path, taught, examples):
    loaded = SynonymousSpaceHead.from_pretrained(taught.save_pretrained(tmp_path, examples=examples))
    same(loaded, taught)
    assert (loaded.examples is not None) == examples
    assert str(loaded) == str(taught)
    if examples:
        assert loaded.class_space.digest() == taught.class_space.digest()
    again = SynonymousSpaceHead()
    again.load_state_dict(loaded.state_dict())
    same(again, taught)


def test_without_the_images_what_needs_them_says_so(tmp_path, taught, words):
    head = SynonymousSpaceHead.from_pretrained(taught.save_pretrained(tmp_path, examples=False))
    expected = head(image_embeds=ASKED)
    for change in (
        lambda: head.remove_classes("dog"),
        lambda: head.reconfigure(metric="center"),
        lambda: head.merge(SynonymousSpaceHead().fit_embeddings(TEXTS[:1], ["cow"], logit_scale=SCALE)),
        lambda: SynonymousSpaceHead().fit_embeddings(TEXTS[:1], ["cow"], logit_scale=SCALE).merge(head),
        lambda: head.fit_few_shot(image_embeds=IMAGES[:3], labels=LABELS[:3], add=True),
    ):
        with pytest.raises(ValueError, match="examples=False"):
            change()
    assert torch.equal(head.rename_class("dog", "hound")(image_embeds=ASKED), expected)
    assert torch.equal(head.reconfigure(metric="local_center")(image_embeds=ASKED), expected)
    head.forget_examples().remove_classes("hound")
    assert torch.equal(head(image_embeds=ASKED), fitted().remove_classes("dog")(image_embeds=ASKED))


def test_one_matrix_and_what_is_added(taught):
    head = copy.deepcopy(taught).reconfigure(metric="center")
    with pytest.raises(ValueError, match=r"to_linear\(bias=True\)"):
        head.to_linear()
    weights, bias = head.to_linear(bias=True)
    logits = head.logit_scale * normalize(ASKED, dim=1) @ weights + bias
    torch.testing.assert_close(logits, head(image_embeds=ASKED), atol=1e-3, rtol=0)


def test_the_estimator_learns_from_images():
    rows = torch.cat(TEXTS).numpy()
    owners = np.repeat(NAMES, 3)
    classifier = SynonymousSpaceClassifier(logit_scale=SCALE)
    classifier.fit(rows, owners, images=IMAGES.numpy(), image_labels=named())
    by_name = sorted(range(5), key=lambda i: NAMES[i])
    head = SynonymousSpaceHead().fit_embeddings([TEXTS[i] for i in by_name], sorted(NAMES), logit_scale=SCALE)
    head.fit_few_shot(image_embeds=IMAGES, labels=named())
    found = classifier.predict_proba(ASKED.numpy())
    np.testing.assert_allclose(found, head.predict_proba(image_embeds=ASKED).numpy(), atol=1e-4)
    with pytest.raises(ValueError, match="both or neither"):
        classifier.fit(rows, owners, images=IMAGES.numpy())
    with pytest.raises(ValueError, match="'cow' is no class of y"):
        classifier.fit(rows, owners, images=IMAGES.numpy(), image_labels=["cow", *named()[1:]])


def test_compile_and_export(taught):
    expected = taught(image_embeds=ASKED)
    exported = torch.export.export(taught, (), {"image_embeds": ASKED}, strict=False).module()
    torch.testing.assert_close(exported(image_embeds=ASKED), expected)


def test_gradients_flow_through_it(words, taught):
    embeds = ASKED.clone().requires_grad_()
    (taught(image_embeds=embeds) - words(image_embeds=embeds)).sum().backward()
    assert embeds.grad.abs().max() > 0


# ---- with what else there is -------------------------------------------------------------------------------


def test_shares_come_after_it_and_calibration_after_both(words, taught):
    head = copy.deepcopy(taught)
    shares = {"cat": 0.6}
    head.set_class_shares(shares)
    added = fitted().set_class_shares(shares).share_offsets
    torch.testing.assert_close(head(image_embeds=ASKED), taught(image_embeds=ASKED) + added)
    head.calibrate(image_embeds=IMAGES, labels=LABELS)
    plain = copy.deepcopy(taught).calibrate(image_embeds=IMAGES, labels=LABELS)
    assert head.calibration.temperature == pytest.approx(plain.calibration.temperature, rel=1e-4)
    with pytest.warns(UserWarning, match="calibration was of other"):
        head.fit_few_shot(image_embeds=IMAGES[:100], labels=LABELS[:100])
    assert head.calibration is None
    assert head.class_shares is not None


def test_images_of_no_class_set_the_threshold_and_nothing_else():
    head = fitted().fit_few_shot(image_embeds=IMAGES[:140], labels=LABELS[:140])
    expected = head(image_embeds=ASKED)
    head.fit_few_shot(image_embeds=IMAGES[140:], labels=[None] * 10, add=True, false_accept_rate=0.2)
    assert torch.equal(head(image_embeds=ASKED), expected)
    assert head.few_shot.none == 10
    accepted = [own[0].accepted for own in head.predict(image_embeds=normalize(IMAGES[140:], dim=1).half())]
    assert sum(accepted) == 2
    other = fitted().fit_few_shot(image_embeds=IMAGES[:140], labels=LABELS[:140])
    other.fit_rejection(image_embeds=normalize(IMAGES[140:], dim=1).half().float(), false_accept_rate=0.2)
    assert head.current_calibration.thresholds == pytest.approx(
        other.current_calibration.thresholds, abs=1e-4
    )
    head.calibrate(image_embeds=IMAGES[:140], labels=LABELS[:140])
    assert head.calibration.thresholds == pytest.approx(other.calibration.thresholds, abs=1e-4)


def test_views_have_it_too_and_no_step_gives_the_logits(taught):
    views = ASKED[:, None] + 0.3 * torch.randn(40, 8, DIM, generator=torch.Generator().manual_seed(1))
    for method in ("shift", "shared_shift"):
        found = TestTimeAdapter(taught, method, steps=0)(views)
        torch.testing.assert_close(found, taught(image_embeds=views[:, 0]), atol=1e-4, rtol=0)
    mean = TestTimeAdapter(taught, "mean_views")(views)
    every = taught(image_embeds=views.flatten(0, 1)).unflatten(0, (40, 8))
    torch.testing.assert_close(mean, every.mean(1), atol=1e-4, rtol=0)


def test_patches_are_asked_by_words_alone(words, taught):
    assert torch.equal(taught.word_logits(ASKED), words(image_embeds=ASKED))


# ---- why ---------------------------------------------------------------------------------------------------


def test_an_answer_says_whether_words_or_images_decided(words, taught):
    by_words, logits = words(image_embeds=ASKED), taught(image_embeds=ASKED)
    shown = normalize(IMAGES, dim=1)
    ranks = [row.sort(descending=True).indices.tolist() for row in by_words]
    answers = taught.predict(image_embeds=ASKED, top_k=3)
    kinds = set()
    for i, own in enumerate(answers):
        near = (normalize(ASKED[i], dim=0) @ shown.T).topk(10).indices
        for place, answer in enumerate(own):
            raised = ranks[i].index(answer.class_index) > place
            count = int((LABELS[near] == answer.class_index).sum())
            expected = f"like {count} of your images" if count else "like your images"
            assert answer.because == (expected if raised else answer.text)
            kinds.add((raised, count > 0))
    assert {(True, True), (False, True)} <= kinds
    assert logits.shape == by_words.shape
    assert all(own[0].because == own[0].text for own in words.predict(image_embeds=ASKED))


# ---- what is not right -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[:3], ["cat", "cow", "dog"], "'cow' is no class"),
        (IMAGES[:3], ["cat", "dog"], "one for each of 3 images, got 2"),
        (IMAGES[:2], ["cat", "dog", "ant"], "one for each of 2 images, got 3"),
        (IMAGES[:2], [0, 5], "position 5 is out of range"),
        (IMAGES[:2], [0, -1], "position -1 is out of range"),
        (IMAGES[:2], [0, 1.5], "1.5"),
        (IMAGES[:2], [0, True], "True"),
        (IMAGES[:2], None, "one for each image"),
        (IMAGES[:2], "cat", "one for each image"),
        (IMAGES[:0], [], "got none"),
        (IMAGES[:2], [], "got none"),
        (IMAGES[:2] * torch.nan, [0, 1], "zero, NaN or Inf"),
        (IMAGES[:2] * 0, [0, 1], "zero, NaN or Inf"),
        (IMAGES[:2, :5], [0, 1], "expected shape"),
        (IMAGES[0], [0] * DIM, "expected shape"),
        (IMAGES[[0, 1, 0]], ["cat", "dog", "dog"], "image 2 is image 0 again"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(words, images, labels, message):
    head = copy.deepcopy(words)
    with pytest.raises((ValueError, TypeError), match=message):
        head.fit_few_shot(image_embeds=images, labels=labels)
    assert head.few_shot is None
    with pytest.raises(ValueError, match="not fitted"):
        SynonymousSpaceHead().fit_few_shot(image_embeds=IMAGES, labels=LABELS)


def test_neither_images_nor_embeddings_or_both(words):
    for given in ({}, {"images": ["x.png"] * 2, "image_embeds": IMAGES[:2]}):
        with pytest.raises(ValueError, match="exactly one"):
            copy.deepcopy(words).fit_few_shot(labels=[0, 1], **given)


@pytest.mark.parametrize("rate", [1.0, -0.1, float("nan"), "a", None])
def test_a_rate_is_a_share(words, rate):
    with pytest.raises(ValueError, match="false_accept_rate"):
        copy.deepcopy(words).fit_few_shot(image_embeds=IMAGES, labels=LABELS, false_accept_rate=rate)


@pytest.mark.parametrize("labels", [["cat"] * 150, [None] * 150], ids=["one class", "none of these"])
def test_images_that_tell_no_class_from_another_change_no_logit(words, labels):
    head = fitted().fit_few_shot(image_embeds=IMAGES, labels=labels)
    assert head.few_shot.strength is None
    assert torch.equal(head(image_embeds=ASKED), words(image_embeds=ASKED))
    assert "no residual gains more than chance" in str(head)


def test_a_head_of_one_class_is_taught_nothing():
    head = SynonymousSpaceHead().fit_embeddings(TEXTS[:1], ["cat"], logit_scale=SCALE)
    head.fit_few_shot(image_embeds=IMAGES[:20], labels=["cat"] * 15 + [None] * 5)
    assert head.few_shot.strength is None
    assert head.few_shot.threshold is not None


def test_of_too_many_images_the_first_of_every_class_are_used(monkeypatch):
    monkeypatch.setattr(few_shot, "MOST_NUMBERS", 60 * DIM)
    labels = torch.tensor([0] * 120 + [1] * 20 + [2] * 10)
    with pytest.warns(UserWarning, match="of 150 images 60 are used"):
        head = fitted().fit_few_shot(image_embeds=IMAGES, labels=labels)
    assert head.few_shot.seen == (30, 20, 10, 0, 0)
    taken = head.examples.embeds.float()
    torch.testing.assert_close(taken[:30], normalize(IMAGES[:30], dim=1), atol=1e-3, rtol=0)


def test_a_class_whose_images_all_go_leaves_the_words():
    head = fitted().fit_few_shot(image_embeds=IMAGES[:20], labels=["cat"] * 20)
    with pytest.warns(UserWarning, match="labelled images were of other classes"):
        head.remove_classes("cat")
    assert head.few_shot is None


def test_a_head_that_is_taught_warns_of_nothing(words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy.deepcopy(words).fit_few_shot(image_embeds=IMAGES, labels=LABELS)


def test_what_a_change_leaves_as_it_is_is_not_built_again(monkeypatch, taught):
    from s3clip.demo import model_folder

    def build(space, progress=None):
        raise AssertionError("built again")

    on_model = SynonymousSpaceHead.from_backbone(str(model_folder())).fit_classes(["zero", "one"])
    embeds = torch.randn(12, on_model.backbone.dim, generator=torch.Generator().manual_seed(0))
    head, weights = copy.deepcopy(taught), taught._fitted.residual_weights
    monkeypatch.setattr("s3clip.class_space.value.ClassSpace.build", build)
    on_model.fit_few_shot(image_embeds=embeds, labels=[0, 1] * 6).forget_examples()
    on_model.set_class_shares({"zero": 0.7}).rename_class("zero", "nought")
    head.set_class_shares({"cat": 0.6}).rename_class("cat", "lion").set_class_shares(None)
    assert torch.equal(head(image_embeds=ASKED), taught(image_embeds=ASKED))
    assert torch.equal(head._fitted.residual_weights, weights)
    head.fit_few_shot(image_embeds=IMAGES[:70], labels=LABELS[:70])
    head.fit_few_shot(image_embeds=IMAGES[70:], labels=LABELS[70:], add=True)
    assert torch.equal(head(image_embeds=ASKED), taught(image_embeds=ASKED))
    for change in (
        lambda: head.reconfigure(metric="center"),
        lambda: head.remove_classes("dog"),
        lambda: head.fit_embeddings(TEXTS, NAMES, logit_scale=SCALE),
    ):
        with pytest.raises(AssertionError, match="built again"):
            change()
