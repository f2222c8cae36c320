"""Synonym files of every format, compared with what a plain reading of the same bytes gives."""

import json
import os
import re
import warnings
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import huggingface_hub.file_download
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from s3clip.texts.formats import FORMAT, FORMATS, interpret
from s3clip.texts.labels import composed, problem_of_name
from s3clip.texts.lines import Lines
from s3clip.texts.synonyms import SynonymClass, SynonymSet, collisions
from tests import SHARED
from tests.serving import serving

SAMPLES = SHARED / "data" / "synonyms"


def samples(pattern):
    """One parameter per sample file, or one skipped parameter where the samples are absent."""
    found = sorted(SAMPLES.glob(pattern))
    absent = [pytest.param(None, marks=pytest.mark.skip(reason="the sample files are not here"))]
    return pytest.mark.parametrize("path", found or absent, ids=[each.stem for each in found] or None)


def plain(path):
    return json.loads(path.read_bytes())


def read(source, **options):
    """Read without regard to warnings, which have tests of their own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SynonymSet.read(source, **options)


def read_with_warnings(source, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        synonyms = SynonymSet.read(source, **options)
    return synonyms, [str(each.message) for each in caught if issubclass(each.category, UserWarning)]


def written(folder, content, name="classes.json"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ------------------------------------------------------------------------------------------ published files


@samples("cupl_base/*.json")
def test_cupl(path):
    expected = plain(path)
    synonyms = read(path, values="prompts")
    assert synonyms.class_names == list(expected)
    for each, sentences in zip(synonyms.classes, expected.values(), strict=True):
        assert each.prompts == tuple(sentence.strip() for sentence in sentences)
        assert (each.synonyms, each.descriptors, each.id) == ((), (), None)


@samples("dclip_waffleclip/*.json")
def test_dclip(path):
    expected = plain(path)
    synonyms, messages = read_with_warnings(path, values="descriptors")
    assert synonyms.class_names == [name.replace("_", " ") for name in expected]
    kept = [tuple(text.strip() for text in texts if text.strip()) for texts in expected.values()]
    assert [each.descriptors for each in synonyms.classes] == kept
    empty = sum(map(len, expected.values())) - sum(map(len, kept))
    assert [each for each in messages if "left out" in each] == (
        [f"{path}: empty texts left out: {empty}"] if empty else []
    )


@samples("awt/*.json")
def test_awt(path):
    expected = plain(path)
    synonyms = read(path, values="prompts")
    assert synonyms.class_names == [name.replace("_", " ") for name in expected]
    assert [each.prompts for each in synonyms.classes] == [
        tuple(text.strip() for text in texts if text.strip()) for texts in expected.values()
    ]


@samples("neglected_tails/*.json")
def test_neglected_tails(path):
    expected = plain(path)
    synonyms = read(path)
    assert len(synonyms.classes) == len(expected)
    for number, each in enumerate(synonyms.classes):  # the ids of the samples are 0, 1, 2, ...
        record = expected[str(number)]
        assert (each.id, each.name) == (number, record["name"])
        texts = {record["name"], *record["alternates"]}  # one of them once more, with two spaces for one
        assert len(each.synonyms) + 1 == len(texts)
        assert {each.name, *each.synonyms} == set(map(composed, texts))


@samples("lvis/*.json")
def test_lvis(path):
    expected = plain(path)
    synonyms = read(path)
    assert len(expected) == len(synonyms.classes) == 1203
    assert (synonyms.class_names[0], synonyms.class_names[-1]) == ("aerosol can", "zucchini")
    for each, record in zip(synonyms.classes, expected, strict=True):
        assert each.id == record["id"]
        names = {name.replace("_", " ") for name in (record["name"], *record["synonyms"])}
        assert Counter((each.name, *each.synonyms)) == Counter(names)
        assert each.name == record["name"].replace("_", " ")


@samples("fcclip_openseg/*_eng.txt")
def test_fcclip(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "invalid_class_id" not in line]
    synonyms = read(path)
    assert len(synonyms.classes) == len(lines)
    for each, line in zip(synonyms.classes, lines, strict=True):
        assert f"{each.id}:{','.join((each.name, *each.synonyms))}" == line.replace(", ", ",")
        assert isinstance(each.id, int)


@samples("naclip_cls/cls_*.txt")
def test_naclip(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    synonyms = read(path)
    assert [", ".join((each.name, *each.synonyms)) for each in synonyms.classes] == [
        line.strip() for line in lines
    ]


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the sample files are not here")
@pytest.mark.parametrize(
    ("file", "values", "count", "first", "last"),
    [
        ("awt/cub.json", "prompts", 200, "Black footed Albatross", "Common Yellowthroat"),
        ("cupl_base/food_prompts_base.json", "prompts", 101, "foie gras", "caesar salad"),
        ("dclip_waffleclip/descriptors_imagenet.json", "descriptors", 1000, "tench", "toilet paper"),
        ("dclip_waffleclip/descriptors_places365.json", "descriptors", 365, "airfield", "zen garden"),
        ("fcclip_openseg/coco_panoptic_with_prompt_eng.txt", "synonyms", 133, "person", "rug"),
        ("fcclip_openseg/pascal_voc_21_with_prompt_eng.txt", "synonyms", 21, "background", "tvmonitor"),
        ("naclip_cls/cls_voc20.txt", "synonyms", 20, "aeroplane", "television monitor"),
        ("naclip_cls/cls_context60.txt", "synonyms", 60, "background", "wood"),
        ("neglected_tails/imagenet_1k-LAION400M.json", "synonyms", 1000, "tench", "toilet paper"),
    ],
)
def test_count_and_ends(file, values, count, first, last):
    names = read(SAMPLES / file, values=values).class_names
    assert (len(names), names[0], names[-1]) == (count, first, last)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the sample files are not here")
def test_lists_of_names_keep_the_names_that_repeat():
    names = plain(SAMPLES / "openai_clip" / "imagenet_classes_templates.json")["classes"]
    synonyms, messages = read_with_warnings(names)
    assert synonyms.class_names == names
    assert len(set(names)) == 998
    assert {text: len(where) for text, where in collisions(synonyms).items()} == {
        "missile": 2,
        "sunglasses": 2,
    }
    assert len(messages) == 1


# ---------------------------------------------------------------------------------------------- our format


def test_our_format(tmp_path):
    content = {
        "format": "s3clip-synonyms/1",
        "templates": ["a photo of a {}."],
        "classes": [
            {
                "name": "tabby cat",
                "synonyms": ["tabby", "mackerel cat"],
                "descriptors": ["striped coat"],
                "id": 281,
            },
            {"name": "under_score", "prompts": [" A sentence.\n"], "id": "n01"},
        ],
    }
    expected = SynonymSet(
        templates=("a photo of a {}.",),
        classes=(
            SynonymClass(
                name="tabby cat", synonyms=("tabby", "mackerel cat"), descriptors=("striped coat",), id=281
            ),
            SynonymClass(name="under_score", prompts=("A sentence.",), id="n01"),
        ),
    )
    assert SynonymSet.read(content) == expected
    path = written(tmp_path, json.dumps(content))
    assert SynonymSet.read(path) == SynonymSet.read(str(path)) == expected
    assert SynonymSet.read(content["classes"]) == SynonymSet(classes=expected.classes)
    assert SynonymSet.read(expected) is expected
    assert expected.class_names == ["tabby cat", "under_score"]


def test_short_forms():
    assert SynonymSet.read({"tabby_cat": [" tabby ", "a_b"], "dog": []}).classes == (
        SynonymClass(name="tabby_cat", synonyms=("tabby", "a_b")),
        SynonymClass(name="dog"),
    )
    assert SynonymSet.read(["cat", "dog"]).class_names == ["cat", "dog"]
    assert SynonymSet.read([{"name": "cat"}, {"name": "dog", "id": 1}]).class_names == ["cat", "dog"]


SAMPLE_OF = {
    "an fc-clip file": Lines(["7:cat,kitty"]),
    "a table of classes": Lines(["id,name,synonyms", "7,cat,kitty"]),
    "a file of ids and names": Lines(["/m/01yrx, cat, kitty"]),
    "a file of a class a line": Lines(["cat, kitty"]),
    FORMAT: {"format": FORMAT, "classes": [{"name": "cat", "synonyms": ["kitty"]}]},
    "a NeglectedTails file": {"7": {"name": "cat", "alternates": {"kitty": 3, "cat": 9}}},
    "{class: [text]}": {"cat": ["kitty"]},
    "an index of ImageNet's classes": {"7": ["n02121808", "cat"]},
    "an LVIS file": [{"name": "cat", "synset": "cat.n.01", "synonyms": ["cat", "kitty"], "id": 7}],
    "a list of classes": [{"name": "cat", "synonyms": ["kitty"]}],
}


@pytest.mark.parametrize("each", FORMATS, ids=lambda each: each.name)
def test_every_format_is_recognised_by_its_shape(each):
    content = SAMPLE_OF[each.name]
    assert next(other for other in FORMATS if other.recognises(content)) is each
    (own,) = interpret(content).classes
    assert (own["name"], own.get("synonyms", ["kitty"])) == ("cat", ["kitty"])


def test_values_say_what_the_texts_are():
    content = {"tabby_cat": ["long_legs", ""]}
    assert read(content, values="prompts").classes == (
        SynonymClass(name="tabby cat", prompts=("long_legs",)),
    )
    (each,) = read(content, values="descriptors").classes
    assert each == SynonymClass(name="tabby cat", descriptors=("long_legs",))


def test_a_class_may_be_called_format():
    assert SynonymSet.read({"format": ["file type"], "cat": []}).class_names == ["format", "cat"]


def test_plain_text_files(tmp_path):
    path = written(tmp_path, "\ufeffroad, street\r\nu.s. flag\n\n", "names.txt")
    assert SynonymSet.read(path).classes == (
        SynonymClass(name="road", synonyms=("street",)),
        SynonymClass(name="u.s. flag"),
    )
    with pytest.raises(ValueError, match=r"class 0 \('a\\u2028b'\): name holds the control .* U\+2028"):
        SynonymSet.read(written(tmp_path, "a\u2028b\n", "names.txt"))
    path = written(tmp_path, "0:invalid_class_id\n7:a:b, c\n3:d\n", "ids.txt")
    assert SynonymSet.read(path).classes == (
        SynonymClass(name="a:b", synonyms=("c",), id=7),
        SynonymClass(name="d", id=3),
    )


def test_a_byte_order_mark_is_accepted(tmp_path):
    assert SynonymSet.read(written(tmp_path, '\ufeff["猫"]')).class_names == ["猫"]


def test_line_breaks_stand_in_sentences_only():
    assert read({"cat": ["It has:\n- fur"]}, values="prompts").classes[0].prompts == ("It has:\n- fur",)
    with pytest.raises(ValueError, match=r"synonyms\[0\] holds the control character U\+000A"):
        SynonymSet.read({"cat": ["tabby\ncat"]})


def test_constructing_checks_as_reading_does():
    assert SynonymClass(name=" cat ", synonyms=["kitty"]).model_dump()["synonyms"] == ("kitty",)
    for wrong in (
        {"name": ""},
        {"name": "cat", "synonyms": "kitty"},
        {"name": "cat", "id": True},
        {"nam": "cat"},
    ):
        with pytest.raises(ValidationError):
            SynonymClass(**wrong)
    with pytest.raises(ValidationError):
        SynonymSet(classes=())
    with pytest.raises(ValidationError, match="frozen"):
        SynonymClass(name="cat").name = "dog"


# ------------------------------------------------------------------------------------------------ refusals

OURS = '{"format": "s3clip-synonyms/1", '


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "the file is empty"),
        ("\ufeff \n", "the file is empty"),
        ("{", r"not JSON \(Expecting property name .* line 1 column 2"),
        (b'["caf\xe9"]', "is not UTF-8 .* at byte 5"),
        (b'\xff\xfe["cat"]', "is not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("3", r"expected a record or a list of classes, got 3 \(int\)"),
        ('"cat"', "expected a record or a list of classes, got 'cat'"),
        ("[]", "there are no classes"),
        ("{}", "there are no classes"),
        (OURS + '"classes": []}', "there are no classes"),
        (OURS + '"templates": ["{}"]}', '"classes" must be a list of records, not nothing'),
        (OURS + '"classes": {"cat": []}}', '"classes" must be a list of records, not '),
        (
            OURS + '"classes": ["cat"], "source": "me"}',
            "source is not known; a file has format, ",
        ),
        (OURS + '"classes": ["cat"], "templates": ["a photo"]}', "template 'a photo': expected one kind of"),
        (OURS + '"classes": ["cat"], "templates": []}', "templates: expected at least one"),
        (OURS + '"classes": ["cat"], "templates": "a {}"}', "templates must be a list of texts, not 'a {}'"),
        (OURS + '"classes": ["cat"], "templates": [3]}', r"templates\[0\] must be a text, not 3"),
        ('{"format": "s3clip-synonyms/2", "classes": ["cat"]}', "newer than this s3clip"),
        ('{"format": "coco", "classes": ["cat"]}', '"format" is \'coco\', expected "s3clip-synonyms/1"$'),
        ('{"format": 1, "classes": ["cat"]}', '"format" is 1, expected'),
        ('{"classes": ["cat"], "templates": ["{}"]}', '"format" is missing'),
        (OURS + '"classes": ["cat"], "license": 2}', "license must be a text, not 2"),
        ('{"cat": ["kitty"], "": ["x"]}', r"class 1 \(''\): name is empty"),
        ('{"cat": ["kitty", " "]}', r"class 0 \('cat'\): synonyms\[1\] is empty"),
        (
            '{"dog": [], "cat": "kitty"}',
            r"class 1 \('cat'\): synonyms must be a list of texts, not 'kitty' \(str\)",
        ),
        ('{"cat": null}', r"class 0 \('cat'\): synonyms must be a list of texts, not nothing"),
        ('{"cat": 3}', r"class 0 \('cat'\): synonyms must be a list of texts, not 3 \(int\)"),
        ('{"cat": [3]}', r"class 0 \('cat'\): synonyms\[0\] must be a text, not 3 \(int\)"),
        (
            '{"cat": [["kitty"]]}',
            r"class 0 \('cat'\): synonyms\[0\] must be a text, not \['kitty'\] \(list\)",
        ),
        ('{"cat": [], "cat": ["kitty"]}', "the key 'cat' is given twice"),
        ('{"cat": [], " cat": []}', "the key 'cat' is given twice"),
        (
            '[{"name": "cat", "synonyms": [], "synonyms": ["kitty"]}]',
            "the key 'synonyms' is given twice in the record of class 'cat'",
        ),
        (OURS + '"classes": ["cat"], "classes": ["dog"]}', "the key 'classes' is given twice"),
        ('["cat", 3]', r"class 1: must be a name or a record, not 3 \(int\)"),
        ('[["cat", "kitty"]]', "class 0: must be a name or a record, not "),
        ('["cat", ""]', r"class 1 \(''\): name is empty"),
        (
            '[{"name": "cat", "synonym": ["kitty"]}]',
            r"class 0 \('cat'\): synonym is not known; a class has name,",
        ),
        ('[{"synonyms": ["kitty"]}]', "class 0: name is missing"),
        ('[{"name": "cat", "descriptors": [""]}]', r"class 0 \('cat'\): descriptors\[0\] is empty"),
        ('[{"name": "cat", "prompts": "x"}]', r"class 0 \('cat'\): prompts must be a list of texts"),
        (
            '[{"name": "cat", "id": 1.5}]',
            r"class 0 \('cat'\): id must be a whole number, a text or null, not 1.5",
        ),
        ('[{"name": "cat", "id": true}]', r"class 0 \('cat'\): id must be a whole number"),
        ('[{"name": "cat", "id": ""}]', r"class 0 \('cat'\): id must be a whole number"),
        (r'["a\u0000b"]', r"class 0 .*: name holds the control character U\+0000"),
        (r'{"cat": ["\u001b[31m"]}', r"class 0 \('cat'\): synonyms\[0\] holds the control character U\+001B"),
        (r'[{"name": "cat", "prompts": ["a\u0007"]}]', r"prompts\[0\] holds the control character U\+0007"),
        (r'["\ud83d"]', r"holds the control character U\+D83D"),
        (
            r'{"format": "s3clip-synonyms/1", "classes": ["a"], "\ud800": 1}',
            "must be a text that UTF-8 can hold",
        ),
        ('{"0": {"name": "cat"}}', "class '0': expected {name, alternates: .*keys \\['name'\\]"),
        ('{"x": {"name": "cat", "alternates": {}}}', "class 'x': expected a number"),
        (
            '{"1": {"name": "a", "alternates": {}}, "01": {"name": "b", "alternates": {}}}',
            "'01' is given twice",
        ),
        ('{"1": {"alternates": {}}}', "class 0: name must be a text, not nothing"),
        ('{"1": {"name": "cat", "alternates": {"": 3}}}', r"class 0 \('cat'\): synonyms\[0\] is empty"),
        ('[{"name": "cat", "synset": "cat.n.01", "synonyms": "kitty"}]', "synonyms must be a list of texts"),
        ("[" + "9" * 5000 + "]", "Exceeds the limit"),
    ],
)
def test_json_refusals(tmp_path, content, reason):
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=re.escape(f"{path}: ") + f".*{reason}") as caught:
        read(path)
    assert not isinstance(caught.value, ValidationError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("\n \n", "the file is empty"),
        ("cat\n\ndog", "line 2: an empty name in ''"),
        ("cat, ,kitty", "line 1: an empty name in 'cat, ,kitty'"),
        ("1:cat,\n", "line 1: an empty name in 'cat,'"),
        ("1:cat\ndog", "line 2: expected id:name,name as in line 1, got 'dog'"),
        ("1:cat\n2:dog\n1:pig", "line 3: the id 1 is given twice"),
        ("0:invalid_class_id", "there are no classes"),
        ("c\x00t", r"class 0 .*: name holds the control character U\+0000"),
    ],
)
def test_text_file_refusals(tmp_path, content, reason):
    path = written(tmp_path, content, "classes.txt")
    with pytest.raises(ValueError, match=re.escape(f"{path}: ") + reason):
        read(path)


def test_paths_that_hold_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no synonym file 'no.json': looked for {tmp_path}/no.json"):
        SynonymSet.read("no.json")
    with pytest.raises(ValueError, match="is a directory without sub-folders"):
        SynonymSet.read(tmp_path)
    with pytest.raises(ValueError, match=r"expected a file whose name ends in \.json, \.txt, \.csv"):
        SynonymSet.read(written(tmp_path, "cat", "classes.xlsx"))


def test_python_objects_of_a_wrong_kind():
    with pytest.raises(
        TypeError, match=r"source: expected a path, a dict, a list or a SynonymSet, got 3 \(int\)"
    ):
        SynonymSet.read(3)
    with pytest.raises(ValueError, match=r"the dict of classes: class 0 \(1\): name must be a text, not 1"):
        SynonymSet.read({1: ["cat"]})
    with pytest.raises(ValueError, match=r"the list of classes: class 0 \('cat'\): .*Keys should be strings"):
        SynonymSet.read([{"name": "cat", 2: 3}])
    endless = []
    endless.append(endless)
    with pytest.raises(ValueError, match=r"class 0 \('cat'\): synonyms\[0\] must be a text"):
        SynonymSet.read({"cat": endless})


def test_values_are_checked(tmp_path):
    with pytest.raises(
        ValueError, match="values: expected one of synonyms, descriptors, prompts, got 'sentences'"
    ):
        SynonymSet.read(["cat"], values="sentences")
    with pytest.raises(ValueError, match=r"values='prompts' is for {class: \[text\]}, but this is a list"):
        SynonymSet.read(["cat"], values="prompts")
    with pytest.raises(ValueError, match="but this is a file of a class a line"):
        SynonymSet.read(written(tmp_path, "cat", "classes.txt"), values="descriptors")


# ------------------------------------------------------------------------------------------------ warnings


def test_a_clean_set_is_silent():
    content = [{"name": "cat", "synonyms": ["kitty"], "descriptors": ["small eyes"]}]
    content += [{"name": "dog", "descriptors": ["small eyes"]}]
    assert read_with_warnings(content)[1] == []


def test_texts_in_two_classes_are_warned_about_once():
    content = {"Crane": ["bird", "x"], "crane": ["X", "digger"], "tern": ["bird", "y"], "gull": ["Y"]}
    synonyms, messages = read_with_warnings(content)
    assert collisions(synonyms) == {"crane": [0, 1], "bird": [0, 2], "x": [0, 1], "y": [2, 3]}
    (message,) = messages
    assert message.startswith("the dict of classes: texts found in two classes or more: 4, such as ")
    assert "'crane' in classes 0 ('Crane'), 1 ('crane')" in message
    assert message.count(" in classes ") == 3


def test_prompts_collide_and_descriptors_do_not():
    synonyms = read([{"name": name, "prompts": ["A bird."], "descriptors": ["wings"]} for name in "ab"])
    assert collisions(synonyms) == {"a bird.": [0, 1]}


def test_a_name_used_twice_is_a_collision_and_legal():
    synonyms, messages = read_with_warnings(["missile", "cat", "missile"])
    assert synonyms.class_names == ["missile", "cat", "missile"]
    assert collisions(synonyms) == {"missile": [0, 2]}
    assert len(messages) == 1


def test_duplicates_within_a_class_are_counted():
    record = {"name": "cat", "synonyms": ["kitty", "kitty", "cat", "Cat"], "descriptors": ["fur", "fur "]}
    synonyms, messages = read_with_warnings([record])
    assert messages == ["the list of classes: texts given twice in a class (used once): 3"]
    assert synonyms.classes[0].synonyms == ("kitty", "kitty", "cat", "Cat")
    assert collisions(synonyms) == {}


def test_warnings_point_at_the_caller():
    with pytest.warns(UserWarning, match="two classes") as caught:
        SynonymSet.read(["cat", "cat"])
    assert [each.filename for each in caught] == [__file__]


# ------------------------------------------------------------------------------------------------- writing

READABLE = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]).filter(
    lambda sign: not problem_of_name(f"a{sign}")
)
TEXT = st.text(READABLE, min_size=1, max_size=8).filter(composed)
TEXTS = st.lists(TEXT, max_size=3)
CLASS = st.builds(
    SynonymClass,
    name=TEXT,
    synonyms=TEXTS,
    descriptors=TEXTS,
    prompts=st.lists(st.one_of(TEXT, st.just("one\ntwo\tthree"))),
    id=st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), TEXT),
)
SET = st.builds(
    SynonymSet,
    classes=st.lists(CLASS, min_size=1, max_size=4),
    templates=st.one_of(st.none(), st.just(("a {}.", "{article} {c}"))),
    description=st.one_of(st.none(), TEXT),
    license=st.one_of(st.none(), TEXT),
)


@given(synonyms=SET)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_written_sets_are_read_back_equal(tmp_path, synonyms):
    path = tmp_path / "classes.json"
    synonyms.write(path)
    assert read(path) == synonyms
    first = path.read_bytes()
    read(path).write(path)
    assert path.read_bytes() == first


def test_what_is_written_is_readable_json(tmp_path):
    path = tmp_path / "classes.json"
    SynonymSet(classes=[SynonymClass(name="猫", synonyms=["cat"]), SynonymClass(name="dog", id=0)]).write(
        path
    )
    assert "猫" in path.read_text(encoding="utf-8")
    assert list(plain(path).items()) == [
        ("format", FORMAT),
        ("classes", [{"name": "猫", "synonyms": ["cat"]}, {"name": "dog", "id": 0}]),
    ]
    assert os.listdir(tmp_path) == ["classes.json"]


def test_a_class_is_written_on_a_line_of_its_own(tmp_path):
    path = tmp_path / "classes.json"
    classes = [SynonymClass(name="cat", synonyms=["kitty", "feline"]), SynonymClass(name="dog")]
    SynonymSet(
        classes=classes, templates=["a {}.", "the {}."], description="pets", license="Apache-2.0"
    ).write(path)
    assert path.read_text(encoding="utf-8") == (
        '{\n  "format": "s3clip-synonyms/1",\n  "description": "pets",\n  "license": "Apache-2.0",\n'
        '  "templates": [\n    "a {}.",\n    "the {}."\n  ],\n'
        '  "classes": [\n    {"name": "cat", "synonyms": ["kitty", "feline"]},\n    {"name": "dog"}\n  ]\n}\n'
    )


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "classes.json"
    SynonymSet.read(["cat"]).write(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="no space left"):
        SynonymSet.read(["dog"]).write(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["classes.json"]


def test_writing_through_a_link_keeps_the_link(tmp_path):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "classes.json", tmp_path / "link.json"
    SynonymSet.read(["cat"]).write(target)
    link.symlink_to(target)
    SynonymSet.read(["dog"]).write(link)
    assert link.is_symlink()
    assert SynonymSet.read(target).class_names == ["dog"]


def test_only_json_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"path: expected a name that ends in \.json, got .*names\.txt"):
        SynonymSet.read(["cat"]).write(tmp_path / "names.txt")


# ------------------------------------------------------------------------------------------------- the Hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub on loopback that holds `datasets/user/pets` with one file, at the revision `v1`."""
    content, commit = b'{"tabby cat": ["tabby"], "pug": []}', "0" * 40

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, body):
            path = self.path.split("?")[0]
            if path == "/datasets/user/pets/resolve/v1/sub/pets.json":
                payload, headers = content, {"ETag": '"1"', "X-Repo-Commit": commit}
            elif path.startswith("/api/datasets/user/pets"):
                payload, headers = json.dumps({"id": "user/pets", "sha": commit}).encode(), {}
            else:
                payload, headers = None, {"X-Error-Code": "EntryNotFound"}
            self.send_response(404 if payload is None else 200)
            for name, value in (headers | {"Content-Length": str(len(payload or b""))}).items():
                self.send_header(name, value)
            self.end_headers()
            if body and payload:
                self.wfile.write(payload)

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def log_message(self, *_):
            pass

    constants = huggingface_hub.constants
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Hub)) as server:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        # Older hubs bind the template at import.
        for module in (constants, huggingface_hub.file_download):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        yield


@pytest.mark.usefixtures("hub")
def test_reading_from_the_hub():
    synonyms = SynonymSet.read("hf://datasets/user/pets@v1/sub/pets.json")
    assert synonyms.classes == (SynonymClass(name="tabby cat", synonyms=("tabby",)), SynonymClass(name="pug"))


@pytest.mark.usefixtures("hub")
def test_errors_of_the_hub_pass_with_a_note():
    uri = "hf://datasets/user/pets@v1/no.json"
    with pytest.raises(EntryNotFoundError) as caught:
        SynonymSet.read(uri)
    assert not isinstance(caught.value, LocalEntryNotFoundError)  # which says that the Hub was not reached
    assert caught.value.__notes__ == [f"while reading the synonym file {uri}"]
