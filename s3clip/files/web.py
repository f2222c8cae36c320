"""Files at web addresses: fetched whole, without another package, from public hosts unless one is named."""

import http.client
import ipaddress
import socket
import urllib.error
import urllib.request
from collections.abc import Collection
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from s3clip._version import __version__

_TIMEOUT = 30  # seconds that a server may be silent


class PrivateHostError(ValueError):
    """A host of this machine or of a private network, which nobody who may say so has named."""


def fetch(address: str, largest: int, *, timeout: float | None = None, hosts: Collection[str] = ()) -> bytes:
    """Return the content of a file at an address of http or https.

    A redirect leads to the same scheme, or from http to https, and not to a private host either.

    Args:
        address: where.
        largest: bytes that are read.
        timeout: seconds that the server may be silent; None: 30.
        hosts: those that may be of this machine or of a private network.

    Raises:
        FileNotFoundError, PermissionError: so says the server.
        PrivateHostError: the host, or one that it redirects to, is private and not among `hosts`.
        OSError, ValueError, EOFError: it cannot be reached, is redirected elsewhere, too long or cut off.
    """
    request = urllib.request.Request(address, headers={"User-Agent": f"s3clip/{__version__}"})
    _allow(request, hosts)
    try:
        with _web().open(request, timeout=_TIMEOUT if timeout is None else timeout) as answer:
            content: bytes = answer.read(largest + 1)
            length = answer.headers.get("Content-Length") or "0"
    except urllib.error.HTTPError as error:
        gone, denied = FileNotFoundError, PermissionError
        kinds = {404: gone, 410: gone, 401: denied, 403: denied}
        raise kinds.get(error.code, OSError)(f"{address}: {error}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, PrivateHostError):
            raise error.reason from None
        raise
    if len(content) > largest:
        raise ValueError(f"it has more than {largest:,} bytes")
    if length.isdecimal() and len(content) < int(length):
        raise EOFError(f"it ended after {len(content):,} of {length} bytes")
    return content


def host_of(address: str) -> str:
    """Return the host that an address names, in lower case, "" where it names none."""
    try:
        return (urlsplit(address).hostname or "").rstrip(".")
    except ValueError:  # such as half an IPv6 address
        return ""


def is_private_name(host: str) -> bool:
    """Whether a host is private as it is written, without asking what it resolves to."""
    return f".{host}".endswith(".localhost") or _is_private(host)


def _is_private(ip: str) -> bool:
    try:
        found = ipaddress.ip_address(ip)
    except ValueError:  # a name
        return False
    inside = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None) or found
    return not inside.is_global or inside.is_multicast


def _allow(request: urllib.request.Request, hosts: Collection[str]) -> None:
    """Let a request ask its host, if that may be asked; raises PrivateHostError."""
    host = host_of(request.full_url)
    request.private_hosts = hosts  # type: ignore[attr-defined]  # for those that it is redirected to
    if host in hosts:
        return
    try:
        found = [each[4][0] for each in socket.getaddrinfo(host, None)]
    except (OSError, UnicodeError):  # a proxy may know it
        found = []
    if is_private_name(host) or any(_is_private(str(ip)) for ip in found):
        raise PrivateHostError(f"{host} is a host of this machine or of a private network")


class _Checked(http.client.HTTPConnection):
    """Asks a public host. What a name resolves to can have changed since it was looked up."""

    def connect(self) -> None:
        super().connect()
        if _is_private(self.sock.getpeername()[0]):
            raise PrivateHostError(f"{self.host} is a host of this machine or of a private network")


class _CheckedSecure(_Checked, http.client.HTTPSConnection):
    """The same for https; the certificate is checked first."""


class _Opening(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def __init__(self) -> None:
        urllib.request.HTTPSHandler.__init__(self)

    def http_open(self, req: Any) -> Any:
        return self.do_open(_Checked if _is_checked(req) else http.client.HTTPConnection, req)

    def https_open(self, req: Any) -> Any:
        return self.do_open(_CheckedSecure if _is_checked(req) else http.client.HTTPSConnection, req)


def _is_checked(request: Any) -> bool:
    """Whether what is connected to has to be public: the host itself, unless it may be private, no proxy."""
    is_direct = request.host.lower() == urlsplit(request.full_url).netloc.lower()
    return is_direct and host_of(request.full_url) not in request.private_hosts


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith(("https://", f"{req.type}://")):
            raise ValueError(f"it is redirected to {newurl}")
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None:
            _allow(following, req.private_hosts)
        return following


@cache
def _web() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Opening, _Redirects)
