"""The page and the picture of `s3clip inspect`: numbers against scipy, the rest in a headless browser."""

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform
from typer.testing import CliRunner

from s3clip import HeadConfig, SynonymousSpaceHead, cli
from s3clip.demo import held_out_digits, model_folder, synonym_file
from s3clip.inspection import picture
from s3clip.inspection.complexes import classical_scaling
from s3clip.inspection.matches import match_images
from s3clip.inspection.page import page_data, render_page, write_page
from s3clip.printing import new_figure

NASTY = "</script><img src=x onerror=document.title='broken'><!--"
SIZES = (1, 2, 7, 20)


def fitted(rule: str | None = None, seed: int = 0) -> SynonymousSpaceHead:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(len(SIZES), 1, 12, generator=generator)
    own = [centres[i] + 0.7 * torch.randn(n, 12, generator=generator) for i, n in enumerate(SIZES)]
    own[2][6] = own[2][3]  # a repeated text
    names = ["ant", NASTY, "möwe", "cat"]
    texts = [[name, *(f"{name} {i}" for i in range(1, n))] for name, n in zip(names, SIZES, strict=True)]
    texts[3][5] = "ANT"
    head = SynonymousSpaceHead(config=HeadConfig(scale_rule=rule))
    return head.fit_embeddings(own, names, texts=texts, logit_scale=100.0)


def lengths(own: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(own["lengths"]), "<f4").astype(float)


@pytest.mark.parametrize("rule", ["largest_gap", "margin", None])
def test_death_times_and_components_are_those_of_scipy(rule: str | None):
    head = fitted(rule)
    data = page_data(head)
    assert [len(own["rows"]) for own in data["classes"]] == [1, 2, 6, 20]
    start = 0
    for own in data["classes"]:
        unit = torch.nn.functional.normalize(head.space.raw[start:][own["rows"]].double(), dim=1)
        start += len(own["texts"])
        if rule != "margin":
            np.testing.assert_allclose(lengths(own), pdist(unit.numpy()), atol=1e-6)
        if len(own["rows"]) < 2:
            continue
        tree = linkage(lengths(own), "single")
        deaths = [edge[2] for edge in own["tree"]]
        np.testing.assert_allclose(deaths, tree[:, 2], rtol=1e-6)
        square = squareform(lengths(own))
        assert all(square[a, b] == pytest.approx(length, rel=1e-6) for a, b, length in own["tree"])
        for scale in np.linspace(0.9 * deaths[0], 1.1 * deaths[-1], 4):
            assert 1 + sum(death > scale for death in deaths) == fcluster(tree, scale, "distance").max()


def test_the_plane_is_that_of_principal_components():
    points = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plane, shown = classical_scaling(torch.cdist(points, points))
    u, s, _ = torch.linalg.svd(points - points.mean(0), full_matrices=False)
    torch.testing.assert_close(plane.abs(), (u * s)[:, :2].abs())
    assert shown == pytest.approx(float(s[:2].square().sum() / s.square().sum()))
    assert classical_scaling(torch.zeros(1, 1, dtype=torch.float64))[0].tolist() == [[0, 0]]


def test_neighbours_and_findings_by_a_plain_loop():
    head = fitted("largest_gap")
    data, space = page_data(head), head.space
    unit = space.raw / space.raw.norm(dim=1, keepdim=True)
    kept = [[r for r in space.kept.tolist() if space.owners[r] == i] for i in range(len(SIZES))]

    def cosine(row: int, rows: list[int]) -> float:
        return torch.cosine_similarity(unit[row], unit[rows].sum(0), dim=0).item()

    row = 0
    for i, own in enumerate(data["classes"]):
        for text in own["texts"]:
            rest = [r for r in kept[i] if r != space.duplicate_of[row]]
            assert text[4] == (pytest.approx(cosine(row, rest), abs=6e-4) if rest else None)
            others = {j: cosine(row, kept[j]) for j in range(len(SIZES)) if j != i}
            assert text[6] == max(others, key=others.get)
            assert text[5] == pytest.approx(max(others.values()), abs=6e-4)
            row += 1
    kinds = {(f[1], f[2], f[3]) for f in data["findings"]}
    assert ("name_only", 0, None) in kinds
    assert ("repeated_text", 2, 6) in kinds or ("repeated_text", 2, 3) in kinds
    assert ("shared_text", 3, 5) in kinds or data["classes"][3]["texts"][5][1] == "dropped"
    weights = [f[0] for f in data["findings"]]
    assert weights == sorted(weights, reverse=True)


