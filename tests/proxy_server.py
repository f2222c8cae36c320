"""A plain HTTP proxy on loopback, which passes requests on, or fails as it is told."""

import http.client
import socket
import struct
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.serving import serving


class Proxy(ThreadingHTTPServer):
    """What a proxy does.

    Attributes:
        fault: None, or one of `FAULTS`.
        fails: of a request's path, whether the fault befalls it.
        passed: the requests that came.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault: str | None = None
        self.fails: Callable[[str], bool] = lambda path: True
        self.passed: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *args: object) -> None:
        pass

    def pass_on(self) -> None:
        target = urlsplit(self.path)
        self.server.passed.append(f"{self.command} {target.path}")
        if self.server.fault is not None and self.server.fails(target.path):
            self.close_connection = True
            FAULTS[self.server.fault](self)
            return
        status, headers, body = self.fetched()
        self.reply(status, headers, body)

    def fetched(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """Ask the server that is meant."""
        target = urlsplit(self.path)
        asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        connection = http.client.HTTPConnection(target.hostname or "", target.port)
        own = ("connection", "proxy-connection", "keep-alive")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in own}
        where = target.path + (f"?{target.query}" if target.query else "")
        connection.request(self.command, where, asked, headers)
        answer = connection.getresponse()
        body = answer.read()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in own]
        connection.close()
        return answer.status, kept, body

    def reply(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        if not any(name.lower() == "content-length" for name, _ in headers):
            headers = [*headers, ("Content-Length", str(len(body)))]
        for name, value in headers:
            self.send_header(name, value)
        if self.close_connection:  # else the next request may come down a connection that is gone
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def of_its_own(self, status: int, body: bytes = b"<html>the proxy says no</html>") -> None:
        self.reply(status, [("Content-Type", "text/html")], body)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def cut(self) -> None:
        status, headers, body = self.fetched()
        self.reply(status, headers, body[: len(body) // 2])

    def changed(self) -> None:
        status, headers, body = self.fetched()
        self.reply(status, headers, bytes(each ^ 1 for each in body))

    def hang(self) -> None:
        time.sleep(1.5)

    do_GET = do_HEAD = do_POST = do_PUT = pass_on


FAULTS: dict[str, Callable[[Handler], None]] = {
    "407": lambda each: each.of_its_own(407),
    "403": lambda each: each.of_its_own(403),
    "502": lambda each: each.of_its_own(502),
    "503": lambda each: each.of_its_own(503),
    "504": lambda each: each.of_its_own(504),
    "a page to log in": lambda each: each.of_its_own(200),
    "reset": Handler.reset,
    "cut": Handler.cut,
    "changed": Handler.changed,
    "hang": Handler.hang,
}


def proxy_server() -> AbstractContextManager[Proxy]:
    """Run a proxy."""
    return serving(Proxy())
