"""What a model is called: one string that says where it lies and which library reads it."""

import os
import re
from dataclasses import dataclass

from s3clip.arguments import did_you_mean
from s3clip.files.addresses import checked_path
from s3clip.files.folders import beside
from s3clip.files.hub import is_hub_name

SCHEMES = {
    "hf-hub": "hf-hub:user/name, an open_clip model on the Hub",
    "local-dir": "local-dir:FOLDER, one in a folder with open_clip_config.json",
    "open_clip": "open_clip:ARCHITECTURE/TAG, one of open_clip's own list",
}
"""The first two are open_clip's own. A name without a scheme is a Hub id or a folder."""

# One letter is a drive of Windows.
_SCHEME = re.compile(r"([A-Za-z][\w.+-]+):(.*)", re.DOTALL)
_TAG = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class ModelName:
    """A name that was read.

    Attributes:
        text: all of it; a folder or a file that a scheme names is absolute there, so that it is found again.
        scheme: a key of `SCHEMES`; None for a Hub id or a folder.
        place: the Hub id, the folder, or open_clip's name of an architecture.
        tag: of `open_clip:` alone: a tag, or the path of a file of weights.
    """

    text: str
    scheme: str | None
    place: str
    tag: str | None = None

    @classmethod
    def read(cls, name: str | os.PathLike[str]) -> "ModelName":
        """Read a name.

        Raises:
            ValueError: a scheme that there is not, or one without what it needs.
            FileNotFoundError: a path, and no such folder.
        """
        text = checked_path(name, "name")
        found = None if os.path.isdir(text) else _SCHEME.fullmatch(text)
        if found is None:
            return cls(text, None, _hub_id_or_folder(text))
        scheme, rest = found.groups()
        if scheme not in SCHEMES:
            raise ValueError(_unknown_scheme(text, scheme, rest))
        if scheme == "open_clip":
            return cls._of_list(text, *rest.split("/", 1))
        if scheme == "local-dir":
            if not os.path.isdir(rest):
                raise FileNotFoundError(f"name: there is no folder {rest!r}; expected {SCHEMES[scheme]}")
            return cls(f"{scheme}:{os.path.abspath(rest)}", scheme, rest)
        if not is_hub_name(rest):
            raise ValueError(f"name: expected {SCHEMES[scheme]}, got {text!r}")
        return cls(text, scheme, rest)

    @classmethod
    def _of_list(cls, text: str, architecture: str, tag: str = "") -> "ModelName":
        if not architecture or not tag:
            raise ValueError(f"name: expected {SCHEMES['open_clip']}, got {text!r}{_tags_of(architecture)}")
        if not _TAG.fullmatch(tag):
            if not os.path.isfile(tag):
                raise FileNotFoundError(f"name: {text!r}: {tag!r} is neither a tag nor a file of weights")
            text = f"open_clip:{architecture}/{os.path.abspath(tag)}"
        return cls(text, "open_clip", architecture, tag)


def _hub_id_or_folder(text: str) -> str:
    # Else transformers says that it is no valid name of a repository.
    is_path = text.startswith((".", "/", "~")) or "\\" in text or text[1:2] == ":"
    if (is_path and not os.path.isdir(text)) or os.path.isfile(text):
        raise FileNotFoundError(
            f"name: there is no folder {text!r}; give that of a model, or a Hub id{beside(text)}"
        )
    return text


def is_public(name: str) -> bool:
    """Whether a name says the same on every machine: no path of this one, and no address."""
    found = _SCHEME.fullmatch(name)
    if found is None:
        return is_hub_name(name)
    scheme, rest = found.groups()
    if scheme == "open_clip":
        return re.fullmatch(r"[\w.-]+/[\w-]+", rest) is not None
    return scheme == "hf-hub" and is_hub_name(rest)


def named_folder(name: str) -> str | None:
    """Return the absolute path of this machine that a name hangs on, None where it hangs on none."""
    found = _SCHEME.fullmatch(name)
    if found is not None and found[1] in SCHEMES:
        path = found[2].partition("/")[2] if found[1] == "open_clip" else found[2]
    else:
        path = name
    return path if os.path.isabs(path) else None


def hub_repository(name: str) -> str | None:
    """Return the Hub id that a public name says, None where it says none: a folder, open_clip's own list."""
    if not is_public(name) or name.startswith("open_clip:"):
        return None
    return name.removeprefix("hf-hub:")


def _unknown_scheme(text: str, scheme: str, rest: str) -> str:
    if rest.startswith("//") and scheme in ("http", "https"):
        return f"name: expected a name of a model, got the address {text!r}; of the Hub, give user/name"
    guess = f"{near} " if (near := did_you_mean(scheme, SCHEMES)) else ""
    known = "; ".join(("user/name", "a folder", *SCHEMES.values()))
    return f"name: there is no scheme {scheme!r}, as in {text!r}; {guess}Expected {known}"


def _tags_of(architecture: str) -> str:
    """Say which tags there are, where open_clip is here to ask."""
    try:
        import open_clip
    except Exception:  # of a torchvision that does not fit, anything
        return ""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    return f"; tags of {architecture}: {', '.join(tags)}" if tags else ""
