"""A name is the same name in any form of its letters, wherever a class, a group or a level is named."""

from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
import torch
from PIL import Image

from s3clip import SynonymousSpaceHead, SynonymSet
from s3clip.demo import model_folder
from s3clip.evaluation.benchmarks.classes import class_lookup, position_of
from s3clip.evaluation.inputs import labelled_images
from s3clip.prediction.class_labels import names_and_ids

NAMES = ["Käse", "Crème brûlée", "ガム", "Ångström"]
GROUPS = ["Süßes", "Süßes", "が", "が"]
FORMS = [
    pytest.param(lambda text: normalize("NFC", text), id="composed"),
    pytest.param(lambda text: normalize("NFD", text), id="decomposed"),
    pytest.param(lambda text: f" {normalize('NFD', text)}\t", id="with spaces"),
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
    files, read = labelled_images(tmp_path, None, named=names_and_ids(head.classes))
    assert sorted(read) == sorted(NAMES)
    lines = [f"{file.relative_to(tmp_path)},{form(NAMES[i])}" for i, file in enumerate(files)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *lines]), encoding="utf-8")
    assert labelled_images(None, tmp_path / "labels.csv")[1] == NAMES


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
