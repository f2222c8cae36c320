"""The formats of synonym files, ours and those of others, and what each of them says of the classes.

A format is recognised by its shape. The order of the file is the order of the classes, but for
NeglectedTails, whose keys come unordered and are sorted by number.

==================  =============================================  ===========  =========================
format              shape                                          underscores  remarks
==================  =============================================  ===========  =========================
ours                a record with "format"                         literal      names may repeat
list                names, or records as in "classes"              literal      names may repeat
synonyms by class   `{class: [text]}`                              literal      `[]`: the name alone
sentences by class  the same with `values="prompts"` (CuPL, AWT)   to spaces    in class names; empty
                    or `values="descriptors"` (DCLIP, WaffleCLIP)               texts are left out
NeglectedTails      `{id: {name, alternates: {text: count}}}`      literal      `id` is a number
ImageNet's index    `{number: [WordNet id, name]}`                 to spaces    sorted by number
LVIS `cat_info`     list of records with "synset"                  to spaces    in names and synonyms
table               `id,name,synonyms,descriptors` and rows        literal      texts of a cell part at ;
                    and `group:family`, `name:de`, `negatives`                  a column a level, a language
folders             `animal/dog/beagle/1.jpg` in a folder          literal      those above are groups
fc-clip             `id:name,name` a line                          literal      skips `invalid_class_id`
ids                 `/m/01yrx,Cat` or `n02123045 tabby` a line     literal      of Open Images, WordNet
NACLIP              `name, synonym, ...` a line                    literal      or just names
==================  =============================================  ===========  =========================

The last four are of text files (`s3clip.texts.lines`), the others of JSON and YAML.

The published sentence files use underscores in class names (AWT "Black_footed_Albatross", DCLIP
"zen_garden"), and LVIS in all of its names ("spray_can"); nowhere else does one mean a space. The same
sentence files hold empty texts, which a language model left behind: they are left out with a warning, while
everywhere else an empty text is an error. A text loses the whitespace around it and is otherwise literal.
"""

import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

from s3clip.files.problems import shown
from s3clip.texts.lines import (
    Lines,
    has_ids,
    is_fcclip,
    is_table,
    read_fcclip,
    read_ids,
    read_names,
    read_table,
)

FORMAT = "s3clip-synonyms/1"

TextKind = Literal["synonyms", "descriptors", "prompts"]
"""What the texts of a class are, besides its name."""

KINDS: tuple[TextKind, ...] = get_args(TextKind)


class Found(NamedTuple):
    """Class records not checked yet, the other fields of a set, and what to warn of."""

    classes: list[Any]
    fields: Mapping[str, Any] = MappingProxyType({})
    slips: tuple[str, ...] = ()


class Format(NamedTuple):
    """A format: what an error calls it, whether some content is of it, and its reader."""

    name: str
    recognises: Callable[[Any], bool]
    read: Callable[[Any], Found]


def interpret(content: Any, values: TextKind = "synonyms") -> Found:
    """Return what the first of `FORMATS` that recognises the content reads from it.

    Args:
        content: parsed JSON or YAML, or the `Lines` of a text file.
        values: what the texts of `{class: [text]}` are.

    Raises:
        ValueError: no format recognises it, or it is not what its format says.
    """
    for each in FORMATS:
        if each.recognises(content):
            if each is BY_CLASS:
                return _by_class(content, values)
            if values != "synonyms":
                raise ValueError(f"values={values!r} is for {{class: [text]}}, but this is {each.name}")
            return each.read(content)
    raise ValueError(f"expected a record or a list of classes, got {shown(content)}")


def _ours(content: dict[str, Any]) -> Found:
    version = content.get("format")
    if "format" not in content:
        raise ValueError(f'"format" is missing: a record with "classes" also has "format": "{FORMAT}"')
    if version != FORMAT:
        newer = isinstance(version, str) and re.fullmatch(r"s3clip-synonyms/[1-9]\d*", version)
        advice = "; the file is newer than this s3clip, upgrade it" if newer else ""
        raise ValueError(f'"format" is {reprlib.repr(version)}, expected "{FORMAT}"{advice}')
    fields = {key: value for key, value in content.items() if key != "format"}
    classes = fields.pop("classes", None)
    if not isinstance(classes, (list, tuple)):
        raise ValueError(f'"classes" must be a list of records, not {shown(classes)}')
    return Found(_list(classes).classes, fields)


def _list(content: Sequence[Any]) -> Found:
    return Found([{"name": item} if isinstance(item, str) else item for item in content])


