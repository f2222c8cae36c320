"""A head taught by images, with shares of classes, calibrated: every way in gives the same answer."""

import copy
import io

import numpy as np
import pyarrow.dataset as ds
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from s3clip import (
    Calibration,
    S3ZeroShotImageClassificationPipeline,
    SynonymousSpaceClassifier,
    SynonymousSpaceHead,
    export_onnx,
)
from s3clip.bulk import label
from s3clip.demo import held_out_digits, model_folder
from s3clip.prediction.adaptation import TestTimeAdapter
from tests.local_sets import digit_jpegs

# Few and vague words, so that there is something to learn.
WORDS = {"zero": [], "one": ["1"], "two": ["seven"], "three": [], "four": ["nine"], "five": []}
SHARES = {"one": 0.5, "five": 0.02}


@pytest.fixture(scope="module")
def pictures():
    """60 pictures of six digits, as JPEG has them: what is labelled in bulk are files."""
    digits = held_out_digits()[1]
    chosen = [i for i in range(len(digits)) if digits[i] < len(WORDS)]
    files = digit_jpegs(chosen[150:210])
    return files, [Image.open(io.BytesIO(each)) for each in files]


@pytest.fixture(scope="module", params=["center", "local_center"])
def head(request):
    images, digits = held_out_digits()
    shown = [i for i in range(len(digits)) if digits[i] < len(WORDS)][:150]
    labels = [list(WORDS)[digits[i]] for i in shown]
    head = SynonymousSpaceHead.from_backbone(str(model_folder())).fit_classes(WORDS)
    head.reconfigure(metric=request.param).fit_few_shot([images[i] for i in shown], labels)
    assert head.few_shot.strength is not None
    before = head(image_embeds=head.examples.embeds.float())
    head.set_class_shares(SHARES)
    assert (head(image_embeds=head.examples.embeds.float()) - before).abs().max() > 0.5
    head.calibration = Calibration(activation="softmax", temperature=1.7)
    return head.eval()


@pytest.fixture(scope="module")
def pixels(head, pictures):
    return head.backbone.preprocess(pictures[1])["pixel_values"]


@pytest.fixture(scope="module")
def logits(head, pixels):
    """By the definition: words, then images, then shares."""
    words = copy.deepcopy(head)
    words.calibration = None
    words.forget_examples().set_class_shares(None)
    learned = head._fitted.learned
    with torch.no_grad():
        embeds = normalize(head.backbone.encode_images(pixels), dim=1)
        return words(pixels) + embeds @ learned.weights + learned.bias + head.share_offsets


def test_forward_and_what_compilers_and_exporters_make_of_it(head, pixels, logits):
    torch.testing.assert_close(head(pixels), logits, atol=1e-4, rtol=0)
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(pixels), logits, atol=1e-4, rtol=0)
    exported = torch.export.export(head, (pixels,)).module()
    torch.testing.assert_close(exported(pixels), logits, atol=1e-4, rtol=0)


