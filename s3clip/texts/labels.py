"""What a text may hold that is shown and encoded: one check of names and texts, for all ways in.

A name reaches terminals, pages, tables and file names, and no tokenizer reads a control character: names with
one are refused, not mended, since classes are told apart by them.
"""

import re
import reprlib
from unicodedata import normalize

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
    """Return a name as it is.

    Raises:
        TypeError: it is not a string.
        ValueError: it is empty, too long, or holds what cannot be shown.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {type(name).__name__}")
    if problem := problem_of_name(name):
        raise ValueError(f"name: {reprlib.repr(name)} {problem}")
    return name


def composed(text: str) -> str:
    """Return a text as names are compared: without spaces around it, in the composed form of Unicode (NFC).

    "é" is one character or two, and file systems and editors differ in which.
    """
    return normalize("NFC", text.strip())


def _problem(text: str, plain: str, longest: int) -> str:
    if not text or text.isspace():
        return "is empty"
    if len(text) > longest:
        return f"has {len(text):,} characters, more than {longest:,}"
    # What Python calls printable has none of them, and that is known at once.
    if not plain.isprintable() and (found := _UNREADABLE.search(plain)):
        return f"holds the control character U+{ord(found.group()):04X}"
    return ""
