"""The app: what it does without widgets, as a Space, and, where there is a browser, its page."""

import json
import runpy
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from s3clip import SynonymousSpaceHead, SynonymSet, cli
from s3clip.app.editor import Editor, Photos, answers_html, edited, is_edited, words_of
from s3clip.backbone import precision
from s3clip.backbone.backbone import Backbone
from s3clip.demo import held_out_digits, model_folder
from tests import ROOT
from tests.hub_server import TOKEN
from tests.pages.test_pages_in_a_browser import CONTRASTS, LEAST_CONTRAST

CLASSES = {"zero": ["nought"], "one": [], "two": ["pair"]}
START = SynonymSet.read(CLASSES)


@pytest.fixture(scope="module")
def editor() -> Editor:
    return Editor(Backbone.from_pretrained(str(model_folder())))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for i, image in enumerate(held_out_digits()[0][:2]):
        image.save(tmp_path / f"{i}.png")
    return [str(tmp_path / f"{i}.png") for i in range(2)]


@pytest.mark.parametrize(
    ("options", "dtype"),
    [("", "float32"), ("--dtype bfloat16", "bfloat16"), ("--dtype auto --images", "float16")],
)
def test_the_command_has_the_type_that_is_asked_for(files: list[str], monkeypatch, options, dtype):
    widgets = pytest.importorskip("s3clip.app.widgets", reason="gradio is not installed")
    monkeypatch.setattr(precision, "_FASTER", 0.0)
    monkeypatch.setattr(precision, "_candidates", lambda device: ["float16"])
    begun = []
    monkeypatch.setattr(widgets, "build", lambda backbone, words: Editor(backbone))
    monkeypatch.setattr(widgets, "launch", lambda editor, **_: begun.append(editor))
    words = [*options.split(), *([str(Path(files[0]).parent)] if "images" in options else [])]
    done = CliRunner().invoke(cli.app, ["app", ",".join(CLASSES), *words])
    assert done.exit_code == 0, (done.output, done.exception)
    assert begun[0].backbone.dtype == getattr(torch, dtype)
    assert ("dtype: auto takes float16" in done.output) == ("auto" in options)
    plain = Editor(Backbone.from_pretrained(str(model_folder()))).encode(files).embeds
    cosines = torch.nn.functional.cosine_similarity(begun[0].encode(files).embeds.float(), plain)
    assert cosines.min() > 0.999


def test_an_edit_changes_the_logits_as_a_new_fit_does(editor: Editor, files: list[str]):
    photos = editor.encode(files)
    first = editor.show(START, 0, photos, {})
    assert [(each.image, each.change) for each in first.answers] == [(0, None)] * 3 + [(1, None)] * 3
    assert "<script" in first.space

    words = edited(START, 0, " null \n\nnull\nnaught")
    assert words.classes[0].synonyms == ("null", "naught")
    assert words_of(words, 0) == "null\nnaught"
    second = editor.show(words, 0, photos, first.logits)
    head = SynonymousSpaceHead(editor.backbone).fit_classes(CLASSES | {"zero": ["null", "naught"]})
    with torch.inference_mode():
        expected = head(image_embeds=photos.embeds)
    now = torch.tensor([[second.logits[i, c] for c in range(3)] for i in range(2)])
    torch.testing.assert_close(now, expected)
    changes = {(each.image, each.label): each.change for each in second.answers}
    assert changes[0, "one"] == pytest.approx(0, abs=1e-5)
    assert changes[0, "zero"] == pytest.approx(second.logits[0, 0] - first.logits[0, 0])
    assert changes[0, "zero"] != 0


def test_what_was_uploaded_is_shown_with_its_answers(editor: Editor, files: list[str]):
    photos = editor.encode(files)
    shown = answers_html(photos, editor.show(START, 0, photos, {}).answers)
    assert shown.count("<img src='data:image/jpeg;base64,") == 2
    assert shown.count("alt='0.png'") == 1
    hostile = Photos(("<b>'.png",), ("data:,",), photos.embeds)
    assert "<b>" not in answers_html(hostile, ())
    assert "'.png" not in answers_html(hostile, ())
    assert "<img" not in answers_html(Photos(), ())


def test_warnings_are_part_of_what_is_shown(editor: Editor):
    shared = edited(START, 1, "pair")
    assert any("'pair'" in each for each in editor.show(shared, 0, Photos(), {}).warnings)
    assert editor.show(START, 0, Photos(), {}).warnings == ()


@pytest.mark.filterwarnings("ignore:.*texts found in two classes")
def test_classes_of_one_name_are_edited_one_at_a_time():
    twice = SynonymSet.read([{"name": "missile"}, {"name": "missile", "synonyms": ["rocket"]}])
    assert [each.synonyms for each in edited(twice, 1, "projectile").classes] == [(), ("projectile",)]


