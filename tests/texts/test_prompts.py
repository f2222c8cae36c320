"""Texts and prompts, compared with what is written out by hand and with the published lists."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3clip.texts.prompts import Text, class_texts, concepts, join_descriptor, render, resolve_templates
from s3clip.texts.templates import DEFAULT_TEMPLATES, TEMPLATES
from tests import SHARED

SAMPLES = SHARED / "data" / "synonyms"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the sample files are not here")


def labels(*arguments, **options):
    return [text.label for text in class_texts(*arguments, **options)]


# ---------------------------------------------------------------------------------------------- class_texts


def test_a_name_alone_is_one_text():
    assert class_texts("cat") == [Text("cat", ("a photo of a cat.",), "cat")]


def test_order_is_name_synonyms_joined_sentences():
    assert class_texts(
        "cat", ["kitty"], ["long legs", "a pet"], ["A cat sits."], templates=["{}.", "my {c}"]
    ) == [
        Text("cat", ("cat.", "my cat"), "cat"),
        Text("kitty", ("kitty.", "my kitty"), "kitty"),
        Text(
            "cat, which has long legs", ("cat, which has long legs.", "my cat, which has long legs."), "cat"
        ),
        Text("cat, which is a pet", ("cat, which is a pet.", "my cat, which is a pet."), "cat"),
        Text(
            "kitty, which has long legs",
            ("kitty, which has long legs.", "my kitty, which has long legs."),
            "kitty",
        ),
        Text("kitty, which is a pet", ("kitty, which is a pet.", "my kitty, which is a pet."), "kitty"),
        Text("A cat sits.", ("A cat sits.",)),
    ]


def test_own_name_comes_first_without_a_descriptor_also_when_only_descriptors_are_given():
    assert labels("cat", descriptors=["fur"]) == ["cat", "cat, which has fur"]
    assert labels("cat", prompts=["A cat."]) == ["cat", "A cat."]


def test_repeated_texts_are_dropped():
    once = class_texts("cat", ["kitty"], ["fur"], ["A cat."])
    assert class_texts("cat", ["kitty", "cat", "kitty"], ["fur", "fur."], ["A cat."] * 2) == once


def test_a_sentence_that_equals_a_prompt_is_a_text_of_its_own():
    assert labels("cat", prompts=["a photo of a cat."]) == ["cat", "a photo of a cat."]


def test_a_named_ensemble():
    (text,) = class_texts("cat", templates="openai_imagenet_7")
    assert text.prompts[0] == "itap of a cat."
    assert len(text.prompts) == 7


@pytest.mark.parametrize("argument", ["synonyms", "descriptors", "prompts"])
def test_a_bare_string_is_not_taken_for_its_letters(argument):
    with pytest.raises(TypeError, match=rf"{argument}: expected a sequence of texts, got the text 'kitty'"):
        class_texts("cat", **{argument: "kitty"})


@given(st.text(), st.lists(st.text(), max_size=4), st.lists(st.text(min_size=1), max_size=3))
def test_count_is_names_times_descriptors_and_one(name, synonyms, prompts):
    texts = class_texts(name, synonyms, ["long legs", "a pet"], prompts)
    assert texts[0] == Text(name, (f"a photo of a {name}.",), name)
    assert len(texts) == len(set(texts)) <= 3 * (1 + len(synonyms)) + len(prompts)
    assert {text.label for text in texts} >= {name, *synonyms, *prompts}


# ------------------------------------------------------------------------------------------------- concepts


def test_a_concept_is_a_name_with_its_descriptors_and_a_sentence_is_its_own():
    texts = class_texts("cat", ["kitty"], ["fur"], ["A cat sits.", "cat"], templates=["{}.", "my {c}"])
    assert concepts(texts) == [
        Text(
            "cat",
            ("cat.", "my cat", "cat, which has fur.", "my cat, which has fur."),
            "cat",
            ("cat, which has fur",),
        ),
        Text(
            "kitty",
            ("kitty.", "my kitty", "kitty, which has fur.", "my kitty, which has fur."),
            "kitty",
            ("kitty, which has fur",),
        ),
        Text("A cat sits.", ("A cat sits.",)),
        Text("cat", ("cat",)),  # a sentence, though it says no more than the name
    ]
    assert [own.label for own in concepts(class_texts("cat", descriptors=["fur", "a tail"]))] == ["cat"]


@given(
    st.text(),
    st.lists(st.text(), max_size=4),
    st.lists(st.sampled_from("abc"), max_size=3),
    st.lists(st.text()),
)
def test_the_concepts_hold_every_text_once(name, synonyms, descriptors, prompts):
    texts = class_texts(name, synonyms, descriptors, prompts)
    merged = concepts(texts)
    assert [own.label for own in merged] == [*dict.fromkeys((name, *synonyms)), *dict.fromkeys(prompts)]
    labels = [label for own in merged for label in (own.label, *own.variants)]
    assert sorted(labels) == sorted(text.label for text in texts)
    prompts_of = [prompt for own in merged for prompt in own.prompts]
    assert sorted(prompts_of) == sorted(prompt for text in texts for prompt in text.prompts)


# ------------------------------------------------------------------------------------------------ templates


def test_default():
    assert DEFAULT_TEMPLATES == TEMPLATES["default"] == ("a photo of a {}.",)


@needs_samples
def test_the_80_are_openais():
    published = json.loads((SAMPLES / "openai_clip" / "imagenet_classes_templates.json").read_text())
    assert list(TEMPLATES["openai_imagenet_80"]) == published["templates"]


def test_the_7_are_among_the_80():
    assert len(set(TEMPLATES["openai_imagenet_80"])) == 80
    assert len(set(TEMPLATES["openai_imagenet_7"]) & set(TEMPLATES["openai_imagenet_80"])) == 7


@needs_samples
def test_every_template_of_clip_benchmark_is_accepted():
    published = json.loads(
        (SAMPLES / "clip_benchmark" / "en_zeroshot_classification_templates.json").read_text()
    )
    for templates in published.values():
        assert resolve_templates(templates) == tuple(templates)
        for template in templates:
            assert render(template, "red cat") == template.format(c="red cat")


def test_resolving():
    assert resolve_templates("openai_imagenet_7") is TEMPLATES["openai_imagenet_7"]
    assert resolve_templates("a {}") == ("a {}",)
    assert resolve_templates(["a {}", "{c} and {c}"]) == ("a {}", "{c} and {c}")


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"'openai_80' is neither a name .*openai_imagenet_80"):
        resolve_templates("openai_80")


@pytest.mark.parametrize(
    "template",
    [
        "a photo",
        "{article} photo",
        "{} {c}",
        "{name}",
        "{} {0}",
        "{{}}",
        "{} }",
        "{ {}",
        "{!r}",
        "{:>9}",
        "",
    ],
)
def test_other_braces_are_refused(template):
    with pytest.raises(ValueError, match=re.escape(f"template {template!r}: expected one kind of")):
        resolve_templates([template])
    with pytest.raises(ValueError, match="expected one kind of placeholder"):
        render(template, "cat")


def test_no_template_is_refused():
    with pytest.raises(ValueError, match="at least one template"):
        resolve_templates([])


def test_a_wrong_type_is_refused():
    with pytest.raises(TypeError, match=r"expected strings, got 3 \(int\)"):
        resolve_templates(["{}", 3])


# --------------------------------------------------------------------------------------------------- render


@pytest.mark.parametrize("name", ["{}", "{c}", "{article}", "100 %s", r"\1 \g<0>", "{0.x}", "a_b", "  "])
def test_names_are_literal(name):
    assert render("a {}.", name) == "a " + name + "."
    assert render("{c}{c}", name) == name + name


@pytest.mark.parametrize(
    "expected",
    [
        "a cat",
        "an apple",
        "an Egyptian cat",
        "a unicorn",
        "a uniform",
        "an uninhabited island",
        "an umbrella",
        "a European",
        "a eucalyptus",
        "an hour glass",
        "an honest man",
        "a house",
        "a one-way street",
        "a one",
        "an onion",
        "an F-16",
        "a U-boat",
        "an X-ray",
        "a T-shirt",
        "an SUV",
        "a UFO",
        "an MRI scanner",
        "a NASA rocket",
        "an A300",
        "a 707-320",
        "an 8-ball",
        "an 11",
        "a 2012 Acura",
        "an éclair",
        "a Utah teapot",
        "a ukulele",
        "an urn",
        "a (cat)",
        "a 猫",
        "a ?",
    ],
)
def test_article(expected):
    assert render("{article} {}", expected.split(" ", 1)[1]) == expected


# ------------------------------------------------------------------------------------------ join_descriptor


@pytest.mark.parametrize(
    ("descriptor", "clause"),
    [
        ("long legs", "which has long legs"),
        ("two wings", "which has two wings"),
        ("no stem", "which has no stem"),
        ("the distinctive badge", "which has the distinctive badge"),
        ("antennae", "which has antennae"),  # begins with the letters of an article
        ("island habitat", "which has island habitat"),  # and of a verb
        ("webbed feet", "which has webbed feet"),
        ("a bird", "which is a bird"),
        ("An insect", "which is An insect"),
        ("used for cooking", "which is used for cooking"),
        ("made of wool", "which is made of wool"),
        ("native to Asia", "which is native to Asia"),
        ("with a handle", "which is with a handle"),
        ("has long legs", "which has long legs"),
        ("is red", "which is red"),
        ("may be red", "which may be red"),
        ("grows in clumps", "which grows in clumps"),
        ("often has arches", "which often has arches"),
        ("often found in caves", "which is often found in caves"),
        ("usually, but not always, white", "which is usually, but not always, white"),
        ("it is smooth", "which is smooth"),
        ("which has legs", "which has legs"),
        ("  long legs. ", "which has long legs"),
        ("ribbons, lace, etc.", "which has ribbons, lace, etc"),
        ("served in a glass,", "which is served in a glass"),
        ("it", "which has it"),
        ("...", "which has ..."),
    ],
)
def test_verb(descriptor, clause):
    assert join_descriptor("a cat.", descriptor) == f"a cat, {clause}."
    assert labels("cat", descriptors=[descriptor])[1] == f"cat, {clause}"


@pytest.mark.parametrize("prompt", ["a photo of a cat.", "a photo of a cat", "a photo of a cat. "])
def test_one_full_stop(prompt):
    assert join_descriptor(prompt, "long legs.") == "a photo of a cat, which has long legs."


def test_an_empty_descriptor_is_refused():
    with pytest.raises(ValueError, match="descriptor: expected a text"):
        join_descriptor("a cat.", " ")


@needs_samples
def test_published_descriptors():
    files = sorted((SAMPLES / "dclip_waffleclip").glob("*.json"))
    descriptors = {
        text.strip()
        for file in files
        for texts in json.loads(file.read_text(encoding="utf-8")).values()
        for text in texts
        if text.strip()
    }
    joined = {descriptor: join_descriptor("a cat.", descriptor) for descriptor in descriptors}
    doubled = re.compile(r"which (has|is) (has|have|is|are|may|can|was|were)\b|\.\.$|, which \w+ which")
    assert [sentence for sentence in joined.values() if doubled.search(sentence)] == []
    assert [sentence for sentence in joined.values() if sentence.count(", which is") > 1] == []
    for descriptor, sentence in joined.items():
        assert sentence.startswith("a cat, which ")
        assert sentence.endswith(descriptor.rstrip(" .,;").removeprefix("it ").removeprefix("they ") + ".")
        first = descriptor.split()[0].lower()
        if first in ("a", "an", "made", "used", "found"):
            assert ", which is " in sentence
        elif first in ("long", "large", "two", "the", "black", "antennae", "handles"):
            assert ", which has " in sentence
        elif first in ("has", "may", "can", "is", "grows"):
            assert sentence.startswith(f"a cat, which {first} ")
