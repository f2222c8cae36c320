"""Class files in the shapes that people have them in: read as a person would, or refused with advice."""

import re

import pytest

from s3clip.texts import SynonymSet
from tests import SHARED

SHAPES = SHARED / "cases" / "class_files"


def read(folder, content: str, suffix: str) -> list[str]:
    """The classes, each as "id: name/synonym"."""
    path = folder / f"classes.{suffix}"
    path.write_text(content, encoding="utf-8")
    return [
        ("" if each.id is None else f"{each.id!r}: ") + "/".join((each.name, *each.synonyms))
        for each in SynonymSet.read(path).classes
    ]


CATS = ["tabby cat/tabby", "dog"]
NAMES = ["tabby cat", "dog"]
WITH_IDS = ["0: tabby cat", "1: dog"]


@pytest.mark.parametrize(
    ("suffix", "content", "expected"),
    [
        # A plain line keeps its documented meaning.
        ("txt", "tabby cat, tabby\ndog\n", CATS),
        ("txt", "12\" pizza\nrock 'n' roll\n7 Up\nC#\n", ['12" pizza', "rock 'n' roll", "7 Up", "C#"]),
        ("txt", "class 0\nclass 1\n", ["class 0", "class 1"]),
        # Comments, quotes.
        ("txt", "# pets\ntabby cat, tabby\n#\n  # others\ndog\n", CATS),
        ("txt", '"tabby cat", "tabby"\n"dog"\n', CATS),
        ("txt", '"shark, great white"\n"a ""cat"""\n', ["shark, great white", 'a "cat"']),
        ("txt", '"7:eleven"\n"name"\n"#1"\n"- x"\n', ["7:eleven", "name", "#1", "- x"]),
        # Tables, whatever the suffix.
        *((suffix, "id,name\n0,tabby cat\n1,dog\n", WITH_IDS) for suffix in ("txt", "csv")),
        *((suffix, '"Index";"Class Name"\n0;"tabby cat"\n1;dog\n', WITH_IDS) for suffix in ("txt", "csv")),
        ("txt", "id\tname\n0\ttabby cat\n1\tdog\n", WITH_IDS),
        ("csv", "class,synonyms\ntabby cat,tabby\n\ndog,\n", CATS),
        ("csv", "name,aliases\ntabby cat,\"['tabby']\"\ndog,[]\n", CATS),
        ("csv", "name\ntabby cat\ndog\n", NAMES),
        ("csv", "name,id\nmissile,657\nmissile,744\n", ["657: missile", "744: missile"]),
        ("csv", "wnid,label\nn02123045,cat\n007,dog\n", ["'n02123045': cat", "'007': dog"]),
        ("csv", 'name,synonyms\ncat,"a;b"\ndog,c|d\nfox,"e, f"\n', ["cat/a/b", "dog/c/d", "fox/e/f"]),
        # Ids of a known form.
        ("csv", "/m/01yrx,Cat\n/m/0bt9lr,Dog\n", ["'/m/01yrx': Cat", "'/m/0bt9lr': Dog"]),
        ("txt", "n02123045 tabby, cat\nn02084071 dog\n", ["'n02123045': tabby/cat", "'n02084071': dog"]),
        (
            "json",
            '{"1": ["n02084071", "dog"], "0": ["n02123045", "tabby_cat"]}',
            ["'n02123045': tabby cat", "'n02084071': dog"],
        ),
        ("txt", "0:invalid_class_id\n# things\n1:cat,tabby\n3:dog\n", ["1: cat/tabby", "3: dog"]),
        # Lists as text, YAML.
        ("txt", "['tabby cat', \"dog\"]\n", NAMES),
        ("txt", "['tabby cat' 'dog']\n", NAMES),  # as NumPy prints it
        ("txt", "(\n  'tabby cat',  # ours\n  'dog',\n)\n", NAMES),
        ("txt", '{"tabby cat": ["tabby"], "dog": []}', CATS),
        ("yaml", "# ours\ntabby cat:\n  - tabby\ndog: []\n", CATS),
        ("yml", "- {name: tabby cat, synonyms: [tabby]}\n- dog\n", CATS),
        ("yaml", "name: tabby cat\nsynonyms: [tabby]\n---\nname: dog\n", CATS),
        ("yaml", "format: s3clip-synonyms/1\nclasses:\n- {name: dog, id: 3}\n", ["3: dog"]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*found in two classes")
def test_what_a_person_reads_is_read(tmp_path, suffix, content, expected):
    assert read(tmp_path, content, suffix) == expected


@pytest.mark.parametrize(
    ("suffix", "content", "reason"),
    [
        ("txt", "7:eleven\nstar:bucks\n", 'line 2: expected id:name,name as in line 1, .*quotes: "7:eleven"'),
        ("txt", "#cat\ndog\n", "line 1: '#cat' has a #; a comment .*in double quotes"),
        ("txt", "cat # ours\n", "has a #"),
        ("txt", "- cat\n- dog\n", "line 1: '- cat' begins with the mark of a list"),
        ("txt", "1. cat\n2. dog\n", "begins with the mark of a list"),
        ("txt", "cat; kitty\ndog\n", "line 1: 'cat; kitty' has another separator than the comma"),
        ("txt", "cat\tkitty\n", "has another separator"),
        ("txt", "dog\ncat: kitty\n", "line 2: 'cat: kitty' looks like a record; synonyms follow"),
        ("txt", "'cat'\n'dog'\n", "line 1: .*in quotes that would stay in the name"),
        ("txt", "classes = ['cat', 'dog']\n", "looks like code"),
        ("txt", "array(['cat', 'dog'], dtype='<U3')\n", "looks like code"),
        ("txt", "[['cat', 'kitty'], ['dog']]\n", r"not JSON .*JSON has double quotes"),
        ("txt", "['cat', 3]\n", "not JSON"),
        ("txt", "[" + 3 * "'cat', 'dog',\n 'bird']" + "\0\n", "not JSON"),
        ("txt", '"cat" kitty\n', 'line 1: expected double quotes around .*"a ""so-called"" cat"'),
        ("txt", '"cat\ndog\n', "line 1: expected double quotes around whole names"),
        ("txt", "0,cat\n1,dog\n", "line 1: expected lines without numbers, or else a first line such as id"),
        ("txt", "/a/airfield 0\n/a/alley 1\n", "line 1: expected lines without numbers"),
        ("txt", "0 cat\n1 dog\n", "line 1: expected lines without numbers"),
        ("txt", "name\ncat\n", "line 1: expected a name, and no head of a column, got 'name'"),
        ("txt", "label, sticker\ncat\n", "line 1: the column 'sticker' is not known"),
        ("txt", "n02123045\nn02084071\n", "line 1: expected an id and names, such as n02123045,tabby"),
        ("txt", "n02123045,cat\ndog\n", "line 2: expected an id and names"),
        ("txt", "# nothing but this\n", "there are no classes"),
        ("csv", "# nothing but this\n", "expected a first line such as id,name,synonyms"),
        ("csv", "cat,kitty\ndog,puppy\n", "line 1: expected a first line .* with a column called name"),
        ("csv", "id,name,colour\n0,cat,red\n", "the column 'colour' is not known; expected one column"),
        ("csv", "id,wnid,name\n0,n1,cat\n", "the column 'id' is one of several"),
        ("csv", ",name\n0,cat\n", "the column '' is not known"),
        ("csv", "id,name\n0,shark, great white\n", "line 2: expected 2 cells as in line 1, and double"),
        ("csv", "name,synonym\ncat,a\ncat,b\n", "line 3: expected all synonyms of a class in one cell"),
        ("csv", "id,name\n0,cat\n1,\n", r"class 1 \(''\): name is empty"),
        ("json", '{\n  // ours\n  "cat": []\n}', "line 2 column 3 .*; JSON has no comments"),
        ("json", '["cat", "dog",]', "JSON has no comma before ] or }"),
        ("json", "['cat']", "JSON has double quotes"),
        ("json", '{"0": ["n02123045", "tabby"], "1": ["dog"]}', "'1': expected number, WordNet id and name"),
        ("yaml", "cat: []\ncat: [kitty]\n", "the key 'cat' is given twice"),
        ("yaml", "cat: [kitty\n", "not YAML that is read .*line 2"),
        ("yaml", "no: []\nyes: []\n", r"\(False\): name must be a text, not False \(bool\); it is one in"),
        ("yaml", "cat: [7]\n", r"synonyms\[0\] must be a text, not 7 \(int\); it is one in quotes"),
        ("yaml", "cat: &a [*a]\n", "not YAML that is read"),
        ("yaml", "cat\ndog\n", "expected a record or a list of classes, got 'cat dog'"),
        ("yaml", "!!python/object/apply:os.getcwd []\n", "not YAML that is read"),
    ],
)  # fmt: skip
def test_what_would_be_a_wrong_list_is_refused(tmp_path, suffix, content, reason):
    path = re.escape(f"{tmp_path}/classes.{suffix}: ")
    with pytest.raises(ValueError, match=path + ".*" + reason) as caught:
        read(tmp_path, content, suffix)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfec\x00a\x00", b"file,name\na,Caf\xe9\n"])
def test_other_encodings_are_named(tmp_path, content):
    path = tmp_path / "classes.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path}: is not UTF-8 (")):
        SynonymSet.read(path)


def test_numbers_as_keys_are_warned_of():
    with pytest.warns(
        UserWarning, match='all names are numbers; ids go into records: {"id": 0, "name": "tabby'
    ):
        SynonymSet.read({"0": ["tabby"], "1": []})


@pytest.mark.parametrize("path", sorted(SHAPES.glob("*")), ids=lambda path: path.name)
@pytest.mark.filterwarnings("ignore:.*found in two classes")
def test_no_case_that_went_wrong_gives_a_wrong_list(path):
    """A name with the marks of its file in it is no name."""
    try:
        names = SynonymSet.read(path).class_names
    except ValueError as error:
        names, said = [], str(error)
    else:
        said = str(path)
    assert str(path) in said
    assert not [name for name in names if re.search(r"[\[\]\"#;:/]|^(?:id|name|class|\d+)$", name)]
