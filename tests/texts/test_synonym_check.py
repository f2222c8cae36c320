"""The check of synonym sets: every rule with what it must find and what it must leave alone."""

import random

import pytest

from s3clip import SynonymSet
from s3clip.texts.check import (
    RULES,
    Finding,
    Reference,
    builtin_reference,
    check_synonyms,
    split_excepted,
    word_counts,
)
from s3clip.texts.prompts import class_texts
from s3clip.texts.sets import SETS, NamesDigest
from s3clip.texts.wording import estimated_tokens

RELATIONS = {"shared_negative", "own_negative", "says_no", "two_parents", "missing_level"}
"""Rules that look at groups and negatives, not at synonyms."""


def made(classes: dict[str, list[str]], **descriptors: list[str]) -> SynonymSet:
    records = [{"name": n, "synonyms": s, "descriptors": descriptors.get(n, [])} for n, s in classes.items()]
    return SynonymSet.model_validate({"classes": records})


def found(classes: dict[str, list[str]] | SynonymSet, rule: str, reference: Reference | None = None):
    """What one rule finds: the class's position and the text of each."""
    synonyms = made(classes) if isinstance(classes, dict) else classes
    findings = [each for each in check_synonyms(synonyms, reference) if each.rule == rule]
    assert all(each.severity in ("error", "warning") and each.message for each in findings)
    return [(each.position, each.text) for each in findings]


CLEAN = {"cat": ["house cat", "feline"], "dog": ["hound"], "oak tree": [], "hot dog": ["frankfurter"]}


def test_a_clean_set_has_no_findings():
    own = made(CLEAN, cat=["two pointed ears", "long whiskers"], dog=["wet black nose"])
    assert check_synonyms(own) == []


def test_the_order_of_a_benchmark():
    names = list(CLEAN)
    assert found(CLEAN, "order", Reference(names=names)) == []
    swapped = [names[1], names[0], *names[2:]]
    assert found(CLEAN, "order", Reference(names=swapped)) == [(0, "cat"), (1, "dog")]
    longer = check_synonyms(made(CLEAN), Reference(names=[*names, "bird"]))
    assert [(each.severity, each.position, each.message) for each in longer] == [
        ("error", None, "expected 5 classes, got 4")
    ]
    assert found(CLEAN, "order", Reference(digest=NamesDigest.of(names))) == []
    for others in (swapped, [*names, "bird"], ["Cat", *names[1:]]):
        assert found(CLEAN, "order", Reference(digest=NamesDigest.of(others))) == [(None, "")]


def test_a_name_given_to_two_classes():
    assert found({"crane": [], "bird": []}, "repeated_name") == []
    twice = SynonymSet.model_validate({"classes": [{"name": "crane"}, {"name": "bird"}, {"name": "Crane"}]})
    assert found(twice, "repeated_name") == [(2, "Crane")]
    assert found(twice, "shared_text") == found(twice, "other_name") == []


def test_a_synonym_that_is_another_classs_name():
    assert found({"cat": ["Dog", "feline"], "dog": []}, "other_name") == [(0, "Dog")]
    assert found({"cat": ["cat"], "dog": []}, "other_name") == []


def test_a_text_in_two_classes():
    classes = {"cat": ["pet cat", "Pet"], "dog": ["pet"], "bird": ["pet"]}
    assert found(classes, "shared_text") == [(0, "Pet"), (1, "pet"), (2, "pet")]
    assert [e.message for e in check_synonyms(made(classes)) if e.rule == "shared_text"] == [
        "stands in class 1 'dog', 2 'bird' too",
        "stands in class 0 'cat', 2 'bird' too",
        "stands in class 0 'cat', 1 'dog' too",
    ]


@pytest.mark.parametrize("other", ["Push-Bike", "pushbikes", "púsh bike"])
def test_a_text_in_two_classes_spelt_otherwise(other: str):
    assert found({"bicycle": ["push bike"], "scooter": [other]}, "nearly_shared") == [
        (0, "push bike"),
        (1, other),
    ]
    # A name stays, the synonym goes; within a class spellings may differ.
    assert found({"scooter": [other], "push bike": []}, "nearly_shared") == [(0, other)]
    assert found({"push bike": [other]}, "nearly_shared") == []
    assert found({"bicycle": ["push bike"], "scooter": ["push scooter"]}, "nearly_shared") == []


