"""Look for mistakes in a synonym set: what `s3clip synonyms check` reports.

The rules read texts, not meanings: they find a name given to two classes, a hypernym by its form, a likely
typo. Whether "crane" is the bird they cannot know. An *error* is certain and makes wrong labels or truncated
texts; a *warning* is to be read by somebody, who mends it or says why it stays.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from s3clip.texts.formats import TextKind
from s3clip.texts.prompts import class_texts, render
from s3clip.texts.relations import (
    Told,
    missing_levels,
    negations,
    own_negatives,
    shared_negatives,
    two_parents,
)
from s3clip.texts.sets import SETS, SUBSETS, NamesDigest
from s3clip.texts.synonyms import SynonymClass, SynonymSet, collisions
from s3clip.texts.templates import DEFAULT_TEMPLATES
from s3clip.texts.wording import (
    compact,
    estimated_tokens,
    in_scripts,
    is_chatter,
    main_scripts,
    odd_character,
    one_slip_away,
    script,
    singular,
    without_markup,
    words,
)

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


Field = Literal["name"] | TextKind
Severity = Literal["error", "warning"]


class Entry(NamedTuple):
    """One text of a set, and where it stands: in which field of which class, and at which place there."""

    position: int
    field: Field
    place: int
    text: str


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
        entry: where the text stands; None where a finding is of the class or the set as a whole.
    """

    severity: Severity
    rule: str
    position: int | None
    name: str | None
    text: str
    message: str
    entry: Entry | None = None


@dataclass(frozen=True)
class Reference:
    """What a set is compared with.

    Attributes:
        names: the names the classes must have, in order; None if there is no such list.
        digest: of such a list, for the sets that come with s3clip.
        known_words: how many classes of other sets use a word, as `word_counts` gives it.
        dictionary: casefolded words that are no typos; None without a word list.
        count_tokens: how many tokens each text is; None for `estimated_tokens`.
        most_tokens: how many the model reads.
        scripts: the writing systems wanted, as Unicode names them ("LATIN"); empty: those of the names.
    """

    names: Sequence[str] | None = None
    digest: NamesDigest | None = None
    known_words: Counter[str] = field(default_factory=Counter)
    dictionary: frozenset[str] | None = None
    count_tokens: Callable[[list[str]], list[int]] | None = None
    most_tokens: int = CLIP_TOKENS
    scripts: frozenset[str] = frozenset()


def builtin_reference(name: str | None = None) -> Reference:
    """Return what the builtin set of this name is compared with; None: a set that is not builtin."""
    subset = SUBSETS.get(name or "")
    digest = SETS.get(name or "") if subset is None else subset.digest
    own = name if subset is None else subset.of
    known = word_counts(SynonymSet.builtin(each) for each in SETS if each != own)
    if subset is not None:  # what several classes of the whole set say is no slip in a part of it
        whole = word_counts([SynonymSet.builtin(subset.of)])
        known += Counter({word: count for word, count in whole.items() if count > 1})
    return Reference(digest=digest, known_words=known)


def check_synonyms(synonyms: SynonymSet, reference: Reference | None = None) -> list[Finding]:
    """Return what every rule of `RULES` finds, ordered by class; findings of the whole set come first."""
    case = _Case(synonyms, reference or Reference())
    found = [finding for rule in RULES.values() for finding in rule(case)]
    return sorted(found, key=lambda finding: -1 if finding.position is None else finding.position)


def findings_of(rule: str, synonyms: SynonymSet, reference: Reference | None = None) -> list[Finding]:
    """Return what one rule of `RULES` finds."""
    return list(RULES[rule](_Case(synonyms, reference or Reference())))


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

    def entries(self, *fields: Field) -> Iterator[Entry]:
        """Every text of these fields, class by class."""
        for position, each in enumerate(self.classes):
            for field_name in fields:
                texts = (each.name,) if field_name == "name" else getattr(each, field_name)
                for place, text in enumerate(texts):
                    yield Entry(position, field_name, place, text)

    def found(
        self,
        rule: str,
        where: Entry | int | None,
        message: str,
        text: str = "",
        severity: Severity = "warning",
    ) -> Finding:
        """Make a finding of an entry, of a text of the class at a position, or of the set as a whole."""
        entry = where if isinstance(where, Entry) else None
        position = where.position if isinstance(where, Entry) else where
        name = None if position is None else self.classes[position].name
        return Finding(severity, rule, position, name, entry.text if entry else text, message, entry)

    def listed(self, positions: Iterable[int]) -> str:
        """Name up to three classes."""
        every = list(positions)
        names = ", ".join(f"{position} {self.classes[position].name!r}" for position in every[:3])
        return names + (f" and {len(every) - 3} more" if len(every) > 3 else "")


