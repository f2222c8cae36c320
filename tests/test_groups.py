"""Groups, names by language and negatives: read, carried through every edit and file, refused where wrong."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from s3clip import SynonymousSpaceHead, SynonymSet
from s3clip.artifact.folder import DamagedFileError, load_artifact, save_artifact
from s3clip.class_space import add, drop, merge, reconfigure, rename
from s3clip.demo import model_folder
from tests.artifact.test_artifact import rewrite

RECORDS = [
    {
        "name": "zero",
        "groups": {"sign": "none", "shape": "round"},
        "names": {"de": ["Null", "nichts"], "ja": "零"},
        "negatives": ["an empty page", "a blank sheet"],
    },
    {"name": "one", "groups": {"sign": "positive", "shape": "straight"}, "names": {"de": ["Eins"]}},
    {"name": "six", "groups": {"sign": "positive", "shape": "round"}, "negatives": ["an empty page"]},
    {"name": "letter"},
]


def carried(space):
    """What each class carries, its negatives with their embeddings."""
    rows = iter([] if space.negatives is None else space.negatives.tolist())
    return [
        (each.name, list(each.groups.items()), each.names, [(text, next(rows)) for text in each.negatives])
        for each in space.classes
    ]


@pytest.fixture(scope="module")
def head():
    found = SynonymousSpaceHead.from_backbone(str(model_folder()))
    return found.fit_classes({"format": "s3clip-synonyms/1", "language": "en", "classes": RECORDS})


def test_a_file_gives_back_what_it_was_given(tmp_path):
    synonyms = SynonymSet.read(RECORDS)
    synonyms.write(tmp_path / "digits.json")
    again = SynonymSet.read(tmp_path / "digits.json")
    assert again == synonyms
    assert again.levels == ("sign", "shape")
    assert [list(each.groups) for each in again.classes] == [["sign", "shape"]] * 3 + [[]]
    assert again.classes[0].names == {"de": ("Null", "nichts"), "ja": ("零",)}
    assert again.classes[0].negatives == ("an empty page", "a blank sheet")
    assert SynonymSet.read([{"name": "cat", "groups": ["animal", "pet"]}]).classes[0].groups == {
        "0": "animal",
        "1": "pet",
    }


def test_sets_may_be_keys():
    one, same, other = (SynonymSet.read(records) for records in (RECORDS, RECORDS, RECORDS[1:]))
    assert {one: 1}[same] == 1
    assert other not in {one: 1}
    assert SynonymSet.read([{"name": "zero"}]) != SynonymSet.read([{"name": "zero", "groups": ["round"]}])


def test_what_has_none_of_it_is_written_as_before(tmp_path):
    SynonymSet.read(["cat", "dog"]).write(tmp_path / "pets.json")
    assert json.loads((tmp_path / "pets.json").read_text())["classes"] == [{"name": "cat"}, {"name": "dog"}]
    plain = SynonymousSpaceHead().fit_embeddings([torch.eye(2)], ["a"], logit_scale=1.0)
    assert plain.classes[0].record() == {
        "name": "a",
        "id": None,
        "rows": 2,
        "texts": None,
        "variants": None,
    }


def test_levels_keep_the_order_that_classes_agree_on():
    records = [
        {"name": "a", "groups": {"kingdom": "x", "family": "y"}},
        {"name": "b", "groups": {"kingdom": "x", "order": "o", "family": "z"}},
        {"name": "c", "groups": {"order": "o"}},
    ]
    assert SynonymSet.read(records).levels == ("kingdom", "order", "family")
    assert SynonymSet.read(records[::-1]).levels == ("kingdom", "order", "family")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"groups": "animal"}, r"class 0 \('cat'\): groups must be .* a list of groups, not 'animal'"),
        ({"groups": None}, "groups must be .*, not nothing"),
        ({"groups": [""]}, "groups.0 is empty"),
        ({"groups": {"kingdom": " "}}, "groups.kingdom is empty"),
        ({"groups": {"kingdom": 3}}, "groups.kingdom must be a text, not 3"),
        ({"groups": {"kind": "a", " kind": "b"}}, "groups has the level 'kind' twice, but for spaces"),
        ({"groups": {"kind": ["a"]}}, r"groups.kind must be a text, not \['a'\]"),
        ({"names": {"de-": ["Katze"]}}, "names.de- is no code of a language"),
        ({"groups": {"": "animal"}}, "groups. is empty"),
        ({"names": ["Katze"]}, "names must be a record"),
        ({"names": {"german": ["Katze"]}}, "names.german is no code of a language"),
        ({"names": {"de": []}}, "names.de must be a list of 1 or more"),
        ({"names": {"de": ["Katze", ""]}}, r"names.de\[1\] is empty"),
        ({"negatives": "an empty sofa"}, "negatives must be a list of texts"),
        ({"negatives": [" "]}, r"negatives\[0\] is empty"),
    ],
)
def test_what_is_wrong_is_refused_by_name(record, message):
    with pytest.raises(ValueError, match=message):
        SynonymSet.read([{"name": "cat", **record}])


def test_levels_in_a_circle_are_refused():
    records = [
        {"name": "cat", "groups": {"kingdom": "animal", "family": "pet"}},
        {"name": "dog", "groups": {"family": "pet", "kingdom": "animal"}},
    ]
    with pytest.raises(ValueError, match=r"levels run in a circle, '.*' above '.*' above"):
        SynonymSet.read(records)
    heads = [
        SynonymousSpaceHead.from_backbone(str(model_folder())).fit_classes([record]) for record in records
    ]
    with pytest.raises(ValueError, match="levels run in a circle"):
        heads[0].merge(heads[1])
    assert heads[0].class_names == ["cat"]


def test_negatives_are_encoded_as_they_are(head):
    space = head.class_space
    plain = head.backbone.encode_texts(["an empty page", "a blank sheet", "an empty page"])
    torch.testing.assert_close(space.negatives, torch.nn.functional.normalize(plain, dim=1))
    assert space.negative_owners.tolist() == [0, 0, 2]
    assert space.classes[0].names == {"en": "zero", "de": "Null", "ja": "零"}


def test_edits_carry_all_of_it(head):
    space = head.class_space
    own = carried(space)
    assert carried(drop(space, ["one", 3])) == [own[0], own[2]]
    assert drop(space, [0, 2]).negatives is None
    assert carried(merge(drop(space, [0]), drop(space, [1, 2, 3]))) == [*own[1:], own[0]]
    assert carried(merge(drop(space, [0, 2]), space)) == [own[1], own[3], *own]
    assert carried(add(space, space.classes[1:2], space.raw[1:2])) == [*own, own[1]]
    assert carried(reconfigure(space, metric="center")) == own
    named = [drop(rename(space, 0, "Null"), [1, 2, 3]), rename(drop(space, [1, 2, 3]), 0, "zero")]
    assert [carried(each)[0][2] for each in named] == [{"de": "Null", "ja": "零"}, own[0][2]]
    renamed = carried(rename(space, "zero", "nought"))
    assert renamed[0] == ("nought", own[0][1], {"de": "Null", "ja": "零"}, own[0][3])
    assert renamed[1:] == own[1:]
    assert head.class_space.digest() not in {
        replace(space, classes=tuple(each.model_copy(update=changed) for each in space.classes)).digest()
        for changed in ({"groups": {"a": "b"}}, {"names": {"de": "x"}})
    }


def test_artifacts_state_dicts_and_added_classes_carry_all_of_it(head, tmp_path):
    own = carried(head.class_space)
    assert carried(load_artifact(save_artifact(tmp_path / "space", head.class_space))) == own
    empty = SynonymousSpaceHead.from_backbone(str(model_folder()))
    empty.load_state_dict(head.state_dict())
    assert carried(empty.class_space) == own
    assert empty.class_space.digest() == head.class_space.digest()
    more = copy.deepcopy(head).remove_classes([0, 2]).add_classes(RECORDS[:1])
    assert more.classes[-1].names == {"de": "Null", "ja": "零"}
    torch.testing.assert_close(more.class_space.negatives, head.class_space.negatives[:2])


WRONG = {
    "levels in a circle": (lambda c: c["classes"][0].update(groups={"shape": "x", "sign": "y"}), None),
    "an empty group": (lambda c: c["classes"][0]["groups"].update(sign=""), None),
    "a group that is a number": (lambda c: c["classes"][0]["groups"].update(sign=3), None),
    "a language that is none": (lambda c: c["classes"][0]["names"].update({"??": "x"}), None),
    "negatives without rows": (lambda c: c["classes"][1].update(negatives=["no digit"]), None),
    "rows without negatives": (None, lambda t: t.update(negatives=torch.eye(4, 64))),
    "rows of another size": (None, lambda t: t.update(negatives=torch.eye(3, 32))),
    "rows of whole numbers": (None, lambda t: t.update(negatives=torch.ones(3, 64).long())),
    "rows of NaN": (None, lambda t: t["negatives"].fill_(torch.nan)),
}


@pytest.mark.parametrize(("change_config", "change_tensors"), WRONG.values(), ids=WRONG)
def test_files_of_strangers_that_do_not_fit_are_refused(head, tmp_path, change_config, change_tensors):
    folder = save_artifact(tmp_path / "space", head.class_space)
    rewrite(folder, change_config, change_tensors)
    with pytest.raises(DamagedFileError, match="save the head again"):
        load_artifact(folder)


def test_columns_of_a_table_are_groups_names_and_negatives(tmp_path):
    path = tmp_path / "pets.csv"
    path.write_text(
        "id,name,synonyms,group:Kingdom,group: Family,name:de,negatives\n"
        '1,cat,kitty;puss,animal,"Felidae, cats",Katze;Mieze,an empty sofa;no pet\n'
        "2,rose,,plant,,,\n",
        encoding="utf-8",
    )
    cat, rose = SynonymSet.read(path).classes
    assert cat.model_dump(exclude_defaults=True) == {
        "id": 1,
        "name": "cat",
        "synonyms": ("kitty", "puss"),
        "groups": {"Kingdom": "animal", "Family": "Felidae, cats"},
        "names": {"de": ("Katze", "Mieze")},
        "negatives": ("an empty sofa", "no pet"),
    }
    assert rose.model_dump(exclude_defaults=True) == {"id": 2, "name": "rose", "groups": {"Kingdom": "plant"}}
    path.write_text("name;groups\ncat;animal|pet\nrock;\n", encoding="utf-8")
    assert [each.groups for each in SynonymSet.read(path).classes] == [{"0": "animal", "1": "pet"}, {}]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("name,group:family,group:family", "the column 'group:family' is one of several"),
        ("name,groups,group:family", "the column 'group:family' is one of several"),
        ("name,group:", "the column 'group:' is not known; expected .* group:LEVEL, name:LANGUAGE at most"),
        ("name,name:german", "names.german is no code of a language"),
    ],
)
def test_wrong_columns_are_named(tmp_path, header, message):
    (tmp_path / "pets.csv").write_text(f"{header}\ncat{',animal' * header.count(',')}\n")
    with pytest.raises(ValueError, match=message):
        SynonymSet.read(tmp_path / "pets.csv")


def test_folders_of_folders_are_classes_in_groups(tmp_path):
    for folder in (
        "animal/dog/beagle",
        "animal/dog/husky",
        "animal/cat/manx",
        "plant/moss",
        ".hidden/x",
        "rock",
    ):
        (tmp_path / "photos" / folder).mkdir(parents=True)
    (tmp_path / "photos" / "animal" / "notes.txt").write_text("no class")
    (tmp_path / "photos" / "plant" / "round").symlink_to(tmp_path / "photos", target_is_directory=True)
    synonyms = SynonymSet.read(tmp_path / "photos")
    assert [(each.name, list(each.groups.items())) for each in synonyms.classes] == [
        ("manx", [("0", "animal"), ("1", "cat")]),
        ("beagle", [("0", "animal"), ("1", "dog")]),
        ("husky", [("0", "animal"), ("1", "dog")]),
        ("moss", [("0", "plant")]),
        ("round", [("0", "plant")]),
        ("rock", []),
    ]
    with pytest.raises(
        ValueError, match="is a directory without sub-folders; expected one a class, or a file"
    ):
        SynonymSet.read(tmp_path / "photos" / "rock")
