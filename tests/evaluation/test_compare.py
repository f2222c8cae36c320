"""The comparison: its scores against scikit-learn and plain loops, and the command."""

import csv
import json
import math
import random
import shlex
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torch.nn.functional import normalize
from typer.testing import CliRunner

from s3clip import Backbone, HeadConfig, SynonymousSpaceHead, SynonymSet, cli
from s3clip.cli.compare import _use
from s3clip.demo import held_out_digits, model_folder, synonym_file
from s3clip.evaluation import METHODS, Comparison, compare, compare_embeddings
from s3clip.evaluation.inputs import labelled_images, read_embeddings
from s3clip.evaluation.methods import (
    names_alone,
    names_and_descriptors,
    random_descriptors,
    softmax_max,
)
from s3clip.evaluation.scores import (
    expected_calibration_error,
    interval,
    resampled_class_means,
    resampled_means,
    simultaneous_intervals,
)
from s3clip.prediction.class_labels import class_positions, names_and_ids
from s3clip.printing import Table
from s3clip.texts import TEMPLATES
from tests.tiny_models import build

DIM, SCALE = 24, 20.0
FEW_TEXTS = ["name_80_templates", "random_descriptors", "default"]


@pytest.fixture(scope="module")
def problem():
    """Seven classes of 1 to 9 texts around a centre each, and 150 noisy images, unevenly spread."""
    draw = torch.Generator().manual_seed(3)
    centres = normalize(torch.randn(7, DIM, generator=draw), dim=1)
    sizes = [1, 2, 4, 9, 5, 3, 6]
    texts = [c + 0.35 * torch.randn(n, DIM, generator=draw) for c, n in zip(centres, sizes, strict=True)]
    labels = torch.cat([torch.arange(7), torch.randint(3, (120,), generator=draw), torch.full((23,), 5)])
    images = centres[labels] + 0.4 * torch.randn(len(labels), DIM, generator=draw)
    return texts, [f"class {i}" for i in range(7)], images, labels


@pytest.fixture(scope="module")
def result(problem):
    texts, names, images, labels = problem
    return compare_embeddings(texts, names, images, labels, logit_scale=SCALE, bootstrap=200)


def logits_of(method, problem):
    texts, names, images, _ = problem
    if method == "name":
        texts = [own[:1] for own in texts]
    head = SynonymousSpaceHead(config=METHODS[method].config)
    return head.fit_embeddings(texts, names, logit_scale=SCALE)(image_embeds=images)


def plain_recall(correct, labels, at_least=1):
    """A plain loop over classes and images."""
    shares = []
    for each in set(labels.tolist()):
        own = [float(c) for c, label in zip(correct, labels.tolist(), strict=True) if label == each]
        if len(own) >= at_least:
            shares.append(sum(own) / len(own))
    return sum(shares) / len(shares)


# ---- scores ---------------------------------------------------------------------------------------------


def test_useless_image_embeddings_are_named():
    images = torch.randn(4, 8)
    images[3] = torch.nan
    with pytest.raises(ValueError, match="image 3: its embedding is zero, NaN or Inf"):
        compare_embeddings([torch.randn(2, 8)] * 2, ["a", "b"], images, [0, 1, 0, 1], logit_scale=1.0)


def test_calibration_error_is_that_of_a_plain_loop():
    draw = np.random.default_rng(0)
    confidences = np.concatenate([draw.random(400), [0.0, 1.0, 1 / 15, 2 / 15]])
    correct = draw.random(404) < confidences**2
    expected = 0.0
    for i in range(15):
        inside = [j for j, c in enumerate(confidences) if i / 15 < c <= (i + 1) / 15 or (c == 0 and i == 0)]
        if inside:
            gap = np.mean(correct[inside]) - np.mean(confidences[inside])
            expected += len(inside) / len(confidences) * abs(gap)
    found = expected_calibration_error(torch.from_numpy(confidences), torch.from_numpy(correct))
    assert found == pytest.approx(expected, abs=1e-12)


def test_calibration_error_of_perfect_and_of_wrong_certainty():
    certain = torch.ones(10)
    assert expected_calibration_error(certain, torch.ones(10, dtype=torch.bool)) == 0
    assert expected_calibration_error(certain, torch.zeros(10, dtype=torch.bool)) == 1


def test_resampled_means_are_those_of_plain_loops():
    draw = np.random.default_rng(1)
    labels = np.array([0] * 12 + [1] * 3 + [2] + [3] * 6)
    values = draw.normal(size=(3, len(labels)))
    scored = np.array([True, True, True, False])
    drawn = draw.integers(len(labels), size=(40, len(labels)))
    counts = np.stack([np.bincount(own, minlength=len(labels)) for own in drawn])
    sparse = torch.from_numpy(values).to_sparse(), torch.from_numpy(counts)
    top1 = resampled_means(torch.from_numpy(values), torch.from_numpy(counts))
    assert torch.allclose(resampled_means(*sparse), top1)
    recall = resampled_class_means(
        torch.from_numpy(values), torch.from_numpy(counts), torch.from_numpy(labels), torch.from_numpy(scored)
    )
    classes = torch.from_numpy(labels), torch.from_numpy(scored)
    assert torch.allclose(resampled_class_means(*sparse, *classes), recall)
    absent = 0
    for b, own in enumerate(drawn):
        for row in range(3):
            picked = values[row, own]
            assert top1[b, row] == pytest.approx(picked.mean())
            present = [c for c in range(4) if scored[c] and (labels[own] == c).any()]
            absent += len(present) < 3
            assert recall[b, row] == pytest.approx(
                np.mean([picked[labels[own] == c].mean() for c in present])
            )
    assert absent  # the rarest class is missing from some resamples