# -------------------------------------------------------------------------------------------- names and order


def _order(case: _Case) -> Iterator[Finding]:
    wanted, own = case.reference.names, case.synonyms.class_names
    digest = case.reference.digest
    if digest is not None and digest != NamesDigest.of(own):
        found = "other names, or another order" if len(own) == digest.classes else f"{len(own)} classes"
        message = f"expected the {digest.classes} names of the benchmark in its order, got {found}"
        yield case.found("order", None, message, severity="error")
    if wanted is None:
        return
    if len(own) != len(wanted):
        message = f"expected {len(wanted)} classes, got {len(own)}"
        yield case.found("order", None, message, severity="error")
    for position, (got, expected) in enumerate(zip(own, wanted, strict=False)):
        if got != expected:
            yield case.found("order", position, f"expected the name {expected!r} here", got, "error")


# ---------------------------------------------------------------------------------- one text for two classes


def _repeated_name(case: _Case) -> Iterator[Finding]:
    for positions in case.names.values():
        for position in positions[1:]:
            message = f"is the name of class {case.listed(positions[:1])} too"
            yield case.found("repeated_name", position, message, case.classes[position].name)


def _other_name(case: _Case) -> Iterator[Finding]:
    for entry in case.entries("synonyms", "prompts"):
        named = case.names.get(entry.text.casefold(), [])
        if named and entry.position not in named:
            message = f"is the name of class {case.listed(named)}"
            yield case.found("other_name", entry, message, severity="error")


def _shared_text(case: _Case) -> Iterator[Finding]:
    shared = collisions(case.synonyms)
    for entry in case.entries("synonyms", "prompts"):
        key = entry.text.casefold()
        if key in shared and key not in case.names:
            others = [position for position in shared[key] if position != entry.position]
            message = f"stands in class {case.listed(others)} too"
            yield case.found("shared_text", entry, message, severity="error")


def _nearly_shared(case: _Case) -> Iterator[Finding]:
    exact = collisions(case.synonyms)
    spellings: dict[str, list[Entry]] = {}
    for entry in case.entries("name", "synonyms"):
        if entry.text.casefold() not in exact:
            spellings.setdefault(compact(entry.text), []).append(entry)
    for entries in spellings.values():
        for entry in entries:
            others = [each for each in entries if each.position != entry.position]
            # A synonym can be changed, a name cannot; of two names, the later one is listed.
            named = [each for each in others if each.field == "name"]
            if others and (entry.field != "name" or (named and named[0].position < entry.position)):
                other = (named or others)[0]
                message = f"is {other.text!r} of class {case.listed([other.position])}, spelt otherwise"
                yield case.found("nearly_shared", entry, message)


# ------------------------------------------------------------------------------------------- inside one class


def _repeated(case: _Case) -> Iterator[Finding]:
    first: dict[tuple[int, bool, str], str] = {}
    for entry in case.entries("name", "synonyms", "descriptors"):
        key = (entry.position, entry.field == "descriptors", singular(entry.text.casefold()))
        if key in first:
            yield case.found("repeated", entry, f"is {first[key]!r} again, but for case or plural")
        first.setdefault(key, entry.text)


def _too_long(case: _Case) -> Iterator[Finding]:
    for entry in case.entries("synonyms"):
        if (count := len(entry.text.split())) > MOST_WORDS:
            message = f"has {count} words; a name has {MOST_WORDS} or less"
            yield case.found("too_long", entry, message)


def _too_many_tokens(case: _Case) -> Iterator[Finding]:
    counted = case.reference.count_tokens
    count, most = counted or estimated_tokens, case.reference.most_tokens
    templates = case.synonyms.templates or DEFAULT_TEMPLATES
    lengths = count([render(template, "cat") for template in templates])
    longest = templates[lengths.index(max(lengths))]
    for position, each in enumerate(case.classes):
        texts = class_texts(each.name, each.synonyms, each.descriptors, each.prompts, templates=longest)
        prompts = [*(text.prompts[0] for text in texts), *each.negatives]
        tokens = count(prompts)
        if max(tokens) > most:
            text = prompts[tokens.index(max(tokens))]
            message = f"has {'' if counted else 'perhaps '}{max(tokens)} tokens; the model reads {most}"
            yield case.found("too_many_tokens", position, message, text, "error" if counted else "warning")


# -------------------------------------------------------------------------------------------------- hypernyms


