"""The synonym sets that come with s3clip: each file is what it says, and found by name everywhere."""

import csv
import io
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import synonym_coverage
import synonym_sample
from typer.testing import CliRunner

import s3clip.texts.sets
from s3clip import Backbone, HeadConfig, SynonymousSpaceHead, SynonymSet, cli
from s3clip.demo import model_folder
from s3clip.texts.check import builtin_reference, check_synonyms, split_excepted
from s3clip.texts.labels import composed
from s3clip.texts.sets import SETS, SUBSETS, NamesDigest, read_exceptions, set_names
from tests import ROOT

FOLDER = Path(s3clip.texts.sets.__file__).parent

# The section of CLIP's prompts.md a set's templates come from; and CLIP_benchmark's list where that orders
# the classes otherwise, by folder, as our set does.
OPENAI = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "caltech101": "Caltech101",
    "dtd": "DescribableTextures",
    "eurosat": "EuroSAT",
    "fgvc_aircraft": "FGVCAircraft",
    "flowers102": "Flowers102",
    "food101": "Food101",
    "oxford_pets": "OxfordPets",
    "stanford_cars": "StanfordCars",
    "sun397": "SUN397",
    "ucf101": "UCF101",
}
BY_FOLDER = {"caltech101": "caltech101_vtab", "eurosat": "eurosat", "oxford_pets": "pets"}


def run(*arguments: object):
    return CliRunner().invoke(cli.app, ["synonyms", *map(str, arguments)])


# ------------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize("name", set_names())
def test_the_check_finds_nothing_but_the_listed_exceptions(name: str):
    exceptions = read_exceptions(name)
    left, excepted = split_excepted(
        check_synonyms(SynonymSet.builtin(name), builtin_reference(name)), exceptions
    )
    assert left == []
    assert all(reason for _, reason in excepted)
    if name not in SUBSETS:  # a typo may become known by a word in another set, the others stay
        used = {(e.rule, e.name, e.text) for e, _ in excepted}
        listed = {(e["rule"], e["class"], e["text"]) for e in exceptions if e["rule"] != "typo"}
        assert listed <= used, "exceptions that are not needed any more"


def test_every_file_is_a_set_and_every_set_a_file():
    names = {path.stem for path in FOLDER.glob("*.json")} - {"exceptions"}
    assert names == set(SETS)
    assert json.loads((FOLDER / "exceptions.json").read_text(encoding="utf-8")).keys() <= set(SETS)


