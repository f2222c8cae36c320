"""Classes in text files: a class a line, with or without ids, and tables with the names of their columns.

A line is read as one of CSV: what stands in double quotes is literal, commas and marks included. A line that
looks like something else than names (code, list marks, other separators) is refused rather than guessed at.
"""

import csv
import re
import reprlib
from ast import literal_eval
from collections.abc import Iterator
from io import StringIO
from tokenize import COMMENT, ENDMARKER, NEWLINE, NL, OP, STRING, TokenError, generate_tokens
from typing import Any

_COLUMNS = {
    "name": "name class class_name classname label label_name category",
    "id": "id index idx class_id class_index class_idx label_id wnid synset mid",
    "synonyms": "synonyms synonym aliases other_names",
    "descriptors": "descriptors descriptor",
    "groups": "groups group",
    "negatives": "negatives negative",
}
_FIELD_OF = {word: field for field, column in _COLUMNS.items() for word in column.split()}
_KEYED = {"group": "groups", "groups": "groups", "name": "names", "names": "names"}  # group:family, name:de
_SEPARATORS = {
    "synonyms": ";|,",
    "descriptors": ";|",
    "groups": ";|",
    "negatives": ";|",
    "names": ";|",
}  # of the texts in a cell: the first that it holds
_HEADER = "a first line such as id,name,synonyms"

_FCCLIP = re.compile(r"([0-9]+)\s*:(.*)")
_ID = re.compile(r"(/[mg]/\w+|n\d{8})(?:\s*,\s*|\s+|$)(.*)")  # of Open Images and of WordNet

# What names that stand alone on a line, or with commas between them, do not look like.
_ODD = {
    re.compile(pattern): seen
    for pattern, seen in (
        (r"#\S|.*\s#\s", "has a #; a comment has a line of its own and begins with # and a space"),
        (r"(?:[-*•]|\d+[.)])\s", "begins with the mark of a list; leave the marks out"),
        (r".*[\[({]\s*['\"]", "looks like code; write the names alone, one a line"),
        (r".*[;|\t]", "has another separator than the comma; synonyms follow after commas"),
        (r".*:(?:\s|$)", "looks like a record; synonyms follow after commas, as in tabby cat, tabby"),
        (r"['‘“`].*['’”`]\s*(?:,|$)", "is in quotes that would stay in the name; leave them out"),
    )
}


class Lines(list[str]):
    """The lines of a .txt file; a plain list would be taken for a JSON list of names."""


class Table(Lines):
    """The lines of a .csv file."""


def split_lines(text: str) -> list[str]:
    """Return the lines, but for empty ones at the end."""
    # Not splitlines(), which also splits at characters that may stand in a name.
    return text.rstrip().replace("\r\n", "\n").replace("\r", "\n").split("\n")


def strings_of_list(text: str) -> list[str] | None:
    """Return the strings of a flat list as Python or NumPy print it; None if the text is something else."""
    marks, strings = [], []
    try:
        for token in generate_tokens(StringIO(text).readline):
            if token.type == STRING:
                strings.append(literal_eval(token.string))
            elif token.type not in (COMMENT, ENDMARKER, NEWLINE, NL) and token.string != ",":
                marks.append(token.string if token.type == OP else "?")
    except (TokenError, SyntaxError, ValueError, SystemError):  # the last of Python 3.13, at some NULs
        return None
    whole = "".join(marks) in ("[]", "()") and text[0] + text[-1] in ("[]", "()")
    return strings if whole and all(isinstance(each, str) for each in strings) else None


# ---------------------------------------------------------------------------------------------------- tables


def is_table(lines: Lines) -> bool:
    """Whether the first line names columns, as it has to in a .csv file without ids of a known form."""
    number, first = next(_numbered(lines), (1, ""))
    fields = [_field(cell) for cell in _cells(number, first, _delimiter(first))]
    literal = first.startswith('"') and "" in fields
    named = len(fields) > 1 and any(fields) and not literal
    return named or (isinstance(lines, Table) and not _ID.match(first))


def read_table(lines: Lines) -> list[dict[str, Any]]:
    """Read a table; the cells of its columns are the fields of a class."""
    (start, first), *rows = list(_numbered(lines)) or [(1, "")]
    delimiter = _delimiter(first)
    columns = _cells(start, first, delimiter)
    fields = [_field(column) for column in columns]
    if "name" not in fields:
        raise _wrong(start, first, f"expected {_HEADER}, with a column called name")
    known = ", ".join([*_COLUMNS, "group:LEVEL", "name:LANGUAGE"])
    for column, field in zip(columns, fields, strict=True):
        if not field or fields.count(field) > 1 or (field.startswith("groups:") and "groups" in fields):
            why = f"the column {column!r} is {'one of several' if field else 'not known'}"
            raise _wrong(start, first, f"{why}; expected one column each of {known} at most")
    classes: list[dict[str, Any]] = []
    given = set()
    for number, line in rows:
        if not line:
            continue
        cells = _cells(number, line, delimiter)
        if len(cells) != len(fields):
            quoted = f"double quotes around a cell that holds {delimiter!r}"
            raise _wrong(number, line, f"expected {len(fields)} cells as in line {start}, and {quoted}")
        own = _record(fields, cells)
        key = (own["name"], own.get("id"))
        if "synonyms" in fields and key in given:
            raise _wrong(number, line, "expected all synonyms of a class in one cell, split by ;")
        given.add(key)
        classes.append(own)
    return classes


def _record(fields: list[str], cells: list[str]) -> dict[str, Any]:
    """Return the class of a row."""
    own: dict[str, Any] = {}
    for field, cell in zip(fields, cells, strict=True):
        whole, _, key = field.partition(":")
        if not key:
            own[field] = _value(field, cell)
        elif cell:  # else the class has no group at this level, no name in this language
            own.setdefault(whole, {})[key] = cell if whole == "groups" else _value(whole, cell)
    return own


