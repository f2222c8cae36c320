"""Public arguments that take numbers or names take those of numpy and torch too, with the same result."""

import json
import math

import numpy as np
import pytest
import torch

from s3clip import (
    HeadConfig,
    S3ZeroShotImageClassificationPipeline,
    SynonymousSpaceClassifier,
    SynonymousSpaceHead,
    TestTimeAdapter,
    bulk,
)
from s3clip.arguments import is_number, is_whole, plain, whole_number
from s3clip.demo import held_out_digits, model_folder, synonym_file
from s3clip.evaluation import compare, compare_embeddings
from s3clip.segmentation.pictures import heat_map

pytestmark = pytest.mark.filterwarnings("ignore:labels. every image is classified right")

IMAGES, LABELS = held_out_digits()
IMAGES, LABELS = IMAGES[:24], LABELS[:24]
NAMES = ["a", "b", "c", "d"]
TEXTS = [np.random.default_rng(i).normal(size=(3, 8)).astype(np.float32) for i in range(4)]
ROWS = np.random.default_rng(9).normal(size=(6, 8)).astype(np.float32)

WHOLE = {
    "numpy": np.int64,
    "unsigned": np.uint16,
    "array": np.array,
    "tensor": torch.tensor,
}
REAL = {
    "float32": np.float32,
    "float16": np.float16,
    "array": np.array,
    "tensor": torch.tensor,
}


@pytest.fixture(scope="module")
def backbone():
    return SynonymousSpaceHead.from_backbone(model_folder()).backbone


@pytest.fixture(scope="module")
def head(backbone):
    return SynonymousSpaceHead(backbone).fit_classes(synonym_file())


@pytest.fixture(scope="module")
def embeds(backbone):
    with torch.inference_mode():
        return backbone.encode_images(**backbone.preprocess(IMAGES))


def fitted(config=None, **options):
    return SynonymousSpaceHead(config=config).fit_embeddings(TEXTS, NAMES, **{"logit_scale": 50.0, **options})


def saved(head, tmp_path):
    """What an artifact says: plain JSON, and the numbers of the tensors beside it."""
    folder = head.save_pretrained(tmp_path / "head")
    content = json.loads((folder / "config.json").read_text())
    return content, SynonymousSpaceHead.from_pretrained(folder)(image_embeds=torch.from_numpy(ROWS)).tolist()


def written(result, tmp_path):
    """What a comparison writes, but for the times."""
    result.save(tmp_path / "comparison")
    content = json.loads((tmp_path / "comparison" / "comparison.json").read_text())
    times = [each.pop(key) for each in content["scores"] for key in ("image_ms", "fit_ms")]
    assert all(map(math.isfinite, times))
    return content


def compared(tmp_path, **options):
    options = {"logit_scale": 50.0, "bootstrap": 10, **options}
    return written(compare_embeddings(TEXTS, NAMES, ROWS, [0, 1, 2, 3, 0, 1], **options), tmp_path)


def compared_images(head, tmp_path, **options):
    options = {"bootstrap": 10, "methods": ["default", "random_descriptors"], **options}
    result = compare(synonym_file(), LABELS, backbone=head.backbone, images=IMAGES, **options)
    return written(result, tmp_path)


def labelled(head, tmp_path, **options):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        IMAGES[i].save(folder / f"{i}.png")
    out = tmp_path / "out"
    options = {"workers": 0, "batch_size": 2, "part_size": 4, "progress": False, **options}
    summary = bulk.label(folder, head, out, **options)
    settings = json.loads((out / "_s3clip" / "manifest.json").read_text())["settings"]
    return summary.counts if hasattr(summary, "counts") else summary.rows, settings


def areas(head, **options):
    options = {"window": 16, "stride": 8, "short_side": 32, **options}
    return [each.areas() for each in head.segment(IMAGES[:2], **options)]


def adapted(head, **options):
    return head.predict(IMAGES[:2], adapt=TestTimeAdapter(head, **{"views": 4, **options}))


def piped(head, **options):
    model = head.backbone
    parts = {"tokenizer": model.tokenizer, "image_processor": model.image_processor}
    pipe = S3ZeroShotImageClassificationPipeline(model=model.model, **parts, head=head)
    return pipe(IMAGES[0], **options)


def metric(name, **options):
    return HeadConfig(metric=name, metric_options=options)


def rule(name, **options):
    return HeadConfig(scale_rule=name, scale_options=options)


