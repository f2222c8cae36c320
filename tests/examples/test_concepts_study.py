"""The study of concepts: its damage is what it says, and it runs on small sets."""

import json

import concepts_study
import pytest
import torch
from concepts_study import Files, Words
from study import Page
from torch.nn.functional import normalize

from s3clip import Backbone, SynonymSet
from s3clip.demo import model_folder

SIZES = [1, 3, 4, 6, 9, 12]


@pytest.fixture(scope="module")
def small() -> Words:
    """Six classes of concepts of two texts each, and 120 images."""
    draw = torch.Generator().manual_seed(0)
    centres = normalize(torch.randn(6, 16, generator=draw), dim=1)
    concepts = [
        [c + 0.3 * torch.randn(2, 16, generator=draw) for _ in range(n)]
        for c, n in zip(centres, SIZES, strict=True)
    ]
    labels = torch.arange(120) % 6
    images = centres[labels] + 0.3 * torch.randn(120, 16, generator=draw)
    return Words("made up with descriptors", "nowhere", concepts, images, labels)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_swaps_are_what_they_say(share: float):
    # Concept i of class c says (c, i), twice.
    words = [[torch.tensor([[c, i], [c, i]]) for i in range(n)] for c, n in enumerate(SIZES)]
    for seed in range(10):
        new, wrong = concepts_study.swap(words, share, seed)
        assert [len(own) for own in new] == SIZES
        every = [tuple(concept[1].tolist()) for own in new for concept in own]
        assert sorted(every) == sorted((c, i) for c, n in enumerate(SIZES) for i in range(n))
        for c, (own, is_wrong) in enumerate(zip(new, wrong, strict=True)):
            assert own[0].tolist() == [[c, 0]] * 2
            assert is_wrong.tolist() == [int(concept[0, 0]) != c for concept in own]
        count = int(torch.cat(wrong).sum())
        assert count <= max(2, round(share * (sum(SIZES) - 6)))
        assert count > 0 or share < 0.2  # few may all be of one class


def test_a_file_is_swapped_before_its_texts_are_made():
    synonyms = SynonymSet.read(
        [
            {"name": "zero", "synonyms": ["nought", "nil"], "descriptors": ["one loop"]},
            {"name": "one", "synonyms": ["ace", "stroke"], "descriptors": ["a bar"]},
        ]
    )
    backbone = Backbone.from_pretrained(model_folder())
    each = Files(synonyms, backbone, Words("demo", "demo", concepts_study.encoded(backbone, synonyms)))
    words, wrong = concepts_study.swap_in_file(each, 1.0, 0)
    assert [own.tolist() for own in wrong] == [[False, True, True]] * 2
    assert [[len(concept) for concept in own] for own in words] == [[2, 2, 2]] * 2
    prompts = ("a photo of a ace.", "a photo of a ace, which has one loop.")
    stranger = backbone.encode_texts(list(prompts))
    assert any(torch.allclose(stranger, concept, atol=1e-5) for concept in words[0])


def test_every_part_runs(small: Words, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(concepts_study, "SHARES", (0.2,))
    sets, page = [small, concepts_study.bare(small), small._replace(images=None)], Page()
    concepts_study.clean(sets, page)
    concepts_study.short(sets, page, 1)
    concepts_study.damaged(sets, page, 1)
    assert set(page.data) == {"clean", "short", "swapped 0.2"}
    assert json.loads(json.dumps(page.data))
    correct = concepts_study.right(concepts_study.DEFAULT, small, small.concepts)
    assert page.data["clean"][0][7] == concepts_study.two(concepts_study.score(correct, small))
