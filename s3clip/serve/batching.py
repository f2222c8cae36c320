"""Pictures of several requests through the image tower at once: a queue, and one thread that computes."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from s3clip.head import SynonymousSpaceHead
from s3clip.space.synonymous_space import unit_vectors

Kind = Literal["predict", "embed"]
"""Of answer."""


@dataclass
class Work:
    """What one request asks for of the thread that computes.

    Attributes:
        head: that answers it, from beginning to end.
        kind: of answer.
        count: how many pictures or embeddings.
        pixels: of each picture, the arguments of `encode_images` for it alone; none with embeddings.
        embeds: (count, dim) embeddings instead.
        top_k: of `predict`.
        options: what else `predict` gets: `level`, `among`, `language`.
        since: when it came, of `time.monotonic`.
        answer: one entry for each picture: its predictions as records, or its embedding as a list.
    """

    head: SynonymousSpaceHead
    kind: Kind
    count: int
    pixels: Sequence[dict[str, Tensor]] = ()
    embeds: Tensor | None = None
    top_k: int = 5
    options: dict[str, Any] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)
    answer: "Future[list[Any]]" = field(default_factory=Future)


class Batcher:
    """A queue and its thread.

    A batch begins when the first picture has waited for `longest_wait`, or when it is full; while one is
    computed, the next one gathers. All works of a batch have the same head. A work is never split.

    Args:
        batch_size: pictures in a batch, but for one work that has more.
        longest_wait: in seconds.
        observe: is told the pictures of each batch, and the seconds that it took.
    """

    def __init__(
        self, batch_size: int, longest_wait: float, observe: Callable[[int, float], None] = lambda *_: None
    ) -> None:
        self.batch_size, self.longest_wait, self._observe = batch_size, longest_wait, observe
        self._waiting: deque[Work] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="s3clip-serve", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether somebody computes."""
        return self._thread.is_alive()

    def submit(self, work: Work) -> "Future[list[Any]]":
        """Put work into the queue, and return its answer to come."""
        with self._changed:
            if self._closed:
                raise RuntimeError("the service ends")
            self._waiting.append(work)
            self._changed.notify()
        return work.answer

    def close(self) -> None:
        """Compute what waits, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            started = time.monotonic()
            _answer(batch)
            self._observe(sum(work.count for work in batch), time.monotonic() - started)

    def _next(self) -> list[Work]:
        """Return the works of the next batch, none at the end."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if not self._waiting:
                return []
            until = self._waiting[0].since + self.longest_wait
            while not self._closed and self._gathered()[1] < self.batch_size:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            works, _ = self._gathered()
            return [self._waiting.popleft() for _ in range(works)]

    def _gathered(self) -> tuple[int, int]:
        """Return how many works at the head of the queue make a batch, and their pictures."""
        works = pictures = 0
        for work in self._waiting:
            if works and (pictures + work.count > self.batch_size or work.head is not self._waiting[0].head):
                return works, max(pictures, self.batch_size)  # nothing more fits, however long one waits
            works, pictures = works + 1, pictures + work.count
        return works, pictures


def _answer(works: Sequence[Work]) -> None:
    """Answer works of one head. What is wrong with one of them is not the others' fault."""
    works = [work for work in works if work.answer.set_running_or_notify_cancel()]
    try:
        answers = _computed(works) if works else []
    except Exception as error:
        for work in works:
            if len(works) == 1:
                work.answer.set_exception(error)
                continue
            try:
                work.answer.set_result(_computed([work])[0])
            except Exception as own:
                work.answer.set_exception(own)
        return
    for work, answer in zip(works, answers, strict=True):
        work.answer.set_result(answer)


@torch.inference_mode()
def _computed(works: Sequence[Work]) -> list[list[Any]]:
    head = works[0].head
    encoded = iter(_encoded(head, [each for work in works for each in work.pixels]))
    embeds = [
        torch.stack([next(encoded) for _ in work.pixels]) if work.embeds is None else work.embeds
        for work in works
    ]
    answers: list[list[Any]] = [[] for _ in works]
    alike: dict[str, list[int]] = {}
    for place, work in enumerate(works):
        if work.kind == "embed":
            answers[place] = unit_vectors(embeds[place]).tolist()
        else:
            alike.setdefault(repr(sorted(work.options.items())), []).append(place)
    for places in alike.values():
        # The best k are the first k of the best of more.
        top_k = max(works[place].top_k for place in places)
        rows = torch.cat([embeds[place] for place in places])
        found = iter(
            head.predict(image_embeds=rows, top_k=top_k, batch_size=len(rows), **works[places[0]].options)
        )
        for place in places:
            best = [next(found)[: works[place].top_k] for _ in range(works[place].count)]
            answers[place] = [[asdict(each) for each in own] for own in best]
    return answers


def _encoded(head: SynonymousSpaceHead, pixels: Sequence[dict[str, Tensor]]) -> Tensor:
    """Return (pictures, dim) embeddings."""
    if not pixels:
        return torch.empty(0, head.space.raw.shape[1])
    backbone = head.backbone
    assert backbone is not None  # pixels are made with its transform
    inputs = {key: torch.cat([each[key] for each in pixels]).to(backbone.device) for key in pixels[0]}
    return backbone.encode_images(**inputs)
