"""Look for mistakes in a synonym set: what `s3clip synonyms check` reports.

The rules read texts, not meanings: they find a name given to two classes, a hypernym by its form, a likely
typo. Whether "crane" is the bird they cannot know. An *error* is certain and makes wrong labels or truncated
texts; a *warning* is to be read by somebody, who mends it or says why it stays.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from s3clip.prompts import DEFAULT_TEMPLATES, class_texts, render
from s3clip.synonym_sets import BENCHMARKS, SUBSETS, Benchmark, load_set
from s3clip.synonyms import SynonymClass, SynonymSet, collisions

__all__ = [
    "RULES",
    "Finding",
    "Reference",
    "builtin_reference",
    "check_synonyms",
    "estimated_tokens",
    "split_excepted",
    "word_counts",
]

MOST_WORDS = 5  # of a name
CLIP_TOKENS = 77
FREQUENT = 3  # classes that use a word, from which on a word like it may be a slip
SHORTEST_WORD = 6  # letters of a slip; shorter words have too many neighbours

# Words for so many things that, as a synonym, they name other classes of nearly every task too.
GENERAL_NOUNS = frozenset(
    "action activity aircraft animal appliance area artifact bird boat body breed building cat clothes "
    "clothing color colour container creature cuisine design dessert device dish dog drink equipment "
    "event fabric fish flower food fruit furniture garment gear herb human indoors insect instrument "
    "invertebrate item land landscape location machine mammal material meal object organism outdoors "
    "pattern person pet place plant product reptile room scene ship shrub snack snake spot structure "
    "stuff substance surface texture thing tool toy tree utensil vegetable vegetation vehicle vessel view "
    "weapon wildlife".split()
)


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    Attributes:
        severity: "error": certain, and labels or texts come out wrong; "warning": likely, read it.
        rule: the key of `RULES` it comes from, or "schema".
        position: of the class; None for the set as a whole.
        name: of the class; None for the set as a whole.
        text: what was found.
        message: what is wrong with it.
    """

    severity: Literal["error", "warning"]
    rule: str
    position: int | None
    name: str | None
    text: str
    message: str


@dataclass(frozen=True)
class Reference:
    """What a set is compared with.

    Attributes:
        names: the names the classes must have, in order; None if there is no such list.
        benchmark: a digest of such a list, for the sets that come with s3clip.
        known_words: how many classes of other sets use a word, as `word_counts` gives it.
        dictionary: casefolded words that are no typos; None without a word list.
        count_tokens: how many tokens each text is; None for `estimated_tokens`.
        most_tokens: how many the model reads.
    """

    names: Sequence[str] | None = None
    benchmark: Benchmark | None = None
    known_words: Counter[str] = field(default_factory=Counter)
    dictionary: frozenset[str] | None = None
    count_tokens: Callable[[list[str]], list[int]] | None = None
    most_tokens: int = CLIP_TOKENS

    @property
    def fixes_names(self) -> bool:
        """Whether the names are given, so that nobody can mend them."""
        return self.names is not None or self.benchmark is not None


def builtin_reference(name: str | None = None) -> Reference:
    """Return what the builtin set of this name is compared with; None: a set that is not builtin."""
    subset = SUBSETS.get(name or "")
    benchmark = BENCHMARKS.get(name or "") if subset is None else subset.benchmark
    own = name if subset is None else subset.of
    others = (load_set(each) for each in BENCHMARKS if each != own)
    known = word_counts(others)
    if subset is not None:  # what several classes of the whole set say is no slip in a part of it
        known += Counter({word: n for word, n in word_counts([load_set(subset.of)]).items() if n > 1})
    return Reference(benchmark=benchmark, known_words=known)


def check_synonyms(synonyms: SynonymSet, reference: Reference | None = None) -> list[Finding]:
    """Return what every rule of `RULES` finds, ordered by class; findings of the whole set come first."""
    case = _Case(synonyms, reference or Reference())
    found = [finding for rule in RULES.values() for finding in rule(case)]
    return sorted(found, key=lambda finding: -1 if finding.position is None else finding.position)


