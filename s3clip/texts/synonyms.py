"""The synonym file: classes with their names, synonyms, descriptors and sentences, read, checked and written.

Our own format is JSON:

    {"format": "s3clip-synonyms/1",
     "description": "Cats and fish", "license": "Apache-2.0",
     "templates": ["a photo of a {}."],
     "generated": {"model": "org/chat-model", "prompt_version": 1, "date": "2026-11-25"},
     "classes": [{"name": "tabby cat", "synonyms": ["tabby"], "descriptors": ["striped coat"], "id": 281}]}

All but "format" and "classes" may be left out. Others are read too, recognised by their shape. The order of
the file is the order of the classes, but for NeglectedTails, whose keys come unordered and are sorted by
number.

==================  =============================================  ===========  ========================
format              shape                                          underscores  remarks
==================  =============================================  ===========  ========================
ours                a record with "format"                         literal      names may repeat
list                names, or records as in "classes"              literal      names may repeat
synonyms by class   `{class: [text]}`                              literal      `[]`: the name alone
sentences by class  the same with `values="prompts"` (CuPL, AWT)   to spaces    in class names; empty
                    or `values="descriptors"` (DCLIP, WaffleCLIP)               texts are left out
NeglectedTails      `{id: {name, alternates: {text: count}}}`      literal      `id` is a number
LVIS `cat_info`     list of records with "synset"                  to spaces    in names and synonyms
fc-clip .txt        `id:name,name` a line                          literal      skips `invalid_class_id`
NACLIP .txt         `name, synonym, ...` a line                    literal      or just names
==================  =============================================  ===========  ========================

The published sentence files use underscores in class names (AWT "Black_footed_Albatross", DCLIP
"zen_garden"), and LVIS in all of its names ("spray_can"); nowhere else does one mean a space. The same
sentence files hold empty texts, which a language model left behind: they are left out with a warning, while
everywhere else an empty text is an error. A text loses the whitespace around it and is otherwise literal.
"""

import json
import os
import re
import reprlib
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from s3clip.files.writing import write_atomically
from s3clip.texts.prompts import resolve_templates

FORMAT = "s3clip-synonyms/1"
BUILTIN = "builtin:"  # before the name of a set that comes with s3clip

Values = Literal["synonyms", "prompts", "descriptors"]
Source = str | os.PathLike[str] | dict[str, Any] | list[Any] | tuple[Any, ...]

# Control characters and lone surrogates: no tokenizer reads them, and the latter cannot be written as UTF-8.
_UNREADABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def _label(text: str) -> str:
    text = text.strip()
    if not text:
        raise ValueError("is empty")
    if found := _UNREADABLE.search(text):
        raise ValueError(f"holds the control character U+{ord(found.group()):04X}: {reprlib.repr(text)}")
    return text


def _sentence(text: str) -> str:
    # Language models answer with lists: line breaks and tabs are whitespace inside a sentence.
    _label(re.sub(r"[\t\n\r]", " ", text))
    return text.strip()


def _as_tuple(texts: Any) -> Any:
    return tuple(texts) if isinstance(texts, list) else texts


_Label = Annotated[str, AfterValidator(_label)]
_Sentence = Annotated[str, AfterValidator(_sentence)]
_Labels = Annotated[tuple[_Label, ...], BeforeValidator(_as_tuple)]
_Sentences = Annotated[tuple[_Sentence, ...], BeforeValidator(_as_tuple)]
_Templates = Annotated[tuple[_Label, ...], BeforeValidator(_as_tuple), AfterValidator(resolve_templates)]


class SynonymClass(BaseModel):
    """One class.

    Attributes:
        name: the class's own name; it is always the first text of the class.
        synonyms: other names.
        descriptors: what it looks like ("striped coat"); joined with every name by `s3clip.texts.prompts`.
        prompts: whole sentences, used as they are, without a template.
        id: what the class is called elsewhere (a WordNet id, an index); handed through to predictions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: _Label
    synonyms: _Labels = ()
    descriptors: _Sentences = ()
    prompts: _Sentences = ()
    id: int | _Label | None = None


class Generated(BaseModel):
    """How a set was generated.

    Attributes:
        model: the chat model that was asked.
        prompt_version: of `s3clip.texts.generation`.
        date: of the day when the file was written, "2026-11-25".
        domain: what the model was told that the classes are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: _Label
    prompt_version: int
    date: _Label
    domain: _Label | None = None


