"""All classes of a task, asked in batches by several threads."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from s3clip.texts.generation.chat import Chat, GenerationError, NoReplyError, RequestRefusedError
from s3clip.texts.generation.journal import SUFFIX, Journal, Question
from s3clip.texts.generation.questions import PROMPT_VERSION, batches, question, read_answer
from s3clip.texts.sources import Source
from s3clip.texts.synonyms import Generated, SynonymClass, SynonymSet

ATTEMPTS = 3  # to get an answer that can be read, before the batch is parted


class Progress(NamedTuple):
    """How far a run is: classes answered of all, requests sent, tokens as the server counts them."""

    answered: int
    classes: int
    requests: int
    prompt_tokens: int
    completion_tokens: int


def generate_synonyms(
    classes: Source | SynonymSet,
    *,
    model: str,
    base_url: str | None = None,
    provider: str | None = None,
    domain: str | None = None,
    out: str | os.PathLike[str] | None = None,
    api_key: str | None = None,
    classes_per_request: int = 10,
    concurrency: int = 4,
    max_requests: int | None = None,
    max_tokens: int = 4096,
    timeout: float = 120.0,
    allow_failed: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> SynonymSet:
    """Ask a chat model for synonyms and descriptors of classes.

    With `out`, every answer is written to a file beside it at once ("pets.json.partial.jsonl"), and the same
    call after an error or a kill asks only about what is missing.

    Args:
        classes: class names, or anything that `SynonymSet.read` takes; its texts stay, and answers come after
            them.
        model: of the server or the Hub, "meta-llama/Llama-3.3-70B-Instruct".
        base_url: of a server that speaks OpenAI's chat completions; None: the Hub.
        provider: of the Hub, as for `InferenceClient`; None: the Hub chooses.
        domain: what the classes are, "a kind of bird".
        out: the .json file to write at the end.
        api_key: of the server; None: the Hub's token on the Hub, and none elsewhere.
        classes_per_request: at most; a name of more than eight words is asked about alone.
        concurrency: requests at once, after the first.
        max_requests: of this call, every try counted.
        max_tokens: of one answer.
        timeout: seconds that a server may be silent.
        allow_failed: return classes without a usable answer as they came, instead of an error.
        progress: called after every answer.

    Raises:
        GenerationError: (an OSError) no connection or access, budget used up, or classes without an answer.
        FileExistsError: if `out` is there and nothing says that it is this run's.
        ValueError: for an argument out of range, or classes that cannot be read.
    """
    own = SynonymSet.read(classes)
    if not model.strip() or "://" in model:
        raise ValueError(f"model: expected the name of a model, got {model!r}; an address goes into base_url")
    for name, value in (
        ("classes_per_request", classes_per_request),
        ("concurrency", concurrency),
        ("max_tokens", max_tokens),
        ("max_requests", 1 if max_requests is None else max_requests),
    ):
        if value < 1:
            raise ValueError(f"{name}: expected 1 or more, got {value}")
    if not timeout > 0:
        raise ValueError(f"timeout: expected seconds above 0, got {timeout}")
    asked = Question(model=model, prompt_version=PROMPT_VERSION, domain=domain)
    date = datetime.now(UTC).date().isoformat()
    generated = Generated(**asked.model_dump(), date=date)
    chat = Chat(
        model,
        base_url=base_url,
        provider=provider,
        api_key=api_key,
        timeout=timeout,
        max_tokens=max_tokens,
        max_requests=max_requests,
    )
    journal = None if out is None else _open_journal(Path(os.path.realpath(out)), asked, base_url or provider)
    run = _Run(chat, own.class_names, domain, journal, progress)
    try:
        run.answer_all(classes_per_request, concurrency)
    finally:
        if journal is not None:
            journal.close()
    if run.failed and not allow_failed:
        position, problem = min(run.failed.items())
        raise GenerationError(
            f"{len(run.failed)} of {len(own.classes)} classes have no usable answer, such as class "
            f"{position} ({own.class_names[position]!r}): {problem}" + _hint(journal)
        )
    result = own.model_copy(
        update={
            "generated": generated,
            "classes": tuple(
                _joined(each, run.answers.get(position)) for position, each in enumerate(own.classes)
            ),
        }
    )
    if out is not None and journal is not None:
        result.write(out)
        journal.path.unlink(missing_ok=True)
    return result


def _open_journal(out: Path, asked: Question, server: str | None) -> Journal:
    if out.suffix.lower() != ".json":
        raise ValueError(f"out: expected a name that ends in .json, got {str(out)!r}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"out: there is no folder {str(out.parent)!r}")
    journal = Journal(out.with_name(out.name + SUFFIX), asked, server)
    if out.exists() and not journal.path.exists():
        raise FileExistsError(f"out: {out} is there already; name another file, or remove it first")
    return journal


def _joined(own: SynonymClass, answer: SynonymClass | None) -> SynonymClass:
    if answer is None:
        return own
    had = {own.name, *own.synonyms}
    synonyms = [text for text in answer.synonyms if text not in had]
    descriptors = [text for text in answer.descriptors if text not in own.descriptors]
    return own.model_copy(
        update={
            "synonyms": (*own.synonyms, *synonyms),
            "descriptors": (*own.descriptors, *descriptors),
        }
    )


def _hint(journal: Journal | None) -> str:
    hint = "; what was answered is kept: the same command asks about the rest alone"
    return "" if journal is None else hint


class _Run:
    """The answers of a run, and the classes that have none."""

    def __init__(
        self,
        chat: Chat,
        names: list[str],
        domain: str | None,
        journal: Journal | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._chat, self._domain, self._journal, self._progress = chat, domain, journal, progress
        self._names = dict(enumerate(names))
        self._lock = Lock()
        self.answers = {} if journal is None else journal.read(self._names)
        self.failed: dict[int, str] = {}

    def answer_all(self, size: int, concurrency: int) -> None:
        left = {number: name for number, name in self._names.items() if number not in self.answers}
        questions = batches(left, size)
        try:
            # The first alone: it finds out what the server takes, and whether the key is right.
            for batch in questions[:1]:
                self._answer(batch)
            pool = ThreadPoolExecutor(concurrency)
            try:
                for done in as_completed([pool.submit(self._answer, batch) for batch in questions[1:]]):
                    done.result()
            except BaseException as error:
                self._chat.stopped.set()
                # What is on its way is waited for, but not on Ctrl-C: a server may be silent for minutes.
                pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
                raise
            pool.shutdown()
        except GenerationError as error:
            answered = f"{len(self.answers)} of {len(self._names)} classes are answered"
            raise GenerationError(f"{error}; {answered}{_hint(self._journal)}") from None
        finally:
            self._report()

    def _answer(self, batch: dict[int, str]) -> None:
        """Ask about a batch until all of it is answered, in ever smaller parts."""
        left, problem = dict(batch), None
        for _ in range(ATTEMPTS):
            try:
                reply = self._chat.ask(question(left, self._domain, problem))
            except (RequestRefusedError, NoReplyError) as error:
                problem = str(error)
                if len(left) == 1 and self._chat.form is None and isinstance(error, RequestRefusedError):
                    raise GenerationError(problem) from None  # nothing was ever taken
                break
            found, problem = read_answer(reply.text, left)
            self._keep(found)
            left = {number: name for number, name in left.items() if number not in found}
            if not left:
                return
            if reply.cut_off:
                problem = "it is cut off at max_tokens"
                break
        numbers = list(left)
        if len(numbers) == 1:
            with self._lock:
                self.failed[numbers[0]] = problem or ""
            return
        half = len(numbers) // 2
        for part in (numbers[:half], numbers[half:]):
            self._answer({number: left[number] for number in part})

    def _keep(self, found: dict[int, SynonymClass]) -> None:
        if not found:
            return
        if self._journal is not None:
            self._journal.add(found)
        with self._lock:
            self.answers.update(found)
        self._report()

    def _report(self) -> None:
        if self._progress is not None:
            chat = self._chat
            counts = (chat.requests, chat.prompt_tokens, chat.completion_tokens)
            self._progress(Progress(len(self.answers), len(self._names), *counts))