def _by_class(content: dict[str, Any], values: TextKind = "synonyms") -> Found:
    classes, seen, skipped = [], set(), 0
    for name, texts in content.items():
        if values != "synonyms":
            name = _spaced(name)
            if isinstance(texts, (list, tuple)):
                kept = [text for text in texts if not isinstance(text, str) or text.strip()]
                skipped += len(texts) - len(kept)
                texts = kept
        classes.append({"name": name, values: texts})
        key = name.strip() if isinstance(name, str) else name
        if key in seen:
            raise ValueError(f"the key {key!r} is given twice, but for whitespace or underscores")
        seen.add(key)
    slips = [f"empty texts left out: {skipped}"] if skipped else []
    if len(content) > 1 and all(map(_is_number, content)):
        first = next(iter(content))
        slips.append(f'all names are numbers; ids go into records: {{"id": {first}, "name": "tabby cat"}}')
    return Found(classes, slips=tuple(slips))


def _neglected_tails(content: dict[str, Any]) -> Found:
    classes: dict[int, Any] = {}
    for key, record in content.items():
        if not isinstance(record.get("alternates"), dict):
            raise ValueError(
                f"class {key!r}: expected {{name, alternates: {{text: count}}}} as in NeglectedTails, got a "
                f"record with the keys {reprlib.repr(list(record))}; other records go into a list"
            )
        if not _is_number(key):
            raise ValueError(f"class {key!r}: expected a number, as NeglectedTails numbers its classes")
        if int(key) in classes:
            raise ValueError(f"the key {key!r} is given twice")
        name = record.get("name")
        # A class's own name is often missing from its alternates, and stands anywhere among them.
        synonyms = [text for text in record["alternates"] if text != name]
        classes[int(key)] = {"name": name, "synonyms": synonyms, "id": int(key)}
    return Found([classes[number] for number in sorted(classes)])


def _lvis(content: Sequence[Any]) -> Found:
    classes = []
    for record in content:
        if isinstance(record, dict):
            name, synonyms = _spaced(record.get("name")), record.get("synonyms")
            if isinstance(synonyms, list):
                synonyms = [text for text in map(_spaced, synonyms) if text != name]
            record = {"name": name, "synonyms": synonyms, "id": record.get("id")}
        classes.append(record)
    return Found(classes)


def _class_index(content: dict[str, Any]) -> Found:
    classes = {}
    for key, pair in content.items():
        if not (_is_number(key) and _is_index_pair(pair)):
            raise ValueError(
                f"{key!r}: expected number, WordNet id and name as in the index of ImageNet's classes, "
                f'"0": ["n01440764", "tench"], got {reprlib.repr(pair)}'
            )
        if int(key) in classes:
            raise ValueError(f"the key {key!r} is given twice")
        classes[int(key)] = {"name": _spaced(pair[1]), "id": pair[0]}
    return Found([classes[number] for number in sorted(classes)])


def _spaced(text: Any) -> Any:
    return text.replace("_", " ") if isinstance(text, str) else text


def _is_list(content: Any) -> bool:
    return isinstance(content, (list, tuple))


def _is_ours(content: Any) -> bool:
    # A class may be called "format", then with a list of synonyms.
    return isinstance(content, dict) and ("classes" in content or isinstance(content.get("format"), str))


def _is_neglected_tails(content: Any) -> bool:
    return isinstance(content, dict) and content != {} and all(isinstance(e, dict) for e in content.values())


def _is_lvis(content: Any) -> bool:
    return _is_list(content) and bool(content) and isinstance(content[0], dict) and "synset" in content[0]


def _is_number(key: Any) -> bool:
    return isinstance(key, str) and key.isascii() and key.isdigit()


def _is_index_pair(pair: Any) -> bool:
    texts = isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
    return texts and re.fullmatch(r"n\d{8}", pair[0]) is not None


def _is_class_index(content: Any) -> bool:
    return isinstance(content, dict) and any(_is_number(k) and _is_index_pair(v) for k, v in content.items())


def _of_lines(name: str, recognises: Callable[[Lines], bool], read: Callable[[Lines], list[Any]]) -> Format:
    return Format(name, lambda it: isinstance(it, Lines) and recognises(it), lambda it: Found(read(it)))


BY_CLASS = Format("{class: [text]}", lambda content: isinstance(content, dict), _by_class)

FORMATS = (
    _of_lines("a table of classes", is_table, read_table),
    _of_lines("an fc-clip file", is_fcclip, read_fcclip),
    _of_lines("a file of ids and names", has_ids, read_ids),
    _of_lines("a file of a class a line", lambda lines: True, read_names),
    Format(FORMAT, _is_ours, _ours),
    Format("a NeglectedTails file", _is_neglected_tails, _neglected_tails),
    Format("an index of ImageNet's classes", _is_class_index, _class_index),
    BY_CLASS,
    Format("an LVIS file", _is_lvis, _lvis),
    Format("a list of classes", _is_list, _list),
)
"""Tried in this order; the first that recognises the content reads it."""
