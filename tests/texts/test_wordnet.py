"""The starter from WordNet, on a lexicon of six synsets read by `wn` and by `nltk`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from s3clip import SynonymSet
from s3clip.cli import app
from s3clip.texts.wordnet import Sense, open_lexicon, wordnet_synonyms

# offset: lemmas, hypernym, definition; "crane" has the machine first.
SYNSETS = {
    "entity": (["entity"], None, "all there is"),
    "bird": (["bird"], "entity", "it has feathers"),
    "machine": (["machine"], "entity", "it works"),
    "crane machine": (["crane"], "machine", "lifts things"),
    "crane bird": (["crane", "long-necked bird"], "bird", "wades"),
    "tabby": (["tabby", "tabby cat"], "entity", "a striped cat"),
}
SENSES = {"crane": ["crane machine", "crane bird"]}


def nltk_folder(folder: Path) -> dict[str, int]:
    """Write the files of WordNet 3.0's format; return the offset of each synset."""
    header = b"  1 This software and database is being provided; WordNet 3.0 Copyright 2006\n"
    offsets: dict[str, int] = {}

    def line(key: str) -> bytes:
        lemmas, above, definition = SYNSETS[key]
        words = " ".join(f"{lemma.replace(' ', '_')} 0" for lemma in lemmas)
        pointers = "000" if above is None else f"001 @ {offsets.get(above, 0):08d} n 0000"
        text = f"{offsets.get(key, 0):08d} 03 n {len(lemmas):02x} {words} {pointers} | {definition}  \n"
        return text.encode()

    at = len(header)
    for key in SYNSETS:
        offsets[key] = at
        at += len(line(key))
    data = folder / "corpora" / "wordnet"
    data.mkdir(parents=True)
    (data / "data.noun").write_bytes(header + b"".join(map(line, SYNSETS)))
    index = []
    for lemma in sorted({lemma for lemmas, _, _ in SYNSETS.values() for lemma in lemmas}):
        keys = SENSES.get(lemma) or [key for key, (lemmas, _, _) in SYNSETS.items() if lemma in lemmas]
        places = " ".join(f"{offsets[key]:08d}" for key in keys)
        index.append(f"{lemma.replace(' ', '_')} n {len(keys)} 1 @ {len(keys)} 0 {places}  \n")
    (data / "index.noun").write_bytes(header + "".join(index).encode())
    (data / "lexnames").write_text("".join(f"{i:02d}\tnoun.{i}\t1\n" for i in range(4)))
    for name in ("data.adj", "data.adv", "data.verb", "index.adj", "index.adv", "index.verb"):
        (data / name).write_bytes(header)
    for name in ("adj.exc", "adv.exc", "noun.exc", "verb.exc", "cntlist.rev", "index.sense"):
        (data / name).write_bytes(b"")
    return offsets


def wn_file(path: Path, offsets: dict[str, int]) -> None:
    """Write the same as WN-LMF."""

    def key(name: str) -> str:
        return f"omw-en-{offsets[name]:08d}-n"

    entries, synsets = [], []
    for number, lemma in enumerate(dict.fromkeys(lemma for s in SYNSETS.values() for lemma in s[0])):
        keys = SENSES.get(lemma) or [each for each, (lemmas, _, _) in SYNSETS.items() if lemma in lemmas]
        senses = "".join(f'<Sense id="omw-en-{number}-{i}" synset="{key(k)}"/>' for i, k in enumerate(keys))
        entries.append(
            f'<LexicalEntry id="omw-en-{number}">'
            f'<Lemma writtenForm="{lemma}" partOfSpeech="n"/>{senses}</LexicalEntry>'
        )
    for name, (_, above, definition) in SYNSETS.items():
        relation = f'<SynsetRelation relType="hypernym" target="{key(above)}"/>' if above else ""
        synsets.append(
            f'<Synset id="{key(name)}" ili="" partOfSpeech="n">'
            f"<Definition>{definition}</Definition>{relation}</Synset>"
        )
    path.write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE LexicalResource SYSTEM '
        '"http://globalwordnet.github.io/schemas/WN-LMF-1.0.dtd">\n<LexicalResource>'
        '<Lexicon id="omw-en" label="Tiny" language="en" email="a@b.c" license="x" version="1.4">'
        + "".join(entries + synsets)
        + "</Lexicon></LexicalResource>"
    )


@pytest.fixture(params=["wn", "nltk"])
def offsets(request, tmp_path: Path, monkeypatch) -> dict[str, int]:
    """A WordNet in one library, and none in the other; the offsets of its synsets."""
    wn, nltk = pytest.importorskip("wn"), pytest.importorskip("nltk")
    from nltk.corpus.reader.wordnet import WordNetCorpusReader
    from nltk.corpus.util import LazyCorpusLoader

    (tmp_path / "wn").mkdir()
    monkeypatch.setattr(wn.config, "data_directory", tmp_path / "wn")
    found = nltk_folder(tmp_path / "nltk")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk")] if request.param == "nltk" else [])
    lazy = LazyCorpusLoader("wordnet", WordNetCorpusReader, None)
    monkeypatch.setattr(nltk.corpus, "wordnet", lazy)
    if request.param == "wn":
        wn_file(tmp_path / "tiny.xml", found)
        wn.add(tmp_path / "tiny.xml", progress_handler=None)
    return found