@pytest.mark.parametrize("again", ["Cat", "cats", "CATS", "cat"])
def test_case_and_plural_repeat_a_name(again: str):
    assert found({"cat": ["feline", again]}, "repeated") == [(0, again)]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("berry", "berries", True),
        ("box", "boxes", True),
        ("torch", "torches", True),
        ("brush", "brushes", True),
        ("glass", "glasses", True),
        ("bus", "buss", False),
        ("iris", "iri", False),
        ("hot dog", "hot dogs", True),
        ("push bike", "pushbike", False),
        ("tire", "tyre", False),
    ],
)
def test_which_words_are_plurals(one: str, other: str, same: bool):
    assert bool(found({"thing": [one, other]}, "repeated")) is same


def test_descriptors_that_repeat():
    own = made({"cat": []}, cat=["long whisker", "long whiskers", "soft fur"])
    assert found(own, "repeated") == [(0, "long whiskers")]


def test_more_than_five_words():
    classes = {"a name of more than five words": ["one two three four five", "one two three four five six"]}
    assert found(classes, "too_long") == [(0, "one two three four five six")]


def test_more_tokens_than_are_read():
    long = " ".join(["internationalisation"] * 9)
    own = made({"cat": ["feline"], "dog": [long]}, cat=["soft fur"])
    assert [(p, t) for p, t in found(own, "too_many_tokens")] == [(1, f"a photo of a {long}.")]
    # With a tokenizer that counts, it is an error; here one token a word and 2 for the ends.
    counting = Reference(count_tokens=lambda texts: [len(t.split()) + 2 for t in texts], most_tokens=8)
    assert check_synonyms(own, counting)[0] == Finding(
        "error",
        "too_many_tokens",
        0,
        "cat",
        "a photo of a cat, which has soft fur.",
        "has 11 tokens; the model reads 8",
    )


def test_the_longest_template_counts():
    own = made({"cat": []}).model_copy(update={"templates": ("a {}.", "a very long photo of one small {}.")})
    counting = Reference(count_tokens=lambda texts: [len(t.split()) for t in texts], most_tokens=7)
    assert found(own, "too_many_tokens", counting) == [(0, "a very long photo of one small cat.")]


def test_the_estimate_is_never_below_clips_tokenizer(shared):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(shared / "models" / "clip_tokenizer")
    for name in SETS:
        own = SynonymSet.builtin(name)
        texts = [
            text.prompts[0]
            for each in own.classes[::7]
            for text in class_texts(each.name, each.synonyms, each.descriptors, templates=own.templates)
        ]
        real = [len(ids) for ids in tokenizer(texts)["input_ids"]]
        assert all(e >= r for e, r in zip(estimated_tokens(texts), real, strict=True)), name


def test_general_nouns():
    assert found({"robin": ["bird", "redbreast"], "oak": ["trees"]}, "hypernym") == [
        (0, "bird"),
        (1, "trees"),
    ]
    # A class may have such a name itself.
    assert found({"bird": ["birdie"], "tree": []}, "hypernym") == []


def test_a_synonym_that_other_names_end_with():
    classes = {
        "electric guitar": ["guitar"],
        "acoustic guitar": [],
        "Boston Terrier": ["Boston Bull Terrier"],
    }
    assert found(classes, "hypernym") == [(0, "guitar")]
    assert found({"Yorkie": ["terriers"], **classes}, "hypernym") == [(0, "terriers"), (1, "guitar")]
    # The name itself in another spelling, and a word inside of another word.
    assert found({"Push Ups": ["pushups"], "Wall Pushups": []}, "hypernym") == []
    assert found({"feline": ["cat"], "bobcat": []}, "hypernym") == [(0, "cat")]  # a general noun
    assert found({"vessel": ["pot"], "teapot": []}, "hypernym") == []


def test_typos_without_a_word_list():
    felines = {"cat": ["domestic feline"], "lynx": ["spotted feline"], "puma": ["slender feline"]}
    classes = {**felines, "lion": ["maned feliine"]}
    assert found(classes, "typo") == [(3, "maned feliine")]
    # Words that other sets know, short words, British spellings and changed letters are left alone.
    known = Reference(known_words=word_counts([made({"x": ["feliine"]})]))
    assert found(classes, "typo", known) == []
    for innocent in ("felines", "feliné", "fline", "beline"):
        assert found({**classes, "lion": [innocent]}, "typo") == []
    colours = {"cat": ["coloured cat"], **{each: [f"colored {each}"] for each in ("dog", "fox", "rat")}}
    assert found(colours, "typo") == []


def test_typos_with_a_word_list():
    dictionary = frozenset("domestic feline spotted whisker".split())
    reference = Reference(dictionary=dictionary)
    own = made({"cat": ["domestic feline", "domstic animule"]}, cat=["spotted whiskers", "feline's ear"])
    assert found(own, "typo", reference) == [(0, "domstic animule"), (0, "domstic animule")]


