"""The table of benchmarks: what is known of the sets from elsewhere, and rows of one's own."""

import json

import pytest

from s3clip import SynonymSet
from s3clip.evaluation.benchmarks.classes import class_lookup, match_classes, position_of, words_of
from s3clip.evaluation.benchmarks.table import Masks, benchmarks, find_benchmark
from s3clip.texts.prompts import resolve_templates
from s3clip.texts.synonyms import SynonymClass
from s3clip.texts.templates import TEMPLATES
from tests import ROOT

# Sizes of the test sets as the CoOp paper and CLIP_benchmark's listing give them: (classes, images).
COOP = {
    "caltech101": (100, 2465), "oxford_pets": (37, 3669), "stanford_cars": (196, 8041),
    "flowers102": (102, 2463), "food101": (101, 30300), "fgvc_aircraft": (100, 3333),
    "sun397": (397, 19850), "dtd": (47, 1692), "eurosat": (10, 8100), "ucf101": (101, 3783),
    "imagenet": (1000, 50000), "imagenet_a": (200, 7500), "imagenet_v2": (1000, 10000),
    "imagenet_r": (200, 30000), "imagenet_sketch": (1000, 50889),
}  # fmt: skip
CLIP_BENCHMARK = {
    "caltech101": (102, 6085), "oxford_pets": (37, 3669), "stanford_cars": (196, 8041),
    "flowers102": (102, 6149), "food101": (101, 25250), "fgvc_aircraft": (100, 3333),
    "sun397": (397, 108754), "dtd": (47, 1880), "eurosat": (10, 5400),
    "imagenet": (1000, 50000), "imagenet_a": (200, 7500), "imagenet_v2": (1000, 10000),
    "imagenet_r": (200, 30000), "imagenet_sketch": (1000, 50889),
}  # fmt: skip
SEGMENTATION = {"voc21", "voc20", "pascal_context60", "pascal_context59", "coco_object", "coco_stuff171",
                "ade20k150", "cityscapes"}  # fmt: skip


def sizes(convention):
    rows = {name: row.conventions.get(convention) for name, row in benchmarks().items()}
    return {name: (each.classes, each.images) for name, each in rows.items() if each}


def test_fifteen_settings_of_classification_and_eight_of_segmentation():
    assert sizes("coop") == COOP
    assert sizes("clip_benchmark") == CLIP_BENCHMARK
    assert {row.name for row in benchmarks().values() if row.is_segmentation} == SEGMENTATION
    assert set(benchmarks()) == SEGMENTATION | COOP.keys()
    assert sizes("mmseg").keys() == SEGMENTATION


@pytest.mark.parametrize("row", benchmarks().values(), ids=lambda row: row.name)
def test_a_row_fits_its_synonym_set(row):
    classes = SynonymSet.builtin(row.synonyms.removeprefix("builtin:"))
    for name, convention in row.conventions.items():
        if (row.name, name) != ("caltech101", "coop"):
            assert convention.classes == len(classes.classes)
        assert resolve_templates(convention.templates or classes.templates)
    assert set(row.aliases.values()) <= set(classes.class_names)
    assert row.title
    assert row.source


def test_headlines_are_those_of_the_conventions():
    recall = {
        name
        for name, row in benchmarks().items()
        for each in row.conventions.values()
        if each.headline == "recall"
    }
    assert recall == {"caltech101", "fgvc_aircraft", "flowers102", "oxford_pets"}  # DataComp's four
    for row in benchmarks().values():
        for name, each in row.conventions.items():
            assert name != "coop" or each.headline == "top1"
            assert (each.headline == "miou") == row.is_segmentation == (name == "mmseg")


def test_masks_without_background_reduce_zero():
    for row in benchmarks().values():
        for layout in row.conventions["mmseg"].layouts if row.is_segmentation else ():
            assert isinstance(layout, Masks)
            expected = row.name in ("voc20", "pascal_context59", "ade20k150")
            assert layout.reduce_zero_label == expected, row.name
            assert ("background" in SynonymSet.builtin(row.name).class_names) == (
                row.name in ("voc21", "pascal_context60", "coco_object")
            )


