"""A service under uvicorn, until it is told to end."""

import signal
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI

GRACE = 30
"""Seconds that what is in flight has, after SIGTERM or Ctrl-C."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Any) -> None:
        super().__init__(config)
        self._say_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and not self.should_exit:
            self._say_started()


def listening_at(host: str, port: int) -> socket.socket:
    """Return a socket whose connections send what they are given at once.

    An answer is written in two pieces, and without TCP_NODELAY the second one waits for the client to confirm
    the first, 40 ms on a connection that is used again. asyncio sets it for sockets that name their protocol,
    which those of `socket.create_server` do not.

    Raises:
        OSError: the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(f"{host}:{port}: cannot listen there ({error.strerror or error})") from error
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=listening.detach())


def run(app: FastAPI, *, host: str = "127.0.0.1", port: int = 8000, started: Any = lambda _: None) -> None:
    """Serve until SIGTERM or Ctrl-C; what is in flight then is finished, within `GRACE` seconds.

    Args:
        app: what `create_app` returned.
        host: where to listen: this machine alone, or "0.0.0.0" for all of its networks.
        port: 0: one that is free.
        started: is called with the address when requests are answered.

    Raises:
        OSError: the port is taken.
        ValueError, OSError: the head cannot be loaded.
    """
    app.state.load()
    with listening_at(host, port) as listening:
        shown = f"[{host}]" if listening.family == socket.AF_INET6 else host
        address = f"http://{shown}:{listening.getsockname()[1]}"
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE,
        )
        # uvicorn raises the signals that it was ended by once more, for whoever handled them before.
        before = {each: signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM)}
        server = _Server(config, lambda: started(address))
        try:
            server.run(sockets=[listening])
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
