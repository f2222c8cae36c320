"""What the process is set to, and what other threads do, changes no answer of a head."""

import contextlib
import copy
import sys
import threading
import warnings

import pytest
import torch
from torch.nn.functional import one_hot

from s3clip import SynonymousSpaceHead, TestTimeAdapter
from tests.tiny_models import build

NAMES = ["cat", "dog", "bird", "bee", "ant"]
_generator = torch.Generator().manual_seed(3)
TEXTS = [torch.randn(i % 3 + 1, 8, generator=_generator) for i in range(5)]
NEGATIVES = [{}, {"a hat": torch.randn(8, generator=_generator)}, {}, {}, {}]
LABELS = torch.arange(60) % 5
IMAGES = torch.randn(5, 8, generator=_generator)[LABELS] + torch.randn(60, 8, generator=_generator)
OTHERS = IMAGES + torch.randn(60, 8, generator=_generator) / 2
TABLE = one_hot(LABELS, 5)


def fitted():
    return SynonymousSpaceHead().fit_embeddings(TEXTS, NAMES, negatives=NEGATIVES, logit_scale=7.3).eval()


def life(folder):
    """Everything that a head can be asked to do, and what comes of it, in plain numbers."""
    head = fitted()
    yield head.predict_proba(image_embeds=IMAGES).tolist()
    labels = [None if i % 6 == 0 else int(label) for i, label in enumerate(LABELS.tolist())]
    yield head.fit_few_shot(image_embeds=IMAGES, labels=labels, false_accept_rate=0.9).few_shot
    yield head.set_class_shares({"cat": 0.5}).class_shares
    yield head.calibrate(image_embeds=OTHERS, labels=LABELS, coverage=0.3).calibration
    yield head.predict(image_embeds=OTHERS.numpy(), among=[0, "bird"])
    yield head.predict_sets(image_embeds=OTHERS)
    yield [part.tolist() for part in head.top_classes(image_embeds=OTHERS)]
    for method in ("shift", "shared_shift", "zero", "mean_views"):
        yield head.predict(image_embeds=OTHERS.unflatten(0, (20, 3)), adapt=method)
    yield head.suggest(image_embeds=OTHERS, n=3)
    yield head.check_labels(image_embeds=OTHERS, labels=LABELS.roll(1))
    yield head.save_pretrained(folder) and head.class_space.digest()
    head = SynonymousSpaceHead.from_pretrained(folder)
    yield head.reconfigure(metric="hull", scale_rule="quantile", centering="class_mean").few_shot
    yield head.fit_rejection(image_embeds=OTHERS).calibration
    yield (
        head.remove_classes(1)
        .merge(SynonymousSpaceHead().fit_embeddings(TEXTS[:1], ["x"], logit_scale=7.3))(image_embeds=OTHERS)
        .tolist()
    )
    other = SynonymousSpaceHead()
    other.load_state_dict(head.state_dict())
    yield other(image_embeds=OTHERS).tolist()
    weights, bias = other.remove_classes("x").reconfigure(metric="center").to_linear(bias=True)
    yield weights.tolist(), bias.tolist()
    yield fitted().calibrate(image_embeds=OTHERS, labels=TABLE.tolist()).calibration


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    with warnings.catch_warnings(action="ignore"):
        return list(life(tmp_path_factory.mktemp("head")))


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


MODES = {
    # Whatever is made there has no numbers, and is no answer.
    "another default device": lambda: torch.device("meta"),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "float64 by default": lambda: default_dtype(torch.float64),
    "inference mode": torch.inference_mode,
}


@pytest.mark.filterwarnings(
    "ignore:the calibration was", "ignore:the class shares", "ignore:images. the head"
)
@pytest.mark.parametrize("mode", MODES)
def test_answers_are_the_same_whatever_the_process_is_set_to(mode, expected, tmp_path):
    with MODES[mode]():
        found = list(life(tmp_path))
    for step, (each, other) in enumerate(zip(found, expected, strict=True)):
        assert each == other, step