def test_prompts_of_clip_benchmark_are_those_of_its_repository(shared):
    listed = json.loads(
        (shared / "data/synonyms/clip_benchmark/en_zeroshot_classification_templates.json").read_text()
    )
    theirs = {
        "caltech101": "caltech101", "oxford_pets": "pets", "stanford_cars": "cars", "flowers102": "flowers",
        "food101": "food101", "fgvc_aircraft": "fgvc_aircraft", "sun397": "sun397", "dtd": "dtd",
        "eurosat": "eurosat",
    }  # fmt: skip
    for name in CLIP_BENCHMARK:
        row = benchmarks()[name]
        ours = row.conventions["clip_benchmark"].templates or SynonymSet.read(row.synonyms).templates
        expected = listed[theirs.get(name, "imagenet1k")]
        assert [text.replace("{}", "{c}") for text in resolve_templates(ours)] == expected, name
    assert len(TEMPLATES["openai_imagenet_80"]) == 80


COOP_NAMES = {  # the file of AWT with CoOp's names in CoOp's order, by benchmark
    "caltech101": "caltech101", "oxford_pets": "oxford_pets", "stanford_cars": "stanford_cars",
    "flowers102": "oxford_flowers", "food101": "food101", "fgvc_aircraft": "fgvc_aircraft",
    "sun397": "sun397", "dtd": "dtd", "ucf101": "ucf101",
}  # fmt: skip


@pytest.mark.parametrize("name", COOP_NAMES)
def test_the_classes_of_coop_find_their_words(shared, name):
    names = list(json.loads((shared / "data/synonyms/awt" / f"{COOP_NAMES[name]}.json").read_text()))
    row = benchmarks()[name]
    classes, problems = match_classes(
        [each.replace("_", " ") for each in names], SynonymSet.builtin(name), row.aliases
    )
    assert not problems
    assert classes.class_names == [each.replace("_", " ") for each in names]
    # Every class has the words of one class of ours, and no two of the same.
    words = {each.synonyms + each.descriptors: each.name for each in SynonymSet.builtin(name).classes}
    found = [
        next(
            (
                ours
                for texts, ours in words.items()
                if texts and set(texts) <= {*each.synonyms, *each.descriptors}
            ),
            None,
        )
        for each in classes.classes
    ]
    known = [each for each in found if each is not None]
    assert len(known) == len(set(known))


def test_names_are_compared_by_their_words():
    assert words_of("2012 Acura RL Sedan") == words_of("Acura RL Sedan 2012")
    assert words_of("indoor_church") == words_of("church/indoor") == words_of("Church, indoor")
    assert words_of("dentist's office") == words_of("dentists_office")
    assert words_of("crane") != words_of("crane bird")


FILE = SynonymSet(
    classes=(
        SynonymClass(name="indoor church", synonyms=("chapel",)),
        SynonymClass(name="missile", synonyms=("rocket",), id="n1"),
        SynonymClass(name="missile", synonyms=("projectile",), id="n2"),
        SynonymClass(name="off-center face", synonyms=("face seen from the side",)),
    )
)


def test_classes_take_the_words_and_keep_the_names_and_the_order_of_the_convention():
    names = ["missile", "face", "church indoor", "missile", "kite"]
    classes, problems = match_classes(names, FILE, {"face": "off-center face"})
    assert classes.class_names == names
    assert [each.synonyms for each in classes.classes] == [
        ("rocket",),
        ("off-center face", "face seen from the side"),
        ("indoor church", "chapel"),
        ("projectile",),
        (),
    ]
    assert problems == ["the synonym file has no words for 1 class: kite"]
    assert FILE.class_names[0] == "indoor church"


def test_nearly_the_same_list_is_taken_to_be_in_the_same_order():
    ours = SynonymSet.read([{"name": f"class {i}", "synonyms": [f"word {i}"]} for i in range(20)])
    names = [f"Class_{i}" for i in range(20)]
    names[3] = "another"
    classes, problems = match_classes(names, ours, {})
    assert classes.classes[3].synonyms == ("class 3", "word 3")
    assert [each.name for each in classes.classes] == names
    assert problems == ["class 3: 'another' there, 'class 3' in the synonym file: taken as the same"]
    # Two in each other's place are those classes, and no other names for what is there.
    names[3], names[7] = names[7], "Class_3"
    classes, problems = match_classes(names, ours, {})
    assert not problems
    assert [classes.classes[i].synonyms for i in (3, 7)] == [("class 7", "word 7"), ("class 3", "word 3")]
    # Too many differ: those are no words for the same class.
    names[:4] = ["a", "b", "c", "d"]
    classes, problems = match_classes(names, ours, {})
    assert [len(each.synonyms) for each in classes.classes[:5]] == [0, 0, 0, 0, 2]
    assert problems == ["the synonym file has no words for 4 classes: a, b, c, d"]