def test_interval_is_numpys_percentile():
    numbers = np.random.default_rng(2).normal(size=501)
    low, high = np.percentile(numbers, [2.5, 97.5])
    assert interval(torch.from_numpy(numbers)) == pytest.approx((low, high))


def test_simultaneous_intervals_are_those_of_a_plain_loop():
    draw = np.random.default_rng(3)
    exact, resampled = np.array([0.1, 0.0, -0.2]), draw.normal([0.1, 0.0, -0.2], [0.02, 0.0, 0.1], (300, 3))
    resampled[7] = np.nan  # a resample without a class that is scored
    good = np.delete(resampled, 7, 0)
    errors = good.std(0)
    widest = [max(abs(row[i] - exact[i]) / errors[i] for i in (0, 2)) for row in good]
    width = np.quantile(widest, 0.95) * np.array([errors[0], 0, errors[2]])
    found = simultaneous_intervals(torch.from_numpy(exact), torch.from_numpy(resampled)).numpy()
    assert found == pytest.approx(np.stack([exact - width, exact + width], 1), abs=1e-12)


def test_the_best_of_many_equals_is_seldom_called_better():
    """Twenty classifiers that are right as often as the first: one by one, most draws have a "better" one."""
    draw, plainly, corrected = torch.Generator().manual_seed(0), 0, 0
    for _ in range(60):
        right = (torch.rand(21, 200, generator=draw) < 0.6).double()
        differences = right - right[0]
        counts = torch.stack(
            [torch.randint(200, (200,), generator=draw).bincount(minlength=200) for _ in range(150)]
        )
        exact, moved = differences.mean(1), resampled_means(differences, counts)
        best = int(exact.argmax())
        plainly += interval(moved[:, best])[0] > 0
        corrected += bool(simultaneous_intervals(exact, moved)[best, 0] > 0)
    assert plainly > 12  # a fifth
    assert corrected <= 5  # 3 are expected


# ---- methods -----------------------------------------------------------------------------------------


def test_softmax_max_is_a_plain_loop(problem):
    texts, _, images, _ = problem
    found = softmax_max(images, texts, logit_scale=SCALE).exp()
    for v, row in zip(images, found, strict=True):
        cosines = [[float(v @ t / v.norm() / t.norm()) for t in own] for own in texts]
        total = sum(math.exp(SCALE * c) for own in cosines for c in own)
        expected = [max(math.exp(SCALE * c) for c in own) / total for own in cosines]
        assert row.tolist() == pytest.approx(expected, rel=1e-4)


def test_softmax_max_predicts_as_nearest_and_is_confident_otherwise(result):
    ours, other = result["nearest"], result["softmax_max"]
    assert (ours.top1, ours.recall) == (other.top1, other.recall)
    assert ours.calibration_error != other.calibration_error


def test_descriptors_are_a_plain_loop():
    """DCLIP: the mean over a class's name and descriptors of the cosines."""
    backbone = Backbone(*build("clip"))
    classes = {
        "classes": [
            {"name": "cat", "synonyms": ["kitty"], "descriptors": ["soft fur", "a long tail"]},
            {"name": "dog", "descriptors": ["floppy ears"]},
            {"name": "fish"},
        ],
        "format": "s3clip-synonyms/1",
    }
    embeds = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    labels = [i % 3 for i in range(40)]
    found = compare(
        classes, labels, backbone=backbone, image_embeds=embeds, methods=["descriptors"], bootstrap=5
    )
    prompts = [
        [
            "a photo of a cat.",
            "a photo of a cat, which has soft fur.",
            "a photo of a cat, which is a long tail.",
        ],
        ["a photo of a dog.", "a photo of a dog, which has floppy ears."],
        ["a photo of a fish."],
    ]
    correct = 0
    for v, label in zip(normalize(embeds, dim=1), labels, strict=True):
        scores = [sum(float(v @ t) for t in backbone.encode_texts(own)) / len(own) for own in prompts]
        correct += scores.index(max(scores)) == label
    assert found["descriptors"].top1 == pytest.approx(correct / 40)