@pytest.mark.parametrize("mode", ["autocast", "float64 by default", "bfloat16 by default"])
def test_texts_are_encoded_and_kept_on_disk_as_ever(mode, monkeypatch, tmp_path):
    model = build("clip")

    def rows(cache):
        head = SynonymousSpaceHead(*model).fit_classes(NAMES, templates="{}", cache=cache)
        return head.text_embeddings, head.fingerprint()

    expected, fingerprint = rows(cache=False)
    monkeypatch.setenv("S3CLIP_CACHE", str(tmp_path))
    with TEXT_MODES[mode]():
        found, same = rows(cache=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(same, fingerprint, rtol=0, atol=1e-6)
    assert torch.equal(rows(cache=True)[0], found)


TEXT_MODES = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64 by default": lambda: default_dtype(torch.float64),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
}


def test_what_is_learned_under_autocast_is_the_same():
    labels = LABELS.tolist()

    def taught():
        head = fitted().fit_few_shot(image_embeds=IMAGES[:40], labels=labels[:40])
        head.fit_few_shot(image_embeds=IMAGES[30:], labels=labels[30:], add=True)
        other = SynonymousSpaceHead().fit_embeddings(TEXTS[:1], ["x"], logit_scale=7.3)
        other.fit_few_shot(image_embeds=OTHERS[:5], labels=["x"] * 5)
        doubts = head.check_labels(image_embeds=OTHERS, labels=LABELS.roll(1))
        return head.merge(other).class_space.digest(), doubts

    expected = taught()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = taught()
    assert found == expected


def test_a_head_that_was_fitted_in_inference_mode_has_gradients():
    with torch.inference_mode():
        head = fitted().fit_few_shot(image_embeds=IMAGES, labels=LABELS).set_class_shares({0: 0.5})
        adapter = TestTimeAdapter(head)
        expected = head.predict(image_embeds=OTHERS[:, None], adapt=adapter)
    assert head.few_shot.strength is not None
    assert head.predict(image_embeds=OTHERS[:, None], adapt=adapter) == expected
    adapter(OTHERS[:, None])
    image = OTHERS[:3].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: head.double()(image_embeds=x), (image,))


def test_texts_with_gradients_are_taken_without_them():
    texts = [own.clone().requires_grad_() for own in TEXTS]
    negatives = [{text: row.clone().requires_grad_() * 1 for text, row in own.items()} for own in NEGATIVES]
    head = SynonymousSpaceHead().fit_embeddings(texts, NAMES, negatives=negatives, logit_scale=7.3)
    logits = copy.deepcopy(head)(image_embeds=IMAGES)
    assert not logits.requires_grad
    assert torch.equal(logits, fitted()(image_embeds=IMAGES))


ANSWERS = {
    "predict": lambda head: head.predict(image_embeds=OTHERS, top_k=1, batch_size=8),
    "predict_proba": lambda head: head.predict_proba(image_embeds=OTHERS, batch_size=8).tolist(),
    "predict_sets": lambda head: head.predict_sets(image_embeds=OTHERS, batch_size=8),
    "top_classes": lambda head: [part.tolist() for part in head.top_classes(image_embeds=OTHERS, k=2)],
}


@pytest.mark.parametrize("way", ANSWERS)
def test_an_answer_is_of_one_head_while_another_thread_edits(way):
    """The order of classes changes, and with it what a position stands for, in the middle of every answer."""
    head, other = fitted(), SynonymousSpaceHead().fit_embeddings(TEXTS[::-1], NAMES[::-1], logit_scale=3.0)
    for each in (head, other):
        each.calibrate(image_embeds=OTHERS, labels=["cat", "dog", "bird", "bee", "ant"] * 12, coverage=0.5)
    first, second = ANSWERS[way](head), ANSWERS[way](other)
    assert first != second
    states, stop = [head._fitted, other._fitted], threading.Event()

    def edit():
        while not stop.is_set():
            for state in reversed(states):
                head._fitted = state

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    editor = threading.Thread(target=edit)
    editor.start()
    try:
        found = [ANSWERS[way](head) for _ in range(30)]
    finally:
        stop.set()
        editor.join()
        sys.setswitchinterval(before)
    assert all(each in (first, second) for each in found)
