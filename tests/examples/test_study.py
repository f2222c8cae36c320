"""The study: its damage is what it says, it runs on small sets, and it finds known figures on real ones."""

import json

import pytest
import study
import torch
from study_sets import LabelSet, clip_sets
from torch.nn.functional import normalize

from s3clip import HeadConfig
from s3clip.evaluation import Difference

SIZES = [1, 3, 4, 6, 9, 12]


@pytest.fixture(scope="module")
def small() -> list[LabelSet]:
    """Two sets of six classes with 120 images, one named as a main set."""
    sets = []
    for seed, name in enumerate(("cifar10", "fashion13 words")):
        draw = torch.Generator().manual_seed(seed)
        centres = normalize(torch.randn(6, 16, generator=draw), dim=1)
        texts = [c + 0.3 * torch.randn(n, 16, generator=draw) for c, n in zip(centres, SIZES, strict=True)]
        labels = torch.arange(120) % 6
        images = centres[labels] + 0.3 * torch.randn(120, 16, generator=draw)
        words = [[f"{c} {i}" for i in range(n)] for c, n in enumerate(SIZES)]
        sets.append(LabelSet(name, "made up", images, labels, texts, words, 50.0))
    return sets


@pytest.mark.parametrize("from_one_class", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_swaps_are_what_they_say(share, from_one_class):
    # Text i of class c says (c, i).
    texts = [torch.tensor([[c, i] for i in range(n)], dtype=torch.float) for c, n in enumerate(SIZES)]
    for seed in range(20):
        new, wrong = study.swap(texts, share, seed, from_one_class=from_one_class)
        assert sorted(map(tuple, torch.cat(new).tolist())) == sorted(map(tuple, torch.cat(texts).tolist()))
        for c, (own, is_wrong) in enumerate(zip(new, wrong, strict=True)):
            assert own[0].tolist() == [c, 0]
            assert is_wrong.tolist() == (own[:, 0] != c).tolist()
            expected = round(share * len(own)) if len(own) >= 4 else 0
            assert int(is_wrong.sum()) == expected
    if share == 0.5 and from_one_class:
        givers = {c: set(own[own[:, 0] != c, 0].tolist()) for c, own in enumerate(new)}
        assert max(map(len, givers.values())) <= 2


def test_what_the_filter_finds_is_counted(small):
    each = small[0]
    texts, wrong = study.swap(each.texts, 0.2, 0)
    head = study.fitted(HeadConfig(), each, texts)
    hit, dropped, swapped = study.found_among_dropped(head, wrong)
    kept = set(head.space.kept.tolist())
    rows = [bool(own) for part in wrong for own in part]
    assert dropped == len(rows) - len(kept)
    assert swapped == sum(rows)
    assert hit == sum(is_wrong and row not in kept for row, is_wrong in enumerate(rows))


def test_holds():
    assert study.holds(Difference(value=-0.004, low=-0.02, high=-0.001))
    assert study.holds(Difference(value=-0.03, low=-0.06, high=0.0))
    assert not study.holds(Difference(value=-0.03, low=-0.06, high=-0.001))


def test_every_part_runs_on_small_sets(small, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    page = study.Page()
    study.clean(small, page, bootstrap=20)
    study.damaged(small, page, seeds=2)
    study.draw(page, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"sets.png", "swaps.png"}
    assert json.loads(json.dumps(page.data))
    top1 = study.score("default", small[0], small[0].texts).top1
    assert 100 * page.data["clean"]["cifar10"]["center"]["scores"][0]["top1"] >= top1 - 1e-6
    assert "### Every set as it is" in capsys.readouterr().out


def test_known_figures_on_real_embeddings(shared):
    """METHOD gives 89.6 for the plain name and 89.0 for center on CIFAR-10."""
    sets = {each.name: each for each in clip_sets(shared)}
    cifar = sets["cifar10"]
    assert study.score("name", cifar, cifar.texts).top1 == pytest.approx(89.6)
    assert study.score("center", cifar, cifar.texts).top1 == pytest.approx(89.0)
    for name in ("cifar10", "fashion13"):
        each = sets[name]
        default, center = (study.score(c, each, each.texts) for c in ("default", "center"))
        assert default.top1 >= center.top1 - 0.5
        assert default.recall >= center.recall - 0.5
