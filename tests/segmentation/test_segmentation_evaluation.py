"""Mean IoU against a plain loop, `s3clip segment` on real photos, and what segmentation costs."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import segmentation_collage
import segmentation_cost
import torch
from PIL import Image

from s3clip import SynonymSet, cli
from s3clip.bench.timing import can_measure_memory
from s3clip.demo import held_out_digits, model_folder
from s3clip.evaluation.scores import confusion_matrix, intersection_over_union, mean_iou, resampled_mean_iou
from s3clip.files.folders import MARK


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


def test_the_mean_iou_of_a_resample_is_that_of_its_pictures():
    draw = np.random.default_rng(1)
    matrices = [torch.from_numpy(draw.integers(0, 5, (4, 5)) * (draw.random((4, 5)) < 0.3)) for _ in range(6)]
    hits = torch.stack([each.diagonal() for each in matrices])
    labelled = torch.stack([each.sum(1) for each in matrices])
    predicted = torch.stack([each[:, :4].sum(0) for each in matrices])
    counts = torch.from_numpy(draw.multinomial(6, np.full(6, 1 / 6), 20))
    found = resampled_mean_iou(hits, labelled, predicted, counts)
    for times, value in zip(counts, found, strict=True):
        total = sum(int(n) * each for n, each in zip(times, matrices, strict=True))
        assert float(value) == pytest.approx(mean_iou(total), nan_ok=True)


# ---- the command ------------------------------------------------------------------------------------------


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["s3clip", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def test_the_complete_command_on_the_photos_of_voc(shared, tmp_path, monkeypatch, capsys):
    # Plumbing: the model knows garments, not these classes.
    folder = shared / "data" / "voc_sample"
    words = {each.name: list(each.synonyms) for each in SynonymSet.builtin("voc21").classes}
    (tmp_path / "voc.json").write_text(json.dumps(words))
    code = run(
        monkeypatch,
        *["segment", folder / "JPEGImages", "--classes", tmp_path / "voc.json"],
        *["--backbone", shared / "models" / "fashion_clip", "--out", tmp_path / "masks"],
        *["--overlay", tmp_path / "overlays", "--heat-maps", tmp_path / "heat"],
        *["--rle", tmp_path / "masks.json", "--format", "json", "--threshold", 0.05],
        *["--background", "background", "--patch-features", "naclip"],
    )
    assert not code
    rows = json.loads(capsys.readouterr().out)
    assert {row["file"] for row in rows} == {str(file) for file in (folder / "JPEGImages").iterdir()}
    images = sorted((folder / "JPEGImages").iterdir())
    assert len(images) == 3
    confusion = torch.zeros(21, 22, dtype=torch.int64)
    for image in images:
        found = Image.open(tmp_path / "masks" / f"{image.stem}.png")
        mask = torch.from_numpy(np.array(found)).long()
        assert (mask.shape[1], mask.shape[0]) == Image.open(image).size
        for row in rows:
            if row["file"] == str(image):
                assert (mask == row["class_index"]).sum() == row["pixels"]
        assert sum(row["share"] for row in rows if row["file"] == str(image)) == pytest.approx(1)
        assert (tmp_path / "overlays" / f"{image.stem}.png").is_file()
        truth = np.array(Image.open(folder / "SegmentationClass" / f"{image.stem}.png"))
        confusion += confusion_matrix(torch.from_numpy(truth).long(), mask, 21)
    assert len(rows) == len(json.loads((tmp_path / "masks.json").read_text()))
    assert {file.name for file in (tmp_path / "heat").iterdir()} - {MARK} == {
        f"{Path(row['file']).stem}-{row['label'].replace(' ', '_')}.png"
        for row in rows
        if row["share"] >= 0.001
    }

    # `s3clip eval` on the same photos, as a set of one's own, says how good these masks are.
    layout = {"kind": "masks", "images": "JPEGImages", "masks": "SegmentationClass", "threshold": 0.05}
    own = {"headline": "miou", "layouts": [{**layout, "folder": str(folder)}]}
    row = {"name": "photos", "synonyms": "voc.json", "conventions": {"own": own}}
    (tmp_path / "photos.json").write_text(json.dumps(row))
    code = run(
        monkeypatch,
        *["eval", tmp_path / "photos.json", "--data", tmp_path, "--out", tmp_path / "run", "--workers", 0],
        *["--backbone", shared / "models" / "fashion_clip", "--method", "default"],
        *["--patch-features", "naclip"],
    )
    assert not code
    (benchmark,) = json.loads((tmp_path / "run" / "run.json").read_text())["benchmarks"]
    scores = {score["name"]: score for score in benchmark["scores"]}
    assert scores.keys() == {"center", "default"}
    assert benchmark["pixels"] == confusion.sum()
    assert scores["default"]["miou"] == pytest.approx(mean_iou(confusion))


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
        ([*base, "--patch-features", "gem"], "--patch-features: expected one of patch"),
        ([*base, "--memory", "0"], "Invalid value for '--memory'"),
        (["segment", tmp_path / "good.png", *base[2:], "--overlay", tmp_path / "x.jpg"], "ends in .png"),
        ([*base, "--out", tmp_path], "bad.png, good.png, masks, ... and no pictures that s3clip wrote"),
        ([*base, "--out", tmp_path / "x", "--overlay", tmp_path / "x"], "give two places"),
    ):
        assert run(monkeypatch, *words) == 2
        assert message in capsys.readouterr().err


# ---- the examples -----------------------------------------------------------------------------------------


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
