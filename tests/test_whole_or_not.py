"""A change of a head is made whole or not at all, whatever interrupts it, at whatever call."""

import copy
import sys
import warnings

import pytest
import torch

from s3clip import Calibration, SynonymousSpaceHead

# A call that is cut off may be one of the garbage collector, which says so and goes on.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

TRIES = 150
"""Of the calls of an operation, the first and the last ones and this many between are interrupted."""


def head_of(names, seed, **settings):
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randn(i % 4 + 1, 8, generator=generator) for i, _ in enumerate(names)]
    return SynonymousSpaceHead().fit_embeddings(texts, names, logit_scale=10.0).reconfigure(**settings)


SHOWN = torch.randn(20, 8, generator=torch.Generator().manual_seed(3))
LABELS = ["cat", "dog", "bird", None] * 5
OTHER = head_of(["fish", "newt"], 2)
EMBEDS = torch.randn(20, 8, generator=torch.Generator().manual_seed(6))
CHANGES = {
    "fit_embeddings": lambda head: head.fit_embeddings([torch.eye(8)[:2]], ["one"], logit_scale=3.0),
    "remove_classes": lambda head: head.remove_classes(["cat", 2]),
    "rename_class": lambda head: head.rename_class("cat", "lion"),
    "merge": lambda head: head.merge(OTHER),
    "reconfigure": lambda head: head.reconfigure(
        metric="hull", scale_rule="quantile", centering="class_mean"
    ),
    "reconfigure to the same": lambda head: head.reconfigure(metric="local_center"),
    "fit_rejection": lambda head: head.fit_rejection(image_embeds=torch.eye(8)),
    "set_class_shares": lambda head: head.set_class_shares({"cat": 0.5, 4: 0.1}),
    "calibrate": lambda head: head.calibrate(image_embeds=EMBEDS, labels=[0, 1, 2, 3] * 5, coverage=0.8),
    "load_state_dict": lambda head: head.load_state_dict(
        head_of(["cat", "dog", "bird", "bee", "ant"], 5, metric="center").state_dict()
    ),
    "fit_few_shot": lambda head: head.fit_few_shot(image_embeds=SHOWN, labels=LABELS, add=True),
    "forget_examples": lambda head: head.forget_examples(),
    "half": lambda head: head.reconfigure(logit_scale=7.0),
}


def what_it_says(head):
    """Everything that a head answers, and what it would save."""
    images = torch.randn(6, 8, generator=torch.Generator().manual_seed(9))
    answers = [[(p.label, p.score, p.accepted) for p in own] for own in head.predict(image_embeds=images)]
    state = {name: value.tolist() for name, value in head.state_dict().items()}
    return head(image_embeds=images).tolist(), answers, state, head.class_space.digest(), str(head)


def made(change, head, at=0, error=None):
    """Make a change, interrupted at its call number `at`; return how many calls it took, None if cut off.

    Calls inside of torch's `grad_mode.py` and `autocast_mode.py` do not count: cut off there, they leave the
    whole process in another mode, which no head can mend.
    """
    calls, own = 0, sys._getframe()

    def count(frame, event, argument):
        nonlocal calls
        if event in ("call", "c_call") and frame is not own and "mode.py" not in frame.f_code.co_filename:
            calls += 1
            if calls == at:
                sys.setprofile(None)
                raise error.with_traceback(None)

    sys.setprofile(count)
    try:
        change(head)
    except BaseException as raised:
        if raised is not error:
            raise
        return None
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.filterwarnings("ignore:the calibration was of other classes")
@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), torch.OutOfMemoryError("CUDA")], ids=["ctrl-c", "memory"]
)
def test_a_change_that_is_interrupted_at_any_call_leaves_the_head_as_it_was(name, error):
    change = CHANGES[name]
    head = head_of(["cat", "dog", "bird", "bee", "ant"], 1)
    head.calibration = Calibration(activation="softmax", temperature=2.0, thresholds=(0.5,))
    if "examples" in name or name in ("remove_classes", "reconfigure"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            calibration = head.calibration
            head.fit_few_shot(image_embeds=SHOWN, labels=[0, 1, 2, 3] * 5)
            head.calibration = calibration
    before = what_it_says(head)
    changed = copy.deepcopy(head)
    count = made(change, changed)
    after = what_it_says(changed)
    step = max(1, count // TRIES)
    tried = sorted({*range(1, count + 1, step), *range(max(1, count - 40), count + 1)})
    for at in tried:
        broken = copy.deepcopy(head)
        finished = made(change, broken, at, error)
        found = what_it_says(broken)
        # What comes after the one assignment, such as the warning, may be cut off: then all is new.
        assert found in (before, after), f"{name}: half done at call {at} of {count}"
        assert finished is None or found == after
    assert len(tried) > 3
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_a_state_dict_that_does_not_fit_leaves_the_head_as_it_was():
    head = head_of(["cat", "dog"], 1)
    before = what_it_says(head)
    state = head.state_dict()
    for change in (
        lambda s: s.update(owners=s["owners"].flip(0)),
        lambda s: s.update(owners=torch.zeros_like(s["owners"])),
        lambda s: s.update(owners=s["owners"] + 10**9),
        lambda s: s.update(text_embeddings=s["text_embeddings"][:1]),
        lambda s: s.update(text_embeddings=s["text_embeddings"] * torch.nan),
        lambda s: s.pop("owners"),
    ):
        broken = dict(state)
        change(broken)
        with pytest.raises((ValueError, RuntimeError)):
            head.load_state_dict(broken)
        assert what_it_says(head) == before