def test_no_text_closes_the_data_and_nothing_is_outside():
    page = render_page(page_data(fitted()), title=NASTY)
    assert page.count("</script>") == 2
    (content,) = re.findall(r'id="data">(.*?)</script>', page, re.S)
    assert json.loads(content)["classes"][1]["name"] == NASTY
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", page)


def test_the_command_writes_a_page_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file()).save_pretrained("space")
    held_out_digits()[0][0].save("photo.png")
    done = CliRunner().invoke(
        cli.app, ["inspect", "space", "--page", "p.html", "--images", "photo.png", "--picture", "p.png",
                  "--class", "seven"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "data:image/jpeg;base64," in Path("p.html").read_text()
    assert len(Image.open("p.png").convert("L").getcolors()) > 20
    for arguments, message in (
        (["--images", "photo.png"], "--page"),
        (["--picture", "p.png"], "--class"),
        (["--picture", "p.nope", "--class", "seven"], "nope"),
    ):
        failed = CliRunner().invoke(cli.app, ["inspect", "space", *arguments])
        assert message in str(failed.exception)


def test_images_stand_at_the_text_that_matched(tmp_path: Path):
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())
    files = [tmp_path / f"{i}.png" for i in range(20)]
    for file, image in zip(files, held_out_digits()[0], strict=False):
        image.save(file)
    data = page_data(head, match_images(head, files))
    shown = {
        image[0]: (own["name"], own["texts"][image[1]][0], image[2])
        for own in data["classes"]
        for image in own["images"]
    }
    for file, (best,) in zip(files, head.predict(files, top_k=1), strict=True):
        if file.name in shown:
            assert shown[file.name] == (best.label, best.text, pytest.approx(best.score, abs=1e-4))
    assert sum(sum(own["matched"].values()) for own in data["classes"]) == 20


SPOILT = {
    "zero": ["0", "nought", "love", "nil", "zip"],
    "one": ["1", "ace", "single stroke", "snowman"],
    "two": ["2", "deuce", "pair", "swan"],
    "seven": ["7", "lucky number", "siete", "zero"],
    "eight": ["8", "snowman", "octet"],
}


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory) -> tuple[SynonymousSpaceHead, list[Path], list[int]]:
    """A head with words that are dropped, images in folders of classes, and their classes."""
    with pytest.warns(UserWarning, match="two classes"):
        head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(SPOILT)
    folder = tmp_path_factory.mktemp("photos")
    names = {0: "zero", 1: "one", 2: "two", 3: "elsewhere", 7: "seven", 8: "eight"}
    files, truth = [], []
    for i, (image, digit) in enumerate(zip(*held_out_digits(), strict=True)):
        if digit in names and len(files) < 60:
            # A file in the wrong folder, so that one is missed.
            name = "seven" if not files else names[digit]
            (folder / name).mkdir(exist_ok=True)
            files.append(folder / name / f"{i}.png")
            image.save(files[-1])
            truth.append(list(SPOILT).index(name) if name in SPOILT else None)
    return head, files, truth


def test_folders_of_classes_say_what_is_right_and_what_is_missed(spoilt):
    head, files, truth = spoilt
    data = page_data(head, match_images(head, files, batch_size=7))
    best = [own[0].class_index for own in head.predict(files, top_k=1)]
    assert None in truth
    for index, own in enumerate(data["classes"]):
        mine = [t for t, b in zip(truth, best, strict=True) if b == index]
        assert own["known"] == sum(t is not None for t in mine)
        assert own["right"] == mine.count(index)
        assert own["missed_count"] == sum(t == index != b for t, b in zip(truth, best, strict=True))
        for file, other, *_ in own["missed"]:
            (at,) = [i for i, each in enumerate(files) if each.name == file]
            assert (best[at], truth[at]) == (other, index)
    assert sum(own["missed_count"] for own in data["classes"]) > 0


def test_what_would_change_is_what_does_change(spoilt):
    head, files, _ = spoilt
    matches = match_images(head, files)
    data = page_data(head, matches)
    config, kept = head.config, len(head.space.kept)
    before = [own[0].label for own in head.predict(files, top_k=1)]
    reasons = [text[8] for own in data["classes"] for text in own["texts"] if text[8]]
    assert len({reason[2] for reason in reasons}) > 1
    for *_, settings, more, answers in reasons:
        head.reconfigure(**json.loads(settings))
        after = [own[0].label for own in head.predict(files, top_k=1)]
        assert more == len(head.space.kept) - kept > 0
        assert answers == sum(one != other for one, other in zip(before, after, strict=True))
        head.reconfigure(**config.model_dump())
    without = [text[8] for own in page_data(head)["classes"] for text in own["texts"] if text[8]]
    assert [each[:4] for each in without] == [each[:4] for each in reasons]
    assert {each[4] for each in without} == {None}


