"""Comparisons by level: against plain loops over images."""

import json

import pytest
import torch

from s3clip.demo import held_out_digits, model_folder
from s3clip.evaluation import compare, compare_embeddings

GROUPS = [
    {"kingdom": "animal", "family": "dog"},
    {"kingdom": "animal", "family": "cat"},
    {"kingdom": "animal", "family": "dog"},
    {"kingdom": "plant", "family": "rose"},
    {"kingdom": "plant"},
]


@pytest.fixture(scope="module")
def found():
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randn(c + 1, 16, generator=generator) for c in range(5)]
    labels = torch.arange(200) % 5
    images = torch.stack([texts[c][0] for c in labels]) + 1.5 * torch.randn(200, 16, generator=generator)
    names = ["beagle", "tabby", "husky", "briar", "moss"]
    asked = {"logit_scale": 10.0, "bootstrap": 20, "methods": ["default", "name", "softmax_max"]}
    result = compare_embeddings(texts, names, images, labels.tolist(), groups=GROUPS, **asked)
    plain = compare_embeddings(texts, names, images, labels.tolist(), **asked)
    return result, plain, labels, images, texts, names


def test_each_level_is_scored_by_the_sums_of_probabilities(found):
    from s3clip import SynonymousSpaceHead

    result, _, labels, images, texts, names = found
    head = SynonymousSpaceHead().fit_embeddings(texts, names, logit_scale=10.0)
    right = {"kingdom": 0, "family": 0}
    for row, label in zip(head.predict_proba(image_embeds=images).tolist(), labels.tolist(), strict=True):
        for level in right:
            sums = {}
            for c, own in enumerate(GROUPS):
                group = own.get(level, names[c])
                sums[group] = sums.get(group, 0) + row[c]
            right[level] += max(sums, key=sums.__getitem__) == GROUPS[label].get(level, names[label])
    assert result["default"].levels == {level: count / 200 for level, count in right.items()}
    assert 0 < right["family"] < right["kingdom"] < 200


def test_mistakes_are_off_by_the_levels_that_differ(found):
    result, _, labels, *_, names = found
    for method in ("default", "name", "softmax_max"):
        far = []
        for predicted, label in zip(result.predicted[method].tolist(), labels.tolist(), strict=True):
            if predicted != label:
                differ = [
                    GROUPS[predicted].get(level, names[predicted]) != GROUPS[label].get(level, names[label])
                    for level in ("kingdom", "family")
                ]
                far.append(1 + sum(differ))
        assert result[method].mistake_distance == pytest.approx(sum(far) / len(far))
        assert 1 < result[method].mistake_distance < 3


def test_nothing_else_changes_and_tables_show_it(found):
    result, plain, *_ = found
    ignored = {"image_ms", "fit_ms", "levels", "mistake_distance"}
    for own, other in zip(result.scores, plain.scores, strict=True):
        assert own.model_dump(exclude=ignored) == other.model_dump(exclude=ignored)
    assert plain.level_table() is None
    assert plain.scores[0].levels == {}
    header = result.level_table().markdown().splitlines()[0]
    assert [cell.strip() for cell in header.strip("|").split("|")] == [
        *("method", "top-1, kingdom", "top-1, family", "top-1, classes", "mistakes are off by"),
    ]
    assert result.level_table().markdown() in result.markdown()
    assert type(result).model_validate(json.loads(json.dumps(result.to_dict()))).scores == result.scores
    with pytest.raises(ValueError, match="groups: expected those of 5 classes, got 4"):
        compare_embeddings(
            *found[4:5], found[5], found[3], found[2].tolist(), logit_scale=1, groups=GROUPS[:4]
        )


def test_groups_of_a_synonym_file_are_taken():
    images, labels = held_out_digits()
    names = "zero one two three four five six seven eight nine".split()
    records = [{"name": n, "groups": ["odd" if i % 2 else "even"]} for i, n in enumerate(names)]
    asked = {"backbone": str(model_folder()), "images": images[:60], "methods": ["name"], "bootstrap": 5}
    result = compare(records, [int(label) for label in labels[:60]], **asked)
    assert result["name"].levels["0"] >= result["name"].top1
    assert list(result["name"].levels) == ["0"]
