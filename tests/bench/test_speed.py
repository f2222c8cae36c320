"""`s3clip bench`: that what is timed is right, and that the table says what was done; no time is asserted."""

import json
import runpy
import sys
from importlib.util import find_spec

import pytest
import torch
from torch.nn.functional import normalize

from s3clip import SynonymousSpaceHead, cli
from s3clip.bench import PARTS, measure_speed
from s3clip.bench.encoding import time_cold_start, time_pipeline, time_texts
from s3clip.bench.many_classes import clustered, products, time_many_classes
from s3clip.bench.models import load_model, random_model
from s3clip.bench.parts import (
    batched_h0,
    gather_rows,
    gather_rows_by_class,
    gudhi_h0,
    random_head,
    ripser_h0,
    time_forward,
    time_head,
    time_large_class,
    time_space,
)
from s3clip.bench.texts import food_prompts, imagenet_prompts, label_names
from s3clip.bench.timing import can_measure_memory, faster, peak_growth
from s3clip.bench.workload import Workload
from s3clip.demo import model_folder
from s3clip.space.metrics import METRICS
from tests import ROOT


def points(classes, texts, dim):
    return normalize(torch.randn(classes, texts, dim, generator=torch.Generator().manual_seed(3)), dim=-1)


@pytest.fixture(scope="module")
def demo():
    return load_model(str(model_folder()), "cpu")


@pytest.mark.parametrize("our_distances", [True, False])
def test_the_loops_over_other_libraries_give_the_same_death_times(our_distances):
    own = points(5, 12, 16)
    expected = batched_h0(own)
    loops = [gudhi_h0] + ([ripser_h0] if find_spec("ripser") else [])
    for loop in loops:
        found = loop(own, our_distances=our_distances)
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("gather_rows", [gather_rows, gather_rows_by_class])
def test_gathering_rows_is_the_default_head(gather_rows):
    texts, images = points(7, 10, 16), points(1, 5, 16)[0]
    logits = random_head(texts)(image_embeds=images)
    torch.testing.assert_close(logits, gather_rows(images, texts), rtol=0, atol=1e-5)


def test_a_ratio_is_the_median_over_the_repeats_not_that_of_the_medians():
    row = faster("part", "a", "b", [1.0, 2.0, 4.0], [8.0, 4.0, 4.0])
    assert (row.ratio, row.ours, row.other, row.settings) == (2.0, 2.0, 4.0, {"repeats": 3})


@pytest.mark.skipif(not can_measure_memory(), reason="the system does not tell the peak of a process")
def test_peak_growth_sees_what_is_freed_again():
    assert 60 < peak_growth(lambda: torch.ones(16 * 2**20).sum()) < 90  # 64 MiB


def test_texts_are_what_the_table_says():
    assert len(imagenet_prompts(None, 1000)) == 7000
    assert len(food_prompts(None, 2)) == len(set(food_prompts(None, 2))) > 10
    assert len(set(label_names(1000))) == 1000


def test_published_lists(shared):
    lists = shared / "data" / "synonyms"
    assert imagenet_prompts(lists, 1000)[0] == "itap of a tench."
    assert len(food_prompts(lists, 100)) == 10_000


def test_a_word_is_a_token_of_the_random_model(monkeypatch):
    monkeypatch.setattr("s3clip.bench.models.CLIPModel", lambda config: torch.nn.Identity())
    tokenizer = random_model(None, ["a photo of a tabby cat."], "cpu").tokenizer
    tokens = tokenizer(["A photo of a cat.", "a dog"], padding=True)["input_ids"]
    assert tokens[0][0] == 49406
    assert tokens[0][-1] == 49407
    assert len(tokens[0]) == 8
    assert tokens[1][3:] == [49407] * 5  # the end, and padding


def test_token_counts_and_scaling_of_the_padded_batches(demo):
    texts = [f"a photo of the digit {name}." for name in label_names(300)]
    padded, floor, *_ = time_texts(demo, texts * 2, "texts", Workload(padded_batches=1, slow_repeats=1))
    length = demo.backbone.text_length
    counts = demo.backbone.count_tokens(texts)
    settings = padded.settings
    assert settings["texts"] == 300
    assert settings["tokens padded"] == 300 * length
    assert settings["tokens"] == sum(min(count, length) for count in counts)
    assert settings["tokens of the tree"] < settings["tokens"]
    assert settings["padded texts encoded"] == 256
    assert settings["largest difference"] < 1e-5
    assert padded.reading == "times faster"
    assert floor.reading == "times as much"
    assert padded.ratio == pytest.approx(padded.other / padded.ours)