def test_texts_of_methods():
    cat = {"name": "cat", "synonyms": ["kitty"], "descriptors": ["fur"], "prompts": ["a cat."]}
    cat |= {"id": 5, "groups": {"kind": "pet"}}  # which are of the class, whatever its texts
    synonyms = SynonymSet.read({"format": "s3clip-synonyms/1", "classes": [cat, {"name": "dog"}]})
    assert [c.model_dump(exclude_defaults=True) for c in names_alone(synonyms, 0).classes] == [
        {"name": "cat", "id": 5, "groups": {"kind": "pet"}},
        {"name": "dog"},
    ]
    assert [(c.synonyms, c.descriptors) for c in names_and_descriptors(synonyms, 0).classes] == [
        ((), ("fur",)),
        ((), ()),
    ]
    one, same, other = (random_descriptors(synonyms, seed).classes for seed in (0, 0, 1))
    assert one == same
    assert one[0].descriptors == one[1].descriptors  # the same for every class
    assert len(set(one[0].descriptors)) == 8
    assert set(one[0].descriptors) != set(other[0].descriptors)


def test_every_metric_of_ours_is_compared_once_in_every_setting():
    configs = [each.config for each in METHODS.values() if each.texts is None and not each.name_only]
    ours = [config for config in configs if config is not None]
    assert len({config.model_dump_json() for config in ours}) == len(ours)
    assert len(ours) == (8 + 1) * 2 * 2  # local_center with and without renormalising
    assert METHODS["default"].config == HeadConfig()
    assert METHODS["center"].config == HeadConfig(points="texts", metric="center", scale_rule=None)


# ---- the whole ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["name", "center", "default", "nearest+rips+centered", "hull", "local_center+renorm"]
)
def test_scores_are_those_of_scikit_learn_and_plain_loops(method, problem, result):
    logits, labels = logits_of(method, problem), problem[3]
    scores, predicted = result[method], logits.argmax(1)
    assert scores.top1 == pytest.approx(accuracy_score(labels, predicted))
    assert scores.recall == pytest.approx(balanced_accuracy_score(labels, predicted))
    best = logits.argsort(1, descending=True)[:, :5]
    assert scores.top5 == pytest.approx(np.mean([y in own for y, own in zip(labels, best, strict=True)]))
    confidences = logits.softmax(1).max(1).values
    error = expected_calibration_error(confidences, predicted == labels)
    assert scores.calibration_error == pytest.approx(error, abs=1e-6)


def test_differences_and_intervals_are_those_of_a_plain_loop(problem):
    texts, names, images, labels = problem
    found = compare_embeddings(
        texts,
        names,
        images,
        labels,
        logit_scale=SCALE,
        bootstrap=60,
        seed=7,
        min_images=2,
        methods=["default"],
    )["default"]
    a, b = ((logits_of(c, problem).argmax(1) == labels).double().numpy() for c in ("default", "center"))
    generator = torch.Generator().manual_seed(7)
    drawn = torch.randint(len(labels), (60, len(labels)), generator=generator).numpy()
    top1 = [np.mean(a[own]) - np.mean(b[own]) for own in drawn]
    recall = []
    numbers = labels.numpy()
    counts = np.bincount(numbers)
    for own in drawn:
        by_class = [
            np.mean([a[i] - b[i] for i in own if numbers[i] == c])
            for c in range(7)
            if counts[c] >= 2 and c in numbers[own]
        ]
        recall.append(np.mean(by_class))
    for difference, resampled, exact in (
        (found.top1_difference, top1, np.mean(a) - np.mean(b)),
        (found.recall_difference, recall, plain_recall(a, labels, 2) - plain_recall(b, labels, 2)),
    ):
        assert difference.value == pytest.approx(exact)
        assert (difference.low, difference.high) == pytest.approx(
            tuple(np.percentile(resampled, [2.5, 97.5]))
        )


def test_chunks_do_not_change_the_intervals(problem, monkeypatch):
    texts, names, images, labels = problem
    asked = {"logit_scale": SCALE, "bootstrap": 50, "methods": ["default", "name"]}
    whole = compare_embeddings(texts, names, images, labels, **asked)
    monkeypatch.setattr("s3clip.evaluation.scoring.CHUNK_NUMBERS", 7 * len(labels))
    parts = compare_embeddings(texts, names, images, labels, **asked)
    assert whole["default"].top1_difference == parts["default"].top1_difference
    assert whole["name"].recall_difference == parts["name"].recall_difference


def test_the_control_and_the_order(problem, result):
    control = result["center"]
    assert (control.top1_difference.low, control.top1_difference.value, control.top1_difference.high) == (
        0,
        0,
        0,
    )
    assert [s.top1 for s in result.scores] == sorted((s.top1 for s in result.scores), reverse=True)
    texts, names, images, labels = problem
    other = compare_embeddings(
        texts, names, images, labels, logit_scale=SCALE, bootstrap=20, control="name", methods=["default"]
    )
    assert other["default"].top1_difference.value == pytest.approx(other["default"].top1 - other["name"].top1)


def test_nothing_depends_on_the_length_of_embeddings_or_the_batch(problem, result):
    texts, names, images, labels = problem
    some = [name for name in METHODS if METHODS[name].texts is None and "hull" not in name]
    other = compare_embeddings(
        [3 * own for own in texts],
        names,
        0.1 * images,
        labels,
        logit_scale=SCALE,
        bootstrap=20,
        batch_size=11,
        methods=some,
    )
    for scores in (result[name] for name in some):
        assert other[scores.name].top1 == pytest.approx(scores.top1)
        assert other[scores.name].dropped == pytest.approx(scores.dropped)


