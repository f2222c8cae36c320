"""Which words help: against plain refits without each word, and the arithmetic against scipy."""

import json
import shutil

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from typer.testing import CliRunner

from s3clip import Backbone, HeadConfig, SynonymousSpaceHead, cli
from s3clip.demo import held_out_digits, model_folder
from s3clip.evaluation import WordComparison, compare_words
from s3clip.evaluation.scores import holm, sign_test

pytestmark = pytest.mark.filterwarnings("ignore:.*found in two classes")

CLASSES = [
    {"name": "zero", "synonyms": ["0", "nought", "nil"], "descriptors": ["a round hole"]},
    {"name": "one", "synonyms": ["1", "zero", "single"], "prompts": ["one stroke.", "a lonely number."]},
    {"name": "two", "synonyms": ["2"], "descriptors": ["a curve", "a flat foot"], "id": "B"},
    {"name": "three", "prompts": ["a pair of bows."]},
    {"name": "four"},
]
CONFIGS = {
    "default": HeadConfig(),
    "centered": HeadConfig(centering="class_mean"),
    "star": HeadConfig(metric="local_star"),
    "quantile": HeadConfig(scale_rule="quantile", scale_options={"q": 0.5}),
    "texts": HeadConfig(points="texts"),
    "center": HeadConfig(points="texts", metric="center", scale_rule=None),
}


def records(classes):
    return {"format": "s3clip-synonyms/1", "templates": ["a photo of a {}."], "classes": classes}


@pytest.fixture(scope="module")
def images():
    backbone = Backbone.from_pretrained(str(model_folder()))
    pictures, labels = held_out_digits()
    kept = [i for i in range(300) if labels[i] < 5]
    with torch.no_grad():
        embeds = backbone.encode_images(**backbone.preprocess([pictures[i] for i in kept]))
    return backbone, embeds, torch.tensor([int(labels[i]) for i in kept])


@pytest.fixture(scope="module")
def result(images):
    backbone, embeds, labels = images
    return compare_words(records(CLASSES), labels, backbone=backbone, image_embeds=embeds, bootstrap=100)


def without(position, word):
    """The classes without a word of one, written by hand."""
    own = dict(CLASSES[position])
    names = [name for name in (own["name"], *own.get("synonyms", [])) if name != word]
    own |= {"name": names[0], "synonyms": names[1:]}
    own["prompts"] = [each for each in own.get("prompts", []) if each != word]
    return [*CLASSES[:position], own, *CLASSES[position + 1 :]]


@pytest.mark.parametrize("name", CONFIGS)
def test_answers_are_those_of_a_plain_refit_without_the_word(name, images):
    backbone, embeds, labels = images
    found = compare_words(
        records(CLASSES), labels, backbone=backbone, image_embeds=embeds, config=CONFIGS[name], bootstrap=5
    )

    def answers(classes):
        head = SynonymousSpaceHead(backbone, config=CONFIGS[name]).fit_classes(records(classes))
        with torch.inference_mode():
            return head(image_embeds=embeds).argmax(1), head

    before, head = answers(CLASSES)
    assert found.top1 == pytest.approx(accuracy_score(labels, before))
    assert found.recall == pytest.approx(balanced_accuracy_score(labels, before))
    kept = set(head.space.kept.tolist())
    starts = np.cumsum([0, *(each.rows for each in head.classes)])
    for each in found.words:
        after, _ = answers(without(each.class_index, each.word))
        right, other = (before == labels), (after == labels)
        assert each.changed == int((before != after).sum()), each.word
        assert each.gained == int((right & ~other).sum())
        assert each.lost == int((other & ~right).sum())
        assert each.class_images == int((labels == each.class_index).sum())
        assert each.top1.value == pytest.approx(
            accuracy_score(labels, before) - accuracy_score(labels, after)
        )
        recall = balanced_accuracy_score(labels, before) - balanced_accuracy_score(labels, after)
        assert each.recall.value == pytest.approx(recall)
        own = [
            starts[each.class_index] + row
            for row, text in enumerate(head.classes[each.class_index].texts)
            if text == each.word or text.startswith(f"{each.word}, which")
        ]
        assert (each.points, each.kept) == (len(own), len(kept.intersection(own)))


def test_every_word_is_left_out_once(result):
    assert {(each.class_name, each.word, each.is_name) for each in result.words} == {
        *(("zero", word, word == "zero") for word in ("zero", "0", "nought", "nil")),
        *(("one", word, word == "one") for word in ("one", "1", "zero", "single")),
        *(("one", word, False) for word in ("one stroke.", "a lonely number.")),
        *(("two", word, word == "two") for word in ("two", "2")),
        ("three", "a pair of bows.", False),
    }
    assert result.single == 2  # the last two have no other
    assert result.classes == 5


