"""CLIP_benchmark's evaluator with our classifier: its metrics, and its files of classifiers."""

from types import SimpleNamespace

import pytest
import torch

from s3clip import HeadConfig, SynonymousSpaceHead, SynonymSet, build_zero_shot_classifier
from tests.checkpoints import small

evaluator = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")
open_clip = pytest.importorskip("open_clip")

NAMES = ["tench", "red fox", "oak", "blue whale", "moss", "sea"]
TEMPLATES = ["a photo of a {c}.", "{c} in the wild"]
IMAGES = 30


@pytest.fixture(autouse=True)
def newer_numpy(monkeypatch):
    """Its `accuracy` calls float() on an array of one element, which NumPy no longer allows."""
    monkeypatch.setattr(evaluator, "float", lambda one: one.item(), raising=False)


class Loader(list):
    """Batches, with what the evaluator asks of a data loader."""

    dataset = SimpleNamespace(classes=NAMES)


@pytest.fixture(scope="module")
def parts():
    """A small model of open_clip, its tokenizer, and batches of images and labels."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**small(open_clip.get_model_config("ViT-B-32"))).eval()
    images = torch.rand(IMAGES, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(IMAGES) % len(NAMES)
    return model, open_clip.get_tokenizer("ViT-B-32"), images, labels


def evaluate(parts, **kwargs):
    model, tokenizer, images, labels = parts
    loader = Loader(zip(images.split(8), labels.split(8), strict=True))
    return evaluator.evaluate(model, loader, tokenizer, NAMES, TEMPLATES, "cpu", amp=False, **kwargs)


def test_our_matrix_is_its_own(parts, tmp_path):
    theirs = evaluate(parts, save_clf=tmp_path / "theirs.pt")
    model, tokenizer, _, _ = parts
    ours = build_zero_shot_classifier(model, tokenizer, NAMES, TEMPLATES)
    torch.testing.assert_close(ours, torch.load(tmp_path / "theirs.pt"), atol=1e-5, rtol=0)
    torch.save(ours, tmp_path / "ours.pt")
    assert evaluate(parts, load_clfs=[tmp_path / "ours.pt"]) == theirs


def test_it_evaluates_a_space_as_we_do(parts, tmp_path):
    model, tokenizer, images, labels = parts
    head = SynonymousSpaceHead(model, (tokenizer, None), config=HeadConfig(metric="center"))
    head.fit_classes({name: [f"{name} {i}" for i in range(i)] for i, name in enumerate(NAMES)})
    torch.save(head.to_linear(), tmp_path / "space.pt")
    found = evaluate(parts, load_clfs=[tmp_path / "space.pt"])
    with torch.no_grad():
        best = head(images).topk(5).indices
    hits = best == labels[:, None]
    assert found["acc1"] == pytest.approx(hits[:, 0].float().mean().item())
    assert found["acc5"] == pytest.approx(hits.any(1).float().mean().item())
    recalls = [hits[labels == i, 0].float().mean().item() for i in range(len(NAMES))]
    assert found["mean_per_class_recall"] == pytest.approx(sum(recalls) / len(NAMES))


def test_prompts_for_each_class(parts):
    """As CuPL writes them. With us the class's own name is a text as well."""
    model, tokenizer, _, _ = parts
    prompts = {name: [f"{name}, seen from {side}." for side in ("above", "the left")] for name in NAMES}
    config = HeadConfig(metric="center", scale_rule=None)
    head = SynonymousSpaceHead(model, (tokenizer, None), config=config)
    head.fit_classes(SynonymSet.read(prompts, values="prompts"), templates="a photo of a {}.")
    named = {name: [f"a photo of a {name}.", *own] for name, own in prompts.items()}
    theirs = evaluator.zero_shot_classifier(model, tokenizer, NAMES, named, "cpu", amp=False)
    torch.testing.assert_close(head.to_linear(), theirs, atol=1e-5, rtol=0)