def test_every_bar_of_a_picture_is_inside_it_the_shortest_on_top(tmp_path: Path, monkeypatch):
    data, made = page_data(fitted("largest_gap")), []
    monkeypatch.setattr(picture, "new_figure", lambda *size: made.append(new_figure(*size)) or made[0])
    picture.draw_classes(data, range(4), tmp_path / "p.png")
    for index, own in enumerate(data["classes"]):
        axes = made[0].axes[3 * index]
        low, high = sorted(axes.get_ylim())
        bars = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "-"]
        arrow = axes.texts[0].xyann[1]
        assert all(low < y < high for y in [*bars, arrow])
        assert axes.yaxis_inverted()
        assert [*bars, arrow] == sorted(range(len(own["rows"])))
        lengths = [line.get_xdata()[1] for line in axes.lines if line.get_linestyle() == "-"]
        assert lengths == sorted(lengths)


def test_search_sort_and_the_slider_in_a_browser(browser, tmp_path: Path):
    head = fitted("largest_gap")
    write_page(head, tmp_path / "page.html")
    data = page_data(head)
    page = browser.new_page(viewport={"width": 375, "height": 700})
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto((tmp_path / "page.html").as_uri())
    assert page.title() == "s3clip"
    page.fill("#search", "CAT 7")
    assert page.locator(".class:visible").count() == 1
    assert page.locator("#found").text_content() == "1 of 4"
    page.locator(".class:visible > summary").click()
    own = data["classes"][3]
    tree = linkage(lengths(own), "single")
    slider, said = page.locator(".class[open] input[type=range]"), page.locator(".class[open] .slider output")
    last = own["tree"][-1][2]
    for scale in (own["scale"], 0.6 * last, last, 0.95 * last):
        slider.evaluate("(it, v) => { it.value = v; it.dispatchEvent(new Event('input')); }", scale)
        expected = fcluster(tree, scale * (1 + 1e-6), "distance")
        labels = said.get_attribute("data-labels").split()
        pairs = set(zip(labels, expected.tolist(), strict=True))
        assert len(pairs) == len(set(labels)) == expected.max() == int(said.get_attribute("data-components"))
        joined = int((lengths(own) <= scale * (1 + 1e-6)).sum())
        assert int(said.get_attribute("data-edges")) == joined
        assert page.locator(".class[open] path.edges").get_attribute("d").count("M") == joined
    page.fill("#search", "")
    page.select_option("#sort", "number of texts")
    order = page.locator(".class").evaluate_all("all => all.map(each => Number(each.dataset.index))")
    assert order == [3, 2, 1, 0]
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert all(url.startswith(("file:", "data:")) for url in requests)
    assert errors == []
    assert page.title() == "s3clip"
    page.close()


@pytest.mark.parametrize("most", [1, 9, 10, 29, 30])
@pytest.mark.parametrize("first", [[], [0], [2, 0]])
def test_a_page_of_many_classes_has_the_texts_of_some_and_the_names_of_all(
    monkeypatch: pytest.MonkeyPatch, most: int, first: list[int]
):
    head = fitted("largest_gap")
    whole = page_data(head)
    assert whole["shown"] == 4
    assert whole["found"] == len(whole["findings"]) > 0
    monkeypatch.setattr("s3clip.inspection.page.MOST_TEXTS", most)
    data = page_data(head, first=first)
    weight = [sum(f[0] for f in whole["findings"] if f[2] == i) for i in range(4)]
    assert [own["weight"] for own in whole["classes"]] == weight
    expected, texts = set(), 0
    for i in sorted(range(4), key=lambda i: (i not in first, -weight[i], i)):
        if expected and texts + SIZES[i] > most:
            break
        expected, texts = expected | {i}, texts + SIZES[i]
    assert {i for i, own in enumerate(data["classes"]) if own["texts"] is not None} == expected
    assert data["shown"] == len(expected)
    assert data["found"] == whole["found"]
    assert data["findings"] == [f for f in whole["findings"] if f[2] in expected]
    tried = [own.pop("texts") for page in (data, whole) for own in page["classes"]]
    # What dropped texts would change is tried for those that are shown.
    for some, every in zip(tried[:4], tried[4:], strict=True):
        assert some is None or [text[:8] for text in some] == [text[:8] for text in every]
    for i, (own, other) in enumerate(zip(data["classes"], whole["classes"], strict=True)):
        assert own == (other if i in expected else {key: other[key] for key in own})
        assert {"name", "id", "groups", "scale", "negatives", "count", "weight"} <= own.keys()


