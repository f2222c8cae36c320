"""The service: what is answered under which path."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import torch
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile
from torch import Tensor

from s3clip._version import __version__
from s3clip.head import SynonymousSpaceHead
from s3clip.prediction.scope import read_scope
from s3clip.serve import described, page
from s3clip.serve.asking import Asked, asked_in_form, asked_in_json, pixels_of
from s3clip.serve.batching import Batcher, Kind, Work
from s3clip.serve.bounds import Bounds, RefusedError
from s3clip.serve.current import Current, Served
from s3clip.serve.front import Front
from s3clip.serve.metrics import CONTENT_TYPE, Metrics
from s3clip.serve.source import HeadSource

BODY_SECONDS = 60
"""For which the body of a request may take to come; beyond, 408."""

_OPEN = frozenset({"/", "/healthz", "/readyz", "/openapi.json"})
_PATHS = _OPEN | {"/predict", "/embed", "/classes", "/metrics"}


def create_app(
    head: SynonymousSpaceHead | HeadSource,
    *,
    bounds: Bounds | None = None,
    token: str | None = None,
    look_every: float = 5.0,
) -> FastAPI:
    """Return the service as an ASGI application, for uvicorn or any other server, in one process.

    Args:
        head: fitted, or where to load it from. Where that changes, the new head is taken over: a request is
            answered by one head from its beginning to its end, and says which.
        bounds: what is refused; the defaults of `Bounds` if None.
        token: that requests have to bear, but for those of the page and of health; None: none has to.
        look_every: seconds after which another head is looked for.
    """
    if token == "":
        raise ValueError("token: expected a text that is not empty, or None")
    service = _Service(head, bounds or Bounds(), look_every)
    app = FastAPI(
        title="s3clip",
        version=__version__,
        description="Zero-shot image classification where every class has many names.",
        lifespan=service.lifespan,
        docs_url=None,  # both would fetch their scripts from elsewhere
        redoc_url=None,
    )
    app.state.load = service.current.start
    metrics, body_bytes = service.metrics, service.bounds.body_bytes
    app.add_middleware(
        Front, metrics=metrics, body_bytes=body_bytes, token=token, open_paths=_OPEN, paths=_PATHS
    )

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, error.status, error.headers)

    @app.post("/predict", **described.PREDICT)
    async def predict(request: Request) -> Response:
        """The most probable classes of every picture, the best first: what `head.predict` answers."""
        return await service.answer("predict", request)

    @app.post("/embed", **described.EMBED)
    async def embed(request: Request) -> Response:
        """The embedding of every picture, at length one."""
        return await service.answer("embed", request)

    @app.get("/classes", **described.CLASSES)
    async def classes() -> Response:
        """The classes, in the order of `class_index`, with their texts."""
        return Response(service.current.served.classes, media_type="application/json")

    @app.get("/healthz", **described.HEALTH)
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/readyz", **described.HEALTH)
    async def readyz() -> JSONResponse:
        """Whether requests are computed: a head is loaded, and its thread runs."""
        ready = service.is_ready
        return JSONResponse({"status": "ok" if ready else "not ready"}, 200 if ready else 503)

    @app.get("/metrics", include_in_schema=False)
    async def read_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return Response(page.PAGE, media_type="text/html", headers=page.HEADERS)

    return app


class _Service:
    def __init__(self, head: SynonymousSpaceHead | HeadSource, bounds: Bounds, look_every: float) -> None:
        self.bounds, self.metrics, self.look_every = bounds, Metrics(), look_every
        self.current = Current(head, self.metrics)
        self.decoders = ThreadPoolExecutor(bounds.decoders, thread_name_prefix="s3clip-decode")
        self.batcher: Batcher | None = None
        self.waiting = 0
        self.seconds_each = 0.0

    @property
    def is_ready(self) -> bool:
        return self.current.is_loaded and self.batcher is not None and self.batcher.is_alive

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(self.current.start)
        self.batcher = Batcher(self.bounds.batch_size, self.bounds.longest_wait, self._observe)
        follower = asyncio.create_task(self.current.follow(self.look_every))
        try:
            yield
        finally:
            follower.cancel()
            await asyncio.to_thread(self.batcher.close)
            self.decoders.shutdown()

    async def answer(self, kind: Kind, request: Request) -> Response:
        with self._admitted(1):
            asked = await self._asked(request)
            sources, rows = asked.images or [], asked.embeddings or []
            if bool(sources) == bool(rows):
                raise RefusedError(422, "expected images or embeddings, and one of the two")
            count = len(sources) or len(rows)
            if count > self.bounds.pictures:
                said = f"expected at most {self.bounds.pictures} pictures or embeddings, got {count}"
                raise RefusedError(413, said)
            with self._admitted(count - 1):
                return await self._answered(kind, self.current.served, asked, sources, rows)

    async def _answered(
        self,
        kind: Kind,
        served: Served,
        asked: Asked,
        sources: Sequence[str | bytes],
        rows: Sequence[Sequence[float]],
    ) -> Response:
        given = asked.model_dump(include={"level", "among", "language"}, exclude_none=True)
        if kind == "embed" and given:
            raise RefusedError(422, f"{', '.join(given)}: are of /predict; an embedding is the same for all")
        notes = await self._in_thread(_notes, served.head, given) if given else []
        errors: list[str | None] = [None] * max(len(sources), len(rows))
        work = Work(served.head, kind, len(rows), top_k=asked.top_k, options=given)
        if sources:
            work.pixels, errors = await self._pixels(served, sources)
            work.count = len(work.pixels)
        else:
            work.embeds = _embeddings(rows, served.head)
        found: list[Any] = []
        if work.count:
            assert self.batcher is not None  # it is started before the first request
            try:
                found = await asyncio.wrap_future(self.batcher.submit(work))
            except (ValueError, TypeError) as error:  # as predict says what is wrong with embeddings
                raise RefusedError(422, str(error)) from error
        content = await self._in_thread(_rendered, kind, found, errors, served.name, notes)
        return Response(content, media_type="application/json")

    async def _asked(self, request: Request) -> Asked:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                if kind == "multipart/form-data":
                    async with request.form(max_files=self.bounds.pictures + 1) as form:
                        fields = [
                            (name, await value.read() if isinstance(value, UploadFile) else value)
                            for name, value in form.multi_items()
                        ]
                    return asked_in_form(fields)
                body = await request.body()
        except TimeoutError:
            said = f"the body took more than {BODY_SECONDS} s"
            raise RefusedError(408, said, {"Connection": "close"}) from None
        if kind != "application/json":
            raise RefusedError(415, "expected application/json or multipart/form-data")
        asked: Asked = await self._in_thread(asked_in_json, body)
        return asked

    async def _pixels(
        self, served: Served, sources: Sequence[str | bytes]
    ) -> tuple[list[dict[str, Tensor]], list[str | None]]:
        """Return the pixels of those pictures that can be read, and why the others cannot be."""
        if served.transform is None:
            raise RefusedError(422, "images: this head has no image tower; give embeddings")
        decoded = await asyncio.gather(
            *(
                self._in_thread(pixels_of, source, place, self.bounds, served.transform)
                for place, source in enumerate(sources)
            ),
            return_exceptions=True,
        )
        pixels: list[dict[str, Tensor]] = []
        errors: list[str | None] = []
        for each in decoded:
            if isinstance(each, BaseException):
                if not isinstance(each, ValueError | OSError):
                    raise each
                errors.append(" ".join(str(each).split()))
            else:
                pixels.append(each)
                errors.append(None)
        return pixels, errors

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.decoders, function, *arguments)

    @contextmanager
    def _admitted(self, count: int) -> Iterator[None]:
        """Let in so many pictures; RefusedError where there are too many."""
        if self.waiting + count > self.bounds.waiting:
            seconds = max(1, math.ceil(self.waiting * self.seconds_each))
            raise RefusedError(503, "too much waits already; try again", {"Retry-After": str(seconds)})
        self.waiting += count
        self.metrics.waiting.set(self.waiting)
        try:
            yield
        finally:
            self.waiting -= count
            self.metrics.waiting.set(self.waiting)

    def _observe(self, pictures: int, seconds: float) -> None:
        self.metrics.observe(pictures, seconds)
        self.seconds_each = 0.9 * self.seconds_each + 0.1 * seconds / pictures


def _embeddings(rows: Sequence[Sequence[float]], head: SynonymousSpaceHead) -> Tensor:
    dim = head.space.raw.shape[1]
    for place, row in enumerate(rows):
        if len(row) != dim:
            raise RefusedError(422, f"embeddings[{place}]: expected {dim} numbers, got {len(row)}")
    embeds = torch.tensor(rows, dtype=torch.float32)
    useless = ~(embeds.isfinite().all(1) & (embeds != 0).any(1))
    if bool(useless.any()):
        place = int(useless.nonzero()[0, 0])
        raise RefusedError(422, f"embeddings[{place}]: zero, NaN or Inf")
    return embeds


def _notes(head: SynonymousSpaceHead, given: Mapping[str, Any]) -> list[str]:
    """Return what is to be said of an answer, as `predict` warns of it. Raises RefusedError."""
    try:
        return read_scope(head.classes, **given)[1]
    except (ValueError, TypeError) as error:
        raise RefusedError(422, str(error)) from error


def _rendered(
    kind: Kind, found: Sequence[Any], errors: Sequence[str | None], head: str, notes: Sequence[str]
) -> bytes:
    """Return the answer as JSON; a picture that could not be read has an error in its place."""
    remaining = iter(found)
    results: list[dict[str, Any]] = []
    for error in errors:
        if kind == "embed":
            results.append({"embedding": None if error else next(remaining), "error": error})
        else:
            best = [] if error else next(remaining)
            accepted = bool(best) and best[0]["accepted"]
            results.append({"predictions": best, "accepted": accepted, "error": error})
    said = {"warnings": notes} if notes else {}
    answer = {"results": results, **said, "head": head}
    return json.dumps(answer, ensure_ascii=False, allow_nan=False).encode()