def test_the_pipelines_agree_on_what_is_timed(demo):
    rows = time_pipeline(demo, Workload(classes=5, stock_images=2))
    assert rows[0].settings["largest score difference"] < 1e-5


def test_a_cold_start_runs_both_ways(demo):
    rows = time_cold_start(demo, Workload(classes=3, head_texts=2, encoded=2, slow_repeats=1))
    assert [row.unit for row in rows] == (["s", "MiB"] if can_measure_memory() else ["s"])
    assert all(row.ours > 0 and row.other > 0 for row in rows)


def test_every_row_of_the_head(demo):
    once = {"repeats": 1, "space_repeats": 1, "slow_repeats": 1}
    work = Workload(
        classes=4,
        space_texts=5,
        forward_texts=5,
        head_texts=4,
        large_class=9,
        linked=7,
        many=(6, 3),
        calibrated=12,
        dim=8,
        **once,
    )
    rows = time_space(work, "cpu") + time_large_class(work, "cpu")
    rows += time_forward(work, "cpu") + time_head(demo.backbone, work, "cpu")
    rows += time_many_classes(work)
    assert {row.part for row in rows} == {"space", "many-classes", "forward"}
    assert all(row.ratio > 0 for row in rows if row.unit == "s")


def test_the_classes_of_a_very_large_space_are_told_apart_and_have_strangers():
    head = SynonymousSpaceHead().fit_embeddings(
        list(clustered(60, 12, 64)), list(map(str, range(60))), logit_scale=1.0
    )
    kept = torch.zeros(60, 12, dtype=torch.bool)
    kept.flatten()[head.space.kept] = True
    assert not kept[:, 3::8].any()
    assert kept.float().mean() > 0.8
    assert products(clustered(40, 3, 8)) > 0


def test_bad_choices():
    with pytest.raises(ValueError, match="unknown 'speed'; known: texts, space"):
        measure_speed(["speed"])
    with pytest.raises(ValueError, match="tokenizer: a backbone brings its own"):
        measure_speed(PARTS, backbone="x", tokenizer="y")
    with pytest.raises(
        FileNotFoundError, match=r"--lists: expected a folder with clip_benchmark/en_classnames"
    ):
        measure_speed(["texts"], lists=model_folder())
    with pytest.raises(ValueError, match=r"--tokenizer .*: expected that of a CLIP"):
        measure_speed(["texts"], tokenizer=str(ROOT / "docs"), quick=True)


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["s3clip", "bench", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def test_the_verb_prints_a_table_and_writes_json(monkeypatch, tmp_path, capsys):
    out = tmp_path / "bench.json"
    words = ["--only", "space", "--quick", "--backbone", str(model_folder()), "--out", str(out)]
    assert not run(monkeypatch, *words)
    record = json.loads(out.read_text())
    assert {row["part"] for row in record["rows"]} == {"space"}
    assert {"torch", "threads", "device", "dtype", "model", "sizes"} <= set(record["settings"])
    printed = capsys.readouterr().out
    assert "H0 and components" in printed
    assert f"threads {torch.get_num_threads()}" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "nowhere/bench.json"], "--out: there is no folder"),
        (["--out", "."], "--out: expected the name of a file"),
        (["--threads", "0"], "--threads: expected a whole number >= 1"),
        (["--only", "head"], "unknown 'head'"),
    ],
)
def test_bad_options_end_before_anything_is_timed(monkeypatch, tmp_path, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *words) == 2
    assert message in capsys.readouterr().err


def test_the_script_for_a_gpu_runs(monkeypatch, capsys):
    script = runpy.run_path(str(ROOT / "examples" / "studies" / "gpu_check.py"), run_name="gpu_check")
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--device", "cpu", "--quick"])
    script["main"]()
    printed = capsys.readouterr().out
    table = printed[printed.index("what ") :]
    for metric in METRICS:
        assert f"{metric}: largest difference of a score" in table
    assert "the fused kernel, 4 x 200 x 30 in bfloat16" in table
    assert "needs a GPU, got cpu" in table
    assert "pictures a second" in table
    assert "rows a second" in table
    assert "fail" not in table


def test_the_bounds_of_the_pruning_study_hold(monkeypatch, capsys, shared):
    script = runpy.run_path(str(ROOT / "examples" / "studies" / "pruning_study.py"), run_name="pruning_study")
    monkeypatch.setattr(sys, "argv", ["pruning_study.py", "--shared", str(shared)])
    script["main"]()  # asserts that no bound is below a score
    assert "ball around each class: 29.7% of the classes" in capsys.readouterr().out
