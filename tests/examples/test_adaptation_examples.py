"""The study of test-time adaptation and the measurement of its cost, on very little."""

import random
import sys
from pathlib import Path

import adaptation_cost
import adaptation_study as study
import numpy as np
import pytest
import torch
from PIL import Image


def test_damage_is_what_it_says():
    photo = Image.new("RGB", (60, 80), (100, 150, 200))
    damaged = {
        name: np.asarray(damage(photo, random.Random(0))).astype(float)
        for name, damage in study.CONDITIONS.items()
    }
    plain = np.asarray(photo).astype(float)
    assert np.array_equal(damaged["clean"], plain)
    assert np.array_equal(damaged["blur"], plain)  # one colour
    assert (damaged["noise"] - plain)[..., 1].std() == pytest.approx(0.15 * 255, rel=0.1)
    assert (damaged["occlusion"] != plain).any(-1).mean() == pytest.approx(0.25)
    assert damaged["small"].shape == (20, 15, 3)
    assert np.ptp(damaged["contrast"], axis=(0, 1)).max() == 0
    again = study.noise(photo, random.Random(0))
    assert np.array_equal(np.asarray(again).astype(float), damaged["noise"])


def test_differences_are_of_the_same_photos():
    labels = torch.tensor([0, 0, 0, 1])
    plain = study.Scored(torch.tensor([1.0, 1.0, 0.0, 0.0]).double(), labels, 0.0)
    own = study.Scored(torch.tensor([1.0, 1.0, 0.0, 1.0]).double(), labels, 0.0)
    assert study.difference(own, plain, study.mean_top1).value == pytest.approx(0.25)
    found = study.difference(own, plain, study.recall)
    assert found.value == pytest.approx(0.5)
    assert found.low >= 0
    assert study.recall(own.correct, labels) == pytest.approx((2 / 3 + 1) / 2)


def test_the_study_runs_on_a_few_photos(shared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "VIEWS", 3)
    monkeypatch.setattr(study, "AREAS", (0.8,))
    monkeypatch.setattr(study, "RESAMPLES", 20)
    monkeypatch.setattr(study, "CONDITIONS", {name: study.CONDITIONS[name] for name in study.CHOSEN_ON})
    monkeypatch.setattr(study, "GRID", {name: [own] for name, own in study.PUBLISHED.items()})
    monkeypatch.setattr(
        sys,
        "argv",
        ["study", "--shared", str(shared), "--out", str(tmp_path), "--cache", str(tmp_path / "views"),
         "--photos", "8", "--half-photos", "2", "--half-views", "2"],
    )  # fmt: skip
    study.main()
    page = (tmp_path / "adaptation.md").read_text()
    assert page.count("### ") == 1 + 8 + 1
    assert page in capsys.readouterr().out
    assert len(list((tmp_path / "views").iterdir())) == 4  # two conditions, two halves


def test_the_cost_is_measured(monkeypatch, capsys):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory is measured on Linux")
    arguments = ["cost", "--views", "2", "--classes", "3", "--texts", "2", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    adaptation_cost.main()
    assert "local_center, shift" in capsys.readouterr().out