class SynonymSet(BaseModel):
    """The classes of a task, in the order of their logits. Names may repeat: classes are positions.

    Attributes:
        description: what the classes are of, for people.
        license: of the words, by its SPDX name ("Apache-2.0"): files are passed on without their package.
        templates: the prompt templates the file asks for; None leaves the choice to the caller.
        generated: how, where a language model wrote the words.
        classes: at least one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    description: _Label | None = None
    license: _Label | None = None
    templates: _Templates | None = None
    generated: Generated | None = None
    classes: Annotated[tuple[SynonymClass, ...], BeforeValidator(_as_tuple), Field(min_length=1)]

    @property
    def class_names(self) -> list[str]:
        """The names, in order."""
        return [each.name for each in self.classes]

    @classmethod
    def builtin(cls, name: str) -> "SynonymSet":
        """Return a set that comes with s3clip, such as "food101"; `s3clip synonyms list` lists them.

        Raises:
            ValueError: for a name that is not there, with the nearest that are.
        """
        from s3clip.texts.sets import load_set

        return load_set(name)

    @classmethod
    def read(cls, source: "Source | SynonymSet", *, values: Values = "synonyms") -> "SynonymSet":
        """Read classes from a file, from the Hub, from Python objects or from the sets that come with s3clip.

        Args:
            source: the path of a .json or .txt file; "builtin:food101" (see `builtin`);
                "hf://datasets/user/name@revision/file.json"; a dict or list as such a file would hold; a
                list of names; or a SynonymSet, which is returned.
            values: what the texts of a `{class: [text]}` file are. Other formats say it themselves and take
                only the default.

        Warns:
            UserWarning: once each, with a count, for texts found in two classes, for texts given twice in a
                class, and for empty texts left out of a published sentence file.

        Raises:
            ValueError: naming the source, the class and the reason.
            FileNotFoundError: if there is no such file. Errors of the Hub pass through with a note.
            TypeError: if `source` is none of the above.
        """
        if isinstance(source, SynonymSet):
            return source
        if values not in get_args(Values):
            raise ValueError(f"values: expected one of {', '.join(get_args(Values))}, got {values!r}")
        if isinstance(source, str) and source.startswith(BUILTIN):
            if values != "synonyms":
                raise ValueError(f"values={values!r} is for {{class: [text]}}, but this is {source}")
            return cls.builtin(source.removeprefix(BUILTIN))
        path = None
        if isinstance(source, (str, os.PathLike)):
            where = os.fspath(source)
            # Outside the `try`: the Hub's errors are its own, and some of them are ValueErrors.
            path = _download(where) if where.startswith("hf://") else Path(where)
        elif isinstance(source, (dict, list, tuple)):
            where = f"the {type(source).__name__} of classes"
        else:
            raise TypeError(f"source: expected a path, a dict, a list or a SynonymSet, got {_shown(source)}")
        try:
            found = _interpret(source if path is None else _load(path), values)
            synonyms = _build(found)
        except RecursionError:
            raise ValueError(f"{where}: is nested too deeply for a list of classes") from None
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        for message in _slips(synonyms, found.skipped):
            warnings.warn(f"{where}: {message}", UserWarning, stacklevel=2)
        return synonyms

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the set as a .json file, which `read` gives back equal; an older file is replaced whole.

        A class stands on one line, so that a diff shows the classes that changed.

        Raises:
            ValueError: if the path does not end in .json.
        """
        if Path(path).suffix.lower() != ".json":
            raise ValueError(f"path: expected a name that ends in .json, got {os.fspath(path)!r}")
        content = {"format": FORMAT, **self.model_dump(exclude_defaults=True)}
        # Through a link to the file it names, which a rename would replace.
        target = Path(os.path.realpath(path))
        write_atomically(target, _item_a_line(content).encode())

    def push_to_hub(
        self,
        repo_id: str,
        path_in_repo: str = "synonyms.json",
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Write the set to a dataset repository of the Hub; an older file of that name is replaced.

        Args:
            repo_id: "user/name"; made if need be.
            path_in_repo: the name of the file there, which ends in .json.
            private: who may see a repository that is made; None: the account's default.
            token: of the Hub; None: the one of `hf auth login`.
            commit_message: of the commit.

        Returns:
            What `read` and `fit_classes` take: "hf://datasets/user/name/synonyms.json".

        Raises:
            ValueError: if the path does not end in .json.
            OSError: the Hub's own errors, and no connection to it.
        """
        from huggingface_hub import HfApi

        from s3clip.files.hub import hub_connection

        if not path_in_repo.endswith(".json"):
            raise ValueError(f"path_in_repo: expected a name that ends in .json, got {path_in_repo!r}")
        api = HfApi(token=token, library_name="s3clip")
        with hub_connection(), tempfile.TemporaryDirectory() as folder:
            repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
            path = Path(folder) / "synonyms.json"
            self.write(path)
            api.upload_file(
                path_or_fileobj=path,
                path_in_repo=path_in_repo,
                repo_id=repo_id,
                repo_type="dataset",
                commit_message=commit_message or f"Synonyms of {len(self.classes)} classes",
            )
        return f"hf://datasets/{repo_id}/{path_in_repo}"


def collisions(synonyms: SynonymSet) -> dict[str, list[int]]:
    """Return the texts that stand for more than one class: casefolded text -> ascending class positions.

    Names, synonyms and prompts count. Descriptors do not, since each is joined with its class's names.
    """
    positions: dict[str, list[int]] = {}
    for position, each in enumerate(synonyms.classes):
        for text in dict.fromkeys(text.casefold() for text in (each.name, *each.synonyms, *each.prompts)):
            positions.setdefault(text, []).append(position)
    return {text: where for text, where in positions.items() if len(where) > 1}


def _item_a_line(record: dict[str, Any]) -> str:
    """Write a record as JSON, with each item of its lists on a line of its own."""
    fields = []
    for key, value in record.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, (list, tuple)):
            items = ",\n    ".join(json.dumps(item, ensure_ascii=False) for item in value)
            text = f"[\n    {items}\n  ]"
        fields.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


# ------------------------------------------------------------------------------- from a file to its content


class _Lines(list[str]):
    """The lines of a .txt file; a plain list would be taken for a JSON list of names."""


def _download(uri: str) -> Path:
    from huggingface_hub import HfFileSystem, hf_hub_download

    from s3clip.files.hub import hub_connection

    try:
        try:
            from huggingface_hub import parse_hf_uri
        except ImportError:  # before huggingface_hub 2, which parses without asking the Hub
            old: Any = HfFileSystem().resolve_path(uri)
            kind, repo, revision, file = old.repo_type, old.repo_id, old.revision, old.path_in_repo
        else:
            new = parse_hf_uri(uri)
            kind, repo, revision, file = new.type, new.id, new.revision, new.path_in_repo
        with hub_connection():
            return Path(hf_hub_download(repo, file, repo_type=kind, revision=revision))
    except Exception as error:
        error.add_note(f"while reading the synonym file {uri}")
        raise


def _load(path: Path) -> Any:
    if path.is_dir():
        raise ValueError("is a directory; expected a .json or .txt file")
    if not path.exists():
        raise FileNotFoundError(f"no synonym file {str(path)!r}: looked for {path.absolute()}")
    if path.suffix.lower() not in (".json", ".txt"):
        raise ValueError("expected a file name that ends in .json or .txt")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    if not text.strip():
        raise ValueError("the file is empty")
    if path.suffix.lower() == ".txt":
        # Not splitlines(), which also splits at characters that may stand in a name.
        return _Lines(text.rstrip().replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        within = f" in the record of class {record['name']!r}" if "name" in record else ""
        raise ValueError(f"the key {twice!r} is given twice{within}")
    return record


# --------------------------------------------------------------------------- from a format to class records


class _Found(NamedTuple):
    """Class records not checked yet, the other fields of a set, and how many empty texts were left out."""

    classes: list[Any]
    fields: Mapping[str, Any] = MappingProxyType({})
    skipped: int = 0


def _ours(content: dict[str, Any], values: Values) -> _Found:
    version = content.get("format")
    if "format" not in content:
        raise ValueError(f'"format" is missing: a record with "classes" also has "format": "{FORMAT}"')
    if version != FORMAT:
        newer = isinstance(version, str) and re.fullmatch(r"s3clip-synonyms/[1-9]\d*", version)
        advice = "; the file is newer than this s3clip, upgrade it" if newer else ""
        raise ValueError(f'"format" is {reprlib.repr(version)}, expected "{FORMAT}"{advice}')
    known = ["format", *SynonymSet.model_fields]
    if unknown := set(content) - set(known):
        raise ValueError(f"unknown keys {sorted(map(str, unknown))}; known are {', '.join(known)}")
    classes = content.get("classes")
    if not isinstance(classes, (list, tuple)):
        raise ValueError(f'"classes" must be a list of records, not {_shown(classes)}')
    fields = {key: value for key, value in content.items() if key not in ("format", "classes")}
    return _Found(_list(classes, values).classes, fields)


def _list(content: Sequence[Any], values: Values) -> _Found:
    return _Found([{"name": item} if isinstance(item, str) else item for item in content])


def _by_class(content: dict[str, Any], values: Values) -> _Found:
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
    return _Found(classes, skipped=skipped)


def _neglected_tails(content: dict[str, Any], values: Values) -> _Found:
    classes: dict[int, Any] = {}
    for key, record in content.items():
        if not isinstance(record.get("alternates"), dict):
            raise ValueError(
                f"class {key!r}: expected {{name, alternates: {{text: count}}}} as in NeglectedTails, got a "
                f"record with the keys {reprlib.repr(list(record))}; other records go into a list"
            )
        if not (isinstance(key, str) and key.isascii() and key.isdigit()):
            raise ValueError(f"class {key!r}: expected a number, as NeglectedTails numbers its classes")
        if int(key) in classes:
            raise ValueError(f"the key {key!r} is given twice")
        name = record.get("name")
        # A class's own name is often missing from its alternates, and stands anywhere among them.
        synonyms = [text for text in record["alternates"] if text != name]
        classes[int(key)] = {"name": name, "synonyms": synonyms, "id": int(key)}
    return _Found([classes[number] for number in sorted(classes)])


def _lvis(content: Sequence[Any], values: Values) -> _Found:
    classes = []
    for record in content:
        if isinstance(record, dict):
            name, synonyms = _spaced(record.get("name")), record.get("synonyms")
            if isinstance(synonyms, list):
                synonyms = [text for text in map(_spaced, synonyms) if text != name]
            record = {"name": name, "synonyms": synonyms, "id": record.get("id")}
        classes.append(record)
    return _Found(classes)


def _fcclip(lines: Sequence[str], values: Values) -> _Found:
    classes: dict[int, Any] = {}
    for number, line in enumerate(lines, start=1):
        match = _FCCLIP_LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number}: expected id:name,name as in line 1, got {reprlib.repr(line)}")
        key, names = int(match[1]), match[2]
        if key in classes:
            raise ValueError(f"line {number}: the id {key} is given twice")
        classes[key] = None if names.strip() == "invalid_class_id" else {**_names(names, number), "id": key}
    return _Found([record for record in classes.values() if record is not None])


def _naclip(lines: Sequence[str], values: Values) -> _Found:
    return _Found([_names(line, number) for number, line in enumerate(lines, start=1)])


def _names(line: str, number: int) -> dict[str, Any]:
    names = [name.strip() for name in line.split(",")]
    if not all(names):
        raise ValueError(f"line {number}: an empty name in {reprlib.repr(line)}")
    return {"name": names[0], "synonyms": names[1:]}


def _spaced(text: Any) -> Any:
    return text.replace("_", " ") if isinstance(text, str) else text


class _Format(NamedTuple):
    name: str
    recognises: Callable[[Any], bool]
    read: Callable[[Any, Values], _Found]


_FCCLIP_LINE = re.compile(r"\s*([0-9]+)\s*:(.*)")

# Tried in this order; the first that recognises the content reads it.
_FORMATS = (
    _Format(
        "an fc-clip file", lambda it: isinstance(it, _Lines) and bool(_FCCLIP_LINE.match(it[0])), _fcclip
    ),
    _Format("a file of a class a line", lambda it: isinstance(it, _Lines), _naclip),
    _Format(
        FORMAT,
        # A class may be called "format", then with a list of synonyms.
        lambda it: isinstance(it, dict) and ("classes" in it or isinstance(it.get("format"), str)),
        _ours,
    ),
    _Format(
        "a NeglectedTails file",
        lambda it: (
            isinstance(it, dict) and bool(it) and all(isinstance(value, dict) for value in it.values())
        ),
        _neglected_tails,
    ),
    _Format("{class: [text]}", lambda it: isinstance(it, dict), _by_class),
    _Format(
        "an LVIS file",
        lambda it: (
            isinstance(it, (list, tuple)) and bool(it) and isinstance(it[0], dict) and "synset" in it[0]
        ),
        _lvis,
    ),
    _Format("a list of classes", lambda it: isinstance(it, (list, tuple)), _list),
)


def _interpret(content: Any, values: Values) -> _Found:
    for each in _FORMATS:
        if each.recognises(content):
            if values != "synonyms" and each.read is not _by_class:
                raise ValueError(f"values={values!r} is for {{class: [text]}}, but this is {each.name}")
            return each.read(content, values)
    raise ValueError(f"expected a record or a list of classes, got {_shown(content)}")


# ---------------------------------------------------------------------------- from records to a checked set


def _build(found: _Found) -> SynonymSet:
    try:
        return SynonymSet.model_validate({**found.fields, "classes": found.classes})
    except ValidationError as error:
        raise ValueError(_reason(error.errors()[0], found.classes)) from None


def _reason(error: ErrorDetails, records: list[Any]) -> str:
    """Return in one line what pydantic found wrong, and in which class."""
    location, kind, value = error["loc"], error["type"], error["input"]
    if kind == "too_short":
        return "there are no classes"
    where = ""
    if location[0] == "classes" and len(location) > 1:
        position = int(location[1])
        record = records[position]
        name = record.get("name") if isinstance(record, dict) else None
        where = f"class {position}: " if name is None else f"class {position} ({reprlib.repr(name)}): "
        location = location[2:]
    if location[:1] == ("id",):  # what follows names a member of the union, not a place in the file
        return f"{where}id must be a whole number, a text or null, not {_shown(value)}"
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if kind == "value_error":
        reason = str(error["ctx"]["error"])
        return reason if field == "templates" else f"{where}{field} {reason}"
    reason = {
        "string_type": f"must be a text, not {_shown(value)}",
        "tuple_type": f"must be a list of texts, not {_shown(value)}",
        "missing": "is missing",
        "extra_forbidden": "is not known"
        + (f"; a class has {', '.join(SynonymClass.model_fields)}" if where else ""),
        "model_type": f"must be a name or a record, not {_shown(value)}",
    }.get(kind, error["msg"])
    return f"{where}{field} {reason}" if field else f"{where}{reason}"


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{reprlib.repr(value)} ({type(value).__name__})"


def _slips(synonyms: SynonymSet, skipped: int) -> list[str]:
    """Word what is legal but seldom meant, one message a kind."""
    messages = []
    if skipped:
        messages.append(f"empty texts left out: {skipped}")
    repeated = sum(
        len(texts) - len(set(texts))
        for each in synonyms.classes
        for texts in ((each.name, *each.synonyms), each.descriptors, each.prompts)
    )
    if repeated:
        messages.append(f"texts given twice in a class (used once): {repeated}")
    shared = collisions(synonyms)
    if shared:
        names = synonyms.class_names
        examples = "; ".join(
            f"{reprlib.repr(text)} in classes "
            + ", ".join(f"{position} ({names[position]!r})" for position in positions[:3])
            for text, positions in list(shared.items())[:3]
        )
        messages.append(f"texts found in two classes or more: {len(shared)}, such as {examples}")
    return messages
