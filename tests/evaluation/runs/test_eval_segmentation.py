"""`s3clip eval` on segmentation: folders of mmseg, scores against a plain loop, kills, two processes."""

import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from s3clip import Backbone, SynonymousSpaceHead, SynonymSet, cli
from s3clip.demo import held_out_digits, model_folder, synonym_file
from s3clip.evaluation.benchmarks.masks import MaskedImage, read_mask
from s3clip.evaluation.benchmarks.opening import open_benchmark
from s3clip.evaluation.benchmarks.table import benchmarks, find_benchmark
from s3clip.evaluation.methods import METHODS
from s3clip.evaluation.runs.cache import content_id
from s3clip.evaluation.runs.run import evaluate
from s3clip.evaluation.runs.store import Store
from tests import local_masks
from tests.local_masks import ABSENT, BROKEN, LISTED, PICTURES, open_masks, write_masks, write_row
from tests.local_sets import TORCHRUN, launched, results
from tests.tiny_models import build

_VOC = ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", "ImageSets/Segmentation/val.txt")
_CONTEXT = ("JPEGImages/{}.jpg", "SegmentationClassContext/{}.png", "ImageSets/SegmentationContext/val.txt")
_COCO = "images/val2017/{}.jpg"
# Folder, picture, mask and list; whether 0 does not count; threshold; short side: as published.
LAYOUTS = {
    "voc21": ("VOCdevkit/VOC2012", *_VOC, False, 0.1, 336),
    "voc20": ("VOCdevkit/VOC2012", *_VOC, True, None, 336),
    "pascal_context60": ("VOCdevkit/VOC2010", *_CONTEXT, False, 0.1, 336),
    "pascal_context59": ("VOCdevkit/VOC2010", *_CONTEXT, True, None, 336),
    "coco_object": (
        "coco_stuff164k", _COCO, "annotations/val2017/{}_instanceTrainIds.png", None, False, 0.1, 336,
    ),
    "coco_stuff171": (
        "coco_stuff164k", _COCO, "annotations/val2017/{}_labelTrainIds.png", None, False, None, 448,
    ),
    "ade20k150": (
        "ade/ADEChallengeData2016", "images/validation/{}.jpg", "annotations/validation/{}.png",
        None, True, None, 336,
    ),
    "cityscapes": (
        "cityscapes", "leftImg8bit/val/{}_leftImg8bit.png", "gtFine/val/{}_gtFine_labelTrainIds.png",
        None, False, None, 560,
    ),
}  # fmt: skip


OWN = benchmarks()["ade20k150"].conventions["mmseg"].model_copy(update={"classes": None})


