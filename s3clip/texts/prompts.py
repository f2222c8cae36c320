"""From a class's names, descriptors and sentences to the texts that are encoded.

A *text* is one (name or synonym, descriptor or none), written into every template. A *concept* is a name or
synonym with all that is said of it: itself, and joined with each descriptor. Either becomes one row of the
class space, the mean over its prompts, so templates add no rows. Prompts are literal: the name goes into the
template unchanged, braces, percent signs and underscores included.
"""

import re
import reprlib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from s3clip.arguments import check_text_count
from s3clip.texts.labels import problem_of_name
from s3clip.texts.templates import DEFAULT_TEMPLATES, TEMPLATES

Points = Literal["concepts", "texts"]
"""What becomes one row of a class space: see above."""

_PLACEHOLDER = re.compile(r"(\{(?:c|article)?\})")

# Descriptors that begin with one of these words go on after "which" without a verb of ours ("which has ...").
# Verbs that are as often plural nouns ("features", "stands", "displays") are left out.
_VERBS = frozenset(
    "has have had is are was were can could may might must will would should does do "
    "appears attaches belongs comes connects consists contains covers feeds grows hangs includes lives looks "
    "protects resembles spans tends".split()
)
# These decide nothing themselves: the word after them does.
_ADVERBS = frozenset(
    "often usually typically sometimes generally commonly normally frequently rarely mostly mainly primarily "
    "traditionally always also never not possibly probably".split()
)
# Articles, participles, adjectives and prepositions that begin what a thing *is*, not what it has.
_PREDICATES = frozenset(
    "a an made used found served worn designed constructed built known named called located eaten sold "
    "cooked covered filled topped coated decorated garnished lined surrounded attached mounted composed "
    "shaped native able similar related associated with without in on of from at by".split()
)
_SUBJECTS = frozenset(("it", "they", "which"))


@dataclass(frozen=True)
class Text:
    """One text of a class, or a concept, before encoding: what becomes one row.

    Attributes:
        label: what a user is shown as "the text that matched".
        prompts: what is encoded, one string per template (exactly one for a whole sentence), of a concept
            those of all its texts; the unit embeddings of the prompts are averaged to one row.
        concept: the name or synonym that it says; None of a whole sentence, which says none.
        variants: of a concept: the labels of its texts but the first, which says the name alone.
    """

    label: str
    prompts: tuple[str, ...]
    concept: str | None = None
    variants: tuple[str, ...] = ()


def class_texts(
    name: str,
    synonyms: Sequence[str] = (),
    descriptors: Sequence[str] = (),
    prompts: Sequence[str] = (),
    *,
    templates: str | Sequence[str | Callable[[str], str]] = DEFAULT_TEMPLATES,
) -> list[Text]:
    """Return the texts of one class; the first is always the class's own name without a descriptor.

    After it come the synonyms, then the name and each synonym joined with each descriptor, then the sentences
    of `prompts`, which are used as they are. A text that repeats an earlier one exactly is left out.
    Functions in the place of templates, as open_clip has them, are called with every name and synonym.

    Raises:
        TypeError: if a single string is given where a sequence of texts belongs.
        ValueError: for a template `resolve_templates` refuses, an empty descriptor, or more texts than a
            class may have.
    """
    for argument, given in (("synonyms", synonyms), ("descriptors", descriptors), ("prompts", prompts)):
        if isinstance(given, str):
            raise TypeError(
                f"{argument}: expected a sequence of texts, got the text {given!r}; put it in a list"
            )
    if isinstance(templates, str) or not any(callable(each) for each in templates):
        templates = resolve_templates(templates)  # type: ignore[arg-type]  # texts, or named as none
    check_text_count(name, len({name, *synonyms}) * (1 + len(descriptors)) + len(prompts))
    # A synonym's bare prompts serve all of its descriptors.
    bare = {text: tuple(_filled(template, text) for template in templates) for text in (name, *synonyms)}
    texts = [Text(text, rendered, text) for text, rendered in bare.items()]
    texts += [
        Text(
            f"{text}, {_clause(descriptor)}",
            tuple(join_descriptor(prompt, descriptor) for prompt in rendered),
            text,
        )
        for text, rendered in bare.items()
        for descriptor in descriptors
    ]
    texts += [Text(sentence, (sentence,)) for sentence in prompts]
    return list(dict.fromkeys(texts))


def concepts(texts: Sequence[Text]) -> list[Text]:
    """Return the concepts of a class's texts, in the order of their first texts; a sentence is its own."""
    groups: dict[object, list[Text]] = {}
    for position, text in enumerate(texts):
        groups.setdefault(position if text.concept is None else text.concept, []).append(text)
    return [
        replace(
            own[0],
            prompts=tuple(prompt for text in own for prompt in text.prompts),
            variants=tuple(text.label for text in own[1:]),
        )
        for own in groups.values()
    ]