@pytest.mark.parametrize("name", SETS)
def test_files_are_written_as_write_writes_them(name: str, tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # ImageNet's two "missile"
        read = SynonymSet.read(FOLDER / f"{name}.json")
    assert read == SynonymSet.builtin(name)
    assert read.license == "Apache-2.0"
    assert read.description
    read.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (FOLDER / f"{name}.json").read_bytes()


@pytest.mark.parametrize("name", SETS)
def test_sets_of_200_classes_or_fewer_have_descriptors(name: str):
    own = SynonymSet.builtin(name)
    wanted = range(3, 7) if len(own.classes) <= 200 else range(1)
    assert [c.name for c in own.classes if len(c.descriptors) not in wanted] == []
    assert [c.name for c in own.classes if len(c.synonyms) > 8] == []


@pytest.mark.parametrize("name", SETS)
def test_the_names_are_the_benchmarks(name: str):
    assert NamesDigest.of(SynonymSet.builtin(name).class_names) == SETS[name]


@pytest.mark.parametrize("name", OPENAI)
def test_names_and_templates_are_those_of_clips_list(name: str, shared: Path):
    page = (shared / "data" / "synonyms" / "openai_clip" / "prompts.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {OPENAI[name]}\n")[1].split("\n## ")[0]
    lists = {
        key: re.findall(r"^\s+(['\"])(.*)\1,$", body, re.M)
        for key, body in re.findall(r"(\w+) = \[\n(.*?)\n\]", section, re.S)
    }
    own = SynonymSet.builtin(name)
    assert list(own.templates or ()) == [text for _, text in lists["templates"]]
    names = [text.replace("\\'", "'") for _, text in lists["classes"]]
    if name in BY_FOLDER:
        file = shared / "data" / "synonyms" / "clip_benchmark" / "en_classnames.json"
        ordered = json.loads(file.read_text(encoding="utf-8"))[BY_FOLDER[name]]
        assert sorted(map(str.casefold, ordered)) == sorted(map(str.casefold, names))
        names = ordered
    assert own.class_names == list(map(composed, names))  # one of them has two spaces for one


def test_imagenets_names_and_ids(shared: Path):
    listed = json.loads(
        (shared / "data" / "synonyms" / "openai_clip" / "imagenet_classes_templates.json").read_text()
    )
    own = SynonymSet.builtin("imagenet1k")
    assert own.class_names == listed["classes"]
    ids = [each.id for each in own.classes]
    assert ids == sorted(set(ids), key=str)
    assert all(isinstance(each, str) and re.fullmatch(r"n\d{8}", each) for each in ids)


@pytest.mark.parametrize(
    ("name", "position", "class_name", "wordnet_id"),
    [
        ("imagenet_a", 0, "stingray", "n01498041"),
        ("imagenet_a", 3, "American robin", "n01558993"),
        ("imagenet_a", 199, "acorn", "n12267677"),
        ("imagenet_r", 0, "goldfish", "n01443537"),
        ("imagenet_r", 4, "hen", "n01514859"),
        ("imagenet_r", 199, "acorn", "n12267677"),
    ],
)
def test_subsets_of_imagenet(name: str, position: int, class_name: str, wordnet_id: str):
    own, whole = SynonymSet.builtin(name), SynonymSet.builtin("imagenet1k")
    assert len(own.classes) == len({each.id for each in own.classes}) == 200
    assert list(SUBSETS[name].positions) == sorted(SUBSETS[name].positions)
    assert (own.classes[position].name, own.classes[position].id) == (class_name, wordnet_id)
    assert [whole.classes.index(each) for each in own.classes] == list(SUBSETS[name].positions)
    assert own.templates == whole.templates
    assert own.description != whole.description


def test_imagenet_r_has_the_names_of_another_list(shared: Path):
    names = list(json.loads((shared / "data" / "synonyms" / "awt" / "imagenet_r.json").read_text()))
    assert [n.replace("_", " ") for n in names] == SynonymSet.builtin("imagenet_r").class_names


# ------------------------------------------------------------------------------------------------ the page


def table_of_sets() -> str:
    """The table of docs/synonyms.md."""
    lines = [
        "| set | of | classes | names and synonyms | descriptors | prompts |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name in set_names():
        own = SynonymSet.builtin(name)
        texts = [1 + len(each.synonyms) for each in own.classes]
        descriptors = [len(each.descriptors) for each in own.classes]
        points = sum(t * (1 + d) for t, d in zip(texts, descriptors, strict=True))
        counts = (len(own.classes), sum(texts), sum(descriptors), points * len(own.templates or ()))
        lines.append(f"| `{name}` | {own.description} | {' | '.join(f'{count:,}' for count in counts)} |")
    return "\n".join(lines) + "\n"


def test_the_pages_table_is_that_of_the_files():
    page = (ROOT / "docs" / "synonyms.md").read_text(encoding="utf-8")
    found = re.search(r"^\| set \| of .*?\n(?=\n)", page, re.M | re.S)
    assert found
    assert found[0] == table_of_sets()


def test_coverage_counts_names_that_may_be_right(tmp_path: Path):
    folder = tmp_path / "neglected_tails"
    folder.mkdir()
    robin = {"robin": 9, "European Robin": 120, "redbreasts": 3, "robbin": 0, "bird": 500, "wren": 7}
    records = {
        "10": {"name": "robin", "alternates": robin},
        "9": {"name": "wren", "alternates": {"jenny-wren": 8}},
    }
    path = folder / "birds.json"
    path.write_text(json.dumps(records))
    ours = SynonymSet.read({"wren": [], "Robin": ["redbreast"]})
    assert synonym_coverage.names_of(path, ours) == [
        ("0 wren", "jenny-wren", False, 8),
        ("1 Robin", "European Robin", False, 120),
        ("1 Robin", "redbreasts", True, 3),
    ]
    # Without counts, in an order of its own: by name.
    path = tmp_path / "birds.json"
    path.write_text(json.dumps({"robin": ["ruddock"], "kite": ["glede"], "wren": ["Troglodytes"]}))
    ours = SynonymSet.read({"wren": ["troglodytes"], "kite": [], "robin": []})
    assert [(each.label, each.in_ours) for each in synonym_coverage.names_of(path, ours)] == [
        ("2 robin", False),
        ("1 kite", False),
        ("0 wren", True),
    ]


def test_a_sample_is_drawn_from_whole_sets_and_again_for_its_seed(monkeypatch: pytest.MonkeyPatch, capsys):
    def drawn(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["synonym_sample.py", *arguments])
        synonym_sample.main()
        return capsys.readouterr().out

    everything = sum(digest.classes for digest in SETS.values())
    assert len(re.findall("^    synonyms: ", drawn("--classes", str(everything)), re.M)) == everything
    assert drawn("--seed", "7") == drawn("--seed", "7") != drawn("--seed", "8")
    with pytest.raises(SystemExit):
        drawn("--classes", str(everything + 1))


# ------------------------------------------------------------------------------------------------ the loader


def test_builtin_is_a_source():
    own = SynonymSet.builtin("oxford_pets")
    assert own == SynonymSet.builtin("oxford_pets") == SynonymSet.read("builtin:oxford_pets")
    assert own.classes[25].name == "Pug"
    with pytest.raises(ValueError, match=r"builtin:dtd: values='prompts' is for {class: \[text\]}, but"):
        SynonymSet.read("builtin:dtd", values="prompts")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("food-101", "no builtin synonym set 'food-101'; did you mean 'food101'"),
        ("ImageNet", "did you mean 'imagenet_r' or 'imagenet_a' or 'imagenet1k'"),
        ("standford_cars", "did you mean 'stanford_cars'"),
        ("pets", "did you mean 'oxford_pets'"),
        ("../food101", "did you mean 'food101'"),
        ("", "there are imagenet1k, cifar10"),
        ("qwxz", "there are imagenet1k, cifar10"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest(wrong: str, message: str):
    with pytest.raises(ValueError, match=message):
        SynonymSet.read(f"builtin:{wrong}")


def test_nothing_is_loaded_before_it_is_used():
    code = (
        "import sys, s3clip, s3clip.cli, s3clip.texts.synonyms\n"
        "print([name for name in ('s3clip.texts.sets', 's3clip.texts.check') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_no_module_of_texts_imports_a_heavy_library():
    code = (
        "import importlib, pkgutil, sys, s3clip.texts\n"
        "for each in pkgutil.walk_packages(s3clip.texts.__path__, 's3clip.texts.'):\n"
        "    importlib.import_module(each.name)\n"
        "heavy = ('torch', 'transformers', 'numpy', 'pyarrow', 'huggingface_hub', 'yaml')\n"
        "print('s3clip.texts.generation.run' in sys.modules, [name for name in heavy if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True []\n"


@pytest.mark.filterwarnings("ignore:.*are truncated")  # the tiny tokenizer makes tokens of few letters
def test_a_head_is_fitted_to_a_builtin_set(head: SynonymousSpaceHead):
    own = SynonymSet.builtin("eurosat")
    head.fit_classes("builtin:eurosat")
    assert head.class_names == own.class_names
    assert head.templates == own.templates
    assert head.state_dict()["owners"].bincount().tolist() == [1 + len(each.synonyms) for each in own.classes]
    head = SynonymousSpaceHead(head.backbone, config=HeadConfig(points="texts")).fit_classes(
        "builtin:eurosat"
    )
    assert head.state_dict()["owners"].bincount().tolist() == [
        (1 + len(each.synonyms)) * (1 + len(each.descriptors)) for each in own.classes
    ]


# ------------------------------------------------------------------------------------------- the command line


def test_list():
    result = run("list", "--format", "json")
    assert result.exit_code == 0
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert list(rows) == set_names()
    own = SynonymSet.builtin("oxford_pets")
    assert rows["oxford_pets"] == {
        "name": "oxford_pets",
        "classes": 37,
        "texts": len([text for each in own.classes for text in (each.name, *each.synonyms)]),
        "descriptors": len([text for each in own.classes for text in each.descriptors]),
        "description": "Oxford-IIIT Pets: 37 breeds of cats and dogs",
    }
    table = run("list").stdout.splitlines()
    assert table[0].split() == list(rows["oxford_pets"])
    assert [line.split()[0] for line in table[1:]] == set_names()


@pytest.mark.parametrize("source", ["oxford_pets", "builtin:oxford_pets", FOLDER / "oxford_pets.json"])
def test_show(source):
    pug = SynonymSet.builtin("oxford_pets").classes[25]
    assert run("show", source, "--class", "pug").stdout == (
        f"25 Pug\n  synonyms: {'; '.join(pug.synonyms)}\n  descriptors: {'; '.join(pug.descriptors)}\n"
        + "".join(f"  group:{level}: {group}\n" for level, group in pug.groups.items())
        + "".join(f"  name:{code}: {'; '.join(names)}\n" for code, names in pug.names.items())
    )
    assert json.loads(run("show", source, "--class", "Pug", "--format", "json").stdout) == [
        {"class_index": 25, **json.loads(pug.model_dump_json())}
    ]
    rows = list(csv.DictReader(io.StringIO(run("show", source, "--format", "csv").stdout)))
    texts = [(row["kind"], row["text"]) for row in rows if row["class"] == "Pug"]
    assert texts == [
        ("name", "Pug"),
        *(("synonyms", text) for text in pug.synonyms),
        *(("descriptors", text) for text in pug.descriptors),
        *((f"group:{level}", group) for level, group in pug.groups.items()),
        *((f"name:{code}", name) for code, names in pug.names.items() for name in names),
    ]
    assert len({row["class_index"] for row in rows}) == 37


def test_show_says_what_there_is():
    result = run("show", "oxford_pets", "--class", "Pugg")
    assert isinstance(result.exception, ValueError)
    assert str(result.exception).startswith("--class: oxford_pets has no class 'Pugg'; did you mean 'Pug'?")
    wordnet = run("show", "imagenet1k", "--class", "tench").stdout
    assert wordnet.startswith("0 tench (n01440764)\n")


def test_check_of_a_builtin_set_lists_its_exceptions():
    result = run("check", "builtin:voc21")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    exceptions = read_exceptions("voc21")
    assert lines[-1] == f"0 errors, 0 warnings, {len(exceptions)} exceptions"
    rows = json.loads(run("check", "voc21", "--format", "json").stdout)
    assert {(row["severity"], row["text"], row["message"]) for row in rows} == {
        ("stays", each["text"], each["reason"]) for each in exceptions
    }


def test_check_of_a_file(tmp_path: Path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"robin": ["bird"], "wren": ["winter wren"]}))
    warned = run("check", path)
    assert warned.exit_code == 0
    line = warned.stdout.splitlines()[1].split()
    assert line == "warning hypernym 0 robin bird names many other things as well".split()
    path.write_text(json.dumps({"robin": ["redbreast"], "wren": ["redbreast", "Robin"]}))
    wrong = run("check", path, "--format", "json")
    assert wrong.exit_code == 1
    found = [(f["severity"], f["rule"], f["class_index"], f["text"]) for f in json.loads(wrong.stdout)]
    assert sorted(found) == [
        ("error", "other_name", 1, "Robin"),
        ("error", "shared_text", 0, "redbreast"),
        ("error", "shared_text", 1, "redbreast"),
    ]
    path.write_text(json.dumps({"robin": ["redbreast"], "wren": []}))
    assert run("check", path).stdout == "0 errors, 0 warnings, 0 exceptions\n"
    assert run("check", path, "--format", "csv").stdout == "severity,rule,class_index,class,text,message\n"


def test_check_of_an_unreadable_file(tmp_path: Path):
    path = tmp_path / "own.json"
    path.write_text('{"robin": "bird"}')
    result = run("check", path, "--format", "json")
    assert result.exit_code == 1
    assert [(f["rule"], f["class_index"]) for f in json.loads(result.stdout)] == [("schema", None)]
    assert "must be a list of texts" in result.stdout
    for missing in (tmp_path / "none.json", "builtin:none", "none"):
        assert isinstance(run("check", missing).exception, OSError | ValueError)


def test_check_against_the_names_of_a_builtin_set(tmp_path: Path):
    own = SynonymSet.builtin("eurosat")
    path = tmp_path / "own.json"
    own.write(path)
    assert run("check", path, "--names-of", "eurosat").exit_code == 0
    own.model_copy(update={"classes": own.classes[::-1]}).write(path)
    result = run("check", path, "--names-of", "eurosat", "--format", "json")
    assert result.exit_code == 1
    assert {f["rule"] for f in json.loads(result.stdout)} >= {"order"}


def test_check_with_words_and_a_tokenizer(tmp_path: Path):
    path, words = tmp_path / "own.json", tmp_path / "words.txt"
    path.write_text(json.dumps({"zero": ["nought", "nouhgt"]}))
    words.write_text("Zero\nnought\n")
    result = run("check", path, "--dictionary", words, "--backbone", model_folder(), "--format", "json")
    found = {f["rule"]: f["text"] for f in json.loads(result.stdout)}
    assert found["typo"] == "nouhgt"


def test_tokens_are_those_of_the_backbones_tokenizer(tmp_path: Path):
    backbone = Backbone.from_pretrained(str(model_folder()))
    texts = ["a photo of a cat.", "a photo of a " + "cat " * 40]
    real = [len(ids) for ids in backbone.tokenizer(texts)["input_ids"]]
    assert backbone.count_tokens(texts) == real
    assert real[1] > backbone.text_length
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"cat": ["cat " * 40 + "cat"], "dog": []}))
    result = run("check", path, "--backbone", model_folder(), "--format", "json")
    assert result.exit_code == 1
    found = [f for f in json.loads(result.stdout) if f["rule"] == "too_many_tokens"]
    assert [(f["severity"], f["class_index"]) for f in found] == [("error", 0)]