def _hypernym(case: _Case) -> Iterator[Finding]:
    endings = _endings(case)
    for entry in case.entries("synonyms"):
        text, key = entry.text, singular(entry.text.casefold())
        if compact(text) == compact(case.classes[entry.position].name):
            continue  # says no more than the name
        if not GENERAL_NOUNS.isdisjoint((key, text.casefold())):
            yield case.found("hypernym", entry, "names many other things as well")
        elif others := sorted(endings.get(key, set()) - {entry.position}):
            yield case.found("hypernym", entry, f"may be what {case.listed(others)} is a kind of")


def _endings(case: _Case) -> dict[str, set[int]]:
    """Map what class names of several words end with to their classes: "terrier" to "Boston Terrier"."""
    found: dict[str, set[int]] = {}
    for position, each in enumerate(case.classes):
        words = singular(each.name.casefold()).split()
        for start in range(1, len(words)):
            found.setdefault(" ".join(words[start:]), set()).add(position)
    return found


# ------------------------------------------------------------------------------------------ words and letters


def _typo(case: _Case) -> Iterator[Finding]:
    reference, used = case.reference, word_counts([case.synonyms])
    named = reference.names is not None or reference.digest is not None
    frequent = {word for word, count in (used + reference.known_words).items() if count >= FREQUENT}
    for position, each in enumerate(case.classes):
        # Names that a benchmark fixes are not ours to spell.
        fixed = set(words(each.name)) if named else set()
        for word, text in _words_of(each).items():
            if used[word] > 1 or word in reference.known_words or word in fixed or len(word) < SHORTEST_WORD:
                continue
            if reference.dictionary is not None:
                if reference.dictionary.isdisjoint((word, singular(word))):
                    message = f"{word!r} is in no other class and not in the word list"
                    yield case.found("typo", position, message, text)
            elif near := sorted(one_slip_away(word) & frequent):
                message = f"{word!r} is in no other class; is {near[0]!r} meant?"
                yield case.found("typo", position, message, text)


def _letters(case: _Case) -> Iterator[Finding]:
    texts = [(p, text) for p, each in enumerate(case.classes) for text in (*_texts(each), *each.negatives)]
    scripts = Counter(script(letter) for _, text in texts for letter in text if letter.isalpha())
    mostly_latin = 2 * scripts["LATIN"] > scripts.total()
    for position, text in texts:
        if odd := odd_character(text, mostly_latin):
            message = f"holds {unicodedata.name(odd, f'U+{ord(odd):04X}')}, which passes for something else"
            yield case.found("letters", position, message, text, "error")


# ------------------------------------------------------------------------------ what language models leave


def _markup(case: _Case) -> Iterator[Finding]:
    for entry in case.entries("synonyms", "descriptors", "prompts"):
        plain = without_markup(entry.text, sentence=entry.field == "prompts")
        if plain != entry.text:
            message = f"holds list marks, quotes or typographic characters; plain: {plain!r}"
            yield case.found("markup", entry, message)


def _chatter(case: _Case) -> Iterator[Finding]:
    for entry in case.entries("synonyms", "descriptors", "prompts"):
        if is_chatter(entry.text):
            yield case.found("chatter", entry, "is what a chat model says around an answer")


def _language(case: _Case) -> Iterator[Finding]:
    scripts = set(case.reference.scripts) or main_scripts(case.synonyms.class_names)
    for entry in case.entries("synonyms", "descriptors", "prompts"):
        if not in_scripts(entry.text, scripts):
            message = f"is not written in {' or '.join(sorted(scripts)).lower() or 'letters'}"
            yield case.found("language", entry, message)


# -------------------------------------------------------------------------------------- groups and negatives


def _told(rule: str, find: Callable[[SynonymSet], Iterator[Told]]) -> Callable[[_Case], Iterator[Finding]]:
    """Return as a rule what looks at groups or negatives."""
    return lambda case: (
        case.found(rule, each.position, each.message, each.text) for each in find(case.synonyms)
    )


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
    "markup": _markup,
    "chatter": _chatter,
    "language": _language,
    "shared_negative": _told("shared_negative", shared_negatives),
    "own_negative": _told("own_negative", own_negatives),
    "says_no": _told("says_no", negations),
    "two_parents": _told("two_parents", two_parents),
    "missing_level": _told("missing_level", missing_levels),
}


def _texts(each: SynonymClass) -> tuple[str, ...]:
    return (each.name, *each.synonyms, *each.descriptors)


def _words_of(each: SynonymClass) -> dict[str, str]:
    """Map the words of a class to the first text that has them."""
    found: dict[str, str] = {}
    for text in _texts(each):
        for word in words(text):
            found.setdefault(word, text)
    return found
