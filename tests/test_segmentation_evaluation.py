"""Mean IoU against a plain loop, the folders of the eight benchmarks, and the command on real photos."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from s3clip import Backbone, SynonymousSpaceHead, SynonymSet, cli
from s3clip.demo import held_out_digits, model_folder
from s3clip.evaluation.scores import confusion_matrix, intersection_over_union, mean_iou
from s3clip.evaluation.segmentation import (
    BENCHMARKS,
    Pair,
    evaluate_segmentation,
    folder_pairs,
    read_mask,
    read_pairs,
)
from s3clip.evaluation.speed.timing import can_measure_memory
from s3clip.synonym_sets import load_set

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import segmentation_collage
import segmentation_cost
import segmentation_study


def plain_iou(pairs, classes):
    found = []
    for c in range(classes):
        both = either = 0
        for truth, guess in pairs:
            for t, g in zip(truth.flatten().tolist(), guess.flatten().tolist(), strict=True):
                if t != 255:
                    both += t == c == g
                    either += c in (t, g)
        found.append(both / either if either else math.nan)
    return found


def test_mean_iou_is_a_plain_loop_over_all_pictures():
    draw = np.random.default_rng(0)
    pairs = [
        (
            torch.from_numpy(draw.choice([0, 1, 2, 5, 255], (7, 9))),
            torch.from_numpy(draw.choice([-1, 0, 1, 2, 3], (7, 9))),
        )
        for _ in range(5)
    ]
    confusion = sum(confusion_matrix(truth, guess, 6) for truth, guess in pairs)
    expected = plain_iou(pairs, 6)
    # Class 3 is only taken for, class 4 does not occur, class 5 is never taken for.
    assert expected[3] == 0
    assert math.isnan(expected[4])
    assert expected[5] == 0
    assert intersection_over_union(confusion).tolist() == pytest.approx(expected, nan_ok=True)
    assert mean_iou(confusion) == pytest.approx(np.nanmean(expected))
    assert confusion.sum() == sum(int((truth != 255).sum()) for truth, _ in pairs)


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [([0, 3], [0, 0], "labels: .* got 3"), ([0, 1], [0, 9], "predicted: .* got 9"), ([0], [0, 1], "shape")],
)
def test_labels_out_of_range_are_named(labels, predicted, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(torch.tensor(labels), torch.tensor(predicted), 3)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks_are_read_as_mmseg_lays_them_out(name, tmp_path):
    files = {
        "voc21": ("JPEGImages/a.jpg", "SegmentationClass/a.png", "ImageSets/Segmentation/val.txt"),
        "voc20": ("JPEGImages/a.jpg", "SegmentationClass/a.png", "ImageSets/Segmentation/val.txt"),
        "coco_object": ("images/val2017/a.jpg", "annotations/val2017/a_instanceTrainIds.png", None),
        "coco_stuff171": ("images/val2017/a.jpg", "annotations/val2017/a_labelTrainIds.png", None),
        "ade20k150": ("images/validation/a.jpg", "annotations/validation/a.png", None),
        "cityscapes": (
            "leftImg8bit/val/ulm/a_leftImg8bit.png",
            "gtFine/val/ulm/a_gtFine_labelTrainIds.png",
            None,
        ),
    }
    context = (
        "JPEGImages/a.jpg",
        "SegmentationClassContext/a.png",
        "ImageSets/SegmentationContext/val.txt",
    )
    image, mask, split = files.get(name, context)
    for file in (image, mask):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 2)).save(tmp_path / file)
    if split:
        (tmp_path / split).parent.mkdir(parents=True)
        (tmp_path / split).write_text("a\n")
    (found,) = read_pairs(name, tmp_path)
    key = "ulm/a" if name == "cityscapes" else "a"
    assert found == Pair(key, tmp_path / image, tmp_path / mask)
    (tmp_path / mask).unlink()
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_pairs(name, tmp_path)


def test_benchmarks_have_the_names_of_the_synonym_sets():
    for name, benchmark in BENCHMARKS.items():
        first = load_set(name).classes[0].name.strip("_")
        assert (first == "background") == (benchmark.threshold is not None), name


def test_dropping_the_background_is_reduce_zero_label(tmp_path):
    Image.fromarray(np.array([[0, 1, 20], [255, 2, 150]], np.uint8)).save(tmp_path / "a.png")
    found = read_mask(tmp_path / "a.png", drops_background=True)
    assert found.tolist() == [[255, 0, 19], [255, 1, 149]]
    Image.new("RGB", (2, 2)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="got mode RGB"):
        read_mask(tmp_path / "b.png")


def test_a_perfect_and_an_empty_answer(tmp_path):
    for i in range(2):
        Image.fromarray(np.array([[0, 1], [1, 255]], np.uint8)).save(tmp_path / f"{i}.png")
    pairs = folder_pairs(tmp_path, tmp_path)
    perfect = evaluate_segmentation(lambda file: read_mask(file).clamp(max=1), pairs, 3)
    assert (perfect.mean_iou, perfect.pixel_accuracy, perfect.pictures) == (1.0, 1.0, 2)
    empty = evaluate_segmentation(lambda file: torch.full((2, 2), -1), pairs, 3)
    assert (empty.mean_iou, empty.pixel_accuracy) == (0.0, 0.0)
    assert math.isnan(empty.iou[2])
    with pytest.raises(ValueError, match=r"0\.png: labels: .* 1 classes, got 1"):
        evaluate_segmentation(lambda file: torch.zeros(2, 2), pairs, 1)
    with pytest.raises(ValueError, match="got none"):
        evaluate_segmentation(lambda file: torch.zeros(2, 2), [], 1)


# ---- the command ------------------------------------------------------------------------------------------


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["s3clip", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def test_the_complete_command_on_the_photos_of_voc(shared, tmp_path, monkeypatch, capsys):
    # Plumbing: the model knows garments, not these classes.
    folder = shared / "data" / "voc_sample"
    words = {each.name: list(each.synonyms) for each in load_set("voc21").classes}
    (tmp_path / "voc.json").write_text(json.dumps(words))
    code = run(
        monkeypatch,
        *["segment", folder / "JPEGImages", "--classes", tmp_path / "voc.json"],
        *["--backbone", shared / "models" / "fashion_clip", "--out", tmp_path / "masks"],
        *["--overlay", tmp_path / "overlays", "--heat-maps", tmp_path / "heat"],
        *["--rle", tmp_path / "masks.json", "--format", "json", "--threshold", 0.05],
        *["--background", "background", "--method", "naclip"],
    )
    assert not code
    rows = json.loads(capsys.readouterr().out)
    assert {row["file"] for row in rows} == {str(file) for file in (folder / "JPEGImages").iterdir()}
    pairs = folder_pairs(folder / "JPEGImages", folder / "SegmentationClass")
    assert len(pairs) == 3
    for key, image, _ in pairs:
        mask = np.asarray(Image.open(tmp_path / "masks" / f"{key}.png"))
        assert mask.shape == np.asarray(Image.open(image)).shape[:2]
        for row in rows:
            if row["file"] == str(image):
                assert (mask == row["class_index"]).sum() == row["pixels"]
        assert sum(row["share"] for row in rows if row["file"] == str(image)) == pytest.approx(1)
        assert (tmp_path / "overlays" / f"{key}.png").is_file()
    assert (
        len(list((tmp_path / "heat").iterdir()))
        == len(rows)
        == len(json.loads((tmp_path / "masks.json").read_text()))
    )
    score = evaluate_segmentation(
        lambda file: torch.from_numpy(np.array(Image.open(tmp_path / "masks" / f"{file.stem}.png"))),
        pairs,
        21,
    )
    assert 0 <= score.mean_iou <= 1
    assert score.confusion.sum() == sum(int((read_mask(pair.mask) != 255).sum()) for pair in pairs)


def test_the_command_says_what_is_wrong_and_goes_on(tmp_path, monkeypatch, capsys):
    held_out_digits()[0][0].save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no picture")
    (tmp_path / "words.json").write_text('{"one": ["1"], "two": ["2"]}')
    base = ["segment", tmp_path / "*.png", "--classes", tmp_path / "words.json", "--backbone", model_folder()]
    assert run(monkeypatch, *base, "--out", tmp_path / "masks") == 1
    assert "bad.png: not a readable image" in capsys.readouterr().err
    assert (tmp_path / "masks" / "good.png").is_file()
    for words, message in (
        ([*base, "--out", tmp_path / "mask.png"], "--out: expected a folder for 2 images"),
        (["segment", tmp_path / "good.png"], "expected one of --head and --classes"),
        (base[:-2], "--backbone: needed with --classes"),
        ([*base, "--method", "gem"], "method: expected one of patch"),
        ([*base, "--memory", "0"], "max_bytes: expected"),
        (["segment", tmp_path / "good.png", *base[2:], "--overlay", tmp_path / "x.jpg"], "ends in .png"),
        ([*base, "--out", tmp_path], "is an image to segment, and would be lost"),
        ([*base, "--out", tmp_path / "x", "--overlay", tmp_path / "x"], "give two places"),
    ):
        assert run(monkeypatch, *words) == 2
        assert message in capsys.readouterr().err


# ---- the examples -----------------------------------------------------------------------------------------


def test_the_study_scores_what_evaluate_segmentation_does(shared):
    folder = shared / "data" / "voc_sample"
    backbone = Backbone.from_pretrained(str(shared / "models" / "fashion_clip"))
    words = {each.name: list(each.synonyms)[:2] for each in load_set("voc21").classes}
    pairs = folder_pairs(folder / "JPEGImages", folder / "SegmentationClass")[:1]
    lines = []
    found = segmentation_study.study(backbone, words, pairs, report=lines.append)
    head = SynonymousSpaceHead(backbone).fit_classes(words)
    expected = evaluate_segmentation(lambda file: head.segment(file, method="naclip")[0].labels, pairs, 21)
    assert found["naclip"]["ours"] == pytest.approx(expected.mean_iou)
    assert len(lines) == 6


def test_a_collage_knows_where_its_photos_lie(shared):
    folder = shared / "data" / "fashion_photos"
    made = segmentation_collage.collages(folder, SynonymSet.read(folder / "sub_categories.json"), 5)
    for canvas, labels in made:
        pixels = np.asarray(canvas)
        assert 2 <= len(set(labels.unique().tolist()) - {255}) <= 4
        # What counts is coloured, and what is coloured counts.
        assert (labels.numpy() != 255).tolist() == (pixels < segmentation_collage.WHITE).any(-1).tolist()


@pytest.mark.skipif(not can_measure_memory(), reason="peak memory is read from Linux")
def test_what_a_segmentation_costs_can_be_measured(capsys):
    words = "--tiny --width 64 --height 48 --classes 3 --texts 2 --repeats 1 --threads 1"
    segmentation_cost.main(words.split())
    assert capsys.readouterr().out.count(" x   peak extra") == 9
