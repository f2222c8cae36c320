"""A first synonym set without a chat model: the other lemmas of a WordNet synset, by `wn` or `nltk`.

A name has several senses ("crane": the bird, the machine). The sense is the one that the class's `id` names,
where that is a WordNet id such as ImageNet's "n02012849"; else the first below the domain; else the first of
all, which is the most frequent. Each choice says how it was made, for somebody to read.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from s3clip.texts.groups import levels_of
from s3clip.texts.sources import Source
from s3clip.texts.synonyms import SynonymClass, SynonymSet
from s3clip.texts.wording import singular

_WNID = re.compile(r"n(\d{8})")
_INSTALL = (
    "pip install 's3clip[wordnet]', then get its data once: python -m wn download omw-en:1.4; or install "
    "nltk, and python -m nltk.downloader wordnet"
)


class Sense(NamedTuple):
    """One synset: what the library calls it, its lemmas with spaces, and what it means."""

    key: str
    lemmas: tuple[str, ...]
    definition: str


class Lexicon(Protocol):
    """A WordNet, whichever library reads it. `has_wnids`: its offsets are those of WordNet 3.0."""

    name: str
    has_wnids: bool

    def senses(self, name: str) -> list[Sense]:
        """Return the senses of a noun, most frequent first."""

    def of_wnid(self, offset: int) -> Sense | None:
        """Return the noun synset at an offset of WordNet 3.0."""

    def ancestors(self, sense: Sense) -> set[str]:
        """Return the casefolded lemmas of everything that the sense is a kind of."""


@dataclass(frozen=True)
class Choice:
    """Which sense a class got.

    Attributes:
        class_index: the class's position.
        class_name: its name.
        sense: the synset; "" if there is none.
        definition: of the sense.
        how: "id", "domain", "only sense", "first of 5 senses" or "not found".
    """

    class_index: int
    class_name: str
    sense: str
    definition: str
    how: str


def wordnet_synonyms(
    classes: Source | SynonymSet,
    *,
    domain: str | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    lexicon: Lexicon | None = None,
) -> tuple[SynonymSet, list[Choice]]:
    """Return the classes with the lemmas of their synsets added, and how each synset was chosen.

    Args:
        classes: class names, or anything that `SynonymSet.read` takes; its texts stay.
        domain: a noun that every class is a kind of, "bird".
        groups: by level of groups, the widest first, nouns: a class is in the group of the first of them that
            it is a kind of: {"kind": ["animal", "plant", "artifact"]}. Groups that it has stay.
        lexicon: None: `open_lexicon()`.

    Raises:
        ImportError: if neither `wn` nor `nltk` is installed.
        LookupError: if neither has an English WordNet.
    """
    own = SynonymSet.read(classes)
    lexicon = lexicon or open_lexicon()
    found: list[SynonymClass] = []
    choices: list[Choice] = []
    for position, each in enumerate(own.classes):
        sense, how = _choose(each, domain, lexicon)
        choices.append(Choice(position, each.name, sense.key, sense.definition, how))
        had = {text.casefold() for text in (each.name, *each.synonyms)}
        lemmas = [text for text in sense.lemmas if text.casefold() not in had]
        above = (
            lexicon.ancestors(sense) | {lemma.casefold() for lemma in sense.lemmas} if sense.key else set()
        )
        own_groups = {
            level: noun
            for level, nouns in (groups or {}).items()
            if (noun := next((noun for noun in nouns if noun.casefold() in above), None)) is not None
        }
        changed = {"synonyms": (*each.synonyms, *lemmas), "groups": {**own_groups, **each.groups}}
        found.append(each.model_copy(update=changed))
    description = own.description or f"Synonyms from {lexicon.name}"
    levels_of(each.groups for each in found)  # an error where those that stay are ordered otherwise
    return own.model_copy(update={"classes": tuple(found), "description": description}), choices


def open_lexicon() -> Lexicon:
    """Return the English WordNet that is on this machine: of `wn`, else of `nltk`."""
    installed, missing = [], []
    for library in (_Wn, _Nltk):
        try:
            return library()
        except ImportError as error:
            missing.append(str(error.name))
        except LookupError:
            installed.append(library.__name__.removeprefix("_").lower())
    if installed:
        raise LookupError(f"no English WordNet in {' or '.join(installed)}: {_INSTALL}")
    raise ImportError(f"a starter from WordNet needs wn or nltk: {_INSTALL}")


def _choose(own: SynonymClass, domain: str | None, lexicon: Lexicon) -> tuple[Sense, str]:
    wnid = _WNID.fullmatch(own.id) if isinstance(own.id, str) else None
    if wnid and lexicon.has_wnids and (sense := lexicon.of_wnid(int(wnid[1]))):
        return sense, "id"
    senses = lexicon.senses(own.name) or lexicon.senses(singular(own.name.casefold()))
    if not senses:
        return Sense("", (), ""), "not found"
    if domain is not None:
        wanted = domain.strip().casefold()
        for sense in senses:
            if wanted in lexicon.ancestors(sense):
                return sense, "domain"
    beyond = "" if domain is None else f", none a {domain}"
    return senses[0], ("only sense" if len(senses) == 1 else f"first of {len(senses)} senses") + beyond


class _Wn:
    def __init__(self) -> None:
        import wn

        lexicons = sorted(wn.lexicons(lang="en"), key=lambda each: each.id != "omw-en")
        if not lexicons:
            raise LookupError("no English lexicon")
        self._id = lexicons[0].id
        self._wordnet: Any = wn.Wordnet(lexicon=f"{self._id}:{lexicons[0].version}")
        self._no_synset = wn.Error
        self.name = f"{lexicons[0].label} ({self._id}:{lexicons[0].version}, wn)"
        self.has_wnids = self._id == "omw-en"  # Princeton's 3.0; others number their synsets anew

    def senses(self, name: str) -> list[Sense]:
        return [self._sense(each) for each in self._wordnet.synsets(name, pos="n")]

    def of_wnid(self, offset: int) -> Sense | None:
        try:
            return self._sense(self._wordnet.synset(f"{self._id}-{offset:08d}-n"))
        except self._no_synset:
            return None

    def ancestors(self, sense: Sense) -> set[str]:
        synset = self._wordnet.synset(sense.key)
        above = synset.closure("hypernym", "instance_hypernym")
        return {lemma.casefold() for each in above for lemma in each.lemmas()}

    @staticmethod
    def _sense(synset: Any) -> Sense:
        return Sense(synset.id, tuple(map(str, synset.lemmas())), synset.definition() or "")


class _Nltk:
    def __init__(self) -> None:
        from nltk.corpus import wordnet

        self._wordnet: Any = wordnet
        version = wordnet.get_version()  # LookupError without data
        self.name = f"WordNet {version} (nltk)"
        self.has_wnids = version == "3.0"

    def senses(self, name: str) -> list[Sense]:
        return [self._sense(each) for each in self._wordnet.synsets(name.replace(" ", "_"), pos="n")]

    def of_wnid(self, offset: int) -> Sense | None:
        try:
            return self._sense(self._wordnet.synset_from_pos_and_offset("n", offset))
        except Exception:  # nltk raises what parsing a wrong line happens to raise
            return None

    def ancestors(self, sense: Sense) -> set[str]:
        synset = self._wordnet.synset(sense.key)
        above = synset.closure(lambda each: each.hypernyms() + each.instance_hypernyms())
        return {lemma.replace("_", " ").casefold() for each in above for lemma in each.lemma_names()}

    @staticmethod
    def _sense(synset: Any) -> Sense:
        lemmas = tuple(lemma.replace("_", " ") for lemma in synset.lemma_names())
        return Sense(synset.name(), lemmas, synset.definition())
