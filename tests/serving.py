"""A server of the tests on loopback, which runs as long as it is needed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar

Server = TypeVar("Server", bound=ThreadingHTTPServer)


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Answer requests in a thread of its own, and end without leaving any."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class FilesOfAFolder(SimpleHTTPRequestHandler):
    """What a folder holds, and not a word of it on standard error."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving_folder(folder: Path, handler: type[SimpleHTTPRequestHandler] = FilesOfAFolder) -> Iterator[str]:
    """Serve the files of a folder, and give the address that their names come behind."""
    files = partial(handler, directory=str(folder))
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), files)) as server:
        yield f"http://127.0.0.1:{server.server_port}"