def test_names_that_are_given_are_not_typos():
    dictionary = frozenset(["feline"])
    own = {"gazania": ["feline"]}
    assert found(own, "typo", Reference(dictionary=dictionary)) == [(0, "gazania")]
    assert found(own, "typo", Reference(dictionary=dictionary, names=["gazania"])) == []


@pytest.mark.parametrize(
    "text",
    [
        "саt",  # Cyrillic es and a
        "cаt flap",  # Cyrillic a
        "ｃat",  # fullwidth c
        "Οak",  # Greek capital omicron
        "black\u2011footed cat",
        "lion’s mane",
    ],
)
def test_letters_that_look_latin(text: str):
    assert found({"cat": ["feline", text]}, "letters") == [(0, text.strip())]


@pytest.mark.parametrize("text", ["crème brûlée", "Ragdoll-cat", "lion's mane", "Straße", "猫", "T恤", "№ 5"])
def test_letters_that_are_what_they_look_like(text: str):
    assert found({"cat": ["feline", text]}, "letters") == []


@pytest.mark.parametrize("text", ["black cat\u200b", "black\u00a0cat", "bl\u00adack  cat", "\ufeffblack cat"])
def test_what_is_not_seen_is_mended_as_it_is_read(text: str):
    assert found({"cat": ["feline", text]}, "letters") == []
    assert SynonymSet.read({"cat": [text]}).classes[0].synonyms == ("black cat",)


def test_other_scripts_are_no_mistake():
    russian = {"кошка": ["кот", "домашняя кошка"], "собака": ["пёс"], "猫": ["ネコ", "T恤"]}
    assert found(russian, "letters") == []
    assert found({**russian, "кошка": ["кoт"]}, "letters") == [(0, "кoт")]  # a Latin o


def test_exceptions_take_what_they_name_and_nothing_else():
    findings = check_synonyms(made({"robin": ["bird"], "wren": ["bird"]}))
    # `bird` twice: shared, and a general noun in both classes.
    assert sorted((each.rule, each.name) for each in findings) == [
        ("hypernym", "robin"),
        ("hypernym", "wren"),
        ("shared_text", "robin"),
        ("shared_text", "wren"),
    ]
    exception = {"rule": "hypernym", "class": "wren", "text": "bird", "reason": "why not"}
    left, excepted = split_excepted(findings, [exception])
    assert [(each.rule, each.name) for each in left] == [
        ("shared_text", "robin"),
        ("hypernym", "robin"),
        ("shared_text", "wren"),
    ]
    assert [(each.name, reason) for each, reason in excepted] == [("wren", "why not")]


def test_a_random_mistake_in_a_shipped_set_is_found():
    """Each kind of mistake, put into a shipped set at random places, is found there."""
    own, reference = SynonymSet.builtin("oxford_pets"), builtin_reference("oxford_pets")
    assert {each.rule for each in check_synonyms(own, reference)} == set()
    draw = random.Random(0)
    for rule in sorted(set(RULES) - {"order", "repeated_name", "too_many_tokens", *RELATIONS}):
        for _ in range(3):
            position, other = draw.sample(range(len(own.classes)), 2)
            theirs = own.classes[other]
            text = {
                "other_name": theirs.name.upper(),
                "shared_text": next((t for t in theirs.synonyms), theirs.name),
                "nearly_shared": "-".join(theirs.name),
                "repeated": own.classes[position].name + "s",
                "too_long": "one two three four five six",
                "hypernym": draw.choice(["dogs", "Cat", "terrier"]),
                "typo": draw.choice(["terrrier", "golden retreiver", "spanniel"]),
                "letters": "с" + theirs.name,
                "markup": "- " + theirs.name,
                "chatter": "Sure! Here are some names",
                "language": "кошка",
            }[rule]
            if text == "terrier" and "Terrier" in own.classes[position].name:
                continue
            classes = list(own.classes)
            classes[position] = classes[position].model_copy(
                update={"synonyms": (*classes[position].synonyms, text)}
            )
            hit = check_synonyms(own.model_copy(update={"classes": tuple(classes)}), reference)
            assert any(e.rule == rule and e.position in (position, other) for e in hit), (rule, text)


def test_the_share_of_random_slips_that_is_found():
    """docs/synonyms.md says a third: of words with a letter dropped, doubled, added or swapped inside."""
    draw, found, slips = random.Random(0), 0, 0
    for name in SETS:
        own, classes = SynonymSet.builtin(name), []
        words = word_counts([own])
        for each in own.classes:
            texts = [*each.synonyms, *each.descriptors] or [each.name]
            text = draw.choice(texts)
            word = draw.choice([w for w in text.split() if len(w) > 3] or [text])
            slip = with_a_slip(word, draw)
            if slip.casefold() not in words:
                slips += 1
            classes.append(each.model_copy(update={"synonyms": (*each.synonyms, text.replace(word, slip))}))
        hits = check_synonyms(own.model_copy(update={"classes": tuple(classes)}), builtin_reference(name))
        found += len({each.position for each in hits if each.rule == "typo"})
    assert 0.28 < found / slips < 0.38