def test_a_class_whose_texts_are_not_on_the_page_in_a_browser(
    browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("s3clip.inspection.page.MOST_TEXTS", 2)
    head = fitted("largest_gap")
    write_page(head, tmp_path / "page.html", first=[1])
    page, errors = browser.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri())
    data = page_data(head, first=[1])
    assert [own["texts"] is None for own in data["classes"]] == [True, False, True, True]
    assert page.locator(".class").count() == 4
    assert "The texts of 1 class are on this page" in page.locator("#summary").text_content()
    assert page.locator("#findings summary").text_content() == f"Warnings: {data['found']}"
    page.locator(".class > summary").nth(3).click()
    assert "s3clip inspect HEAD --class 'cat'" in page.locator(".class[open]").text_content()
    page.fill("#search", "cat 7")  # a text that is not here
    assert page.locator(".class:visible").count() == 0
    page.fill("#search", "möw")
    assert page.locator(".class:visible").count() == 1
    page.fill("#search", "")
    for order in page.locator("#sort option").all_text_contents():
        page.select_option("#sort", order)
        assert page.locator(".class").count() == 4
    assert errors == []
    page.close()


def test_classes_fold_by_group_in_a_browser(browser, tmp_path: Path):
    head = SynonymousSpaceHead().fit_embeddings(list(torch.randn(4, 2, 8)), list("abcd"), logit_scale=1.0)
    groups = [{"kind": "x"}, {"kind": "y"}, {"kind": "x"}, {}]
    classes = (
        each.model_copy(update={"groups": own}) for each, own in zip(head.classes, groups, strict=True)
    )
    head._take(replace(head.class_space, classes=tuple(classes)))
    write_page(head, tmp_path / "page.html")
    assert [own["groups"] for own in page_data(head)["classes"]] == groups
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    page.select_option("#level", "kind")
    folded = page.locator(".group").evaluate_all(
        "all => all.map(g => [g.querySelector('b').textContent, g.querySelectorAll('.class').length])"
    )
    assert folded == [["x", 2], ["y", 1], ["d", 1]]
    assert page.locator(".class:visible").count() == 0
    page.fill("#search", "c")
    assert page.locator(".group:visible").count() == 1
    assert page.locator(".class:visible").count() == 1
    page.fill("#search", "")
    page.select_option("#level", "")
    assert page.locator(".class:visible").count() == 4
    assert page.locator(".group").count() == 0
    page.close()


def test_the_page_needs_neither_images_nor_a_backbone(tmp_path: Path):
    head = SynonymousSpaceHead().fit_embeddings(
        [torch.randn(3, 8), torch.randn(2, 8)], ["cat", "dog"], logit_scale=1.0
    )
    head.save_pretrained(tmp_path / "space")
    page = tmp_path / "page.html"
    for out, problem in ((tmp_path, "is a folder"), (tmp_path / "no" / "page.html", "there is no folder")):
        found = CliRunner().invoke(cli.app, ["inspect", str(tmp_path / "space"), "--page", str(out)])
        assert problem in str(found.exception)
    found = CliRunner().invoke(cli.app, ["inspect", str(tmp_path / "space"), "--page", str(page)])
    assert found.exit_code == 0, found.output
    assert '"name":"dog"' in page.read_text(encoding="utf-8")


def test_negatives_are_on_the_page_in_the_command_and_counted(tmp_path: Path):
    records = [
        {"name": "zero", "negatives": ["six", "</script><b>"]},
        {"name": "one"},
        {"name": "two", "negatives": ["six"]},
    ]
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(records)
    assert "negatives=3" in repr(head)
    assert "negatives" not in repr(fitted())
    data = page_data(head)
    assert [own["negatives"] for own in data["classes"]] == [["six", "</script><b>"], [], ["six"]]
    page = render_page(data)
    assert page.count("</script>") == 2
    head.save_pretrained(tmp_path / "space")
    said = CliRunner().invoke(cli.app, ["inspect", str(tmp_path / "space")]).stdout
    assert said.count("negative   six") == 2
    line = ["inspect", str(tmp_path / "space"), "--format"]
    listed = json.loads(CliRunner().invoke(cli.app, [*line, "json"]).stdout)
    assert [own["negatives"] for own in listed] == [["six", "</script><b>"], [], ["six"]]
    rows = CliRunner().invoke(cli.app, [*line, "csv"]).stdout.splitlines()
    assert sum(row.split(",")[3] == "negative" for row in rows if "<" not in row) == 2
