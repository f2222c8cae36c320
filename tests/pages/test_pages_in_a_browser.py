"""Every page that s3clip writes: contrast, keyboard, pictures with words, and no request to anywhere."""

import warnings
from pathlib import Path

import pytest

from s3clip import SynonymousSpaceHead, bulk
from s3clip.demo import held_out_digits, model_folder
from s3clip.evaluation.report.page import run_page
from s3clip.evaluation.report.run import Run
from s3clip.inspection.contact_sheet import write_contact_sheet
from s3clip.inspection.matches import match_images
from s3clip.inspection.page import write_page
from s3clip.prediction.label_check import LabelDoubt
from tests.local_sets import evaluate_one, open_digits, write_digits

LEAST_CONTRAST = 4.5
"""Of WCAG 2.2, 1.4.3, for text of usual size."""

# The contrast of every text that is shown, by the formulas of WCAG 2.2, to what is laid below it.
CONTRASTS = """() => {
  const numbers = (colour) => {
    const found = colour.match(/[\\d.]+/g).map(Number);
    return found.length < 4 ? [...found, 1] : found;
  };
  const light = (colour) => colour.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const over = (top, below) => below.map((v, i) => top[i] * top[3] + v * (1 - top[3]));
  const behind = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.push(numbers(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  // What lies below a text of a drawing: a circle whose middle is near, or the drawing.
  const drawnBehind = (text) => {
    const middle = (each) => {
      const box = each.getBoundingClientRect();
      return [box.x + box.width / 2, box.y + box.height / 2, box.width];
    };
    const [x, y] = middle(text);
    for (const circle of [...text.ownerSVGElement.querySelectorAll("circle")].reverse()) {
      const [own_x, own_y, width] = middle(circle);
      const fill = numbers(getComputedStyle(circle).fill).slice(0, 3);
      if (Math.hypot(own_x - x, own_y - y) < width / 3) return fill;
    }
    return behind(text.ownerSVGElement);
  };
  const found = [];
  const add = (colour, below, said) => {
    const ink = over(numbers(colour), below);
    const [one, other] = [light(ink), light(below)].sort((a, b) => b - a);
    found.push([(one + 0.05) / (other + 0.05), said.slice(0, 40), ink.join(" "), below.join(" ")]);
  };
  for (const input of document.querySelectorAll("[placeholder]"))
    add(getComputedStyle(input, "::placeholder").color, behind(input), input.placeholder);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const passed = ["script", "style", "noscript", "option", "title"];
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement, said = walker.currentNode.textContent.trim();
    if (!said || passed.includes(node.tagName.toLowerCase()) || !node.checkVisibility()) continue;
    const drawn = node instanceof SVGElement, style = getComputedStyle(node);
    add(drawn ? style.fill : style.color, drawn ? drawnBehind(node) : behind(node), said);
  }
  return found;
}"""

# What Tab is to reach: everything that can be clicked, chosen or typed into.
CONTROLS = """() => {
  const all = [...document.querySelectorAll("a[href], button, input, select, textarea, summary")];
  const shown = all.filter((each) => !each.disabled && each.checkVisibility());
  return shown.map((each, i) => { each.dataset.at = i; return i; });
}"""

UNNAMED = """() => [...document.querySelectorAll("svg, input, select, button")]
  .filter((each) => !(each.getAttribute("aria-label") || each.textContent.trim() || each.labels?.length))
  .map((each) => each.outerHTML)"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """One of each page, with all that it can show."""
    folder = tmp_path_factory.mktemp("pages")
    words = {
        "zero": ["0", "nought", "love", "nil"],
        "one": ["1", "ace", "single stroke", "snowman"],
        "two": ["2", "deuce", "pair", "swan"],
        "seven": ["7", "lucky number", "siete", "zero"],
        "eight": ["8", "snowman", "octet", "Octet"],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(words)
    files = []
    for i, image in enumerate(held_out_digits()[0][:12]):
        place = folder / ("zero" if i % 2 else "seven")
        place.mkdir(exist_ok=True)
        files.append(place / f"{i}.png")
        image.save(files[-1])
    found = {name: folder / f"{name}.html" for name in ("inspect", "doubts", "report")}
    write_page(head, found["inspect"], matches=match_images(head, files), title="The space")
    doubts = [LabelDoubt(i, 0, 1, 0.9) for i in range(4)]
    write_contact_sheet(head, files, doubts, found["doubts"])
    evaluate_one(open_digits(write_digits(folder / "data")), folder / "a", methods=["name", "default"])
    run = Run.read(folder / "a")
    bulk.write_summary_page(folder / "labels", bulk.label(files, head, folder / "labels", progress=False))
    found["label"] = folder / "labels" / "_s3clip" / "summary.html"
    found["report"].write_text(run_page([(folder / "a", run), (folder / "b", run)]), encoding="utf-8")
    return found


@pytest.fixture(scope="module", params=["inspect", "doubts", "report", "label"])
def name(request) -> str:
    return request.param


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_are_read_and_pictures_have_words(browser, pages, name, scheme, width):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(pages[name].as_uri())
    page.evaluate("() => { for (const each of document.querySelectorAll('details')) each.open = true; }")
    page.wait_for_timeout(50)
    page.evaluate("() => { for (const each of document.querySelectorAll('details')) each.open = true; }")
    found = page.evaluate(CONTRASTS)
    assert len(found) > 10
    assert [each for each in found if each[0] < LEAST_CONTRAST] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    alts = page.locator("img").evaluate_all("all => all.map((each) => each.getAttribute('alt'))")
    assert alts
    assert all(alt and len(alt) > 3 for alt in alts)
    assert page.evaluate(UNNAMED) == []
    assert page.locator("h1").count() == 1
    assert page.title()
    assert page.locator("html").get_attribute("lang") == "en"
    # Nothing is asked for, and nothing may be.
    assert all(url.startswith(("file:", "data:")) for url in requests)
    assert "default-src 'none'" in page.locator("meta[http-equiv]").get_attribute("content")
    assert errors == []
    page.close()


def test_contrasts_are_those_of_wcag(browser):
    page = browser.new_page()
    page.set_content(
        "<body style='background: #fff'><p style='color: #777'>grey</p><p style='color: #000'>black</p>"
        "<div style='background: rgba(0, 0, 0, .5)'><b style='color: #fff'>on half</b></div>"
    )
    found = {said: round(contrast, 2) for contrast, said, *_ in page.evaluate(CONTRASTS)}
    assert found == {"grey": 4.48, "black": 21.0, "on half": 3.98}
    page.close()


def test_the_keyboard_reaches_all(browser, pages, name):
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    page.goto(pages[name].as_uri())
    if name == "inspect":
        page.locator("details.class > summary").nth(2).press("Enter")
        page.locator("details.class[open] details.topology > summary").press("Enter")
        assert page.locator("details.class[open] input[type=range]").is_visible()
        page.evaluate("() => { document.activeElement.blur(); window.getSelection().removeAllRanges(); }")
    wanted = page.evaluate(CONTROLS)
    reached = set()
    page.evaluate("() => { document.body.tabIndex = -1; document.body.focus(); }")
    for _ in range(2 * len(wanted) + 10):
        page.keyboard.press("Tab")
        at = page.evaluate("document.activeElement.dataset.at ?? null")
        if at is not None:
            reached.add(int(at))
            width = page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
            assert width >= 1  # it is seen where one is
        if len(reached) == len(wanted):
            break
    assert reached == set(wanted)
    page.close()