@pytest.mark.filterwarnings("ignore:.*found in two classes")
def test_senses(offsets):
    classes = [
        {"name": "crane", "id": f"n{offsets['crane bird']:08d}"},
        {"name": "crane"},
        {"name": "tabby cat", "synonyms": ["striped cat"], "id": "n99999999"},
        {"name": "unicorn"},
        {"name": "Birds"},
    ]
    own, choices = wordnet_synonyms(classes)
    assert [each.synonyms for each in own.classes] == [
        ("long-necked bird",),
        (),
        ("striped cat", "tabby"),
        (),
        ("bird",),
    ]
    assert [each.how for each in choices] == [
        "id",
        "first of 2 senses",
        "only sense",
        "not found",
        "only sense",
    ]
    assert [each.definition for each in choices] == [
        "wades",
        "lifts things",
        "a striped cat",
        "",
        "it has feathers",
    ]


def test_the_domain_chooses(offsets):
    own, choices = wordnet_synonyms(["crane", "tabby"], domain="Bird")
    assert own.classes[0].synonyms == ("long-necked bird",)
    assert [each.how for each in choices] == ["domain", "only sense, none a Bird"]


def test_the_command_line(offsets, tmp_path: Path):
    (tmp_path / "names.txt").write_text("crane\ntabby cat\nunicorn\n")
    words = ["synonyms", "wordnet", str(tmp_path / "names.txt"), "--out", str(tmp_path / "own.json")]
    result = CliRunner().invoke(app, [*words, "--domain", "bird"])
    assert result.exit_code == 0, result.output
    assert SynonymSet.read(tmp_path / "own.json").classes[1].synonyms == ("tabby",)
    lines = result.stdout.splitlines()
    assert lines[1].split()[1:3] == ["crane", "domain"]
    assert lines[-1] == "2 of 3 classes found in WordNet; 1 by the order of their senses"


def test_no_data(tmp_path: Path, monkeypatch):
    wn, nltk = pytest.importorskip("wn"), pytest.importorskip("nltk")
    from nltk.corpus.reader.wordnet import WordNetCorpusReader
    from nltk.corpus.util import LazyCorpusLoader

    monkeypatch.setattr(wn.config, "data_directory", tmp_path)
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(nltk.corpus, "wordnet", LazyCorpusLoader("wordnet", WordNetCorpusReader, None))
    with pytest.raises(LookupError, match="no English WordNet in wn or nltk: pip install"):
        open_lexicon()


def test_neither_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wn", None)
    monkeypatch.setitem(__import__("sys").modules, "nltk", None)
    monkeypatch.setitem(__import__("sys").modules, "nltk.corpus", None)
    with pytest.raises(ImportError, match="needs wn or nltk: pip install 's3clip"):
        open_lexicon()


ABOVE = {
    "robin": {"bird", "animal", "entity"},
    "bird": {"animal", "entity"},
    "crane": {"machine", "entity"},
}


class Tree:
    """A lexicon of one sense a name."""

    name, has_wnids = "a tree", False

    def senses(self, name):
        return [Sense(name, (name,), "")] if name in ABOVE else []

    def of_wnid(self, offset):
        return None

    def ancestors(self, sense):
        return ABOVE[sense.key]


def test_groups_are_the_first_nouns_that_a_class_is_a_kind_of():
    classes = [
        {"name": "robin", "groups": {"kind": "pet"}},
        {"name": "bird"},
        {"name": "crane"},
        {"name": "unicorn"},
    ]
    nouns = {"kind": ["plant", "Animal"], "class": ["bird", "entity"]}
    own, _ = wordnet_synonyms(classes, groups=nouns, lexicon=Tree())
    assert [each.groups for each in own.classes] == [
        {"kind": "pet", "class": "bird"},  # what it has stays
        {"kind": "Animal", "class": "bird"},
        {"class": "entity"},
        {},
    ]
    with pytest.raises(ValueError, match="in a circle"):
        wordnet_synonyms(
            [{"name": "bird"}, {"name": "a", "groups": ["x", "y"]}],
            groups={"1": ["bird"], "0": ["bird"]},
            lexicon=Tree(),
        )


def test_groups_of_the_command_line_are_checked(tmp_path: Path):
    words = ["synonyms", "wordnet", "bird,cat", "--out", str(tmp_path / "own.json")]
    for wrong in (["kind"], ["kind=a,,b"], ["=a"], ["kind=a", "kind=b"]):
        result = CliRunner().invoke(app, [*words, *(part for each in wrong for part in ("--groups", each))])
        assert "--groups: expected levels" in str(result.exception)