def write_set(root, name, keys, labels=None, size=(40, 30)):
    """Write pictures and masks as mmseg lays out a benchmark; every pixel of mask i has `labels[i]`."""
    folder, image, mask, listed = LAYOUTS[name][:4]
    for i, key in enumerate(keys):
        for pattern, picture in (
            (image, Image.effect_noise(size, 60)),
            (mask, Image.new("L", size, 1 if labels is None else labels[i])),
        ):
            path = root / folder / pattern.format(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    if listed:
        (root / folder / listed).parent.mkdir(parents=True, exist_ok=True)
        (root / folder / listed).write_text("".join(f"{key}\n" for key in keys))
    return root / folder


@pytest.fixture(scope="module")
def backbone():
    return Backbone.from_pretrained(str(model_folder()))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_masks(tmp_path_factory.mktemp("masks") / "data")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The results of one process that ran through."""
    out = tmp_path_factory.mktemp("whole")
    local_masks.main(data, out)
    return results(out)


# ---- what lies on disk ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
def test_benchmarks_are_read_as_mmseg_lays_them_out(name, tmp_path):
    keys = ["ulm/b", "ulm/a"] if name == "cityscapes" else ["b", "a"]
    folder = write_set(tmp_path, name, keys)
    _, image, mask, listed, reduce, threshold, short_side = LAYOUTS[name]
    row = benchmarks()[name]
    found = open_benchmark(row, tmp_path)
    ordered = keys if listed else sorted(keys)  # a list says the order
    assert found.shards == tuple(
        MaskedImage(key, folder / image.format(key), folder / mask.format(key)) for key in ordered
    )
    layout = found.layout
    assert (layout.reduce_zero_label, layout.threshold) == (reduce, threshold)
    assert (layout.window, layout.stride, layout.short_side) == (224, 112, short_side)
    assert (found.convention, found.split, found.expected_images) == (
        "mmseg",
        "val",
        row.conventions["mmseg"].images,
    )
    # A threshold makes pixels of the first class, which is then the background.
    assert (SynonymSet.builtin(name).classes[0].name == "background") == (threshold is not None)
    if listed:
        (folder / listed).write_text("a\n\n  with a space  \na\n")
        with pytest.raises(ValueError, match=f"{listed}: 'a' is listed 2 times"):
            open_benchmark(row, tmp_path)
        (folder / listed).write_text("a\n\n  with a space  \n")
        assert [pair.key for pair in open_benchmark(row, tmp_path).shards] == ["a", "with a space"]
        (folder / listed).write_text("\n")
        with pytest.raises(ValueError, match=r"val\.txt: no pictures are listed"):
            open_benchmark(row, tmp_path)
        (folder / listed).unlink()
        with pytest.raises(FileNotFoundError, match=f"{name}: not found; looked for .*{listed}"):
            open_benchmark(row, tmp_path)


def test_what_does_not_fit_is_refused(tmp_path):
    row = benchmarks()["ade20k150"]
    with pytest.raises(FileNotFoundError, match=r"not found; looked for .*images/validation; see docs"):
        open_benchmark(row, tmp_path)
    folder = write_set(tmp_path, "ade20k150", ["a"])
    with pytest.raises(ValueError, match=r"expected 150 classes, got 10 \(in its synonyms\)"):
        open_benchmark(row, tmp_path, synonyms=SynonymSet.read(synonym_file()))
    many = SynonymSet.read([f"thing {i}" for i in range(256)])
    with pytest.raises(ValueError, match=r"expected at most 255 classes, .* got 256"):
        open_benchmark(row.model_copy(update={"conventions": {"own": OWN}}), tmp_path, synonyms=many)
    with pytest.raises(ValueError, match="not on the Hub"):
        open_benchmark(row, "hf://datasets")
    (folder / "images/validation/._a.jpg").write_bytes(b"left by another system")
    assert [pair.key for pair in open_benchmark(row, tmp_path).shards] == ["a"]
    (folder / "images/validation/a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"images/validation/\*\.jpg"):
        open_benchmark(row, tmp_path)


def test_reduce_zero_label(tmp_path):
    pair = MaskedImage("key", tmp_path / "key.jpg", tmp_path / "key.png")
    Image.fromarray(np.array([[0, 1, 20], [255, 2, 150]], np.uint8)).save(pair.mask)
    assert read_mask(pair, reduce_zero_label=True).tolist() == [[255, 0, 19], [255, 1, 149]]
    assert read_mask(pair).tolist() == [[0, 1, 20], [255, 2, 150]]
    Image.new("RGB", (2, 2)).save(pair.mask)
    with pytest.raises(ValueError, match=r"key: key\.png is not a readable mask .* got mode RGB"):
        read_mask(pair)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"threshold": 0.1, "reduce_zero_label": True}, "threshold: it makes pixels background"),
        ({"threshold": 2}, "threshold: must be 1 or less, not 2"),
        ({"window": 0}, "window: must be above 0, not 0"),
        ({"suffix": ".png"}, "suffix: is not known"),
    ],
)
def test_a_wrong_row_of_ones_own_is_refused(layout, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        find_benchmark(write_row(tmp_path, **layout))


# ---- scores ---------------------------------------------------------------------------------------------


def plain_scores(truths, guesses, classes):
    """Return mIoU, pixel accuracy and each IoU, pixel by pixel."""
    both, either, right, total = [0] * classes, [0] * classes, 0, 0
    for truth, guess in zip(truths, guesses, strict=True):
        for t, g in zip(truth.flatten().tolist(), guess.flatten().tolist(), strict=True):
            if t == 255:
                continue
            total += 1
            right += t == g
            for c in {t, g}:
                either[c] += 1
                both[c] += t == g
    ious = [b / e if e else None for b, e in zip(both, either, strict=True)]
    there = [each for each in ious if each is not None]
    return sum(there) / len(there), right / total, ious


def heads(backbone, words, templates):
    """The four methods, each fitted the way that users fit, and how they bring texts together."""
    names = SynonymousSpaceHead(backbone, config=METHODS["name"].config)
    center = SynonymousSpaceHead(backbone, config=METHODS["center"].config)
    default = SynonymousSpaceHead(backbone)
    return {
        "name": (names.fit_classes([each.name for each in words.classes], templates=templates), "space"),
        "center": (center.fit_classes(words, templates=templates), "space"),
        "default": (default.fit_classes(words, templates=templates), "space"),
        "softmax_max": (center, "softmax_then_max"),
    }


@pytest.mark.parametrize("changed", [{}, {"threshold": 0.2}, {"reduce_zero_label": True}])
def test_scores_are_those_of_a_plain_loop(changed, backbone, data, whole, tmp_path):
    opened = open_masks(data)
    good = [pair for pair in opened.shards if pair.key not in BROKEN]
    truths = [np.array(Image.open(pair.mask)) for pair in good]
    (benchmark,) = whole["benchmarks"]
    if changed:
        layout = opened.layout.model_copy(update=changed)
        run = evaluate(
            [replace(opened, layout=layout, shards=tuple(good))],
            backbone=backbone,
            cache=tmp_path,
            bootstrap=20,
        )
        (benchmark,) = run.to_dict()["benchmarks"]
    threshold = changed.get("threshold")
    assert benchmark["threshold"] == threshold
    if "reduce_zero_label" in changed:
        truths = [np.where((truth == 0) | (truth == 255), 255, truth - 1.0).astype(int) for truth in truths]
    assert benchmark["pixels"] == sum(int((truth != 255).sum()) for truth in truths)
    found = {score["name"]: score for score in benchmark["scores"]}
    assert list(found) == sorted(found, key=lambda name: -found[name]["miou"])
    plain = {}
    for name, (head, aggregation) in heads(backbone, opened.synonyms, opened.templates).items():
        segmented = head.segment(
            [pair.image for pair in good],
            aggregation=aggregation,
            threshold=threshold,
            background=None if threshold is None else 0,
        )
        plain[name] = plain_scores(truths, [each.labels for each in segmented], 10)
        assert found[name]["miou"] == pytest.approx(plain[name][0])
        assert found[name]["pixel_accuracy"] == pytest.approx(plain[name][1])
        assert found[name]["class_iou"] == pytest.approx(plain[name][2])
    assert found.keys() == plain.keys()
    assert len({round(each[0], 6) for each in plain.values()}) == 4  # they do differ
    for name, score in found.items():
        difference = score["differences"]["miou"]
        assert difference["value"] == pytest.approx(plain[name][0] - plain["center"][0])
        assert difference["low"] <= difference["value"] <= difference["high"]
    assert found["center"]["differences"]["miou"] == {"value": 0, "low": 0, "high": 0}


def test_intervals_are_those_of_resampled_pictures(backbone, data, tmp_path):
    opened = open_masks(data)
    run = evaluate([opened], backbone=backbone, cache=tmp_path, bootstrap=200, seed=3)
    scores = {score["name"]: score for score in run.to_dict()["benchmarks"][0]["scores"]}
    good = [pair for pair in opened.shards if pair.key not in BROKEN]
    truths = [np.array(Image.open(pair.mask)).astype(int) for pair in good]
    confusion = {}
    for name in ("center", "default"):
        head, aggregation = heads(backbone, opened.synonyms, opened.templates)[name]
        found = head.segment([pair.image for pair in good], aggregation=aggregation)
        confusion[name] = []
        for truth, each in zip(truths, found, strict=True):
            table = np.zeros((10, 10))
            np.add.at(table, (truth[truth != 255], each.labels.numpy()[truth != 255]), 1)
            confusion[name].append(table)
    drawn = torch.randint(PICTURES, (200, PICTURES), generator=torch.Generator().manual_seed(3)).numpy()
    differences = []
    for rows in drawn:
        value = {}
        for name, tables in confusion.items():
            total = sum(tables[row] for row in rows)
            with np.errstate(invalid="ignore"):
                ious = np.diag(total) / (total.sum(0) + total.sum(1) - np.diag(total))
            value[name] = np.nanmean(ious)
        differences.append(value["default"] - value["center"])
    found = scores["default"]["differences"]["miou"]
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.percentile(differences, [2.5, 97.5])))


def test_what_cannot_be_scored_is_named_and_counted(whole):
    (benchmark,) = whole["benchmarks"]
    assert benchmark["counts"] == {
        "scored": PICTURES,
        "of": LISTED,
        "found": LISTED,
        "expected": LISTED,
        "broken": len(BROKEN),
        "left_out": 0,
    }
    errors = {each["key"]: each["error"] for each in benchmark["broken"]}
    assert errors.keys() == BROKEN.keys()
    for key, error in errors.items():
        assert error.startswith(f"{key}: ")
        assert BROKEN[key] in error
    name = benchmark["class_names"][ABSENT]
    assert any(f"no pixel is of 1 of the classes: {name}" in each for each in benchmark["warnings"])
    assert benchmark["scored_classes"] == 9
    for score in benchmark["scores"]:  # taken for by some, and never right; or neither
        assert score["class_iou"][ABSENT] in (0, None)
    worst = benchmark["worst_classes"]["classes"]
    assert [each["iou"] for each in worst] == sorted(each["iou"] for each in worst)
    assert all(each["examples"][0]["thumbnail"] for each in worst)


def test_a_set_of_which_nothing_can_be_scored_is_refused(backbone, data, tmp_path):
    opened = open_masks(data)
    only = [pair for pair in opened.shards if pair.key in BROKEN]
    with pytest.raises(ValueError, match="no pixel to score: 5 pictures found, 5 of them cannot be scored"):
        evaluate([replace(opened, shards=tuple(only))], backbone=backbone, cache=tmp_path, bootstrap=5)
    assert (
        evaluate(  # another number than expected is said, and goes on
            [replace(opened, expected_images=99)], backbone=backbone, cache=tmp_path, bootstrap=5
        ).to_dict()["benchmarks"][0]["counts"]["of"]
        == 99
    )


def test_methods_and_patch_features(backbone, data, tmp_path):
    opened = replace(open_masks(data), shards=open_masks(data).shards[:2])
    some = ["nearest", "name_7_templates", "local_star+rips"]
    for name in ("maskclip", "naclip"):
        run = evaluate(
            [opened], backbone=backbone, cache=tmp_path, bootstrap=5, methods=some, patch_features=name
        )
        (benchmark,) = run.to_dict()["benchmarks"]
        assert {score["name"] for score in benchmark["scores"]} == {"center", *some}
        assert benchmark["patch_features"] == name
        assert run.measured.benchmarks[0].images_encoded == 2  # nothing of the others is taken
    for asked, message in (
        ({"methods": ["random_descriptors"]}, "'random_descriptors' draws its texts"),
        ({"methods": ["nearer"]}, "'nearer' is not known"),
        ({"patch_features": "gem"}, "patch_features: expected one of patch"),
        ({"near_size": True}, "near_size: is of classification, and none of the sets is"),
        ({"bootstrap": 0}, "bootstrap: expected a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate([opened], backbone=backbone, cache=tmp_path, **asked)


# ---- on disk: several processes, kills, and what changed ------------------------------------------------


def test_two_processes_give_the_results_of_one(whole, data, tmp_path):
    pytest.importorskip("accelerate")
    log = tmp_path / "log"
    command = [*TORCHRUN, "-m", "tests.local_masks", str(data), str(tmp_path / "out"), str(log)]
    ended = launched(command, [tmp_path / "out", log])
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert results(tmp_path / "out") == whole
    counted = Counter(log.read_text().splitlines())
    assert len(counted) == PICTURES
    assert set(counted.values()) == {1}
    measured = json.loads((tmp_path / "out" / "run.json").read_text())["measured"]
    assert measured["processes"] == 2
    assert measured["benchmarks"][0]["images_encoded"] == PICTURES
    # One process goes on with what two have left.
    local_masks.main(data, tmp_path / "out", tmp_path / "again")
    assert results(tmp_path / "out") == whole
    assert not (tmp_path / "again").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("seed", range(4))
def test_a_killed_run_goes_on_and_encodes_each_picture_once(seed, whole, data, tmp_path):
    draw = random.Random(seed)
    out, logs = tmp_path / "out", [tmp_path / "first", tmp_path / "second"]
    running = multiprocessing.get_context("fork").Process(target=local_masks.main, args=(data, out, logs[0]))
    running.start()
    at_least = draw.randrange(1, PICTURES - 1)  # pictures written when the signal is sent
    while running.is_alive() and not (logs[0].exists() and logs[0].read_text().count("\n") >= at_least):
        time.sleep(0.0005)
    time.sleep(draw.random() * 0.002)
    os.kill(running.pid, signal.SIGKILL)
    running.join()
    assert not (out / "run.json").exists()

    on_disk = [each for folder in {path.parent for path in out.rglob("*.jsonl")} for each in counted(folder)]
    assert set(logs[0].read_text().splitlines()) <= set(on_disk)  # what was said to be written is there
    local_masks.main(data, out, logs[1])
    assert results(out) == whole
    good = [
        content_id([pair.image.read_bytes(), pair.mask.read_bytes()]).hex()
        for pair in open_masks(data).shards
        if pair.key not in BROKEN
    ]
    assert sorted(on_disk + logs[1].read_text().splitlines()) == sorted(good)
    assert 0 < len(on_disk) < len(good)


def counted(folder):
    return [each for entry in Store(folder).new_entries() for each in entry.content.get("ids", [])]


def test_a_file_cut_off_anywhere_reads_as_whole_pictures(whole, data, tmp_path):
    local_masks.main(data, tmp_path)
    (path,) = tmp_path.rglob("*.jsonl")
    content = path.read_bytes()
    keys = counted(path.parent)
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        lines = [line for line in content[:length].splitlines(keepends=True) if line.endswith(b"\n")]
        assert counted(path.parent) == keys[: sum(b'"ids":' in line for line in lines)]
    for damaged in (b"\0" * 40 + content[40:], b"{}\n" + content, b"17\n" + content):
        path.write_bytes(damaged)
        assert not counted(path.parent)
    local_masks.main(data, tmp_path)
    assert results(tmp_path) == whole
    assert len(counted(path.parent)) == PICTURES


def test_what_changed_is_encoded_again(backbone, data, tmp_path):
    folder = tmp_path / "data"
    write_masks(folder, pictures=3)
    asked = {"backbone": backbone, "cache": tmp_path / "cache", "bootstrap": 5}

    def encoded():
        run = evaluate([open_masks(folder)], **asked)
        return run.measured.benchmarks[0].images_encoded, run.to_dict()["benchmarks"][0]

    assert encoded()[0] == 3
    count, before = encoded()
    assert count == 0
    mask = folder / "masks" / "a" / "01.png"
    Image.new("L", (48, 32), 3).save(mask)
    count, after = encoded()
    assert count == 1
    assert after["pixels"] != before["pixels"]
    assert encoded()[0] == 0  # the newer of the two is the one that is there
    mask.unlink()
    assert encoded()[1]["counts"]["broken"] == len(BROKEN) + 1
    # Other words are other counts.
    write_row(folder, name="other", threshold=0.3)
    run = evaluate([open_masks(folder, "other")], **asked)
    assert run.measured.benchmarks[0].images_encoded == 2


def test_two_runs_do_not_write_one_file(backbone, data, tmp_path):
    pytest.importorskip("fcntl")
    evaluate([open_masks(data)], backbone=backbone, cache=tmp_path, bootstrap=5)
    (path,) = tmp_path.rglob("*.jsonl")
    with Store(path.parent).writer(path.stem):
        evaluate([open_masks(data)], backbone=backbone, cache=tmp_path, bootstrap=5)  # which has all
        path.write_bytes(b"")
        with pytest.raises(ValueError, match="another process is writing"):
            evaluate([open_masks(data)], backbone=backbone, cache=tmp_path, bootstrap=5)


# ---- the command ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tiny random CLIP: patches of 8 pixels, so that windows of 224 cost little."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    network, processor = build("clip")
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def eval_command(*words):
    return CliRunner().invoke(cli.app, ["eval", *map(str, words), "--bootstrap", "20"])


def test_the_command_scores_a_benchmark_of_the_table(model, tmp_path):
    write_set(tmp_path, "voc21", ["a", "b", "c"], labels=[0, 15, 255])
    names = tmp_path / "names.json"
    names.write_text(json.dumps({each.name: [] for each in SynonymSet.builtin("voc21").classes}))
    out = tmp_path / "out"
    words = ["--data", tmp_path, "--out", out, "--backbone", model, "--classes", names, "--workers", 0]
    done = eval_command("voc21", *words, "--convention", "coop")  # which is of classification
    assert done.exit_code == 0, done.output
    (voc,) = results(out)["benchmarks"]
    assert voc["counts"] == {
        "scored": 3, "of": 1449, "found": 3, "expected": 1449, "broken": 0, "left_out": 0,
    }  # fmt: skip
    assert (voc["window"], voc["stride"], voc["short_side"], voc["threshold"]) == (224, 112, 336, 0.1)
    assert (len(voc["templates"]), voc["classes"], voc["texts"]) == (80, 21, 21)
    assert voc["pixels"] == 2 * 40 * 30
    # One text a class: there is nothing to bring together.
    assert len({score["miou"] for score in voc["scores"]}) == 1
    assert "3 of 1,449" in done.output
    assert "these are not the scores of voc21" in done.output
    assert "background below a probability of 0.1" in (out / "run.md").read_text()


def test_the_command_scores_both_tasks_at_once(model, tmp_path):
    own = write_masks(tmp_path / "own", pictures=2)
    write_row(own, "digits_again", threshold=0.3)
    for i, picture in enumerate(held_out_digits()[0][:6]):
        place = tmp_path / "photos" / ("zero", "one")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{i}.png")
    (tmp_path / "two.json").write_text('{"zero": ["nought"], "one": ["single"]}')
    layouts = [{"kind": "folders", "folder": "photos"}]
    row = {"name": "photos", "synonyms": "two.json", "conventions": {"own": {"layouts": layouts}}}
    (tmp_path / "photos.json").write_text(json.dumps(row))
    out = tmp_path / "out"
    rows = [own / "digit_masks.json", tmp_path / "photos.json", own / "digits_again.json"]
    words = [*rows, "--data", "nowhere", "--out", out, "--backbone", model]
    done = eval_command(*words, "--workers", "1")
    assert done.exit_code == 0, done.output
    read = results(out)
    first, photos, second = read["benchmarks"]
    assert [each["task"] for each in read["benchmarks"]] == ["segmentation", "classification", "segmentation"]
    assert [(each["window"], each["stride"], each["short_side"]) for each in (first, second)] == [
        (32, 16, 48)
    ] * 2
    assert first["scores"] != second["scores"]
    assert len(photos["scores"]) > len(first["scores"]) == 4
    means = {(row["task"], row["name"]): row["headline"] for row in read["mean"]}
    for name in ("name", "center", "softmax_max", "default"):
        scores = [
            {score["name"]: score["miou"] for score in each["scores"]}[name] for each in (first, second)
        ]
        assert means["segmentation", name] == pytest.approx(sum(scores) / 2)
    assert ("segmentation", "nearest") not in means
    assert ("classification", "nearest") in means
    assert "| mean, segmentation |" in (out / "run.md").read_text()
    assert (out / "run.png").exists()
    page = tmp_path / "page.html"
    assert CliRunner().invoke(cli.app, ["report", str(out), "--out", str(page)]).exit_code == 0
    text = page.read_text()
    assert all(
        word in text for word in ("mean, segmentation", "mIoU", "pixel accuracy", "IoU", "sclip patches")
    )
    again = eval_command(*words, "--workers", "0")
    assert again.exit_code == 0
    measured = json.loads((out / "run.json").read_text())["measured"]["benchmarks"]
    assert [each["images_encoded"] for each in measured] == [0, 0, 0]
    assert results(out) == read


def test_the_command_says_what_is_wrong(model, data, tmp_path):
    digits = data / "digit_masks.json"
    base = ["--data", tmp_path, "--out", tmp_path / "out", "--backbone", model]
    for words, message in (
        (["voc21", *base], "voc21: not found; looked for"),
        (["voc21", *base[2:], "--data", "hf://datasets"], "not on the Hub"),
        ([digits, *base, "--patch-features", "gem"], "--patch-features: expected one of patch"),
        ([digits, *base, "--method", "random_descriptors"], "draws its texts"),
        ([digits, digits, *base], "each once"),
    ):
        done = eval_command(*words)
        assert done.exit_code != 0
        assert message in str(done.exception), words
    assert not (tmp_path / "out" / "run.json").exists()
