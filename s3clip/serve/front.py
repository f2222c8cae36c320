"""What stands before every request: the token, the bound on the body, and the counters."""

import hmac
import time
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s3clip.serve.bounds import RefusedError
from s3clip.serve.metrics import Metrics


class Front:
    """An ASGI middleware.

    Args:
        app: what is behind.
        metrics: that count.
        body_bytes: of a request.
        token: that a request has to bear; None: none has.
        open_paths: that are answered without.
        paths: that are counted by their names.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        body_bytes: int,
        token: str | None,
        open_paths: Collection[str],
        paths: Collection[str],
    ) -> None:
        self.app, self.metrics, self.body_bytes, self.token = app, metrics, body_bytes, token
        self.open_paths, self.paths = open_paths, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self.paths else "other"
        started, status = time.monotonic(), [500]

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            if refused := self._refused(scope):
                await refused(scope, receive, counted)
            else:
                await self.app(scope, self._bounded(receive), counted)
        finally:
            self.metrics.requests.labels(path, status[0]).inc()
            self.metrics.seconds.labels(path).observe(time.monotonic() - started)

    def _refused(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        if self.token is not None and scope["path"] not in self.open_paths:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            is_right = hmac.compare_digest(given.strip().encode(), self.token.encode())
            if scheme.lower() != "bearer" or not is_right:
                said = {"error": "expected the header Authorization: Bearer TOKEN"}
                return JSONResponse(said, 401, {"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self.body_bytes:
            return JSONResponse({"error": self._too_long()}, 413)
        return None

    def _bounded(self, receive: Receive) -> Receive:
        """Count what comes: a body may come without saying how long it is."""
        count = 0

        async def bounded() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > self.body_bytes:
                raise RefusedError(413, self._too_long())
            return message

        return bounded

    def _too_long(self) -> str:
        return f"expected a body of at most {self.body_bytes:,} bytes"