def with_a_slip(word: str, draw: random.Random) -> str:
    at = draw.randrange(1, len(word) - 1) if len(word) > 2 else 1
    one, two = word[:at], word[at:]
    return draw.choice(
        [
            one + two[1:],
            one + two[:1] + two,
            one + draw.choice("aeinrst") + two,
            one + two[1:2] + two[:1] + two[2:],
        ]
    )


def beside(*records: dict[str, object]) -> SynonymSet:
    return SynonymSet.model_validate({"classes": records})


def test_negatives_of_two_classes_are_told_and_names_of_others_are_fine():
    own = beside(
        {"name": "cat", "negatives": ["dog", "An empty sofa", "hound"]},
        {"name": "dog", "synonyms": ["hound"], "negatives": ["cat", "a lawn"]},
        {"name": "car", "negatives": ["an empty sofa", "a street", "dog"]},
    )
    assert found(own, "shared_negative") == [
        (0, "dog"),
        (0, "An empty sofa"),
        (2, "dog"),
        (2, "an empty sofa"),
    ]
    rules = {each.rule for each in check_synonyms(own)}
    assert rules == {"shared_negative"}  # a name, or a synonym, of another class is what negatives are for


def test_a_negative_that_is_the_class_but_for_the_plural():
    own = beside(
        {"name": "cat", "synonyms": ["kitty"], "negatives": ["Cats", "kitties", "catss"]}, {"name": "dog"}
    )
    assert found(own, "own_negative") == [(0, "Cats"), (0, "kitties")]


SAID = [
    "no cat",
    "a photo without a cat",
    "not a cat",
    "a room that isn't it",
    "free of cats",
    "There is No cat.",
]
THERE = ["an empty sofa", "a healthy lung", "a nothing", "a no-parking sign", "noon", "a knot", "another one"]


def test_negatives_that_say_no_get_the_hint():
    own = beside({"name": "cat", "negatives": [*SAID, *THERE]}, {"name": "dog"})
    assert found(own, "says_no") == [(0, text) for text in SAID]
    (message, *_) = [each.message for each in check_synonyms(own) if each.rule == "says_no"]
    assert "docs/absence.md" in message
    assert "what is there instead" in message
    german = own.model_copy(update={"language": "de"})
    assert found(german, "says_no") == []


def test_negatives_are_counted_and_read_letter_by_letter_as_other_texts_are():
    own = beside(
        {"name": "cat", "negatives": ["an empty sоfa", "a sofa " * 40]}, {"name": "dog"}
    )  # о: Cyrillic
    assert found(own, "letters") == [(0, "an empty sоfa")]
    assert [position for position, _ in found(own, "too_many_tokens")] == [0]


TREE = [
    {"name": "bass", "groups": {"kind": "fish", "family": "perch"}},
    {"name": "drum", "groups": {"kind": "music", "family": "percussion"}},
    {"name": "ruffe", "groups": {"kind": "fish", "family": "perch"}},
    {"name": "viol", "groups": {"kind": "music", "family": "strings"}},
]


def test_a_group_below_two_groups_is_told():
    assert found(beside(*TREE), "two_parents") == []
    torn = beside(*TREE, {"name": "pole", "groups": {"kind": "music", "family": "perch"}})
    assert found(torn, "two_parents") == [(4, "perch")]
    (message,) = [each.message for each in check_synonyms(torn) if each.rule == "two_parents"]
    assert "level 'family', below 'fish' and 'music'" in message
    # Levels that cross are no tree: round and straight digits are odd and even.
    crossed = [
        {"name": f"{a} {b}", "groups": {"form": a, "parity": b}} for a in ("o", "i") for b in ("odd", "even")
    ]
    assert found(beside(*crossed), "two_parents") == []


def test_a_class_that_lacks_a_level_is_told():
    own = beside(*TREE, {"name": "sofa"}, {"name": "harp", "groups": {"kind": "music"}})
    assert found(own, "missing_level") == [(4, "sofa"), (5, "harp")]
    messages = [each.message for each in check_synonyms(own) if each.rule == "missing_level"]
    assert "no group at 'kind', 'family'" in messages[0]
    assert "no group at 'family'" in messages[1]
    assert found(beside({"name": "cat"}, {"name": "dog"}), "missing_level") == []