def test_what_was_typed_is_told_from_what_was_applied():
    assert not is_edited(START, 0, " nought\n\n")
    assert is_edited(START, 0, "nought\nnil")
    assert is_edited(START, 0, "")
    assert not is_edited(START, 1, "")
    assert not is_edited(SynonymSet.read([{"name": "a", "synonyms": ["b", "b"]}]), 0, "b\nb")


def test_templates_and_ids_live_through_an_edit_and_a_save(editor: Editor):
    start = SynonymSet.read(
        {"format": "s3clip-synonyms/1", "templates": ["a {}."], "classes": [{"name": "a", "id": 7}]}
    )
    path = editor.save(edited(start, 0, "b"))
    saved = SynonymSet.read(path)
    assert (saved.templates, saved.classes[0].id, saved.classes[0].synonyms) == (("a {}.",), 7, ("b",))
    assert json.loads(Path(path).read_text())["format"] == "s3clip-synonyms/1"


def test_bad_input_is_refused_by_name(editor: Editor, tmp_path: Path):
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"^text\.jpg is not an image"):
        editor.encode([str(tmp_path / "text.jpg")])
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match="33 images are more than the 32"):
        editor.encode([str(tmp_path / "small.png")] * 33)
    with pytest.raises(ValueError, match="201 synonyms"):
        edited(START, 0, "\n".join(map(str, range(201))))
    assert editor.encode([]) == Photos()


def test_a_push_uses_the_visitors_token_and_never_shows_it(editor: Editor, hub):
    with pytest.raises(ValueError, match="Paste a token"):
        editor.push(START, "user/digits", "  ")
    assert "user/digits" in editor.push(START, "user/digits", f" {TOKEN} ")
    head = SynonymousSpaceHead.from_pretrained("user/digits", backbone=None)
    assert head.class_names == ["zero", "one", "two"]
    with pytest.raises(ValueError, match="repo") as caught:
        editor.push(START, f"no repository {TOKEN}", TOKEN)
    assert TOKEN not in str(caught.value)


def test_the_space_is_a_gradio_space_of_this_app():
    gradio = pytest.importorskip("gradio", reason="pip install 's3clip[app]'")
    folder = ROOT / "examples" / "space"
    _, metadata, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    said = yaml.safe_load(metadata)
    assert (said["sdk"], said["app_file"]) == ("gradio", "app.py")
    assert "S3CLIP_BACKBONE" in text
    assert len(said["short_description"]) <= 60  # the Hub refuses more
    assert (folder / "requirements.txt").read_text().split() == ["s3clip[app]"]
    demo = runpy.run_path(str(folder / said["app_file"]), run_name="a module")["demo"]
    assert isinstance(demo, gradio.Blocks)
    assert not demo.analytics_enabled


@pytest.mark.filterwarnings("ignore:.*texts found in two classes")
def test_upload_edit_and_save_in_a_browser(browser, editor: Editor, files: list[str], tmp_path: Path):
    pytest.importorskip("gradio", reason="pip install 's3clip[app]'")
    from s3clip.app.widgets import CSS, THEME, build

    app = build(editor.backbone, START)
    options = {"theme": THEME, "css": CSS, "quiet": True, "prevent_thread_lock": True, "ssr_mode": False}
    _, address, _ = app.launch(inbrowser=False, footer_links=[], **options)
    page = browser.new_page(viewport={"width": 390, "height": 844})
    errors: list[str] = []
    requests: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    try:
        page.goto(address)
        page.locator("#answers p").wait_for()
        page.locator("input[type=file]").first.set_input_files(files)
        page.locator("#answers figure").nth(1).wait_for()
        assert page.locator("#answers img").count() == 2
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for scheme in ("", "dark"):
            page.evaluate("scheme => { document.body.className = scheme; }", scheme)
            page.wait_for_timeout(300)  # colours change slowly
            assert [each for each in page.evaluate(CONTRASTS) if each[0] < LEAST_CONTRAST] == []
        page.evaluate("document.body.className = ''")

        words = page.locator("#words textarea")
        words.fill("nought\npair")
        page.locator("#class input").click()
        page.get_by_role("option", name="two").click()
        page.locator("#stay").wait_for()  # asks first
        assert words.input_value() == "nought\npair"
        page.locator("#stay").click()
        page.locator("#stay").wait_for(state="hidden")
        page.locator("#apply").click()
        page.locator("#warnings").get_by_text("pair").wait_for()  # it stands in two classes
        page.wait_for_timeout(500)  # the file is written with what is drawn
        with page.expect_download() as saved:
            page.locator("#save").click()  # once
        saved.value.save_as(tmp_path / "saved.json")
        assert SynonymSet.read(tmp_path / "saved.json").classes[0].synonyms == ("nought", "pair")
    finally:
        page.close()
        app.close()
    assert errors == []
    assert all(url.startswith((address, "data:", "blob:", "about:")) for url in requests), requests
