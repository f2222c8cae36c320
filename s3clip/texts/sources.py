"""Where classes are read from: a file, the Hub, the sets that come with s3clip, or Python objects."""

import os
from pathlib import Path
from typing import Any

from s3clip.files.json import parse_json
from s3clip.texts.formats import Lines, shown

BUILTIN = "builtin:"  # before the name of a set that comes with s3clip
HUB = "hf://"

Source = str | os.PathLike[str] | dict[str, Any] | list[Any] | tuple[Any, ...]


def read_source(source: object) -> tuple[str, Any]:
    """Return what errors call a source, and its parsed content.

    Raises:
        ValueError: naming the source and the reason: it cannot be parsed, or no builtin set is called that.
        FileNotFoundError: if there is no such file. Errors of the Hub pass through with a note.
        TypeError: if it is no `Source`.
    """
    if isinstance(source, (dict, list, tuple)):
        return f"the {type(source).__name__} of classes", source
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source: expected a path, a dict, a list or a SynonymSet, got {shown(source)}")
    where = os.fspath(source)
    if where.startswith(BUILTIN):
        from s3clip.texts.sets import read_set

        return where, read_set(where.removeprefix(BUILTIN))
    return where, _parsed(_download(where) if where.startswith(HUB) else Path(where), where)


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


def _parsed(path: Path, where: str) -> Any:
    if path.is_dir():
        raise ValueError(f"{where}: is a directory; expected a .json or .txt file")
    if not path.exists():
        raise FileNotFoundError(f"no synonym file {str(path)!r}: looked for {path.absolute()}")
    if path.suffix.lower() not in (".json", ".txt"):
        raise ValueError(f"{where}: expected a file name that ends in .json or .txt")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
        raise ValueError(f"{where}: is not UTF-8 ({reason}); save it as UTF-8") from None
    if not text.strip():
        raise ValueError(f"{where}: the file is empty")
    if path.suffix.lower() == ".json":
        return parse_json(text, where)
    # Not splitlines(), which also splits at characters that may stand in a name.
    return Lines(text.rstrip().replace("\r\n", "\n").replace("\r", "\n").split("\n"))