def split_excepted(
    findings: Sequence[Finding], exceptions: Sequence[Mapping[str, str]]
) -> tuple[list[Finding], list[tuple[Finding, str]]]:
    """Part the findings that no exception names from those that one does, with its reason.

    Args:
        findings: of `check_synonyms`.
        exceptions: records with the "rule", "class" (its name) and "text" of a finding, and the "reason".
    """
    reasons = {(each["rule"], each["class"], each["text"]): each["reason"] for each in exceptions}
    left: list[Finding] = []
    excepted: list[tuple[Finding, str]] = []
    for finding in findings:
        reason = reasons.get((finding.rule, finding.name or "", finding.text))
        if reason is None:
            left.append(finding)
        else:
            excepted.append((finding, reason))
    return left, excepted


def word_counts(sets: Iterable[SynonymSet]) -> Counter[str]:
    """Count the classes that use a word in a name, synonym or descriptor."""
    return Counter(word for each in sets for own in each.classes for word in _words_of(own))


def estimated_tokens(texts: list[str]) -> list[int]:
    """Estimate from above how many tokens CLIP's tokenizer makes of each text.

    A token for every two letters of a word, one for every digit, mark and byte of other scripts, and two for
    the ends. This is more than the tokenizer makes of English, Latin and brand names; of random letters the
    tokenizer can make more.
    """
    return [2 + sum(map(_estimate, _PIECES.findall(text))) for text in texts]


@dataclass(frozen=True)
class _Case:
    synonyms: SynonymSet
    reference: Reference

    @property
    def classes(self) -> Sequence[SynonymClass]:
        return self.synonyms.classes

    @cached_property
    def names(self) -> dict[str, list[int]]:
        """Casefolded class names and where they stand."""
        positions: dict[str, list[int]] = {}
        for position, each in enumerate(self.classes):
            positions.setdefault(each.name.casefold(), []).append(position)
        return positions

    def finding(
        self, severity: Literal["error", "warning"], rule: str, position: int, text: str, message: str
    ) -> Finding:
        return Finding(severity, rule, position, self.classes[position].name, text, message)

    def listed(self, positions: Iterable[int]) -> str:
        """Name up to three classes."""
        every = list(positions)
        names = ", ".join(f"{position} {self.classes[position].name!r}" for position in every[:3])
        return names + (f" and {len(every) - 3} more" if len(every) > 3 else "")


# -------------------------------------------------------------------------------------------- names and order


def _order(case: _Case) -> Iterator[Finding]:
    wanted, own = case.reference.names, case.synonyms.class_names
    benchmark = case.reference.benchmark
    if benchmark is not None and benchmark != Benchmark.of(own):
        found = "other names, or another order" if len(own) == benchmark.classes else f"{len(own)} classes"
        message = f"expected the {benchmark.classes} names of the benchmark in its order, got {found}"
        yield Finding("error", "order", None, None, "", message)
    if wanted is None:
        return
    if len(own) != len(wanted):
        message = f"expected {len(wanted)} classes, got {len(own)}"
        yield Finding("error", "order", None, None, "", message)
    for position, (got, expected) in enumerate(zip(own, wanted, strict=False)):
        if got != expected:
            yield case.finding("error", "order", position, got, f"expected the name {expected!r} here")


# ---------------------------------------------------------------------------------- one text for two classes


def _repeated_name(case: _Case) -> Iterator[Finding]:
    for positions in case.names.values():
        for position in positions[1:]:
            text = case.classes[position].name
            message = f"is the name of class {case.listed(positions[:1])} too"
            yield case.finding("warning", "repeated_name", position, text, message)


def _other_name(case: _Case) -> Iterator[Finding]:
    for text, positions in collisions(case.synonyms).items():
        named = case.names.get(text, [])
        for position in positions:
            if named and position not in named:
                message = f"is the name of class {case.listed(named)}"
                yield case.finding("error", "other_name", position, text, message)


def _shared_text(case: _Case) -> Iterator[Finding]:
    for text, positions in collisions(case.synonyms).items():
        if text not in case.names:
            message = f"stands in class {case.listed(positions[:-1])} too"
            yield case.finding("error", "shared_text", positions[-1], text, message)