WAYS = {
    "predict(top_k=)": (2, lambda v, head, **_: head.predict(IMAGES, top_k=v)),
    "predict(batch_size=)": (5, lambda v, head, **_: head.predict(IMAGES, batch_size=v)),
    "predict_proba(batch_size=)": (5, lambda v, head, **_: head.predict_proba(IMAGES, batch_size=v).tolist()),
    "top_classes(k=)": (
        2,
        lambda v, head, embeds, **_: head.top_classes(image_embeds=embeds, k=v).class_index.tolist(),
    ),
    "fit_classes(batch_size=)": (
        7,
        lambda v, head, **_: head.fit_classes(synonym_file(), batch_size=v).class_names,
    ),
    "segment(window=)": (32, lambda v, head, **_: areas(head, window=v)),
    "segment(stride=)": (4, lambda v, head, **_: areas(head, stride=v)),
    "segment(short_side=)": (40, lambda v, head, **_: areas(head, short_side=v)),
    "segment(batch_size=)": (2, lambda v, head, **_: areas(head, batch_size=v)),
    "segment(max_bytes=)": (50_000, lambda v, head, **_: areas(head, max_bytes=v)),
    "segment(threshold=)": (0.5, lambda v, head, **_: areas(head, threshold=v)),
    "segment(background=)": (1, lambda v, head, **_: areas(head, threshold=0.5, background=v)),
    "Segmentation.probabilities": (
        1,
        lambda v, head, **_: head.segment(IMAGES[0])[0].probabilities(v, max_bytes=50_000 + v).tolist(),
    ),
    "heat_map": (1, lambda v, head, **_: heat_map(IMAGES[0], head.segment(IMAGES[0])[0], v).tobytes()),
    "TestTimeAdapter(views=)": (3, lambda v, head, **_: adapted(head, views=v)),
    "TestTimeAdapter(steps=)": (2, lambda v, head, **_: adapted(head, steps=v)),
    "TestTimeAdapter(seed=)": (3, lambda v, head, **_: adapted(head, seed=v)),
    "TestTimeAdapter(confidence=)": (0.5, lambda v, head, **_: adapted(head, confidence=v)),
    "TestTimeAdapter(lr=)": (0.25, lambda v, head, **_: adapted(head, lr=v)),
    "TestTimeAdapter(crop_area=)": (0.5, lambda v, head, **_: adapted(head, crop_area=v)),
    "pipeline(top_k=)": (2, lambda v, head, **_: piped(head, top_k=v)),
    "k of local_center": (
        2,
        lambda v, tmp_path, **_: saved(fitted(metric("local_center", k=v)), tmp_path),
    ),
    "share of local_center": (
        0.5,
        lambda v, tmp_path, **_: saved(fitted(metric("local_center", k=v)), tmp_path),
    ),
    "beta": (2.0, lambda v, tmp_path, **_: saved(fitted(metric("soft_nearest", beta=v)), tmp_path)),
    "r": (2, lambda v, tmp_path, **_: saved(fitted(metric("subspace", r=v)), tmp_path)),
    "epsilon": (0.5, lambda v, tmp_path, **_: saved(fitted(rule("fixed", epsilon=v)), tmp_path)),
    "q": (0.5, lambda v, tmp_path, **_: saved(fitted(rule("quantile", q=v)), tmp_path)),
    "HeadConfig(logit_scale=)": (
        50.0,
        lambda v, tmp_path, **_: saved(fitted(HeadConfig(logit_scale=v), logit_scale=None), tmp_path),
    ),
    "HeadConfig(logit_scale=) whole": (
        50,
        lambda v, tmp_path, **_: saved(fitted(HeadConfig(logit_scale=v), logit_scale=None), tmp_path),
    ),
    "reconfigure(logit_scale=)": (
        0.5,
        lambda v, tmp_path, **_: saved(fitted().reconfigure(logit_scale=v), tmp_path),
    ),
    "fit_embeddings(logit_scale=)": (
        0.5,
        lambda v, tmp_path, **_: saved(fitted(logit_scale=v), tmp_path),
    ),
    "remove_classes": (1, lambda v, tmp_path, **_: saved(fitted().remove_classes(v), tmp_path)),
    "remove_classes of a list": (
        1,
        lambda v, tmp_path, **_: saved(fitted().remove_classes([0, v]), tmp_path),
    ),
    "rename_class": (1, lambda v, tmp_path, **_: saved(fitted().rename_class(v, "x"), tmp_path)),
    "fit_rejection(false_accept_rate=)": (
        0.25,
        lambda v, tmp_path, **_: saved(
            fitted().fit_rejection(image_embeds=ROWS, false_accept_rate=v), tmp_path
        ),
    ),
    "calibrate(labels=)": (
        1,
        lambda v, tmp_path, **_: saved(
            fitted().calibrate(image_embeds=ROWS, labels=[0, v, 2, 3, 0, v]), tmp_path
        ),
    ),
    "label(top_k=)": (2, lambda v, head, tmp_path, **_: labelled(head, tmp_path, top_k=v)),
    "label(batch_size=)": (4, lambda v, head, tmp_path, **_: labelled(head, tmp_path, batch_size=v)),
    "label(part_size=)": (8, lambda v, head, tmp_path, **_: labelled(head, tmp_path, part_size=v)),
    "label(workers=)": (0, lambda v, head, tmp_path, **_: labelled(head, tmp_path, workers=v)),
    "label(max_error_share=)": (
        0.5,
        lambda v, head, tmp_path, **_: labelled(head, tmp_path, max_error_share=v),
    ),
    "compare_embeddings(logit_scale=)": (0.5, lambda v, tmp_path, **_: compared(tmp_path, logit_scale=v)),
    "compare(bootstrap=)": (20, lambda v, tmp_path, **_: compared(tmp_path, bootstrap=v)),
    "compare(seed=)": (2, lambda v, tmp_path, **_: compared(tmp_path, seed=v)),
    "compare(batch_size=)": (2, lambda v, tmp_path, **_: compared(tmp_path, batch_size=v)),
    "compare(min_images=)": (1, lambda v, tmp_path, **_: compared(tmp_path, min_images=v)),
    "compare(draws=)": (2, lambda v, head, tmp_path, **_: compared_images(head, tmp_path, draws=v)),
    "compare(views=)": (
        2,
        lambda v, head, tmp_path, **_: compared_images(head, tmp_path, adapt=["zero"], views=v),
    ),
    "SynonymousSpaceClassifier(logit_scale=)": (
        0.5,
        lambda v, **_: (
            (SynonymousSpaceClassifier(logit_scale=v).fit(np.concatenate(TEXTS), np.repeat(NAMES, 3)))
            .predict_proba(ROWS)
            .tolist()
        ),
    ),
}
CASES = [
    (way, kind) for way, (value, _) in WAYS.items() for kind in (WHOLE if isinstance(value, int) else REAL)
]