def test_an_onnx_graph(head, pixels, logits, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    session = ort.InferenceSession(str(export_onnx(head, tmp_path / "a.onnx")))
    found = session.run(["logits"], {"pixel_values": pixels.numpy()})[0]
    np.testing.assert_allclose(found, logits, atol=1e-3, rtol=0)


def test_a_matrix(head, pixels, logits):
    if head.config.metric != "center":
        pytest.skip("no matrix")
    weights, bias = head.to_linear(bias=True)
    features = normalize(head.backbone.encode_images(pixels), dim=1)
    torch.testing.assert_close(head.logit_scale * features @ weights + bias, logits, atol=1e-3, rtol=0)


def test_answers_in_every_form(head, pictures, pixels, logits):
    images = pictures[1]
    expected = head.calibration.probabilities(logits)
    torch.testing.assert_close(head.predict_proba(images), expected, atol=1e-5, rtol=0)
    best = head.top_classes(pixels, k=len(WORDS))
    torch.testing.assert_close(best.logits, logits.gather(1, best.class_index), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        best.probabilities, expected.sort(1, descending=True).values, atol=1e-5, rtol=0
    )
    pipe = S3ZeroShotImageClassificationPipeline(head=head)
    views = TestTimeAdapter(head, steps=0)
    embeds = head.backbone.encode_images(pixels)[:, None].expand(-1, 2, -1)
    torch.testing.assert_close(views(embeds), logits, atol=1e-3, rtol=0)
    for row, said, predicted in zip(expected, pipe(images), head.predict(images, top_k=6), strict=True):
        own = dict(zip(WORDS, row.tolist(), strict=True))
        assert {each["label"]: each["score"] for each in said} == pytest.approx(own, abs=1e-5)
        assert {each.label: each.score for each in predicted} == pytest.approx(own, abs=1e-5)
    assert any("your images" in each[0].because for each in head.predict(images, top_k=1))


@pytest.mark.parametrize("examples", [True, False])
def test_what_is_saved(head, pixels, tmp_path, examples):
    loaded = SynonymousSpaceHead.from_pretrained(head.save_pretrained(tmp_path, examples=examples))
    assert torch.equal(loaded(pixels), head(pixels))
    again = SynonymousSpaceHead(loaded.backbone).eval()
    again.load_state_dict(loaded.state_dict())
    assert torch.equal(again(pixels), head(pixels))


def test_labels_in_bulk(head, pictures, logits, tmp_path):
    (tmp_path / "in").mkdir()
    for i, content in enumerate(pictures[0]):
        (tmp_path / "in" / f"{i:02d}.jpg").write_bytes(content)
    head.save_pretrained(tmp_path / "head")
    label(tmp_path / "in", tmp_path / "head", tmp_path / "out", workers=0, top_k=2)
    files = [str(each) for each in (tmp_path / "out").glob("*.parquet") if each.name != "listing.parquet"]
    rows = sorted(ds.dataset(files).to_table().to_pylist(), key=lambda row: row["key"])
    expected = head.calibration.probabilities(logits).max(1)
    assert [row["class_index"] for row in rows] == expected.indices.tolist()
    assert [row["score"] for row in rows] == pytest.approx(expected.values.tolist(), abs=1e-4)


def test_the_estimator(head, pixels):
    head = copy.deepcopy(head)
    head.calibration = None  # which an estimator has not
    space = head.class_space
    names = np.array(head.class_names)
    classifier = SynonymousSpaceClassifier(
        metric=head.config.metric, logit_scale=head.logit_scale.item(), class_shares=SHARES
    )
    shown, labels = head.examples.embeds.float().numpy(), names[head.examples.labels.numpy()]
    classifier.fit(space.raw.numpy(), names[space.owners.numpy()], images=shown, image_labels=labels)
    found = classifier.predict_proba(head.backbone.encode_images(pixels).detach().numpy())
    order = [list(classifier.classes_).index(name) for name in names]
    expected = head(pixels).detach().softmax(1)
    np.testing.assert_allclose(found[:, order], expected, atol=1e-4)


def test_labels_of_the_estimator_are_those_of_y_and_none_of_these():
    texts, y = np.eye(4), np.array([3, 3, 5, 7])
    images = np.eye(4)[[0, 1, 2, 3]] + 0.1
    taught = SynonymousSpaceClassifier().fit(texts, y, images=images, image_labels=[3, 5, None, 7.0])
    assert (taught.head_.few_shot.seen, taught.head_.few_shot.none) == ((1, 1, 1), 1)
    for wrong in (["3", "5", "7", "3"], [3, 5, 7, "x"], [3, 5, 7, 3.5]):
        with pytest.raises(ValueError, match=r"image_labels: .* is no class of y"):
            SynonymousSpaceClassifier().fit(texts, y, images=images, image_labels=np.array(wrong, object))