def _nearly_shared(case: _Case) -> Iterator[Finding]:
    exact = collisions(case.synonyms)
    spellings: dict[str, dict[int, str]] = {}
    for position, each in enumerate(case.classes):
        for text in (each.name, *each.synonyms):
            if text.casefold() not in exact:
                spellings.setdefault(_compact(text), {}).setdefault(position, text)
    for by_class in spellings.values():
        # A synonym can be changed, a name cannot.
        order = sorted(by_class, key=lambda position: by_class[position] != case.classes[position].name)
        for position in order[1:]:
            message = f"is {by_class[order[0]]!r} of class {case.listed(order[:1])}, spelt otherwise"
            yield case.finding("warning", "nearly_shared", position, by_class[position], message)


# ------------------------------------------------------------------------------------------- inside one class


def _repeated(case: _Case) -> Iterator[Finding]:
    for position, each in enumerate(case.classes):
        for texts in ((each.name, *each.synonyms), each.descriptors):
            first: dict[str, str] = {}
            for text in texts:
                key = _singular(text.casefold())
                if key in first:
                    message = f"is {first[key]!r} again, but for case or plural"
                    yield case.finding("warning", "repeated", position, text, message)
                first.setdefault(key, text)


def _too_long(case: _Case) -> Iterator[Finding]:
    for position, each in enumerate(case.classes):
        for text in each.synonyms:
            if (words := len(text.split())) > MOST_WORDS:
                message = f"has {words} words; a name has {MOST_WORDS} or less"
                yield case.finding("warning", "too_long", position, text, message)


def _too_many_tokens(case: _Case) -> Iterator[Finding]:
    counted = case.reference.count_tokens
    count, most = counted or estimated_tokens, case.reference.most_tokens
    templates = case.synonyms.templates or DEFAULT_TEMPLATES
    lengths = count([render(template, "cat") for template in templates])
    longest = templates[lengths.index(max(lengths))]
    for position, each in enumerate(case.classes):
        texts = class_texts(each.name, each.synonyms, each.descriptors, each.prompts, templates=longest)
        prompts = [text.prompts[0] for text in texts]
        tokens = count(prompts)
        if max(tokens) > most:
            text = prompts[tokens.index(max(tokens))]
            message = f"has {'' if counted else 'perhaps '}{max(tokens)} tokens; the model reads {most}"
            yield case.finding("error" if counted else "warning", "too_many_tokens", position, text, message)


# -------------------------------------------------------------------------------------------------- hypernyms


def _hypernym(case: _Case) -> Iterator[Finding]:
    endings = _endings(case)
    for position, each in enumerate(case.classes):
        for text in each.synonyms:
            key = _singular(text.casefold())
            if _compact(text) == _compact(each.name):
                continue  # says no more than the name
            if not GENERAL_NOUNS.isdisjoint((key, text.casefold())):
                yield case.finding("warning", "hypernym", position, text, "names many other things as well")
                continue
            others = sorted(endings.get(key, set()) - {position})
            if others:
                message = f"may be what {case.listed(others)} is a kind of"
                yield case.finding("warning", "hypernym", position, text, message)


def _endings(case: _Case) -> dict[str, set[int]]:
    """Map what class names of several words end with to their classes: "terrier" to "Boston Terrier"."""
    found: dict[str, set[int]] = {}
    for position, each in enumerate(case.classes):
        words = _singular(each.name.casefold()).split()
        for start in range(1, len(words)):
            found.setdefault(" ".join(words[start:]), set()).add(position)
    return found


# ------------------------------------------------------------------------------------------ words and letters


def _typo(case: _Case) -> Iterator[Finding]:
    reference, used = case.reference, word_counts([case.synonyms])
    frequent = {word for word, count in (used + reference.known_words).items() if count >= FREQUENT}
    for position, each in enumerate(case.classes):
        # Names that a benchmark fixes are not ours to spell.
        fixed = set(_words(each.name)) if reference.fixes_names else set()
        for word, text in _words_of(each).items():
            if used[word] > 1 or word in reference.known_words or word in fixed or len(word) < SHORTEST_WORD:
                continue
            if reference.dictionary is not None:
                if reference.dictionary.isdisjoint((word, _singular(word))):
                    message = f"{word!r} is in no other class and not in the word list"
                    yield case.finding("warning", "typo", position, text, message)
            elif near := sorted(_one_slip_away(word) & frequent):
                message = f"{word!r} is in no other class; is {near[0]!r} meant?"
                yield case.finding("warning", "typo", position, text, message)