@pytest.mark.parametrize(("way", "kind"), CASES)
def test_a_number_of_any_type_says_what_one_of_python_says(head, embeds, tmp_path, way, kind):
    value, answer = WAYS[way]
    given = (WHOLE if isinstance(value, int) else REAL)[kind](value)
    for name in ("plain", "other"):
        (tmp_path / name).mkdir()
    expected = answer(value, head=head, embeds=embeds, tmp_path=tmp_path / "plain")
    assert answer(given, head=head, embeds=embeds, tmp_path=tmp_path / "other") == expected


@pytest.mark.parametrize("kind", [np.array, lambda names: np.array(names, dtype=object), tuple])
def test_names_in_arrays_are_names(backbone, embeds, tmp_path, kind):
    folder = fitted().save_pretrained(tmp_path / "plain")
    again = SynonymousSpaceHead().fit_embeddings(TEXTS, kind(NAMES), logit_scale=50.0)
    assert (again.save_pretrained(tmp_path / "other") / "config.json").read_text() == (
        folder / "config.json"
    ).read_text()

    head = SynonymousSpaceHead(backbone)
    plainly = head.fit_classes(NAMES, templates=["a {}", "the {}"])(image_embeds=embeds)
    found = SynonymousSpaceHead(backbone).fit_classes(kind(NAMES), templates=kind(["a {}", "the {}"]))
    assert torch.equal(found(image_embeds=embeds), plainly)
    json.dumps(found.save_pretrained(tmp_path / "named").joinpath("config.json").read_text())

    digits = SynonymousSpaceHead(backbone).fit_classes(synonym_file())
    by_name = digits.calibrate(image_embeds=embeds, labels=kind([digits.class_names[i] for i in LABELS]))
    named = by_name.calibration
    assert digits.calibrate(image_embeds=embeds, labels=LABELS).calibration == named
    removed = fitted().remove_classes(kind(["a", "c"]))
    assert removed.class_names == ["b", "d"]
    result = compare_embeddings(
        TEXTS, kind(NAMES), ROWS, kind(["a", "b", "c", "d", "a", "b"]), logit_scale=50.0, bootstrap=10
    )
    assert json.dumps(result.model_dump() if hasattr(result, "model_dump") else str(result.table()))


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.tolist(),
        LABELS.astype(np.uint8),
        LABELS.astype(np.uint16),
        LABELS.astype(np.uint64),
        torch.from_numpy(LABELS),
        [torch.tensor(label) for label in LABELS.tolist()],
        [np.uint32(label) for label in LABELS],
        tuple(LABELS),
    ],
)
def test_positions_in_arrays_are_positions(backbone, embeds, labels):
    head = SynonymousSpaceHead(backbone).fit_classes(synonym_file())
    expected = head.calibrate(image_embeds=embeds, labels=LABELS).calibration
    assert head.calibrate(image_embeds=embeds.numpy(), labels=labels).calibration == expected
    table = np.eye(10)[LABELS]
    of_table = head.calibrate(image_embeds=embeds, labels=table).calibration
    for kind in (torch.from_numpy, np.ndarray.tolist):
        assert head.calibrate(image_embeds=embeds, labels=kind(table)).calibration == of_table