def test_dropped_counts_distinct_texts():
    texts = [torch.eye(6)[[0, 0, 1]], torch.eye(6)[[2, 3, 4, 5, 5]]]
    found = compare_embeddings(
        texts,
        ["a", "b"],
        torch.eye(6),
        [0, 0, 1, 1, 1, 1],
        logit_scale=1.0,
        bootstrap=5,
        methods=["center"],
        configs={"one": HeadConfig(scale_rule="fixed", scale_options={"epsilon": 0.0})},
    )
    assert found["center"].dropped == 0
    assert found["one"].dropped == pytest.approx(1 - 2 / 6)


def test_labels_by_position_id_and_name():
    names, ids = ["cat", "dog", "cat"], ["7", None, "dog"]
    assert class_positions([0, 2], names, ids) == [0, 2]
    assert class_positions(torch.tensor([1, 1]), names, ids) == [1, 1]
    assert class_positions(np.array(["7", "fish"]), names, ids) == [0, None]
    assert class_positions(["dog"], names, ids) == [2]  # ids come first
    with pytest.raises(ValueError, match="'cat' is the id or name of several classes"):
        class_positions(["cat"], names, ids)
    with pytest.raises(ValueError, match="position 3 is out of range for 3 classes"):
        class_positions([3], names, ids)
    with pytest.raises(TypeError, match="got 1"):
        class_positions([1.5], names, ids)


def test_images_of_other_classes_are_left_out_and_counted(problem):
    texts, names, images, labels = problem
    words = ["else" if i % 3 == 0 else names[label] for i, label in enumerate(labels.tolist())]
    found = compare_embeddings(texts, names, images, words, logit_scale=SCALE, bootstrap=5, methods=["name"])
    kept = torch.tensor([i % 3 != 0 for i in range(len(labels))])
    same = compare_embeddings(
        texts, names, images[kept], labels[kept], logit_scale=SCALE, bootstrap=5, methods=["name"]
    )
    assert (found.left_out, found.images) == (int((~kept).sum()), int(kept.sum()))
    assert found["name"].top1 == same["name"].top1


