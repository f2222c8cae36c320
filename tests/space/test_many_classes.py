"""Spaces of very many classes: built in parts as in one, and what was compared once is not compared again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from s3clip import HeadConfig, SynonymousSpaceHead
from s3clip.artifact.folder import load_artifact
from s3clip.class_space import ClassSpace
from s3clip.space import METRICS, duplicates, edges, synonymous_space
from s3clip.space.synonymous_space import build_space
from tests.artifact.test_artifact import rewrite

DIM = 12
FOUND = ("kept", "duplicate_of", "scales", "deaths", "death_owners", "margins", "mean", "spread", "points")
CONFIGS = st.builds(
    HeadConfig,
    metric=st.sampled_from(sorted(METRICS)),
    scale_rule=st.sampled_from([None, "margin", "kept_share"]),
    centering=st.sampled_from([None, "class_mean"]),
)


def classes_of(sizes: list[int], seed: int) -> list[Tensor]:
    """Classes of texts around a centre each, the last text of every third class given twice."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i, size in enumerate(sizes):
        own = torch.randn(1, DIM, generator=generator) + 0.7 * torch.randn(size, DIM, generator=generator)
        found.append(torch.cat([own, own[-1:]]) if i % 3 == 0 else own)
    return found


def fitted(sizes: list[int], config: HeadConfig, seed: int = 0) -> SynonymousSpaceHead:
    names = [f"class {i}" for i in range(len(sizes))]
    return SynonymousSpaceHead(config=config).fit_embeddings(classes_of(sizes, seed), names, logit_scale=30.0)


def assert_same(one: SynonymousSpaceHead, other: SynonymousSpaceHead) -> None:
    for name in FOUND:
        assert torch.equal(getattr(one.space, name), getattr(other.space, name)), name
    images = torch.randn(5, DIM, generator=torch.Generator().manual_seed(3))
    assert torch.equal(one(image_embeds=images), other(image_embeds=images))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    CONFIGS,
    st.sampled_from([1, 7, 12, 13, 24, 100, 500]),
)
def test_parts_of_any_size_make_the_same_space_to_the_bit(sizes: list[int], config: HeadConfig, numbers: int):
    expected = fitted(sizes, config)
    with pytest.MonkeyPatch.context() as patch:
        for module in (synonymous_space, duplicates, edges):
            patch.setattr(module, "CHUNK_NUMBERS", numbers)
        patch.setattr(synonymous_space, "LEAST_COMPARED", max(1, numbers // DIM))
        assert_same(fitted(sizes, config), expected)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), CONFIGS)
def test_what_is_loaded_is_what_was_saved_to_the_bit(sizes: list[int], config: HeadConfig):
    import tempfile

    head = fitted(sizes, config)
    with tempfile.TemporaryDirectory() as folder:
        space = load_artifact(head.save_pretrained(folder))
        loaded = SynonymousSpaceHead.from_pretrained(folder)
        measured = config.scale_rule == "margin" and len(sizes) > 1
        assert (space.known_margins is not None) == measured
        assert_same(loaded, head)
        # What was not saved is found again, as in an artifact of an older format.
        rewrite(Path(folder), change_tensors=lambda tensors: tensors.pop("margins", None))
        assert_same(SynonymousSpaceHead.from_pretrained(folder), head)


def test_margins_that_are_known_are_not_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    head = fitted([4, 1, 6], HeadConfig())
    head.save_pretrained(tmp_path)
    measure = synonymous_space._margins

    def measured(points: Tensor, rows: Tensor, *others: Any) -> Tensor:
        assert len(rows) <= 2, "each text was compared with each class"
        return measure(points, rows, *others)

    monkeypatch.setattr(synonymous_space, "_margins", measured)
    monkeypatch.setattr(synonymous_space, "MARGINS_CHECKED", 2)
    assert_same(SynonymousSpaceHead.from_pretrained(tmp_path), head)
    head.reconfigure(scale_options={"epsilon": 0.5})
    head.reconfigure(scale_rule=None)
    head.reconfigure(scale_rule="margin")
    with pytest.raises(AssertionError, match="compared"):
        head.remove_classes([1])


@pytest.mark.parametrize("rule", ["margin", None])
def test_a_change_of_classes_measures_as_a_fit_does(rule: str | None, tmp_path: Path):
    sizes = [4, 1, 6, 3, 5]
    whole, own = fitted(sizes, HeadConfig()), classes_of(sizes, 0)
    whole.save_pretrained(tmp_path)
    head = SynonymousSpaceHead.from_pretrained(tmp_path).reconfigure(scale_rule=rule)
    head.remove_classes([1, 3])
    left = [own[i] for i in (0, 2, 4)]
    fresh = SynonymousSpaceHead(config=HeadConfig())
    fresh.fit_embeddings(left, head.class_names, logit_scale=30.0)
    assert_same(head.reconfigure(scale_rule="margin"), fresh)
    merged = fresh.merge(SynonymousSpaceHead().fit_embeddings([own[1]], ["more"], logit_scale=30.0))
    again = SynonymousSpaceHead().fit_embeddings([*left, own[1]], merged.class_names, logit_scale=30.0)
    assert_same(merged, again)


def test_margins_of_other_embeddings_or_classes_are_passed_over():
    head = fitted([4, 1, 6, 1], HeadConfig())
    space = head.class_space
    assert torch.equal(space.known_margins, head.space.margins)
    first, second, *others = space.classes
    for changed in (
        {"raw": space.raw.clone()},
        {"classes": (second, first, *others)},  # as many rows, in other classes
    ):
        assert ClassSpace(**{**vars_of(space), **changed}).known_margins is None
    head.to(torch.float64)
    assert head.class_space.known_margins is None
    assert head.class_space.margins is None  # which would keep the embeddings of before in memory


def vars_of(space: ClassSpace) -> dict[str, object]:
    return {name: getattr(space, name) for name in space.__dataclass_fields__}


def test_margins_are_of_the_distance_to_the_nearest_other_class():
    raw = torch.cat(classes_of([4, 1, 6], 1))
    owners = torch.tensor([0] * 5 + [1] + [2] * 6)
    names = ["a", "b", "c"]
    found = build_space(raw, owners, names, scale_rule="margin")
    given = build_space(raw, owners, names, scale_rule="margin", margins=found.margins)
    assert torch.equal(given.kept, found.kept)
    # They are what edges are measured by, so that others would give another space.
    other = build_space(raw + 0.1, owners, names, scale_rule="margin").margins
    for wrong in (found.margins / 4, found.margins.flip(0), other):
        with pytest.raises(ValueError, match="margins: they are not those of these embeddings"):
            build_space(raw, owners, names, scale_rule="margin", margins=wrong)
