"""Label sets that a pipeline keeps: for any change to what they were computed from, kept = made anew."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from s3clip import HeadConfig, S3ZeroShotImageClassificationPipeline, SynonymousSpaceHead
from tests.tiny_models import build

LABELS = {"cat": ["kitty", "feline"], "dog": ["hound"], "sea": []}
PICTURE = Image.effect_noise((30, 30), 80).convert("RGB")


def a_weight_in_place(pipe, number):
    weights = [w for name, w in pipe.model.named_parameters() if name.startswith("text")]
    with torch.no_grad():
        weights[number % len(weights)].add_(0.5)


def an_optimizer_step(pipe, number):
    weights = list(pipe.model.text_model.parameters())
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    torch.optim.SGD(weights, lr=0.1 * (number % 5 + 1)).step()


def a_new_weight(pipe, number):
    projection = pipe.model.text_projection
    projection.weight = torch.nn.Parameter(torch.randn_like(projection.weight) * (number % 3 + 1))


def a_setting(pipe, number):
    pipe._head.reconfigure(metric=["center", "nearest", "hull"][number % 3])


def a_scale(pipe, number):
    pipe._head.reconfigure(logit_scale=1.0 + number)


CHANGES = [a_weight_in_place, an_optimizer_step, a_new_weight, a_setting, a_scale]


def made(seed=0):
    torch.manual_seed(seed)
    model, processor = build("clip")
    head = SynonymousSpaceHead(model, processor).fit_classes(["one", "two"], cache=False)
    return S3ZeroShotImageClassificationPipeline(
        model=model, tokenizer=processor.tokenizer, image_processor=processor.image_processor, head=head
    )


@settings(max_examples=25, deadline=None)
@given(change=st.sampled_from(CHANGES), number=st.integers(0, 40))
def test_a_change_is_seen(change, number):
    pipe = made()
    pipe(PICTURE, candidate_labels=LABELS)
    change(pipe, number)
    kept = pipe(PICTURE, candidate_labels=LABELS)
    pipe._heads.clear()
    assert kept == pipe(PICTURE, candidate_labels=LABELS)


def test_an_unchanged_pipeline_encodes_nothing_again(monkeypatch: pytest.MonkeyPatch):
    pipe = made()
    first = pipe(PICTURE, candidate_labels=LABELS)
    monkeypatch.setattr(pipe, "_fit", None)
    assert pipe(PICTURE, candidate_labels=LABELS) == first
    assert pipe(PICTURE, candidate_labels=dict(LABELS)) == first
    with pytest.raises(TypeError):
        pipe(PICTURE, candidate_labels={**LABELS, "sun": []})


def test_settings_of_the_call_are_those_of_the_head():
    pipe = made()
    pipe._head.reconfigure(metric="center", scale_rule=None)
    found = pipe(PICTURE, candidate_labels=LABELS)
    plain = S3ZeroShotImageClassificationPipeline(
        model=pipe.model,
        tokenizer=pipe.tokenizer,
        image_processor=pipe.image_processor,
        head_config=HeadConfig(metric="center", scale_rule=None),
    )
    assert found == plain(PICTURE, candidate_labels=LABELS)