def resolve_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Return the templates meant: a name of `TEMPLATES`, one template, or a sequence of templates.

    A template holds the placeholder `{}` or `{c}`, which takes the name unchanged, and may hold `{article}`,
    which becomes "a" or "an".

    Raises:
        ValueError: for no template at all, and for a template without a placeholder for the name, with both
            kinds of it, with any other brace, too long, or with control characters.
        TypeError: if a template is not a string.
    """
    if isinstance(templates, str):
        if templates in TEMPLATES:
            return TEMPLATES[templates]
        if "{" not in templates:
            raise ValueError(
                f"templates: {templates!r} is neither a name of TEMPLATES ({', '.join(TEMPLATES)}) "
                "nor a template with a placeholder {} or {c}"
            )
        templates = (templates,)
    resolved = tuple(templates)
    if not resolved:
        raise ValueError("templates: expected at least one template, got none")
    for template in resolved:
        if not isinstance(template, str):
            raise TypeError(f"templates: expected strings, got {template!r} ({type(template).__name__})")
        if template and (problem := problem_of_name(template)):
            raise ValueError(f"templates: {reprlib.repr(template)} {problem}")
        _pieces(template)
    return resolved


def _filled(template: str | Callable[[str], str], name: str) -> str:
    return template(name) if callable(template) else render(template, name)


def render(template: str, name: str) -> str:
    """Return the template with the name, taken literally, in place of `{}` or `{c}`.

    `{article}` becomes the indefinite article of the name by a heuristic: vowel letters take "an", with the
    usual exceptions ("an hour", "a unicorn", "a European", "a one-way street") and with single letters, short
    or vowelless words in capitals and numbers taken as they are read out ("an SUV", "an F-16", "an 8").
    """
    pieces = _pieces(template)
    fills = {"{}": name, "{c}": name}
    if "{article}" in pieces:
        fills["{article}"] = _article(name)
    return "".join(fills.get(piece, piece) for piece in pieces)


def join_descriptor(prompt: str, descriptor: str) -> str:
    """Return `"{prompt}, which {is|has} {descriptor}."`, with one full stop, at the end.

    The verb follows from how the descriptor begins (capitals do not matter), a heuristic of ours:

    1. a leading "it", "they" or "which" is dropped;
    2. a verb ("has long legs", "may be red", "grows in clumps") stands as it is, also after adverbs
       ("often has arches");
    3. an article ("a bird"), a participle or adjective of a short list ("used for cooking", "native to
       Asia"), a preposition ("with a handle"), and anything else after adverbs ("often found in caves",
       "typically white") get "is";
    4. all else gets "has" ("long legs", "the Ford badge", "two wings").

    Raises:
        ValueError: if the descriptor is empty.
    """
    return f"{prompt.rstrip().removesuffix('.')}, {_clause(descriptor)}."


def _clause(descriptor: str) -> str:
    # "etc." loses its full stop to the sentence's; a descriptor of stops alone stays as it is.
    descriptor = descriptor.strip().rstrip(" .,;") or descriptor.strip()
    words = [word.strip(",;:").lower() for word in descriptor.split()]
    if not words:
        raise ValueError("descriptor: expected a text, got an empty one")
    if words[0] in _SUBJECTS and len(words) > 1:
        descriptor, words = descriptor.split(maxsplit=1)[1], words[1:]
    deciding = next((word for word in words if word not in _ADVERBS), "")
    if deciding in _VERBS:
        return f"which {descriptor}"
    if deciding in _PREDICATES or words[0] in _ADVERBS:
        return f"which is {descriptor}"
    return f"which has {descriptor}"


@lru_cache(maxsize=1024)
def _pieces(template: str) -> tuple[str, ...]:
    """Split a template into placeholders and the text between them, once per template."""
    pieces = tuple(_PLACEHOLDER.split(template))
    names = {"{}", "{c}"} & set(pieces[1::2])
    if len(names) != 1 or any(brace in text for text in pieces[::2] for brace in "{}"):
        raise ValueError(
            f"template {template!r}: expected one kind of placeholder for the name, {{}} or {{c}}, "
            "and no other brace than that of {article}"
        )
    return pieces


# Words whose first letter does not tell: a silent h takes "an"; a u, eu or o read as "you" or "won" "a".
_SILENT_H = re.compile(r"(?:hour|honest|honou?r|heir)")
_CONSONANT_SOUND = re.compile(r"(?:eu|ewe|once|one(?![a-z])|uni(?![nmd])|u[bcfhjkqrst][aeiou])")
_NUMBER = re.compile(r"\d+")


def _article(name: str) -> str:
    # Accents are taken off, so that "éclair" begins with a vowel letter.
    plain = "".join(c for c in unicodedata.normalize("NFD", name) if not unicodedata.combining(c))
    start = re.search(r"[A-Za-z]+|\d+", plain)
    if start is None:
        return "a"
    word = start.group()
    if _NUMBER.fullmatch(word):
        return "an" if word[0] == "8" or word in ("11", "18") else "a"
    spelled_out = word.isupper() and (len(word) <= 3 or not set(word) & set("AEIOUY"))
    if spelled_out or len(word) == 1:
        return "an" if word[0] in "AEFHILMNORSXaefhilmnorsx" else "a"
    lower = plain[start.start() :].lower()
    if _SILENT_H.match(lower):
        return "an"
    return "an" if lower[0] in "aeiou" and not _CONSONANT_SOUND.match(lower) else "a"
