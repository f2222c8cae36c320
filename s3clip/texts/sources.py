"""Where classes are read from: a file, the Hub, the sets that come with s3clip, or Python objects."""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from s3clip.files.addresses import checked_path
from s3clip.files.folders import beside
from s3clip.files.json import LARGEST, parse_json, unique
from s3clip.files.problems import shown
from s3clip.files.text import read_text
from s3clip.texts.lines import Lines, Table, split_lines, strings_of_list

BUILTIN = "builtin:"  # before the name of a set that comes with s3clip
HUB = "hf://"
SUFFIXES = (".json", ".txt", ".csv", ".yaml", ".yml")
_URI = re.compile(r"hf://(?:(datasets|spaces|models)/)?([^/@]+/[^/@]+)(?:@(refs/\w+/[^/]+|[^/]+))?/(.+)")
_KINDS = "a file whose name ends in .json, .txt, .csv or .yaml"

Source = str | os.PathLike[str] | dict[str, Any] | list[Any] | tuple[Any, ...]


def read_source(source: object) -> tuple[str, Any]:
    """Return what errors call a source, and its parsed content.

    Raises:
        ValueError: naming the source and the reason: it cannot be parsed, or no builtin set is called that.
        FileNotFoundError: if there is no such file. Errors of the Hub pass through with a note.
        TypeError: if it is no `Source`.
    """
    if isinstance(source, (dict, list, tuple)) or (hasattr(source, "tolist") and not isinstance(source, str)):
        return f"the {type(source).__name__} of classes", _without_arrays(source)
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source: expected a path, a dict, a list or a SynonymSet, got {shown(source)}")
    where = checked_path(source, "source")
    if where.startswith(BUILTIN):
        from s3clip.texts.sets import read_set

        return where, read_set(where.removeprefix(BUILTIN))
    return where, _parsed(_download(where) if where.startswith(HUB) else Path(where), where)


def _without_arrays(source: Any, depth: int = 6) -> Any:
    """Return a source with the arrays and numbers of numpy in it as lists and numbers of Python.

    Classes are never deeper; what holds itself has no end.
    """
    if hasattr(source, "tolist"):
        return source.tolist()
    if not depth or not isinstance(source, (dict, list, tuple)):
        return source
    if isinstance(source, dict):
        return {key: _without_arrays(value, depth - 1) for key, value in source.items()}
    return [_without_arrays(each, depth - 1) for each in source]


def _download(uri: str) -> Path:
    from s3clip.files.hub import fetch

    try:
        try:
            from huggingface_hub import parse_hf_uri
        except ImportError:  # before huggingface_hub 2, whose file system asks the Hub
            kind, repo, revision, file = _parts(uri)
        else:
            new = parse_hf_uri(uri)
            kind, repo, revision, file = new.type, new.id, new.revision, new.path_in_repo
        return fetch(repo, file, repo_type=kind, revision=revision, largest=LARGEST)
    except Exception as error:
        error.add_note(f"while reading the synonym file {uri}")
        raise


def _parts(uri: str) -> tuple[str, str, str | None, str]:
    """Return the kind of a repository, its name, the revision and the file of an address of the Hub."""
    found = _URI.fullmatch(uri)
    if found is None:
        raise ValueError(f"{uri}: expected hf://datasets/user/name/file, or user/name@revision in it")
    kind, repo, revision, file = found.groups()
    return (kind or "models")[:-1], repo, None if revision is None else unquote(revision), file


def _parsed(path: Path, where: str) -> Any:
    kind = path.suffix.lower()
    if path.is_dir():
        if classes := _classes_below(path, ()):
            return classes
        raise ValueError(f"{where}: is a directory without sub-folders; expected one a class, or {_KINDS}")
    if not path.exists():
        from s3clip.texts.sets import set_names

        near = beside(path, {name: BUILTIN + name for name in set_names()})
        raise FileNotFoundError(f"no synonym file {str(path)!r}: looked for {path.absolute()}{near}")
    if kind not in SUFFIXES:
        raise ValueError(f"{where}: expected {_KINDS}")
    text = read_text(path, where)
    if not text.strip():
        raise ValueError(f"{where}: the file is empty")
    if kind == ".json":
        return parse_json(text, where)
    if kind in (".yaml", ".yml"):
        return _yaml(text, where)
    if kind == ".csv":
        return Table(split_lines(text))
    if not re.match(r"\s*(?:[\[{]|\(\s*['\"])", text):
        return Lines(split_lines(text))
    strings = strings_of_list(text.strip())
    return parse_json(text, where) if strings is None else strings


def _classes_below(folder: Path, above: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the folders below one that hold no folder themselves, with the names of those above as groups.

    Hidden folders are passed over, and links to folders not entered: they may lead round in a circle.
    """
    found: list[dict[str, Any]] = []
    with os.scandir(folder) as entries:
        folders = sorted(each.name for each in entries if each.is_dir() and not each.name.startswith("."))
    for name in folders:
        place = folder / name
        below = [] if place.is_symlink() else _classes_below(place, (*above, name))
        found += below or [{"name": name, "groups": list(above)}]
    return found


def _yaml(text: str, where: str) -> Any:
    """Return what a YAML file holds: its document, or the list of its documents."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        pass

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        loader.flatten_mapping(node)
        return unique(loader.construct_pairs(node, deep=True))

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    try:
        documents = [each for each in yaml.load_all(text, Loader) if each is not None]
    except (yaml.YAMLError, RecursionError, TypeError, ValueError) as error:
        at = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        line = "" if at is None else f", line {at.line + 1}"
        raise ValueError(f"{where}: not YAML that is read ({reason}{line})") from None
    return documents[0] if len(documents) == 1 else documents