BAD = {
    "unknown method": ({"methods": ["best"]}, "'best' is not known"),
    "method that needs texts": ({"methods": ["name_80_templates"]}, "needs a backbone"),
    "taken name": ({"configs": {"default": HeadConfig()}}, "'default'"),
    "control left out": ({"control": "random_descriptors"}, "random_descriptors"),
    "no resample": ({"bootstrap": 0}, "bootstrap: expected a whole number >= 1, got 0"),
    "min_images": ({"min_images": 500}, "no class has 500 images"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(case, problem):
    texts, names, images, labels = problem
    arguments, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        compare_embeddings(texts, names, images, labels, logit_scale=SCALE, **arguments)


def test_refused_labels(problem):
    texts, names, images, labels = problem
    with pytest.raises(ValueError, match="expected one for each of 150 images, got 149"):
        compare_embeddings(texts, names, images, labels[1:], logit_scale=SCALE)
    with pytest.raises(ValueError, match="no image is left"):
        compare_embeddings(texts, names, images, ["fish"] * 150, logit_scale=SCALE)


@pytest.mark.filterwarnings("ignore:.*truncated")  # the tiny SigLIP reads 16 letters
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_model_and_its_images(family):
    backbone = Backbone(*build(family))
    pictures, labels = held_out_digits()
    classes = {"zero": ["0", "nil"], "one": ["1"], "two": []}
    kept = [i for i in range(60) if labels[i] < 3]
    truth = [int(labels[i]) for i in kept]
    few = {} if family == "clip" else {"methods": FEW_TEXTS}
    shown = [pictures[i] for i in kept]
    found = compare(classes, truth, backbone=backbone, images=shown, bootstrap=5, batch_size=4, **few)
    names = {scores.name for scores in found.scores}
    assert names == (set(METHODS) - {"descriptors"} if family == "clip" else {"center", *FEW_TEXTS})
    assert found["random_descriptors"].seeds == 3
    with torch.no_grad():
        embeds = backbone.encode_images(**backbone.preprocess([pictures[i] for i in kept]))
    for method, templates in (("center", None), ("name_80_templates", "openai_imagenet_80")):
        own = classes if method == "center" else list(classes)
        head = SynonymousSpaceHead(backbone, config=METHODS["center"].config).fit_classes(
            own, templates=templates
        )
        logits = head(image_embeds=embeds)
        expected = (logits.argmax(1).numpy() == labels[kept]).mean()
        assert found[method].top1 == pytest.approx(expected)
        if family == "siglip":
            confidences = logits.sigmoid().max(1).values.detach()
            right = torch.from_numpy(logits.argmax(1).numpy() == labels[kept])
            error = expected_calibration_error(confidences, right)
            assert found[method].calibration_error == pytest.approx(error, abs=1e-5)
    again = compare(classes, truth, backbone=backbone, image_embeds=embeds, bootstrap=5, methods=["default"])
    assert again["default"].top1 == found["default"].top1


def test_numbers_and_names_of_any_library(problem, tmp_path):
    texts, names, images, labels = problem
    some = {"bootstrap": 20, "methods": ["name"]}
    expected = compare_embeddings(texts, names, images, labels, logit_scale=SCALE, seed=3, **some)
    found = compare_embeddings(
        [own.numpy() for own in texts],
        np.array(names),
        images.numpy(),
        np.array([names[label] for label in labels]),
        logit_scale=np.float32(SCALE),
        methods=np.array(["name"]),
        bootstrap=np.int64(20),
        seed=np.int32(3),
        batch_size=np.int16(64),
        min_images=torch.tensor(1),
    )
    found.save(tmp_path)
    for own, other in zip(found.scores, expected.scores, strict=True):
        assert own.model_copy(update={"image_ms": 0, "fit_ms": 0}) == other.model_copy(
            update={"image_ms": 0, "fit_ms": 0}
        )
    assert Comparison.model_validate_json((tmp_path / "comparison.json").read_text()).scores == found.scores
    for wrong in ({"seed": -1}, {"seed": None}, {"batch_size": 0}, {"bootstrap": True}, {"min_images": 1.0}):
        with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
            compare_embeddings(texts, names, images, labels, logit_scale=SCALE, **wrong)


def test_images_are_given_once():
    with pytest.raises(ValueError, match="exactly one of the two, got neither"):
        compare({"a": []}, [0], backbone=Backbone(*build("clip")))


# ---- conclusion -------------------------------------------------------------------------------------------


def test_the_best_is_compared_with_the_default(problem, result):
    texts, names, images, labels = problem
    best, top1 = result.best, {each.name: each.top1 for each in result.scores}
    assert top1[best.name] == max(top1.values())
    assert best.rival == ("center" if best.name == "default" else "default")
    assert best.place == 1 + sum(value > top1[best.rival] for value in top1.values())
    assert best.top1_difference.value == pytest.approx(top1[best.name] - top1[best.rival])
    for methods, expected in ((["nearest"], {"center", "nearest"}), (["default"], {"center", "default"})):
        two = compare_embeddings(
            texts, names, images, labels, logit_scale=SCALE, bootstrap=50, methods=methods
        )
        assert {two.best.name, two.best.rival} == expected
        assert f"{two.best.name} with" in two.conclusion()
    alone = compare_embeddings(texts, names, images, labels, logit_scale=SCALE, bootstrap=5, methods=[])
    assert alone.best is None
    assert alone.conclusion() == "Only center was compared."


def test_a_difference_beyond_chance_is_called_so(problem):
    """Names that say the contrary, and good synonyms: what reads these beats the names alone."""
    _, names, images, labels = problem
    draw = torch.Generator().manual_seed(1)
    truth = labels % 4
    centres = torch.stack([images[truth == c].mean(0) for c in range(4)])
    texts = [torch.cat([-c[None], c + 0.1 * torch.randn(3, DIM, generator=draw)]) for c in centres]
    found = compare_embeddings(
        *(texts, names[:4], images, truth),
        logit_scale=SCALE,
        bootstrap=200,
        methods=[],
        configs={"mine": METHODS["nearest"].config},
        control="name",
    )
    assert (found.best.name, found.best.rival, found.best.place) == ("mine", "name", 2)
    assert found.best.beyond_chance
    assert found.conclusion().endswith("beyond chance, the choice among 2 methods counted in.")


def test_the_default_and_the_control_are_always_shown(result):
    shown, every = ([row[0].value for row in result.table(n).rows] for n in (2, None))
    assert shown == [name for name in every if name in {*every[:2], "default", "center"}]
    assert every == [scores.name for scores in result.scores]


@pytest.mark.parametrize("config", [each.config for each in METHODS.values() if each.config is not None])
def test_what_differs_from_the_defaults_says_the_settings(config):
    changes = config.changes()
    assert HeadConfig(**json.loads(json.dumps(changes))) == config
    assert (changes == {}) == (config == HeadConfig())


def test_the_command_that_is_printed_fits_the_best_method(photos, tmp_path):
    """Whichever method is the best: the command, letter for letter, makes a head with its answers."""
    arrays = np.load(photos / "images.npz")
    embeds, labels = torch.from_numpy(arrays["image_embeds"]), arrays["labels"]
    source, mine = str(synonym_file()), HeadConfig(metric="hull", metric_options={"k": 2})
    synonyms, templates = SynonymSet.read(source), ["a photo of {}'s", "{}"]
    given = {"bootstrap": 5, "configs": {"config": mine}, "draws": 1, "seed": 3, "templates": templates}
    kinds = [*("name", "name_80_templates", "descriptors", "random_descriptors", "softmax_max"), "default"]
    kinds += ["local_center+renorm+rips+centered", "quantile", "config"]
    given["methods"] = [kind for kind in kinds if kind in METHODS]
    result = compare(synonyms, labels, backbone=model_folder(), image_embeds=embeds, **given)
    for kind in given["methods"] + ["config"]:
        best = result.best.model_copy(update={"name": kind})
        out = tmp_path / kind
        said = _use(
            result.model_copy(update={"best": best}),
            synonyms,
            out,
            [source],
            str(model_folder()),
            templates,
            9,
        )
        line = shlex.split(said.removeprefix("To use it: "))
        assert line[0] == "s3clip"
        ended = CliRunner().invoke(cli.app, line[1:])
        assert ended.exit_code == 0, (kind, ended.output, ended.exception)
        head = SynonymousSpaceHead.from_pretrained(out / "head", backbone=None)
        with torch.inference_mode():
            found = head(image_embeds=embeds).argmax(1)
        assert torch.equal(found, result.predicted[kind]), kind
        assert head.templates == ((*TEMPLATES["openai_imagenet_80"],) if "80" in kind else (*templates,))
    adapted = result.model_copy(update={"best": result.best.model_copy(update={"name": "config+shift"})})
    said = _use(adapted, synonyms, tmp_path, [source], "model", [], 9)  # one of `--adapt`
    assert said.endswith("/head (and predict with --adapt shift --views 9)")
    assert json.loads(shlex.split(said)[9]) == mine.changes()


# ---- report ---------------------------------------------------------------------------------------------


def test_report(result, tmp_path):
    result.save(tmp_path / "new")
    read = json.loads((tmp_path / "new" / "comparison.json").read_text())
    assert [s["name"] for s in read["scores"]] == [s.name for s in result.scores]
    assert read["images"] == 150
    # Of a build for some machines, "2.13.0+cpu", either may lack the end.
    assert read["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert read["settings"]["configs"]["default"] == HeadConfig().model_dump()
    lines = (tmp_path / "new" / "comparison.md").read_text().splitlines()
    assert len(lines) == 2 + len(result.scores) + 4
    assert lines[-1] == result.conclusion()
    assert {line.count("|") for line in lines[: 2 + len(result.scores)]} == {11}
    assert len(str(result.table()).splitlines()) == 1 + len(result.scores)
    with pytest.raises(KeyError, match="'best' was not compared"):
        result["best"]


def test_picture(result, tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    picture = Image.open(result.draw(tmp_path / "differences.png")).convert("RGB")
    assert picture.size[0] == 1300
    blue = (9, 105, 218)
    assert any(
        abs(c[0] - blue[0]) + abs(c[1] - blue[1]) + abs(c[2] - blue[2]) < 9
        for _, c in picture.getcolors(10**6)
    )


def test_without_matplotlib_the_extra_is_named(result, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 's3clip\[plot\]'"):
        result.draw(tmp_path / "differences.png")


# ---- the command ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Thirty digits as a CSV with files, as a folder for each class, and as embeddings."""
    folder = tmp_path_factory.mktemp("digits")
    pictures, labels = held_out_digits()
    names = SynonymSet.read(synonym_file()).class_names
    with (folder / "labels.csv").open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["file", "digit"])
        for i in range(30):
            for place in (folder / "flat", folder / "by_class" / names[labels[i]]):
                place.mkdir(parents=True, exist_ok=True)
                pictures[i].save(place / f"{i}.png")
            writer.writerow([f"flat/{i}.png", names[labels[i]]])
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())
    with torch.no_grad():
        embeds = head.backbone.encode_images(**head.backbone.preprocess(pictures[:30])).numpy()
    np.savez(folder / "images.npz", image_embeds=embeds, labels=labels[:30])
    np.savez(
        folder / "whole.npz",
        image_embeds=embeds,
        labels=labels[:30],
        text_embeds=head.space.raw.numpy(),
        owners=head.space.owners.numpy(),
        class_names=np.array(names),
        logit_scale=head.logit_scale.item(),
    )
    return folder


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in ("compare", *arguments)])


FEW = ("--method", "default", "--method", "name", "--bootstrap", "20")


def test_the_command_reads_images_in_every_form(photos, tmp_path):
    model = (synonym_file(), "--backbone", model_folder())
    labels = ("--labels", photos / "labels.csv", "--label-column", "digit")
    ways = {
        "csv": (*model, *labels),
        "folder": (*model, "--images", photos / "by_class"),
        "csv in a folder": (*model, *labels, "--images", photos),
        "embeddings": (*model, "--embeddings", photos / "images.npz"),
        "no model": ("--embeddings", photos / "whole.npz"),
    }
    found = {}
    for way, arguments in ways.items():
        result = run(*arguments, *FEW, "--out", tmp_path / way)
        assert result.exit_code == 0, (way, result.output, result.exception)
        ends = ("json", "md", "png") if find_spec("matplotlib") else ("json", "md")
        assert {file.name for file in (tmp_path / way).iterdir()} == {f"comparison.{end}" for end in ends}
        read = json.loads((tmp_path / way / "comparison.json").read_text())
        assert read["images"] == 30
        found[way] = sorted((s["name"], round(s["top1"], 4)) for s in read["scores"])
    assert len({str(each) for each in found.values()}) == 1, found
    assert [name for name, _ in found["csv"]] == ["center", "default", "name"]
    result = run(*model, "--images", photos / "by_class", "--bootstrap", 5, "--out", tmp_path / "whole")
    lines = result.stdout.splitlines()
    learned = run(
        *model, "--images", photos / "by_class", *FEW, "--learn", "logistic", "--out", tmp_path / "learn"
    )
    assert "logistic" in learned.stdout.partition("By the number of labelled images")[2]
    if find_spec("matplotlib"):
        assert (tmp_path / "learn" / "curve.png").stat().st_size > 5000
    assert lines[-1].startswith("Best on these 30 images: ")
    assert shlex.split(lines[-1].partition("To use it: ")[2])[:3] == ["s3clip", "fit", str(synonym_file())]
    note = next(i for i, line in enumerate(lines) if line.endswith("rows; --all prints all."))
    assert 11 <= note <= 13  # the heading, ten rows, and the default and the control
    assert {"center", "default"} <= {line.split()[0] for line in lines[:note]}


def test_the_command_takes_a_limit_templates_and_settings(photos, tmp_path):
    result = run(
        synonym_file(),
        "--backbone",
        model_folder(),
        "--labels",
        photos / "labels.csv",
        "--label-column",
        "digit",
        "--limit",
        7,
        "--template",
        "the digit {}",
        "--config",
        '{"metric": "nearest"}',
        *FEW,
        "--out",
        tmp_path,
    )
    assert result.exit_code == 0, result.output
    read = json.loads((tmp_path / "comparison.json").read_text())
    assert (read["images"], read["settings"]["templates"]) == (7, ["the digit {}"])
    assert read["settings"]["configs"]["config"]["metric"] == "nearest"


BAD_COMMANDS = {
    "nothing to score": (
        ["{digits}", "--backbone", "{model}"],
        "expected --images, --labels or --embeddings",
    ),
    "no model": (["{digits}", "--images", "{photos}/by_class"], "--backbone"),
    "no such column": (
        ["{digits}", "--backbone", "{model}", "--labels", "{photos}/labels.csv"],
        "no column 'label'",
    ),
    "no such file": (["{digits}", "--backbone", "{model}", "--labels", "{photos}/none.csv"], "none.csv"),
    "no sub-folder": (["{digits}", "--backbone", "{model}", "--images", "{photos}/flat"], "no sub-folder"),
    "both": (["{digits}", "--embeddings", "{photos}/images.npz", "--images", "{photos}"], "leave --images"),
    "no archive": (
        ["{digits}", "--backbone", "{model}", "--embeddings", "{photos}/labels.csv"],
        "labels.csv",
    ),
    "texts twice": (["{digits}", "--embeddings", "{photos}/whole.npz"], "has texts of its own"),
    "method": (["--embeddings", "{photos}/whole.npz", "--method", "best"], "'best' is not known"),
    "limit": (["--embeddings", "{photos}/whole.npz", "--limit", "0"], "--limit"),
}


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_bad_input_is_one_line_and_status_2(case, photos, tmp_path, monkeypatch, capsys):
    arguments, message = BAD_COMMANDS[case]
    places = {"digits": synonym_file(), "model": model_folder(), "photos": photos}
    line = [argument.format(**places) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["s3clip", "compare", *line, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert errors[-1].startswith("error: ")
    assert message in errors[-1]
    assert not (tmp_path / "out").exists()


def test_files_that_do_not_fit_are_refused(tmp_path):
    (tmp_path / "gap.csv").write_text("file,label\na.png,cat\nb.png,\n")
    with pytest.raises(ValueError, match="line 3: expected a file and a label"):
        labelled_images(None, tmp_path / "gap.csv")
    (tmp_path / "comma.csv").write_text('file,label\na.png,"hen, biddy"\nb.png,great white shark, shark\n')
    with pytest.raises(ValueError, match=r"comma\.csv: line 3: 3 cells, but 2 columns, .* in double quotes"):
        labelled_images(None, tmp_path / "comma.csv")
    (tmp_path / "quote.csv").write_text('file,label\na.png,"cat\nb.png,dog\n')
    with pytest.raises(ValueError, match=r"quote\.csv: line 3: not CSV"):
        labelled_images(None, tmp_path / "quote.csv")
    (tmp_path / "nul.csv").write_text("file,label\na.png,c" + "a" * 200_000 + "t\n")
    with pytest.raises(ValueError, match=r"nul\.csv: line 2: not CSV"):
        labelled_images(None, tmp_path / "nul.csv")
    (tmp_path / "formula.csv").write_text(
        Table(["file", "label"], [["=a.png", "-2 zero"], ["'b.png", "1"]]).csv()
    )
    for name in ("=a.png", "'b.png"):
        (tmp_path / name).touch()
    files, labels = labelled_images(None, tmp_path / "formula.csv")
    assert ([file.name for file in files], labels) == (["=a.png", "'b.png"], ["-2 zero", "1"])
    for encoding in ("cp1252", "utf-16"):
        (tmp_path / "café.csv").write_text("file,label\na.png,café\n", encoding=encoding)
        with pytest.raises(ValueError, match=r"café\.csv: is not UTF-8 .*; save it as UTF-8"):
            labelled_images(None, tmp_path / "café.csv")
    np.savez(tmp_path / "bare.npz", labels=[0])
    with pytest.raises(ValueError, match="no array 'image_embeds'; it has: labels"):
        read_embeddings(tmp_path / "bare.npz")
    arrays = {
        "image_embeds": np.ones((1, 2)),
        "labels": [0],
        "text_embeds": np.ones((3, 2)),
        "logit_scale": 1.0,
    }
    for owners in ([0, 0], [0, 1, 0], [0, 0, 0], [0, 1, 2]):
        np.savez(tmp_path / "owners.npz", owners=owners, class_names=["a", "b"], **arrays)
        with pytest.raises(ValueError, match="owners: expected the class of each of 3 texts"):
            read_embeddings(tmp_path / "owners.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "owners.npz").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cut.npz: not a readable .npz"):
        read_embeddings(tmp_path / "cut.npz")
    whole = (tmp_path / "owners.npz").read_bytes()
    draw = random.Random(0)
    for _ in range(300):  # of another length, of other bytes: refused by name, or read
        damaged = bytearray(whole[: draw.choice([0, 4, draw.randrange(len(whole)), len(whole)])])
        for _ in range(draw.randrange(8)):
            if damaged:
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        (tmp_path / "damaged.npz").write_bytes(damaged)
        try:
            read_embeddings(tmp_path / "damaged.npz")
        except ValueError as error:
            assert str(error).startswith(f"{tmp_path / 'damaged.npz'}: ")  # noqa: PT017
    for name, value in {
        "labels": [[0]], "text_embeds": np.ones(3), "owners": [0.0, 0.0, 1.0], "class_names": [1, 2],
        "logit_scale": [1.0, 2.0], "image_embeds": np.array([["a"]]),
    }.items():  # fmt: skip
        other = {"owners": [0, 0, 1], "class_names": ["a", "b"], **arrays, name: value}
        np.savez(tmp_path / "other.npz", **other)
        with pytest.raises(ValueError, match=rf"other\.npz: {name}: expected shape"):
            read_embeddings(tmp_path / "other.npz")
    np.save(tmp_path / "single.npy", np.ones(3))
    with pytest.raises(ValueError, match="no array 'image_embeds'"):
        read_embeddings(tmp_path / "single.npy")


def test_the_command_does_without_matplotlib(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run("--embeddings", photos / "whole.npz", *FEW, "--out", tmp_path)
    assert result.exit_code == 0
    assert "s3clip[plot]" in result.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"comparison.json", "comparison.md"}


def test_folders_of_folders_are_labelled_by_the_class_nearest_to_the_image(tmp_path):
    """A tree that `SynonymSet.read` takes: its leaves are the classes, and what images are labelled with."""
    places = ["animal/dog/a.png", "animal/dog/more/b.png", "animal/cat/c.png", "animal/d.png", "car/e.png"]
    places += ["plant/moss/f.png"]
    for place in places:
        file = tmp_path / "photos" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    (tmp_path / "photos/animal/dog/more/b.png").rename(tmp_path / "photos/animal/dog/b.png")
    (tmp_path / "photos/animal/dog/more").rmdir()
    own = SynonymSet.read(tmp_path / "photos")
    assert own.class_names == ["cat", "dog", "car", "moss"]

    def labels_of(known):
        pairs = zip(*labelled_images(tmp_path / "photos", None, is_class=known.__contains__), strict=True)
        return {file.relative_to(tmp_path / "photos").as_posix(): label for file, label in pairs}

    assert labels_of(names_and_ids(own.classes)) == {
        "animal/d.png": "animal",  # of no class: left out, and counted
        "animal/cat/c.png": "cat",
        "animal/dog/a.png": "dog",
        "animal/dog/b.png": "dog",
        "car/e.png": "car",
        "plant/moss/f.png": "moss",
    }
    # Of ids, of the wider class alone, and of folders below a class that are none.
    assert labels_of(["animal", "car"])["animal/dog/a.png"] == "animal"
    assert labels_of(["animal", "dog"])["animal/dog/a.png"] == "dog"
    assert set(labels_of(()).values()) == {"animal", "car", "plant"}


def test_the_command_scores_a_tree_of_classes_by_its_leaves(tmp_path):
    pictures, labels = held_out_digits()
    names = ["zero", "one", "two", "three"]
    for i in range(40):
        if labels[i] < 4:
            folder = tmp_path / "photos" / ("even" if labels[i] % 2 == 0 else "odd") / names[labels[i]]
            folder.mkdir(parents=True, exist_ok=True)
            pictures[i].save(folder / f"{i}.png")
    line = ["compare", str(tmp_path / "photos"), "--backbone", str(model_folder())]
    line += ["--images", str(tmp_path / "photos"), "--method", "default", "--bootstrap", "5"]
    ended = CliRunner().invoke(cli.app, [*line, "--out", str(tmp_path / "out")])
    assert ended.exit_code == 0, ended.output
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["left_out"] == 0
    assert found["images"] == sum(label < 4 for label in labels[:40])
    assert all(own["top1"] > 0.9 and own["levels"]["0"] >= own["top1"] for own in found["scores"])