def test_the_worst_word_comes_first_class_by_class(result):
    order = list(dict.fromkeys(each.class_index for each in result.words))
    own = [[each for each in result.words if each.class_index == position] for position in order]
    assert [each for words in own for each in words] == list(result.words)
    worst = [min((each.top1.value, each.recall.value) for each in words) for words in own]
    assert worst == sorted(worst)
    for words in own:
        values = [(each.top1.value, each.recall.value) for each in words]
        assert values == sorted(values)


def test_a_word_of_another_class_is_found_out(images):
    backbone, embeds, labels = images
    names = ["zero", "one", "two", "three", "four"]
    wrong = records([{"name": name, "synonyms": [str(i)]} for i, name in enumerate(names)])
    wrong["classes"][0]["synonyms"].append("3")  # of equals the first class wins
    truth = [names[label] for label in labels]
    config = HeadConfig(metric="nearest", scale_rule=None)
    found = compare_words(wrong, truth, backbone=backbone, image_embeds=embeds, config=config)
    assert (found.words[0].class_name, found.words[0].word) == ("zero", "3")
    assert found.words[0].beyond_chance
    assert found.words[0].top1.high < 0
    assert "'3' of zero beyond chance" in found.conclusion()


def test_sign_test_is_scipys():
    gained, lost = torch.tensor([0, 0, 3, 8, 40, 700]), torch.tensor([0, 4, 3, 1, 61, 800])
    expected = [
        1.0 if a + b == 0 else binomtest(a, a + b).pvalue
        for a, b in zip(gained.tolist(), lost.tolist(), strict=True)
    ]
    assert sign_test(gained, lost).tolist() == pytest.approx(expected, rel=1e-9)
    assert sign_test(gained[:0], lost[:0]).tolist() == []


def test_holm_is_a_plain_loop():
    p = [0.04, 0.001, 0.5, 0.02, 0.001]
    adjusted, largest = {}, 0.0
    for rank, i in enumerate(sorted(range(5), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (5 - rank) * p[i]))
        adjusted[i] = largest
    found = holm(torch.tensor(p, dtype=torch.float64))
    assert found.tolist() == pytest.approx([adjusted[i] for i in range(5)])


def test_report(result, tmp_path):
    result.save(tmp_path)
    text = (tmp_path / "words.json").read_text()
    assert WordComparison.model_validate_json(text) == result
    lines = (tmp_path / "words.md").read_text().splitlines()
    assert len(lines) == 2 + len(result.words) + 4
    assert lines[-1] == result.conclusion()
    assert len(result.table(3).rows) == 3


def test_words_that_are_alone_are_refused(images):
    backbone, embeds, labels = images
    with pytest.raises(ValueError, match="every class has one name only"):
        compare_words(["a", "b"], labels.clamp_max(1), backbone=backbone, image_embeds=embeds)


def test_the_command(images, tmp_path):
    _, embeds, labels = images
    (tmp_path / "digits.json").write_text(json.dumps(records(CLASSES)))
    np.savez(tmp_path / "images.npz", image_embeds=embeds.numpy(), labels=labels.numpy())
    line = ["compare", str(tmp_path / "digits.json"), "--backbone", str(model_folder()), "--words"]
    line += ["--embeddings", str(tmp_path / "images.npz"), "--bootstrap", "20", "--out"]
    found = CliRunner().invoke(cli.app, [*line, str(tmp_path / "out")])
    assert found.exit_code == 0, found.output
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"words.json", "words.md"}
    lines = found.stdout.splitlines()
    assert lines[11] == "10 of 13 rows; --all prints all."
    assert lines[-1].startswith("Of 13 words, ")
    every = CliRunner().invoke(cli.app, [*line, str(tmp_path / "out"), "--all"])
    assert len(every.stdout.splitlines()) == len(lines) + 2
    with pytest.raises(ValueError, match="--words: it compares words, not methods"):
        CliRunner().invoke(cli.app, [*line, "out", "--method", "name"], catch_exceptions=False)
    shutil.copy(tmp_path / "digits.json", tmp_path / "out" / "words.json")
    line[1] = str(tmp_path / "out" / "words.json")
    with pytest.raises(ValueError, match=r"out holds words.json, words.md and no report"):
        CliRunner().invoke(cli.app, [*line, str(tmp_path / "out")], catch_exceptions=False)
