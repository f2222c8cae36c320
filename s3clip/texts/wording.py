"""Reading the texts of a synonym set: words, plurals, scripts, markup and chatter. No rule reads meaning."""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

_WORD = re.compile(r"[^\W\d_]+(?:'(?!s\b)[^\W\d_]+)?")  # with an apostrophe inside, without "'s"
# As CLIP's tokenizer splits: words, single digits, runs of marks; here letters beyond ASCII stand alone.
_PIECES = re.compile(r"[A-Za-z]+|\d|[^\sA-Za-z\d]+")
_PLURALS = (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("sses", "ss"), ("xes", "x"), ("s", ""))
# British and American: "colour", "mould", "anaemone", "jewellery".
_SPELLINGS = (("ou", "o"), ("o", "ou"), ("ae", "e"), ("oe", "e"), ("ll", "l"), ("l", "ll"))
# Scripts with letters that look like those of the Latin one.
_LOOKALIKES = {"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "FULLWIDTH", "MATHEMATICAL"}

# One writing system by several of Unicode's names.
_SCRIPTS = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK", "FULLWIDTH": "LATIN"}

# What a chat model says around a list, at the start of a text or as all of it.
_CHATTER = re.compile(
    r"(?:sure|certainly|of course|absolutely|great question)\s*[,!.:]"
    r"|here(?: is|'s| are)\b.*(?:list|names?|synonyms?|descri\w+|options?|examples?)"
    r"|(?:i'm|i am) (?:sorry|unable|afraid|not able)\b|i (?:cannot|can't|do not|don't|could not|couldn't)\b"
    r"|(?:as an|i'm an|i am an) (?:ai|language model|assistant)\b|sorry,|apologies\b|unfortunately\b"
    r"|(?:let me know|i hope this|note that|please note|note:)"
    r"|(?:synonyms?|other names|alternative names|descriptors?)\s*(?:for|of|:)"
    r"|(?:none|n/?a|unknown|null|no synonyms?(?: .*)?|not applicable|no (?:other|common) names?.*)\.?$",
    re.IGNORECASE,
)
_BULLET = re.compile(r"(?:[-*•–—·▪◦>]+|#{1,6}|\(?\d{1,2}[.)]|\(?[a-h]\))\s+")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_PAIRS = (("**", "**"), ("__", "__"), ("`", "`"), ('"', '"'), ("'", "'"), ("*", "*"), ("_", "_"), ("[", "]"))
_PLAIN = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‐": "-", "‑": "-", "–": "-"}
    | {"\u00a0": " ", "\u202f": " ", "\u200b": "", "\u200c": "", "\u200d": "", "\ufeff": "", "\u00ad": ""}
)
_ABBREVIATION = re.compile(r"(?:^|\s)(?:[A-Z][a-z]{0,2}|\S*\.\S*|etc|sp|spp|var)\.$")


def words(text: str) -> list[str]:
    """Return the casefolded words."""
    return _WORD.findall(text.casefold())


def singular(text: str) -> str:
    """Take the ending of a regular plural off the last word; "glasses" and "glass" become one."""
    if not text.endswith(("ss", "us", "is")):
        for ending, instead in _PLURALS:
            stem = text.removesuffix(ending) + instead
            if text.endswith(ending) and len(stem) > 2:
                return stem
    return text


def compact(text: str) -> str:
    """Leave out what spellings differ in: case, accents, spaces, marks and the plural."""
    letters = unicodedata.normalize("NFKD", singular(text.casefold()))
    return "".join(letter for letter in letters if letter.isalnum()) or text


def one_slip_away(word: str) -> set[str]:
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


def estimated_tokens(texts: list[str]) -> list[int]:
    """Estimate from above how many tokens CLIP's tokenizer makes of each text.

    A token for every two letters of a word, one for every digit, mark and byte of other scripts, and two for
    the ends. This is more than the tokenizer makes of English, Latin and brand names; of random letters the
    tokenizer can make more.
    """
    return [2 + sum(map(_piece_tokens, _PIECES.findall(text))) for text in texts]


def _piece_tokens(piece: str) -> int:
    return (len(piece) + 1) // 2 if piece.isascii() and piece.isalpha() else len(piece.encode())


def script(letter: str) -> str:
    """Return the script of a letter as Unicode names it: "LATIN", "CYRILLIC", "CJK"."""
    return unicodedata.name(letter, "").partition(" ")[0]


def odd_character(text: str, mostly_latin: bool) -> str | None:
    """Return a letter of another script among Latin ones, or an invisible or typographic character."""
    for word in text.split(" "):
        latin = mostly_latin or any(script(letter) == "LATIN" for letter in word)
        for letter in word if latin else "":
            kind = unicodedata.category(letter)
            if kind in ("Cf", "Zs") or (kind in ("Pd", "Pi", "Pf") and letter != "-"):
                return letter
            if letter.isalpha() and script(letter) in _LOOKALIKES:
                return letter
    return None


def main_scripts(texts: Iterable[str]) -> set[str]:
    """Return the writing systems of these texts: those of a tenth of the letters or more."""
    counts = Counter(_writing(letter) for text in texts for letter in text if letter.isalpha())
    return {name for name, count in counts.items() if 10 * count >= counts.total()}


def known_scripts() -> set[str]:
    """Return the writing systems that `main_scripts` can name."""
    return {_writing(letter) for letter in map(chr, range(0x30000)) if letter.isalpha()}


def in_scripts(text: str, scripts: set[str]) -> bool:
    """Whether at least half of the letters are of these writing systems; a text without letters is."""
    letters = [_writing(letter) for letter in text if letter.isalpha()]
    return 2 * sum(name in scripts for name in letters) >= len(letters)


def _writing(letter: str) -> str:
    name = script(letter)
    return _SCRIPTS.get(name, name)


def is_chatter(text: str) -> bool:
    """Whether a text reads like what a chat model says around its answer, or instead of one."""
    return _CHATTER.match(text.translate(_PLAIN).strip()) is not None


def without_markup(text: str, *, sentence: bool = False) -> str:
    """Return a text without list marks, Markdown, HTML, quotes around it and typographic characters.

    A name also loses the mark at its end (",", ";", ":", "."), unless it ends an abbreviation; a sentence
    keeps it. What is left can be empty.
    """
    text, before = html.unescape(text).translate(_PLAIN), None
    while text != before:  # a bullet may stand before quotes, and quotes before a bullet
        before = text
        text = _TAG.sub("", text).strip()
        text = _BULLET.sub("", text, count=1) if _BULLET.match(text) else text
        for left, right in _PAIRS:
            inside = text[len(left) : -len(right)]
            if text.startswith(left) and text.endswith(right) and inside and right not in inside:
                text = inside
        text = text.strip()
        if not sentence:
            text = text.rstrip(",;: ")
            if text.endswith(".") and not _ABBREVIATION.search(text):
                text = text.rstrip(".")
    return "" if not any(letter.isalnum() for letter in text) else " ".join(text.split())