def test_embeddings_come_as_a_dict_as_arrays_and_as_lists():
    expected = fitted()(image_embeds=torch.from_numpy(ROWS))
    for given in (
        (dict(zip(NAMES, TEXTS, strict=True)),),
        (dict(zip(NAMES, map(torch.from_numpy, TEXTS), strict=True)),),
        (np.stack(TEXTS), NAMES),
        (torch.from_numpy(np.stack(TEXTS)), NAMES),
        ([rows.tolist() for rows in TEXTS], NAMES),
        (tuple(TEXTS), tuple(NAMES)),
    ):
        head = SynonymousSpaceHead().fit_embeddings(*given, logit_scale=50.0)
        assert head.class_names == NAMES
        assert torch.equal(head(image_embeds=torch.from_numpy(ROWS)), expected)
    scale = torch.nn.Parameter(torch.tensor([50.0]))  # as SigLIP has it
    assert torch.equal(fitted(logit_scale=scale)(image_embeds=torch.from_numpy(ROWS)), expected)


def test_records_of_arrays_and_numbers_of_numpy_are_classes(backbone, tmp_path):
    records = [
        {"name": np.str_("cat"), "id": np.int64(3), "synonyms": np.array(["feline", "kitty"])},
        {"name": "dog", "id": np.int64(4), "synonyms": ()},
    ]
    head = SynonymousSpaceHead(backbone).fit_classes(records)
    content = json.loads((head.save_pretrained(tmp_path) / "config.json").read_text())
    assert [(each["name"], each["id"]) for each in content["classes"]] == [("cat", 3), ("dog", 4)]
    assert head.classes[0].texts == ["cat", "feline", "kitty"]
    as_dict = SynonymousSpaceHead(backbone).fit_classes({"cat": np.array(["feline", "kitty"]), "dog": ()})
    assert torch.equal(as_dict.text_embeddings, head.text_embeddings)


NOT_NUMBERS = [True, np.True_, torch.tensor(True), "2", np.str_("2"), None, [2], np.array([2, 3]), 2 + 0j, {}]


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=repr)
def test_what_is_no_number_is_none_of_any_type(head, value):
    assert not is_number(value)
    assert not is_whole(value)
    with pytest.raises(ValueError, match=r"n: expected a whole number >= 1, got"):
        whole_number(value, "n")
    with pytest.raises(ValueError, match=r"top_k: expected a whole number >= 1, got"):
        head.predict(IMAGES[0], top_k=value)
    with pytest.raises(ValueError, match="logit_scale"):
        HeadConfig(logit_scale=value if value is not None else "none")


@pytest.mark.parametrize("kind", [float, np.float16, np.float32, np.array, torch.tensor])
def test_numbers_that_are_none_of_the_right_ones_are_refused_in_any_type(kind):
    assert not is_whole(kind(2.5))
    assert not is_number(kind(math.nan))
    assert is_number(kind(math.inf))
    with pytest.raises(ValueError, match=r"n: expected a whole number >= 1, got"):
        whole_number(kind(2.0), "n")
    for value in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"logit_scale: expected a number > 0, .* got"):
            HeadConfig(logit_scale=kind(value))


def test_plain_numbers_are_of_python_and_the_rest_stays():
    for value in (np.int8(3), np.uint64(3), np.array(3), torch.tensor(3), 3):
        assert (plain(value), type(plain(value))) == (3, int)
    for value in (np.float16(0.5), np.array(0.5), torch.tensor(0.5, dtype=torch.bfloat16), 0.5):
        assert (plain(value), type(plain(value))) == (0.5, float)
    for value in (True, "3", None, [3], (array := np.array([3])), np.array([])):
        assert plain(value) is value
    assert plain(array) is array


@pytest.mark.parametrize("number", [int, float, np.float32, torch.tensor])
def test_a_head_has_one_digest_before_it_is_saved_and_after(number, tmp_path):
    """By it `label` knows the results of a head: a whole number and the same as a float are one."""
    head = fitted(logit_scale=number(50))
    head.fit_few_shot(image_embeds=ROWS, labels=[0, 1, 2, 3, 0, None], false_accept_rate=number(0))
    assert (
        head.class_space.digest()
        == fitted(logit_scale=50.0)
        .fit_few_shot(image_embeds=ROWS, labels=[0, 1, 2, 3, 0, None], false_accept_rate=0.0)
        .class_space.digest()
    )
    loaded = SynonymousSpaceHead.from_pretrained(head.save_pretrained(tmp_path / "head"))
    assert loaded.class_space.digest() == head.class_space.digest()
