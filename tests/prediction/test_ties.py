"""Of classes with equal logits the first wins, however many are asked for, and however they are asked for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s3clip import SynonymousSpaceHead
from s3clip.prediction.top_classes import largest


def by_a_loop(values, positions, k):
    return [
        [place for _, place in sorted(zip([-value for value in row], own, strict=True))][:k]
        for row, own in zip(values, positions, strict=True)
    ]


@settings(max_examples=200, deadline=None)
@given(data=st.data(), rows=st.integers(1, 4), columns=st.integers(1, 12), kinds=st.integers(1, 4))
def test_the_largest_are_those_of_a_sort_by_value_and_place(data, rows, columns, kinds):
    values = data.draw(
        st.lists(
            st.lists(st.integers(0, kinds), min_size=columns, max_size=columns), min_size=rows, max_size=rows
        )
    )
    positions = [data.draw(st.permutations(range(columns))) for _ in range(rows)]
    k = data.draw(st.integers(1, columns + 2))
    found, places = largest(torch.tensor(values).float(), torch.tensor(positions), k)
    assert places.tolist() == by_a_loop(values, positions, k)
    assert found.tolist() == [sorted(row, reverse=True)[:k] for row in values]


@pytest.mark.parametrize("metric", ["local_center", "center", "nearest", "hull"])
def test_every_way_to_ask_gives_the_same_order_of_equal_classes(metric, monkeypatch):
    monkeypatch.setattr("s3clip.space.folding.BLOCK_ROWS", 9)  # equal classes in different blocks
    generator = torch.Generator().manual_seed(0)
    kinds = [torch.randn(n, 8, generator=generator) for n in (1, 3, 2)]
    texts = [kinds[i] for i in (1, 0, 1, 2, 0, 2, 1, 0)]
    head = SynonymousSpaceHead().fit_embeddings(texts, [f"c{i}" for i in range(8)], logit_scale=10.0)
    head.reconfigure(metric=metric)
    images = torch.randn(50, 8, generator=generator)
    logits = head(image_embeds=images)
    expected = logits.sort(dim=1, descending=True, stable=True).indices
    for k in range(1, 9):
        answers = head.predict(image_embeds=images, top_k=k)
        assert [[a.class_index for a in own] for own in answers] == expected[:, :k].tolist()
        assert head.top_classes(image_embeds=images, k=k).class_index.tolist() == expected[:, :k].tolist()
    assert head.predict_proba(image_embeds=images).argmax(1).tolist() == expected[:, 0].tolist()
