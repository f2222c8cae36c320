"""What a text may hold that is shown and encoded: one check of names and texts, for all ways in.

A name reaches terminals, pages, tables and file names, and no tokenizer reads a control character: names with
one are refused, not mended, since classes are told apart by them.
"""

import re
import reprlib
from collections.abc import Iterable
from functools import cached_property
from unicodedata import bidirectional, category, combining, normalize

LONGEST_NAME = 1_000
"""Characters of a name: CLIP reads about 300, no name of a published benchmark has 100, and a name is printed
for every answer."""

LONGEST_TEXT = 10_000
"""Characters of a descriptor or sentence: more than 512 tokens, which long text towers read."""

# Control characters, line separators, lone surrogates (which UTF-8 cannot hold), and what turns the order of
# the letters round on a screen. The marks and joiners of Arabic, Hebrew, Indic scripts and emoji are none.
_UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def problem_of_name(text: str) -> str:
    """Return what is wrong with a name or another short text, to follow what it is called; "" if nothing."""
    return _problem(text, text, LONGEST_NAME)


def problem_of_text(text: str, longest: int = LONGEST_TEXT) -> str:
    """Return what is wrong with a descriptor or sentence; "" if nothing."""
    # Language models answer with lists: line breaks and tabs are whitespace inside a sentence.
    plain = text if text.isprintable() else re.sub(r"[\t\n\r\u2028\u2029]", " ", text[: longest + 1])
    return _problem(text, plain, longest)


def checked_name(name: object) -> str:
    """Return a name as names are kept: `composed`.

    Raises:
        TypeError: it is not a string.
        ValueError: it is empty, too long, or holds what cannot be shown.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {type(name).__name__}")
    if problem := problem_of_name(form := composed(name)):
        raise ValueError(f"name: {reprlib.repr(name)} {problem}")
    return form


def composed(text: str) -> str:
    """Return a name as names are kept and compared, so that names that look the same are the same.

    In the composed form of Unicode (NFC): "é" is one character or two, and file systems and editors differ in
    which. Without spaces around it, with one space in the place of several or of another kind, such as one
    that does not break. Without what nothing is shown of: zero-width spaces, byte order marks, soft hyphens,
    marks of direction; and joiners but where they change what letters look like, in Arabic, Indic scripts and
    emoji.
    """
    if text.isascii():
        return (_SPACES.sub(" ", text) if "  " in text else text).strip()
    while (form := _composed_once(text)) != text:  # what is taken out brings others side by side
        text = form
    return form


def _composed_once(text: str) -> str:
    text = _INVISIBLE.sub("", text)
    text = _JOINER.sub(lambda found: found[0] if _joins(text, found.start()) else "", text)
    return normalize("NFC", _SPACES.sub(" ", text).strip())


_SPACES = re.compile("[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b\u200e\u200f\u2060-\u2064\ufeff]")
_JOINER = re.compile("[\u200c\u200d]")
_VIRAMA = 9  # Unicode's class of combining marks that kill a vowel


def _joins(text: str, at: int) -> bool:
    """Whether a joiner or non-joiner changes what is shown: see UAX 31, and UTS 51 for emoji."""
    before, after = text[:at][-1:], text[at + 1 : at + 2]
    sides = [each for each in (before, after) if each]
    if any(combining(each) == _VIRAMA or bidirectional(each) == "AL" for each in sides):
        return True
    emoji = before == "\ufe0f" or (bool(before) and category(before) in ("So", "Sk"))
    return emoji and bool(after) and category(after) == "So"


def alike(text: str) -> str:
    """Return what names have in common that people write in one way or another.

    Case does not count, and "_" and "-" stand for spaces, as in the names of folders.
    """
    folded = composed(composed(text).casefold())  # "İ" becomes two characters
    return " ".join(re.sub(r"[\s_-]+", " ", folded).split())


class NameIndex:
    """Which class a name means: the one that is called just so, else the one that is called alike.

    The one rule for labels, folders, columns, options and arguments that name classes. Of two classes whose
    names differ in case alone, each is found by its own name, and neither by a third way to write it: both
    are given then, which is for whoever asks to refuse.

    Args:
        listed: names with positions of classes; those that go before others first, such as ids.
    """

    def __init__(self, *listed: Iterable[tuple[str, int]]) -> None:
        self._exact: list[dict[str, list[int]]] = []
        for pairs in listed:
            found: dict[str, list[int]] = {}
            for name, position in pairs:
                found.setdefault(composed(name), []).append(position)
            self._exact.append(found)

    @cached_property
    def _alike(self) -> dict[str, list[int]]:
        found: dict[str, dict[int, None]] = {}
        for names in self._exact:
            for name, positions in names.items():
                found.setdefault(alike(name), {}).update(dict.fromkeys(positions))
        return {name: list(positions) for name, positions in found.items()}

    def find(self, name: str) -> list[int]:
        """Return the positions that a name means; more than one where it does not say which."""
        form = composed(name)
        for names in self._exact:
            if (found := names.get(form)) is not None:
                return found
        return self._alike.get(alike(form), [])

    def __contains__(self, name: str) -> bool:
        return bool(self.find(name))


def _problem(text: str, plain: str, longest: int) -> str:
    if not text or text.isspace():
        return "is empty"
    if len(text) > longest:
        return f"has {len(text):,} characters, more than {longest:,}"
    # What Python calls printable has none of them, and that is known at once.
    if not plain.isprintable() and (found := _UNREADABLE.search(plain)):
        return f"holds the control character U+{ord(found.group()):04X}"
    return ""
