"""A name is the same name in any form of its letters, wherever a class, a group or a level is named."""

from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from s3clip import SynonymousSpaceHead, SynonymSet
from s3clip.class_space.edits import class_position
from s3clip.cli.common import named as of_option
from s3clip.demo import model_folder
from s3clip.evaluation.benchmarks.classes import class_lookup, position_of
from s3clip.evaluation.inputs import labelled_images
from s3clip.prediction.class_labels import class_positions, names_and_ids
from s3clip.texts.labels import NameIndex, alike, composed

NAMES = ["Käse", "Crème brûlée", "ガム", "Ångström"]
GROUPS = ["Süßes", "Süßes", "が", "が"]
FORMS = [
    pytest.param(lambda text: normalize("NFC", text), id="composed"),
    pytest.param(lambda text: normalize("NFD", text), id="decomposed"),
    pytest.param(lambda text: f" {normalize('NFD', text)}\t", id="with spaces"),
    pytest.param(lambda text: f"\ufeff{text}\u3000", id="with marks around it"),
    pytest.param(lambda text: "\u200b".join(normalize("NFD", text)), id="with zero-width spaces"),
    pytest.param(lambda text: "\u00ad".join(text), id="with soft hyphens"),
    pytest.param(lambda text: "\u200d".join(text), id="with joiners that join nothing"),
    pytest.param(lambda text: f"\u200e{text}\u200f\u2060", id="with marks of direction"),
    pytest.param(lambda text: text.replace(" ", "\u00a0"), id="with a space that does not break"),
    pytest.param(lambda text: text.replace(" ", " \u2009 "), id="with more spaces"),
]
IN_ANOTHER_WAY = [
    pytest.param(str.upper, id="in capitals"),
    pytest.param(lambda text: text.swapcase().replace(" ", "_"), id="as folders are called"),
    pytest.param(lambda text: text.replace(" ", " - "), id="with a hyphen"),
]


def records(form=lambda text: text) -> list[dict]:
    return [
        {"name": form(name), "id": form(f"é{i}"), "groups": {form("Größe"): form(group)}}
        for i, (name, group) in enumerate(zip(NAMES, GROUPS, strict=True))
    ]


@pytest.fixture(scope="module")
def head() -> SynonymousSpaceHead:
    return SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(records())


@pytest.mark.parametrize("form", FORMS)
def test_a_set_is_the_same_in_any_form(form):
    assert SynonymSet.read(records(form)) == SynonymSet.read(records())


def test_one_name_in_two_forms_is_told_as_one_in_two_classes():
    with pytest.warns(UserWarning, match=r"texts found in two classes or more: 1"):
        SynonymSet.read(["Käse", normalize("NFD", "Käse")])
    groups = [{"name": "a", "groups": ["Käse"]}, {"name": "b", "groups": [normalize("NFD", "Käse")]}]
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(groups)
    assert head.group_names("0") == ["Käse"]


@pytest.mark.parametrize("form", FORMS)
def test_wherever_it_is_named(form, head: SynonymousSpaceHead, tmp_path: Path):
    dim = head.space.raw.shape[1]
    images = torch.nn.functional.normalize(torch.randn(8, dim, generator=torch.manual_seed(0)), dim=1)

    def answers(**options) -> list[tuple[int, float]]:
        found = head.predict(image_embeds=images, top_k=9, **options)
        return [(each.class_index, each.score) for own in found for each in own]

    for i, (name, group) in enumerate(zip(NAMES, GROUPS, strict=True)):
        assert answers(among=form(name)) == answers(among=i)
        assert answers(among=form(f"é{i}")) == answers(among=i)
        assert of_option(form(name), NAMES, "the head") == [i]
        members = [j for j, own in enumerate(GROUPS) if own == group]
        for named in (form(group), {form("Größe"): form(group)}, f"{form('Größe')}={form(group)}"):
            assert answers(among=named) == answers(among=members)
    assert answers(level=form("Größe")) == answers(level="Größe")
    assert head.group_names(form("Größe")) == head.group_names("Größe")

    labels = [form(NAMES[i % 4]) for i in range(8)]
    state = head.class_space
    head.fit_few_shot(image_embeds=images, labels=labels)
    assert head.few_shot.seen == (2, 2, 2, 2)
    head.calibrate(image_embeds=images, labels=labels)
    head.set_class_shares({form(NAMES[1]): 0.5})
    assert head.class_shares[1] == 0.5
    with pytest.warns(UserWarning, match="calibration"):
        head.remove_classes(form(NAMES[3]))
    head.rename_class(form(NAMES[0]), "cheese")
    assert head.class_names == ["cheese", *NAMES[1:3]]
    head._take(state, asked=("calibration", "class_shares", "few_shot"))

    lookup = class_lookup(SynonymSet.read(records()), {})
    assert [position_of(form(name), lookup) for name in NAMES] == [0, 1, 2, 3]
    for name in NAMES:
        (tmp_path / form(name)).mkdir()
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / form(name) / "a.png")
    files, read = labelled_images(tmp_path, None, is_class=names_and_ids(head.classes).__contains__)
    assert sorted(read) == sorted(NAMES)
    lines = [f"{file.relative_to(tmp_path)},{form(NAMES[i])}" for i, file in enumerate(files)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *lines]), encoding="utf-8")
    assert labelled_images(None, tmp_path / "labels.csv")[1] == NAMES


