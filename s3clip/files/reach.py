"""May this be opened? What a file names is opened below its own folder, and where the caller says so.

What the caller passes is opened wherever it is, and is not asked about here.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from s3clip.files.addresses import is_address, open_binary, read_address, read_whole
from s3clip.files.web import PrivateHostError, host_of, is_private_name

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_LOCAL = ("file", "local")
_WEB = ("http", "https")


class OutOfReachError(ValueError):
    """A file that another one names, and that is not opened for it."""


def allowed_places(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return what a caller allows beside the folder of a table, checked.

    Args:
        given: schemes ("https", "s3", and "file" for any path of this machine), and addresses that others
            begin with ("https://pictures.example.org/cats/", "file:///data/pictures"). A host of this machine
            or of a private network has to be named by such an address; a scheme does not allow it.

    Raises:
        ValueError: one that is neither.
        TypeError: no texts.
    """
    places = [given] if isinstance(given, str) else list(given)
    for place in places:
        if not isinstance(place, str):
            raise TypeError(f"allow_addresses: expected texts such as 'https', got {type(place).__name__}")
        scheme = _scheme(place) if is_address(place) else place.lower()
        rooted = scheme not in _LOCAL or place == scheme or place.partition("://")[2].startswith("/")
        if not _SCHEME.fullmatch(scheme) or not rooted or _climbs(place):
            raise ValueError(
                f"allow_addresses: expected schemes such as https, s3 or file, or what addresses begin with, "
                f"such as https://pictures.example.org/ or file:///data/pictures; got {place!r}"
            )
    return tuple(dict.fromkeys(place if is_address(place) else place.lower() for place in places))


def below(folder: Path) -> str:
    """Return what allows all that lies below a folder of this machine."""
    return f"file://{folder.absolute()}"


@dataclass(frozen=True)
class Reach:
    """Where the names in a file may lead to.

    Attributes:
        folder: of that file, or where the caller says that its paths begin: a path or an address.
        allowed: see `allowed_places`.
    """

    folder: str
    allowed: tuple[str, ...] = ()

    def find(self, name: str) -> Path | str:
        """Return the file that is named: a path, or an address of a store or of the web.

        A path is resolved, with the links on its way, and has to lie below the folder, which is resolved too.
        A link that leads out is not followed, but for those of a download in the cache of the Hub, which lead
        to the blobs of the same repository.

        Raises:
            OutOfReachError: it is not to be opened.
        """
        scheme = _scheme(name) if is_address(name) else None
        if scheme in _LOCAL:
            path = name.partition("://")[2]
            if not path.startswith("/"):
                raise OutOfReachError(f"{_said(name)} is no path of this machine")
            return self._path(path)
        if scheme is not None:
            return self._address(name, scheme)
        if not is_address(self.folder):
            return self._path(name)
        # As it stands: of a store nothing is resolved, and "::" would be one address in another.
        if PurePosixPath(name).is_absolute() or "::" in name or "\\" in name or _climbs(name):
            raise self._refused(name, _scheme(self.folder))
        return f"{self.folder.rstrip('/')}/{name}"

    def _path(self, name: str) -> Path:
        path = Path("/" if is_address(self.folder) else self.folder, name)
        if "file" in self.allowed:
            return path
        real = os.path.realpath(path)
        if not any(_is_below(real, place) for place in self._roots):
            raise self._refused(name, "file")
        return path

    def _address(self, name: str, scheme: str) -> str:
        is_chain = "::" in name and scheme not in _WEB  # there it may be a host of IPv6
        own = [self.folder] if is_address(self.folder) else []
        places = [place for place in (*own, *self.allowed) if is_address(place)]
        if is_chain or _climbs(name):
            raise OutOfReachError(f"{_said(name)} names one address in another, or leads up")
        if any(_begins(name, place) for place in places):
            return name
        if scheme not in self.allowed:
            raise self._refused(name, scheme)
        if is_private_name(host_of(name)):
            raise _private(name)
        return name

    @cached_property
    def _roots(self) -> list[str]:
        """The folders of this machine below which paths are opened, resolved."""
        roots = [
            os.path.realpath(place.partition("://")[2])
            for place in self.allowed
            if _scheme(place) in _LOCAL and is_address(place)
        ]
        if not is_address(self.folder):
            roots.append(os.path.realpath(self.folder))
            for above in (Path(self.folder).absolute(), *Path(self.folder).absolute().parents):
                if above.parent.name == "snapshots":
                    roots.append(os.path.join(os.path.realpath(above.parent.parent), "blobs"))
        return roots

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts that may be private, since the caller has named them."""
        named = [place for place in (self.folder, *self.allowed) if is_address(place)]
        return frozenset(host_of(place) for place in named if _scheme(place) in _WEB)

    def _refused(self, name: str, scheme: str) -> OutOfReachError:
        return OutOfReachError(
            f"{_said(name)} lies outside of the folder of the file that names it; to open it, give "
            f"allow_addresses={scheme!r}"
        )


@dataclass(frozen=True)
class Named:
    """A file that another one names: looked for when it is read."""

    name: str
    reach: Reach

    def find(self) -> Path | str:
        """Return where it is; for the error see `Reach.find`."""
        return self.reach.find(self.name)

    def read(self) -> bytes:
        """Return its content.

        Raises:
            OutOfReachError: it is not to be opened.
            FileNotFoundError, OSError, ValueError, ImportError: it cannot be read.
        """
        place = self.find()
        if isinstance(place, Path):
            with open_binary(place) as file:
                return read_whole(file)
        try:
            return read_address(place, hosts=self.reach.hosts)
        except PrivateHostError:
            raise _private(self.name) from None


def _private(name: str) -> OutOfReachError:
    return OutOfReachError(
        f"{_said(name)} leads to this machine or to a private network; to open it, give allow_addresses what "
        f"it begins with, up to its host, and not the scheme alone"
    )


def _scheme(address: str) -> str:
    return address.partition("://")[0].lower()


def _climbs(name: str) -> bool:
    """Whether a path leads up, as it is written or to a server that reads %2e as a dot."""
    return ".." in unquote(name).replace("\\", "/").split("/")


def _begins(name: str, place: str) -> bool:
    """Whether an address is a place or below it."""
    if _scheme(name) in _WEB:
        try:
            parts, wanted = urlsplit(name), urlsplit(place)
        except ValueError:
            return False
        same = (parts.scheme, parts.netloc.lower()) == (wanted.scheme, wanted.netloc.lower())
        return same and _is_below(f"/{parts.path.lstrip('/')}", f"/{wanted.path.strip('/')}")
    name, place = (f"{_scheme(each)}://{each.partition('://')[2]}" for each in (name, place))
    return _is_below(name, place.rstrip("/"))


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder if folder.endswith(os.sep) else f"{folder}{os.sep}")


def _said(name: str) -> str:
    return repr(name if len(name) <= 200 else f"{name[:200]}...")
