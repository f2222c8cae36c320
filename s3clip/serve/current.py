"""The head that answers now. Another one takes its place between requests, whole."""

import asyncio
import json
import logging
from dataclasses import dataclass

from s3clip.backbone.image_transform import ImageTransform
from s3clip.head import SynonymousSpaceHead
from s3clip.serve.metrics import Metrics
from s3clip.serve.source import HeadSource

log = logging.getLogger("s3clip.serve")


@dataclass(frozen=True)
class Served:
    """A head with what requests need of it; a request has one from its beginning to its end.

    Attributes:
        head: that answers.
        transform: what makes pixels of pictures; None for a head of embeddings alone.
        name: 16 hex digits of its class space, which its answers say.
        classes: the JSON of its classes.
    """

    head: SynonymousSpaceHead
    transform: ImageTransform | None
    name: str
    classes: bytes

    @classmethod
    def of(cls, head: SynonymousSpaceHead) -> "Served":
        """Prepare a head."""
        name = head.class_space.digest()[:16]
        classes = [
            {"index": i, "name": each.name, "id": each.id, "texts": each.texts, "groups": each.groups}
            for i, each in enumerate(head.classes)
        ]
        said = json.dumps({"classes": classes, "head": name}, ensure_ascii=False).encode()
        transform = None if head.backbone is None else head.backbone.image_transform()
        return cls(head.eval(), transform, name, said)


class Current:
    """What is served, and what is looked for in its place.

    Args:
        given: a head, which stays, or where to load one from.
        metrics: count the heads that were loaded.
    """

    def __init__(self, given: SynonymousSpaceHead | HeadSource, metrics: Metrics) -> None:
        self._source = given if isinstance(given, HeadSource) else None
        self._version: str | None = None
        self._metrics = metrics
        self._served = None if isinstance(given, HeadSource) else Served.of(given)

    @property
    def served(self) -> Served:
        """The head that a request which begins now is answered by."""
        assert self._served is not None  # `start` has loaded it
        return self._served

    @property
    def is_loaded(self) -> bool:
        """Whether there is one."""
        return self._served is not None

    def start(self) -> None:
        """Load the head, if it is not there; for the errors see `HeadSource`."""
        if self._source is not None and self._served is None:
            self._version = self._source.version()
            self._served = Served.of(self._source.load())

    async def follow(self, every: float) -> None:
        """Look for another head every so many seconds, for good; what cannot be loaded is tried again."""
        while self._source is not None:
            await asyncio.sleep(every)
            try:
                await asyncio.to_thread(self._look, self._source)
            except Exception as error:  # whatever it is, the head that is there answers on
                self._metrics.takeovers.labels("failed").inc()
                log.warning(
                    "%s: the head there cannot be loaded (%s); the last one serves on", self._source, error
                )

    def _look(self, source: HeadSource) -> None:
        version = source.version()  # before it is loaded: what changes meanwhile is seen the next time
        if version == self._version:
            return
        found = Served.of(source.load(self.served.head))
        self._version, changed = version, found.name != self.served.name
        if changed:
            self._served = found
            self._metrics.takeovers.labels("taken over").inc()
            log.warning("%s: another head, %s, serves from now on", source, found.name)
