"""The Gradio app: what its callbacks do, and that it is wired together."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from s3clip import SynonymousSpaceHead, SynonymSet
from s3clip.backbone.backbone import Backbone
from s3clip.demo import held_out_digits, model_folder
from tests.hub_server import TOKEN

gradio = pytest.importorskip("gradio", reason="the app needs gradio: pip install 's3clip[app]'")

import app  # noqa: E402

CLASSES = {"zero": ["nought"], "one": [], "two": ["pair"]}


@pytest.fixture(scope="module")
def editor():
    return app.Editor(Backbone.from_pretrained(str(model_folder())))


@pytest.fixture
def files(tmp_path):
    for i, image in enumerate(held_out_digits()[0][:2]):
        image.save(tmp_path / f"{i}.png")
    return [str(tmp_path / f"{i}.png") for i in range(2)]


def test_an_edit_changes_the_logits_as_a_new_fit_does(editor, files):
    start = SynonymSet.read(CLASSES)
    images = editor.encode(files)
    rows, page, before = editor.show(start, 0, images, {})
    assert [row[0] for row in rows] == ["0.png"] * 3 + ["1.png"] * 3
    assert all(row[3] == "" for row in rows)
    assert 'sandbox="allow-scripts"' in page

    edited = editor.edit(start, 0, " null \n\nnull\nnaught")
    assert edited.classes[0].synonyms == ("null", "naught")
    assert editor.words(edited, 0) == "null\nnaught"
    rows, _, now = editor.show(edited, 0, images, before)
    head = SynonymousSpaceHead(editor.backbone).fit_classes(
        {"zero": ["null", "naught"], "one": [], "two": ["pair"]}
    )
    with torch.inference_mode():
        expected = head(image_embeds=images[1])
    torch.testing.assert_close(torch.tensor([[now[i, c] for c in range(3)] for i in range(2)]), expected)
    changes = {(row[0], row[1]): row[3] for row in rows}
    assert changes["0.png", "one"] == "+0.00"
    assert changes["0.png", "zero"] == f"{now[0, 0] - before[0, 0]:+.2f}" != "+0.00"


@pytest.mark.filterwarnings("ignore:.*texts found in two classes")
def test_classes_of_one_name_are_edited_one_at_a_time(editor):
    twice = SynonymSet.read([{"name": "missile"}, {"name": "missile", "synonyms": ["rocket"]}])
    edited = editor.edit(twice, 1, "projectile")
    assert [each.synonyms for each in edited.classes] == [(), ("projectile",)]


def test_templates_and_ids_live_through_an_edit_and_a_save(editor):
    start = SynonymSet.read(
        {"format": "s3clip-synonyms/1", "templates": ["a {}."], "classes": [{"name": "a", "id": 7}]}
    )
    path = editor.save(editor.edit(start, 0, "b"))
    saved = SynonymSet.read(path)
    assert (saved.templates, saved.classes[0].id, saved.classes[0].synonyms) == (("a {}.",), 7, ("b",))
    assert json.loads(Path(path).read_text())["format"] == "s3clip-synonyms/1"


def test_bad_input_is_said_in_the_app(editor, tmp_path):
    start = SynonymSet.read(CLASSES)
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(gradio.Error, match=r"text\.jpg"):
        editor.encode([str(tmp_path / "text.jpg")])
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    with pytest.raises(gradio.Error, match="33 images are more than the 32"):
        editor.encode([str(tmp_path / "small.png")] * 33)
    with pytest.raises(gradio.Error, match="201 synonyms"):
        editor.edit(start, 0, "\n".join(map(str, range(201))))
    assert editor.encode(None) == ([], None)


def test_a_push_uses_the_visitors_token_and_never_shows_it(editor, hub):
    start = SynonymSet.read(CLASSES)
    with pytest.raises(gradio.Error, match="Paste a token"):
        editor.push(start, "user/digits", "  ")
    assert "user/digits" in editor.push(start, "user/digits", f" {TOKEN} ")
    head = SynonymousSpaceHead.from_pretrained("user/digits", backbone=None)
    assert head.class_names == ["zero", "one", "two"]
    with pytest.raises(gradio.Error) as caught:
        editor.push(start, f"no repository {TOKEN}", TOKEN)
    assert TOKEN not in str(caught.value)


def test_the_app_is_wired(editor):
    built = app.build(editor.backbone, SynonymSet.read(CLASSES))
    assert len(built.fns) >= 9
    assert not built.analytics_enabled