def _letters(case: _Case) -> Iterator[Finding]:
    texts = [(p, text) for p, each in enumerate(case.classes) for text in _texts(each)]
    scripts = Counter(_script(letter) for _, text in texts for letter in text if letter.isalpha())
    mostly_latin = 2 * scripts["LATIN"] > scripts.total()
    for position, text in texts:
        if odd := _odd_character(text, mostly_latin):
            message = f"holds {unicodedata.name(odd, f'U+{ord(odd):04X}')}, which passes for something else"
            yield case.finding("error", "letters", position, text, message)


RULES: dict[str, Callable[[_Case], Iterator[Finding]]] = {
    "order": _order,
    "repeated_name": _repeated_name,
    "other_name": _other_name,
    "shared_text": _shared_text,
    "nearly_shared": _nearly_shared,
    "repeated": _repeated,
    "too_long": _too_long,
    "too_many_tokens": _too_many_tokens,
    "hypernym": _hypernym,
    "typo": _typo,
    "letters": _letters,
}


# ------------------------------------------------------------------------------------------ reading texts

_WORD = re.compile(r"[^\W\d_]+(?:'(?!s\b)[^\W\d_]+)?")  # with an apostrophe inside, without "'s"
# As CLIP's tokenizer splits: words, single digits, runs of marks; here letters beyond ASCII stand alone.
_PIECES = re.compile(r"[A-Za-z]+|\d|[^\sA-Za-z\d]+")
_PLURALS = (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("sses", "ss"), ("xes", "x"), ("s", ""))
# British and American: "colour", "mould", "anaemone", "jewellery".
_SPELLINGS = (("ou", "o"), ("o", "ou"), ("ae", "e"), ("oe", "e"), ("ll", "l"), ("l", "ll"))
# Scripts with letters that look like those of the Latin one.
_LOOKALIKES = {"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "FULLWIDTH", "MATHEMATICAL"}


def _texts(each: SynonymClass) -> tuple[str, ...]:
    return (each.name, *each.synonyms, *each.descriptors)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _words_of(each: SynonymClass) -> dict[str, str]:
    """Map the words of a class to the first text that has them."""
    found: dict[str, str] = {}
    for text in _texts(each):
        for word in _words(text):
            found.setdefault(word, text)
    return found


def _singular(text: str) -> str:
    """Take the ending of a regular plural off the last word; "glasses" and "glass" become one."""
    if not text.endswith(("ss", "us", "is")):
        for ending, instead in _PLURALS:
            stem = text.removesuffix(ending) + instead
            if text.endswith(ending) and len(stem) > 2:
                return stem
    return text


def _compact(text: str) -> str:
    """Leave out what spellings differ in: case, accents, spaces, marks and the plural."""
    letters = unicodedata.normalize("NFKD", _singular(text.casefold()))
    return "".join(letter for letter in letters if letter.isalnum()) or text


def _one_slip_away(word: str) -> set[str]:
    """Return what a letter left out, doubled, added or swapped inside a word may have been meant to be.

    Changed letters are left out, and so are the first and the last: those make other words of English far
    more often ("speckles" and "speckled") than slips.
    """
    inside = [(word[:at], word[at:]) for at in range(1, len(word))]
    added = {a + b[1:] for a, b in inside if len(b) > 1}
    swapped = {a + b[1] + b[0] + b[2:] for a, b in inside if len(b) > 2}
    left_out = {a + letter + b for a, b in inside for letter in "abcdefghijklmnopqrstuvwxyz"}
    spellings = {word.replace(one, other) for one, other in _SPELLINGS}
    return (added | swapped | left_out) - spellings - {word}


def _estimate(piece: str) -> int:
    return (len(piece) + 1) // 2 if piece.isascii() and piece.isalpha() else len(piece.encode())


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]


def _odd_character(text: str, mostly_latin: bool) -> str | None:
    """Return a letter of another script among Latin ones, or an invisible or typographic character."""
    for word in text.split(" "):
        latin = mostly_latin or any(_script(letter) == "LATIN" for letter in word)
        for letter in word if latin else "":
            kind = unicodedata.category(letter)
            if kind in ("Cf", "Zs") or (kind in ("Pd", "Pi", "Pf") and letter != "-"):
                return letter
            if letter.isalpha() and _script(letter) in _LOOKALIKES:
                return letter
    return None
