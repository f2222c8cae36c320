"""Cleaning of synonym sets: what goes, what stays, and that all of it comes back."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from s3clip import SynonymSet
from s3clip.cli import app
from s3clip.texts.check import findings_of
from s3clip.texts.cleaning import REMOVING, clean_synonyms, read_removals, restore_synonyms, write_removals
from s3clip.texts.wording import is_chatter, without_markup


def made(classes: dict[str, list[str]], **more: dict[str, list[str]]) -> SynonymSet:
    records = [
        {"name": name, "synonyms": texts, **{field: own.get(name, []) for field, own in more.items()}}
        for name, texts in classes.items()
    ]
    return SynonymSet.model_validate({"classes": records})


MESSY = {
    "tabby cat": [
        "Sure! Here are some synonyms:",
        "1. **tabby**",
        '"mackerel tabby",',
        "Tabby Cats",
        "animal",
        "кошка",
        "a striped cat that sits on a mat",
        "moggy",
        "***",
    ],
    "hot dog": ["frankfurter", "Tabby cat", "moggy", "tube steak", "I'm sorry, but I can't help with that."],
    "Boston terrier": ["Boston bull", "hot-dogs"],
}


def test_what_goes_and_by_which_rule():
    cleaned, removals = clean_synonyms(made(MESSY))
    assert [each.synonyms for each in cleaned.classes] == [
        ("tabby", "mackerel tabby"),
        ("frankfurter", "tube steak"),
        ("Boston bull",),
    ]
    assert [(e.rule, e.class_index, e.place, e.text, e.instead) for e in removals] == [
        ("markup", 0, 0, "Sure! Here are some synonyms:", "Sure! Here are some synonyms"),
        ("chatter", 0, 0, "Sure! Here are some synonyms", None),
        ("markup", 0, 1, "1. **tabby**", "tabby"),
        ("markup", 0, 2, '"mackerel tabby",', "mackerel tabby"),
        ("repeated", 0, 3, "Tabby Cats", None),
        ("hypernym", 0, 4, "animal", None),
        ("language", 0, 5, "кошка", None),
        ("too_long", 0, 6, "a striped cat that sits on a mat", None),
        ("shared_text", 0, 7, "moggy", None),
        ("markup", 0, 8, "***", None),
        ("other_name", 1, 1, "Tabby cat", None),
        ("shared_text", 1, 2, "moggy", None),
        ("markup", 1, 4, "I'm sorry, but I can't help with that.", "I'm sorry, but I can't help with that"),
        ("chatter", 1, 4, "I'm sorry, but I can't help with that", None),
        ("nearly_shared", 2, 1, "hot-dogs", None),
    ]


def test_names_and_classes_stay_and_the_rest_of_the_file_too():
    own = made({"- cat.": ["- cat."], "Cat": []}).model_copy(update={"description": "d", "license": "MIT"})
    cleaned, _ = clean_synonyms(own)
    assert cleaned.class_names == own.class_names
    assert (cleaned.description, cleaned.license) == ("d", "MIT")


def test_descriptors_and_sentences():
    own = made(
        {"cat": [], "dog": []},
        descriptors={"cat": ["- soft fur.", "soft furs", "Here is a list of descriptors:"]},
        prompts={"dog": ["* A dog wags its tail.", "As an AI language model, I cannot see."]},
    )
    cleaned, removals = clean_synonyms(own)
    assert cleaned.classes[0].descriptors == ("soft fur",)
    assert cleaned.classes[1].prompts == ("A dog wags its tail.",)
    assert restore_synonyms(cleaned, removals) == own


TEXT = st.sampled_from(
    ["cat", "Cats", "dog", "- dog", "animal", "кот", "None", "**", "tabby", '"tabby"', "a b c d e f", "1. x."]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(TEXT, st.lists(TEXT, max_size=6), st.lists(TEXT, max_size=4)), min_size=1, max_size=4)
)
def test_cleaning_is_undone_exactly_and_done_once(classes: list[tuple[str, list[str], list[str]]]):
    own = SynonymSet.model_validate(
        {"classes": [{"name": n, "synonyms": s, "descriptors": d} for n, s, d in classes]}
    )
    cleaned, removals = clean_synonyms(own)
    assert restore_synonyms(cleaned, removals) == own
    assert clean_synonyms(cleaned) == (cleaned, [])
    for rule in REMOVING:
        left = [each.entry for each in findings_of(rule, cleaned)]
        assert all(entry is not None and entry.field == "name" for entry in left), rule


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("* tabby", "tabby"),
        ("2) tabby", "tabby"),
        ("## tabby", "tabby"),
        ("“tabby”", "tabby"),
        ("`tabby`", "tabby"),
        ("_tabby_", "tabby"),
        ("<b>tabby</b>", "tabby"),
        ("mac &amp; cheese", "mac & cheese"),
        ("lion’s mane", "lion's mane"),
        ("tabby;", "tabby"),
        ("Felis catus.", "Felis catus"),
        ("--", ""),
        # What is no markup stays.
        ("747", "747"),
        ("F-16", "F-16"),
        ("7 Up", "7 Up"),
        ("C. lupus", "C. lupus"),
        ("Washington D.C.", "Washington D.C."),
        ("Mt.", "Mt."),
        ("Rosa sp.", "Rosa sp."),
        ("'tis 'twas", "'tis 'twas"),
        ("rock 'n' roll", "rock 'n' roll"),
        ("A-frame", "A-frame"),
        ("(E)-anethole", "(E)-anethole"),
    ],
)
def test_markup(text: str, plain: str):
    assert without_markup(text) == plain


@pytest.mark.parametrize(
    "text",
    ["surety bond", "certain", "nonesuch", "sorry board game", "hereford", "I-beam", "note", "Noted pen"],
)
def test_names_that_are_no_chatter(text: str):
    assert not is_chatter(text)


def test_the_language_is_told_by_its_letters_alone():
    names = {"cat": ["gato", "crème", "猫", "β cat"], "ねこ": []}
    removed = [e.text for e in clean_synonyms(made(names))[1] if e.rule == "language"]
    assert removed == []  # a third of the names' letters are Japanese, and Spanish has the letters of English
    removed = [e.text for e in clean_synonyms(made(names), scripts=["latin"])[1] if e.rule == "language"]
    assert removed == ["猫"]


def test_rules_are_chosen():
    _, removals = clean_synonyms(made(MESSY), rules=["hypernym"])
    assert [e.text for e in removals] == ["animal"]
    with pytest.raises(ValueError, match="rules: typo not known"):
        clean_synonyms(made(MESSY), rules=["typo"])


def test_some_are_put_back(tmp_path: Path):
    cleaned, removals = clean_synonyms(made(MESSY))
    write_removals(tmp_path / "removed.json", removals)
    assert read_removals(tmp_path / "removed.json") == removals
    back = restore_synonyms(cleaned, [e for e in removals if e.text == "moggy"])
    assert [set(each.synonyms) for each in back.classes[:2]] == [
        {"tabby", "mackerel tabby", "moggy"},
        {"frankfurter", "tube steak", "moggy"},
    ]
    with pytest.raises(ValueError, match="is it the list of another file"):
        restore_synonyms(made({"fish": []}), removals)
    with pytest.raises(ValueError, match="has no synonyms text"):
        restore_synonyms(made({name: [] for name in MESSY}), [e for e in removals if e.instead == "tabby"])


def test_a_script_that_is_none():
    with pytest.raises(ValueError, match="scripts: 'klingon' is not known"):
        clean_synonyms(made(MESSY), scripts=["klingon"])


@pytest.mark.parametrize(
    "wrong", [{"text": " "}, {"rule": "typo"}, {"place": -1}, {"class_index": "0"}, {"field": "name"}]
)
def test_a_removal_that_clean_never_writes(tmp_path: Path, wrong: dict):
    record = {"class_index": 0, "class_name": "a", "field": "synonyms", "place": 0, "text": "q"}
    record |= {"rule": "hypernym", "message": "m"} | wrong
    (tmp_path / "removed.json").write_text(json.dumps([record]))
    with pytest.raises(ValueError, match=rf"removed.json: removals.0.{next(iter(wrong))}: "):
        read_removals(tmp_path / "removed.json")


@pytest.mark.parametrize("content", ["{}x", '["a"]', '[{"class_index": 0}]', "3", '[{"a": 1}]'])
def test_a_file_that_is_no_list_of_removals(tmp_path: Path, content: str):
    (tmp_path / "removed.json").write_text(content)
    with pytest.raises(ValueError, match=r"removed\.json: (not JSON|removals)"):
        read_removals(tmp_path / "removed.json")


def run(*words: object):
    return CliRunner().invoke(app, ["synonyms", *map(str, words)])


def test_the_command_line(tmp_path: Path):
    source, clean, removed = (tmp_path / f"{name}.json" for name in ("messy", "clean", "removed"))
    source.write_text(json.dumps(MESSY))
    result = run("clean", source, "--out", clean, "--removed", removed)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith("15 texts removed or mended: markup 5, chatter 2, ")
    assert SynonymSet.read(clean) == clean_synonyms(made(MESSY))[0]
    assert run("check", clean).exit_code == 0
    again = run("clean", clean, "--out", clean, "--format", "json")
    assert json.loads(again.stdout) == []
    once = removed.read_bytes()
    both = run("clean", clean, "--out", tmp_path / "both.json", "--removed", tmp_path / "both.json")
    assert "give two places" in str(both.exception)
    assert not (tmp_path / "both.json").exists()
    lost = run("clean", clean, "--out", clean, "--removed", removed)
    assert isinstance(lost.exception, FileExistsError)
    assert removed.read_bytes() == once
    back = tmp_path / "back.json"
    assert run("restore", clean, "--removed", removed, "--out", back).exit_code == 0
    with pytest.warns(UserWarning, match="found in two classes"):
        assert SynonymSet.read(back) == made(MESSY)
    one = run("restore", clean, "--removed", removed, "--out", back, "--text", "animal")
    assert one.stdout == "1 of 15 removals undone\n"
    assert "animal" in SynonymSet.read(back).classes[0].synonyms
    assert isinstance(
        run("restore", clean, "--removed", removed, "--out", back, "--rule", "x").exception, ValueError
    )


@pytest.mark.parametrize(
    ("name", "content", "values", "first"),
    [
        (
            "cupl.json",
            {"beer_glass": ["A beer glass.", ""]},
            "prompts",
            ("beer glass", (), (), ("A beer glass.",)),
        ),
        (
            "dclip.json",
            {"zen_garden": ["raked sand"]},
            "descriptors",
            ("zen garden", (), ("raked sand",), ()),
        ),
        ("tails.json", {"0": {"name": "cat", "alternates": {"kitty": 3}}}, None, ("cat", ("kitty",), (), ())),
        ("fcclip.txt", "0:invalid_class_id\n1:car,auto\n", None, ("car", ("auto",), (), ())),
        ("naclip.txt", "sofa, couch\n", None, ("sofa", ("couch",), (), ())),
    ],
)
@pytest.mark.filterwarnings("ignore:.*empty texts left out")
def test_convert(tmp_path: Path, name: str, content: object, values: str | None, first: tuple):
    source, out = tmp_path / name, tmp_path / "out.json"
    source.write_text(content if isinstance(content, str) else json.dumps(content))
    result = run("convert", source, "--out", out, *(["--values", values] if values else []))
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text())["format"] == "s3clip-synonyms/1"
    own = SynonymSet.read(out).classes[0]
    assert (own.name, own.synonyms, own.descriptors, own.prompts) == first


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize(
    ("pattern", "values"),
    [
        ("cupl_base/*.json", "prompts"),
        ("awt/*.json", "prompts"),
        ("dclip_waffleclip/*.json", "descriptors"),
        ("neglected_tails/**/*.json", "synonyms"),
        ("fcclip_openseg/*.txt", "synonyms"),
        ("naclip_cls/*.txt", "synonyms"),
    ],
)
def test_published_files_are_converted_and_cleaned_and_come_back(shared, tmp_path, pattern, values):
    paths = sorted((shared / "data" / "synonyms").glob(pattern), key=lambda path: path.stat().st_size)[:2]
    assert paths
    for path in paths:
        assert run("convert", path, "--out", tmp_path / "out.json", "--values", values).exit_code == 0
        own = SynonymSet.read(tmp_path / "out.json")
        assert own == SynonymSet.read(path, values=values)
        cleaned, removals = clean_synonyms(own)
        assert restore_synonyms(cleaned, removals) == own
