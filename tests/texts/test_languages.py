"""Names in other languages: every class has them, each once, in the right script, without an article."""

import re
import unicodedata

import pytest

from s3clip import SynonymousSpaceHead, SynonymSet
from s3clip.demo import model_folder

LANGUAGES = ("de", "es", "fr", "ja", "zh")
TRANSLATED = ("cifar10", "cifar100", "oxford_pets", "food101", "voc20", "voc21", "coco_object")

# What a name may be made of: ranges of Unicode, and a character set that holds the language's letters alone:
# GB 2312 has no traditional form, JIS X 0208 no simplified one.
SCRIPTS = {
    "de": (r"[A-Za-zÄÖÜäöüßéèûô' \-]+", "cp1252"),
    "es": (r"[A-Za-zÁÉÍÓÚÑáéíóúüñèûê \-]+", "cp1252"),
    "fr": (r"[A-Za-zÀÉÈàâçéèêëîïôûùœ' \-]+", "cp1252"),
    "zh": (r"[\u4e00-\u9fff]+", "gb2312"),
    "ja": (r"[\u3041-\u3096\u30a1-\u30fa\u30fb\u30fc\u4e00-\u9fff]+", "shift_jis"),
}
NOT_IN_GB_2312 = (
    "鼩鼱狆焗"  # and written so in simplified Chinese: the shrew, the Japanese Chin, baked in its shell
)
ARTICLES = {
    "de": r"(?:der|die|das|den|dem|des|eine?|eine[nmrs])\s",
    "es": r"(?:el|la|los|las|un|una|unos|unas)\s",
    "fr": r"(?:le|la|les|un|une|des|du)\s|l'",
}


def same_to_a_reader(text):
    """What two names share that differ in width, case, hyphens, spaces or middle dots alone."""
    return re.sub(r"[\s\-・]", "", unicodedata.normalize("NFKC", text).casefold())


def names_of(name, language):
    return [each.names[language] for each in SynonymSet.builtin(name).classes]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", TRANSLATED)
def test_every_class_has_names_that_no_other_has(name, language):
    classes_of = {}
    for position, own in enumerate(names_of(name, language)):
        assert len(own) == len({text.casefold() for text in own}), own
        for text in own:
            classes_of.setdefault(same_to_a_reader(text), set()).add(position)
    assert {text: where for text, where in classes_of.items() if len(where) > 1} == {}
    assert all(each.names.keys() == set(LANGUAGES) for each in SynonymSet.builtin(name).classes)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", TRANSLATED)
def test_names_are_in_their_script_and_without_an_article(name, language):
    pattern, encoding = SCRIPTS[language]
    for text in (text for own in names_of(name, language) for text in own):
        assert re.fullmatch(pattern, text), text
        re.sub(f"[{NOT_IN_GB_2312}]", "", text).encode(encoding)
        assert text == unicodedata.normalize("NFC", text).strip()
        assert not re.match(ARTICLES.get(language, "(?!)"), text, re.IGNORECASE), text


@pytest.mark.parametrize("name", TRANSLATED)
def test_german_nouns_are_written_large_and_the_others_small(name):
    assert all(text[0].isupper() for own in names_of(name, "de") for text in own)
    for language in ("es", "fr"):
        assert all(text[0].islower() for own in names_of(name, language) for text in own)


def test_the_same_thing_is_called_the_same_everywhere():
    # Of sets with a class of one name, but for the mouse, which is an animal here and a device there.
    called = {}
    for name in TRANSLATED:
        for each in SynonymSet.builtin(name).classes:
            if (name, each.name) == ("coco_object", "mouse"):
                continue
            called.setdefault(each.name, []).append(each.names)
    for name, found in called.items():
        for other in found[1:]:
            for language in LANGUAGES:
                assert set(other[language]) & set(found[0][language]), (name, language)


def test_a_set_in_a_language_is_that_language_alone():
    german = SynonymSet.read("builtin:food101/de")
    english = SynonymSet.builtin("food101")
    assert (german.language, english.language) == ("de", "en")
    assert german.class_names[english.class_names.index("ice cream")] == "Eis"
    for own, other in zip(german.classes, english.classes, strict=True):
        assert (own.name, *own.synonyms) == other.names["de"]
        assert own.names["en"] == (other.name, *other.synonyms)
        assert own.names.keys() == {"en", "es", "fr", "ja", "zh"}
        assert (own.descriptors, own.prompts, own.negatives) == ((), (), ())
        assert (own.id, own.groups) == (other.id, other.groups)
    assert german.in_language("de") is german
    there_and_back = german.in_language("fr").in_language("en")
    assert there_and_back.class_names == english.class_names
    assert german.templates == ("Ein Foto: {}.",)
    assert SynonymSet.read([{"name": "cat", "names": {"it": "gatto"}}]).in_language("it").templates == ("{}",)


def test_a_language_that_is_missing():
    with pytest.raises(
        ValueError, match=r"no class has a name in 'it'; there are names in de, es, fr, ja, zh"
    ):
        SynonymSet.builtin("cifar10/it")
    with pytest.raises(ValueError, match="there are names in no language"):
        SynonymSet.builtin("dtd/de")
    with pytest.raises(ValueError, match="no builtin synonym set 'cifar/de'"):
        SynonymSet.builtin("cifar/de")
    some = SynonymSet.read([{"name": "cat", "names": {"de": ["Katze"]}}, {"name": "dog"}])
    with pytest.warns(UserWarning, match="1 of 2 classes have no name in 'de' and keep their own"):
        assert some.in_language("de").class_names == ["Katze", "dog"]


@pytest.mark.filterwarnings("ignore:.*token")
def test_answers_are_in_the_language_asked_for_whatever_the_texts_were_in(tmp_path):
    import torch

    images = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    head = SynonymousSpaceHead.from_backbone(str(model_folder()))
    head.fit_classes("builtin:cifar10/de", cache=False).save_pretrained(tmp_path)
    head = SynonymousSpaceHead.from_pretrained(tmp_path, backbone=None)
    english = SynonymSet.builtin("cifar10")
    assert head.class_names == [own[0] for own in names_of("cifar10", "de")]
    for language in ("de", "en", "ja"):
        for own in head.predict(image_embeds=images, language=language):
            for p in own:
                expected = english.classes[p.class_index]
                assert p.label == (expected.name if language == "en" else expected.names[language][0])
                assert p.groups == expected.groups
