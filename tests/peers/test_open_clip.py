"""What open_clip runs to evaluate zero-shot, with our classifier in the place of its own.

Its test-suite has no test of `build_zero_shot_classifier`, and those that load models fetch weights.
"""

from argparse import Namespace

import pytest
import torch

from s3clip import Backbone, HeadConfig, SynonymousSpaceHead, build_zero_shot_classifier
from tests.checkpoints import small

open_clip = pytest.importorskip("open_clip")
evaluation = pytest.importorskip("open_clip_train.zero_shot")

NAMES = open_clip.IMAGENET_CLASSNAMES[650:660]  # "missile" twice among them
TEMPLATES = open_clip.SIMPLE_IMAGENET_TEMPLATES
IMAGES = 24


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return open_clip.CLIP(**small(open_clip.get_model_config("ViT-B-32"))).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return open_clip.get_tokenizer("ViT-B-32")


@pytest.mark.parametrize("at_once", [3, None])
@pytest.mark.filterwarnings("ignore:the list of classes.*two classes")
def test_their_two_functions_and_ours_give_one_matrix(model, tokenizer, at_once):
    names = [*open_clip.IMAGENET_CLASSNAMES[740:746], "missile"]
    ours = build_zero_shot_classifier(model, tokenizer, names, TEMPLATES, at_once)
    theirs = open_clip.build_zero_shot_classifier(model, tokenizer, names, TEMPLATES, at_once)
    legacy = open_clip.build_zero_shot_classifier_legacy(model, tokenizer, names, TEMPLATES)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours, legacy, atol=1e-5, rtol=0)


def evaluated(monkeypatch, model, tokenizer, build):
    """What `zero_shot_eval`, which training runs after an epoch, says of random images."""
    monkeypatch.setattr(evaluation, "IMAGENET_CLASSNAMES", NAMES)
    monkeypatch.setattr(evaluation, "OPENAI_IMAGENET_TEMPLATES", TEMPLATES)
    # Its `accuracy` calls float() on an array of one element, which NumPy no longer allows.
    monkeypatch.setattr(evaluation, "float", lambda one: one.item(), raising=False)
    monkeypatch.setattr(evaluation, "build_zero_shot_classifier", build)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(IMAGES, 3, 224, 224, generator=generator)
    labels = torch.arange(IMAGES) % len(NAMES)
    loader = list(zip(images.split(8), labels.split(8), strict=True))
    often = Namespace(zeroshot_frequency=1, epochs=1, distributed=False)
    args = Namespace(**vars(often), model="ViT-B-32", device="cpu", precision="fp32", batch_size=8)
    split = Namespace(dataloader=loader)
    found = evaluation.zero_shot_eval(model, {"imagenet-val": split}, 1, args, tokenizer=tokenizer)
    return found, images, labels


def test_their_evaluation_with_our_classifier(monkeypatch, model, tokenizer):
    theirs, _, _ = evaluated(monkeypatch, model, tokenizer, open_clip.build_zero_shot_classifier)
    ours, images, labels = evaluated(monkeypatch, model, tokenizer, build_zero_shot_classifier)
    assert ours == theirs
    plain = HeadConfig(metric="center", scale_rule=None, centering=None)
    head = SynonymousSpaceHead(Backbone(model, (tokenizer, None)), config=plain)
    head.fit_classes(NAMES, templates=[template("{}") for template in TEMPLATES])
    with torch.no_grad():
        best = head(images).topk(5).indices == labels[:, None]
    assert theirs == {
        "imagenet-zeroshot-val-top1": pytest.approx(best[:, 0].float().mean().item()),
        "imagenet-zeroshot-val-top5": pytest.approx(best.any(1).float().mean().item()),
    }