def test_labels_find_classes_by_id_name_and_alias_unless_two_have_them():
    lookup = class_lookup(FILE, {"face": "off-center face"})

    def found(label):
        return position_of(label, lookup)

    assert found("n2") == 2
    assert found("indoor_church") == found("Indoor Church") == found("indoor church") == 0
    assert found("face") == found("Face") == found("off-center_face") == 3
    assert found("missile") is None
    assert found("church, indoor") is None  # other words, as `compare` has it


ROW = {
    "name": "my_pets",
    "synonyms": "pets.json",
    "conventions": {"own": {"layouts": [{"kind": "folders", "folder": "photos"}]}},
}


def test_a_row_of_ones_own(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(ROW), encoding="utf-8-sig")  # as some editors save it
    row = find_benchmark(tmp_path / "mine.json")
    assert row.folder == tmp_path
    assert row.synonyms == str(tmp_path / "pets.json")
    name, convention = row.convention()
    assert (name, convention.split, convention.images, convention.headline) == ("own", "test", None, "top1")
    assert find_benchmark("food101").folder is None
    with pytest.raises(ValueError, match=r"convention: food101 has no 'mmseg'; it has coop, clip_benchmark"):
        find_benchmark("food101").convention("mmseg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name: "),
        ({"name": "food101"}, "'food101' is a benchmark of the table"),
        ({"colour": 1}, "colour: "),
        ({"conventions": {}}, "conventions: "),
        ({"conventions": {"own": {"layouts": []}}}, "conventions.own.layouts: "),
        ({"conventions": {"own": {"layouts": [{"kind": "zip", "folder": "."}]}}}, "kind"),
        ({"conventions": {"own": {"layouts": [{"kind": "csv"}]}}}, "file: "),
        ({"conventions": {"own": {"layouts": [{"kind": "webdataset"}]}}}, "expected a folder, or a data set"),
        ({"conventions": {"own": {**ROW["conventions"]["own"], "headline": "miou"}}}, "headline: miou"),
        ({"conventions": {"own": {**ROW["conventions"]["own"], "images": 0}}}, "images: "),
    ],
)
def test_a_wrong_row_is_refused_with_the_file_and_the_place(tmp_path, change, message):
    (tmp_path / "mine.json").write_text(json.dumps(ROW | change))
    with pytest.raises(ValueError, match=r"mine\.json: ") as caught:
        find_benchmark(tmp_path / "mine.json")
    assert message in str(caught.value)


def test_an_unknown_name_is_refused_with_those_that_are_near(tmp_path):
    with pytest.raises(ValueError, match=r"no benchmark 'food-101'; .* 'food101'"):
        find_benchmark("food-101")
    with pytest.raises(FileNotFoundError):
        find_benchmark(tmp_path / "gone.json")
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(ValueError, match=r"text.json: not JSON "):
        find_benchmark(tmp_path / "text.json")


def test_the_page_shows_the_table():
    def cell(convention):
        return f"{convention.classes:,}, {convention.images:,}" if convention else "-"

    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for row in benchmarks().values():
        if row.is_segmentation:
            line = f"| `{row.name}` | {row.title} | {cell(row.conventions['mmseg'])} |"
        else:
            other = row.conventions.get("clip_benchmark")
            score = {"top1": "acc1", "recall": "recall"}[other.headline] if other else "-"
            sizes = f"{cell(row.conventions['coop'])} | {cell(other)}"
            line = f"| `{row.name}` | {row.title} | {sizes} | {score} |"
        assert line in page.splitlines()
        for convention in row.conventions.values():
            for layout in convention.layouts:
                assert all(part in page for part in layout.folder.split("/")), layout