def _delimiter(first: str) -> str:
    """Return what separates the names of columns in this line; a comma if none of them is known."""
    for delimiter in ",;\t|":
        cells = first.split(delimiter)
        if len(cells) > 1 and any(map(_field, cells)):
            return delimiter
    return ","


def _field(column: str) -> str:
    """Return the field of a class that a column holds, with its level or language: "" if none is known."""
    whole, _, key = column.strip(' "').partition(":")
    if (keyed := _KEYED.get(_plain(whole))) and key.strip():
        return f"{keyed}:{key.strip()}"
    return _FIELD_OF.get(_plain(column), "")


def _plain(column: str) -> str:
    return column.strip(' "').casefold().replace(" ", "_")


def _value(field: str, cell: str) -> Any:
    if field == "id":
        return int(cell) if re.fullmatch("0|[1-9][0-9]*", cell) else cell or None
    if field not in _SEPARATORS:
        return cell
    if cell.startswith("[") and (strings := strings_of_list(cell)) is not None:
        return strings
    separator = next((each for each in _SEPARATORS[field] if each in cell), ";")
    return [text.strip() for text in cell.split(separator)] if cell else []


# ------------------------------------------------------------------------------------------------------ lines


def is_fcclip(lines: Lines) -> bool:
    """Whether a line begins as those of fc-clip do, `7:`."""
    return any(_FCCLIP.match(line.strip()) for line in lines)


def read_fcclip(lines: Lines) -> list[dict[str, Any]]:
    """Read `id:name,name` a line."""
    numbered = list(_numbered(lines))
    other = next(number for number, line in numbered if _FCCLIP.match(line))
    classes: dict[int, Any] = {}
    for number, line in numbered:
        match = _FCCLIP.fullmatch(line)
        if match is None:
            literal = '; a name that begins with a number and a colon stands in double quotes: "7:eleven"'
            raise _wrong(number, line, f"expected id:name,name as in line {other}", literal)
        key, names = int(match[1]), match[2].strip()
        if key in classes:
            raise ValueError(f"line {number}: the id {key} is given twice")
        classes[key] = None if names == "invalid_class_id" else {**_names(number, names), "id": key}
    return [record for record in classes.values() if record is not None]


def has_ids(lines: Lines) -> bool:
    """Whether a line begins with an id of Open Images ("/m/01yrx") or of WordNet ("n02123045")."""
    return any(_ID.fullmatch(line.strip()) for line in lines)


def read_ids(lines: Lines) -> list[dict[str, Any]]:
    """Read `/m/01yrx,Cat` or `n02123045 tabby, tabby cat` a line."""
    classes = []
    for number, line in _numbered(lines):
        match = _ID.fullmatch(line)
        if match is None or not match[2]:
            raise _wrong(number, line, "expected an id and names, such as n02123045,tabby, in every line")
        classes.append({**_names(number, match[2]), "id": match[1]})
    return classes


def read_names(lines: Lines) -> list[dict[str, Any]]:
    """Read `name, synonym, ...` a line."""
    numbered = list(_numbered(lines))
    if len(numbered) > 1:
        number, first = numbered[0]
        literal = "; a name that is meant so stands in double quotes"
        if first.casefold() in _FIELD_OF:
            raise _wrong(number, first, "expected a name, and no head of a column", literal)
        if _counts([line for _, line in numbered]):
            message = f"expected lines without numbers, or else {_HEADER}"
            raise _wrong(number, first, message, literal)
    return [_names(number, line) for number, line in numbered]


def _counts(lines: list[str]) -> bool:
    """Whether every line begins with a number and a comma, or they count up at one of their ends."""
    if all(re.match(r"\d+\s*,", line) for line in lines):
        return True
    for pattern in (r"(?P<number>\d+)\s(?P<rest>.*)", r"(?P<rest>.*)\s(?P<number>\d+)"):
        found = [match for line in lines if (match := re.fullmatch(pattern, line))]
        if len(found) < len(lines) or len({match["rest"] for match in found}) == 1:
            continue
        first = int(found[0]["number"])
        if all(int(match["number"]) == first + place for place, match in enumerate(found)):
            return True
    return False


def _numbered(lines: Lines) -> Iterator[tuple[int, str]]:
    """Every line with its number, but for comments."""
    for number, line in enumerate(lines, start=1):
        if not re.match(r"\s*#(?:\s|$)", line):
            yield number, line.strip()


def _names(number: int, line: str) -> dict[str, Any]:
    for pattern, seen in _ODD.items():
        if not line.startswith('"') and pattern.match(line):
            literal = "; a name that is meant so stands in double quotes"
            raise ValueError(f"line {number}: {reprlib.repr(line)} {seen}{literal}")
    names = _cells(number, line)
    if not all(names):
        raise ValueError(f"line {number}: an empty name in {reprlib.repr(line)}")
    return {"name": names[0], "synonyms": names[1:]}


def _cells(number: int, line: str, delimiter: str = ",") -> list[str]:
    try:
        rows = list(csv.reader([line], delimiter=delimiter, strict=True, skipinitialspace=True))
    except csv.Error as error:
        form = 'expected double quotes around whole names, those inside doubled: "a ""so-called"" cat"'
        raise _wrong(number, line, form, f" ({error})") from None
    return [cell.strip() for cell in rows[0]] if rows and rows[0] else [""]


def _wrong(number: int, line: str, expected: str, advice: str = "") -> ValueError:
    return ValueError(f"line {number}: {expected}, got {reprlib.repr(line)}{advice}")