@pytest.mark.parametrize("form", IN_ANOTHER_WAY)
def test_case_and_what_stands_for_a_space_do_not_count(form, head: SynonymousSpaceHead, tmp_path: Path):
    images = torch.eye(head.space.raw.shape[1])
    wanted = [class_lookup(SynonymSet.read(records()), {}), names_and_ids(head.classes)]
    for i, (name, group) in enumerate(zip(NAMES, GROUPS, strict=True)):
        assert [position_of(form(name), lookup) for lookup in wanted] == [i, i]
        assert class_positions([form(name), form(f"é{i}")], NAMES, [f"é{j}" for j in range(4)]) == [i, i]
        assert of_option(form(name), NAMES, "the head") == [i]
        assert class_position(NAMES, form(name), "it") == i
        for ways in ([form(name), i], [form(group), [j for j, own in enumerate(GROUPS) if own == group]]):
            found, expected = (head.predict(image_embeds=images, among=way) for way in ways)
            assert found == expected
        (tmp_path / form(name)).mkdir()
        Image.new("L", (2, 2)).save(tmp_path / form(name) / "a.png")
    _, read = labelled_images(tmp_path, None, is_class=names_and_ids(head.classes).__contains__)
    assert sorted(class_positions(read, NAMES, [None] * 4)) == [0, 1, 2, 3]


def test_where_names_differ_in_case_alone_each_has_its_own():
    names = ["Turkey", "turkey", "Golden_Retriever", "golden retriever", "fish"]
    index = NameIndex((name, i) for i, name in enumerate(names))
    assert [index.find(name) for name in names] == [[i] for i in range(5)]
    assert index.find("FISH") == [4]
    assert index.find("TURKEY") == [0, 1]
    assert position_of("TURKEY", index) is None
    with pytest.raises(ValueError, match=r"'TURKEY' is the id or name of several classes, \[0, 1\]"):
        class_positions(["TURKEY"], names, [None] * 5)
    with pytest.raises(ValueError, match=r"'TURKEY' names at positions \[0, 1\]"):
        class_position(names, "TURKEY", "it")
    # What is called just so goes before an id that is written in another way.
    assert class_positions(["dog", "DOG"], ["dog", "cat"], [None, "DOG"]) == [0, 1]


# Where a joiner changes what is shown, it is a part of the name: Persian, Hindi, Bengali, and emoji.
JOINED = ["می\u200cخواهم", "क्\u200dष", "र\u200d्य", "👩\u200d🚀", "🏳\ufe0f\u200d🌈", "👩🏽\u200d🌾"]


@pytest.mark.parametrize("name", JOINED)
def test_a_joiner_that_is_seen_stays(name):
    assert composed(name) == name
    apart = name.replace("\u200c", "").replace("\u200d", "")
    assert SynonymSet.read([name, apart]).class_names == [name, apart]


# Marks, joiners and what they join, whose order composing changes; letters that become two in lower case.
BY_THE_SIDE = (
    "a \u00e9\u0130\u00df\u0301\u0327\u0915\u094d\u0644"
    "\u200b\u200c\u200d\u00ad\u00a0\ufe0f\U0001f468\U0001f525_-"
)


@given(st.text(max_size=12) | st.text(BY_THE_SIDE, max_size=8))
def test_composing_twice_is_composing_once(text):
    once = composed(text)
    assert composed(once) == once
    assert alike(once) == alike(text) == alike(alike(text))


def test_ids_that_are_numbers_are_texts_among_labels():
    words = [{"name": "one", "id": 7}, {"name": "two", "id": 0}]
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(words)
    images = torch.randn(6, head.space.raw.shape[1], generator=torch.manual_seed(0))
    images[::2, 0] += 3.0
    found = [
        head.calibrate(image_embeds=images, labels=labels).calibration
        for labels in ([0, 1] * 3, ["one", "two"] * 3, ["7", "0"] * 3, ["7", "two"] * 3)
    ]
    assert found == found[:1] * 4
    with pytest.raises(ValueError, match="labels: '1': no class has it"):
        head.calibrate(image_embeds=images, labels=["1"] * 6)


@pytest.mark.parametrize("ids", [(7, 5), ("7", "5")])
def test_an_id_as_a_text_is_its_class_whatever_the_file_has(ids):
    records = [{"id": own, "name": name} for own, name in zip(ids, ("one", "seven"), strict=True)]
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(records)
    dim = head.space.raw.shape[1]
    images = torch.nn.functional.normalize(torch.randn(8, dim, generator=torch.manual_seed(0)), dim=1)
    texts = [str(ids[i % 2]) for i in range(8)]
    head.fit_few_shot(image_embeds=images, labels=texts)
    assert head.examples.labels.tolist() == [i % 2 for i in range(8)]
    temperatures = [
        head.calibrate(image_embeds=images, labels=labels).calibration.temperature
        for labels in (texts, ["one", "seven"] * 4)
    ]
    assert temperatures[0] == temperatures[1]
