"""Classes of very many texts: refused where they would take hours or all memory; memory that is linear."""

import sys

import pytest
import torch
from torch import Tensor

from s3clip import HeadConfig, SynonymousSpaceHead, SynonymSet, arguments
from s3clip.class_space import value
from s3clip.inspection.complexes import class_complexes
from s3clip.prediction.adaptation import TestTimeAdapter
from s3clip.space import METRICS, boruvka, duplicates, edges, synonymous_space
from s3clip.texts.prompts import class_texts
from tests.processes import memory_grown


def rows(count: int, dim: int = 8) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(count))


def test_more_texts_than_a_class_may_have(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arguments, "MOST_TEXTS", 20)
    message = r"class 'dog': 21 texts, .*; give it 20 at most, or raise s3clip\.arguments\.MOST_TEXTS"
    with pytest.raises(ValueError, match=message):
        SynonymousSpaceHead().fit_embeddings([rows(3), rows(21)], ["cat", "dog"], logit_scale=1.0)
    SynonymousSpaceHead().fit_embeddings([rows(3), rows(20)], ["cat", "dog"], logit_scale=1.0)
    # Before they are encoded:
    with pytest.raises(ValueError, match=message):
        class_texts("dog", list(map(str, range(20))))
    words = SynonymSet.read({"dog": list(map(str, range(6)))}).classes[0]
    with pytest.raises(ValueError, match=message):
        class_texts("dog", words.synonyms, ["a", "b"])
    assert len(class_texts("dog", words.synonyms, ["a"])) == 14


def test_so_it_is_in_an_artifact(monkeypatch: pytest.MonkeyPatch, tmp_path):
    SynonymousSpaceHead().fit_embeddings([rows(30)], ["dog"], logit_scale=1.0).save_pretrained(tmp_path)
    monkeypatch.setattr(arguments, "MOST_TEXTS", 20)
    with pytest.raises(ValueError, match="class 'dog': 30 texts"):
        SynonymousSpaceHead.from_pretrained(tmp_path)


QUADRATIC = {
    "local_star": {},
    "hull": {},
    "subspace": {},
    "local_center": {"renormalize": True},
}


@pytest.mark.parametrize("metric", METRICS)
def test_tables_of_pairs_are_bounded(metric: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(synonymous_space, "MOST_PAIRED", 20)
    config = HeadConfig(metric=metric, metric_options=QUADRATIC.get(metric, {}), scale_rule=None)
    head = SynonymousSpaceHead(config=config)
    if metric in QUADRATIC:
        with pytest.raises(ValueError, match=rf"class 1: 21 texts, and metric '{metric}' .* 20 at most"):
            head.fit_embeddings([rows(3), rows(21)], ["cat", "dog"], logit_scale=1.0)
    else:
        head.fit_embeddings([rows(3), rows(21)], ["cat", "dog"], logit_scale=1.0)
    head.fit_embeddings([rows(3), rows(20)], ["cat", "dog"], logit_scale=1.0)


def test_so_are_those_of_pictures_and_of_adaptation(monkeypatch: pytest.MonkeyPatch):
    config = HeadConfig(scale_rule=None)
    head = SynonymousSpaceHead(config=config).fit_embeddings([rows(21)], ["dog"], logit_scale=1.0)
    monkeypatch.setattr(synonymous_space, "MOST_PAIRED", 20)
    with pytest.raises(ValueError, match="class 0: 21 texts, and a picture of its complex"):
        class_complexes(head.space, torch.arange(1))
    with pytest.raises(ValueError, match="class 0: 21 texts, and test-time adaptation"):
        TestTimeAdapter(head, "shift")(view_embeds=rows(4)[None])


LINEAR = """
import torch
from tests.processes import peak_memory
from s3clip.space.rips import spanning_tree_of_points
torch.set_num_threads(1)
for count in (2_000, 8_000):
    points = torch.randn(1, count, 8, generator=torch.Generator().manual_seed(0))
    spanning_tree_of_points(points, torch.ones(1, count))
    print(peak_memory())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="memory is read from resource")
def test_a_walk_takes_memory_linear_in_the_points():
    assert memory_grown(LINEAR)[0] < 8_000**2 * 8 / 10  # a tenth of a number in float64 for each pair


def test_a_bar_counts_every_text_three_times(monkeypatch: pytest.MonkeyPatch):
    counted: list[int] = []
    monkeypatch.setattr(edges, "LARGEST_MATRIX", 100)
    monkeypatch.setattr(duplicates, "LARGEST_MATRIX", 100)
    monkeypatch.setattr(boruvka, "BLOCK", 4)
    plain = value.tqdm

    class Bar(plain):  # type: ignore[misc, valid-type]
        def update(self, n: int = 1) -> None:
            counted.append(n)

    monkeypatch.setattr(value, "tqdm", Bar)
    SynonymousSpaceHead().fit_embeddings([rows(30), rows(4), rows(4)], ["a", "b", "c"], logit_scale=1.0)
    assert sum(counted) == 3 * 38
    assert len(counted) > 10  # a class whose distances are taken in tiles moves it after each row of them


MANY = """
import torch
from tests.processes import peak_memory
from s3clip.space.synonymous_space import build_space
torch.set_num_threads(1)
for classes in (1_000, 8_000):
    raw = torch.randn(classes, 16, generator=torch.Generator().manual_seed(0))
    build_space(raw, torch.arange(classes), list(map(str, range(classes))), scale_rule="margin")
    print(peak_memory())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="memory is read from resource")
def test_many_classes_take_memory_linear_in_their_number():
    assert memory_grown(MANY)[0] < 8_000**2 * 8 / 8  # an eighth of a number in float64 for each pair
