"""One chat model behind `InferenceClient`: waiting, trying again, counting, and keeping the key to itself."""

import random
import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Event, Lock
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from s3clip.texts.generation.questions import answer_schema

TRIES = 6  # of a request
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between tries, doubled each time
LONGEST_RETRY_AFTER = 600.0  # seconds that a server may ask to wait
FAILURES_IN_A_ROW = 8  # requests that used up their tries, after which the server counts as broken
_WAITING = {408, 425, 429}  # besides 5xx: the same request may be taken later
_REFUSING = {400, 413, 415, 422, 501}  # the request is not taken as it is
_NO_KEY = "none"  # what servers without keys are sent: InferenceClient would send the Hub's token


class GenerationError(OSError):
    """The server gave no usable answers; what it answered before is kept."""


class RequestRefusedError(Exception):
    """The server does not take this request; it may take a shorter one."""


class NoReplyError(Exception):
    """No reply in all tries; a shorter request may get one."""


class Reply(NamedTuple):
    """What the model wrote, and whether it was cut off."""

    text: str
    cut_off: bool


class Chat:
    """A chat model that is asked from several threads.

    Attributes:
        requests: sent so far, every try counted.
        prompt_tokens: read by the model, as far as the server counts.
        completion_tokens: written by it.
        stopped: set to end all waiting.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        provider: str | None = None,
        api_key: str | None = None,
        timeout: float = 120.0,
        max_tokens: int = 4096,
        max_requests: int | None = None,
    ) -> None:
        from huggingface_hub import InferenceClient, get_token

        from s3clip.files.hub import TRANSPORT_ERROR

        if base_url is not None:
            parts = urlsplit(base_url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("base_url: expected an address such as http://localhost:8000/v1")
            if parts.username is not None or parts.password is not None:
                raise ValueError("base_url: holds a user name or password; give the key by api_key instead")
            if provider is not None:
                raise ValueError("provider: is for the Hub; with base_url the server is known")
        self._key = _checked_key(api_key) or (get_token() if base_url is None else None)
        self._model = model
        self._max_requests = max_requests
        where: dict[str, Any] = {"provider": provider} if base_url is None else {"base_url": base_url}
        key = self._key or (None if base_url is None else _NO_KEY)
        self._transport_error = TRANSPORT_ERROR
        self._client = InferenceClient(**where, api_key=key, timeout=timeout)
        asking = {"temperature": 0.0, "max_tokens": max_tokens}
        schema = {"name": "synonyms", "schema": answer_schema(), "strict": True}
        # From the strictest form on; the last is for models that take no temperature.
        self._forms: list[dict[str, Any]] = [
            {**asking, "response_format": {"type": "json_schema", "json_schema": schema}},
            {**asking, "response_format": {"type": "json_object"}},
            asking,
            {},
        ]
        self.form: int | None = None
        self.requests = self.prompt_tokens = self.completion_tokens = 0
        self.stopped = Event()
        self._lock = Lock()
        self._not_before = 0.0
        self._failures = 0

    def ask(self, messages: list[dict[str, str]]) -> Reply:
        """Return the reply; the first call finds out which form of request the server takes.

        Raises:
            RequestRefusedError: the server takes it in no form.
            NoReplyError: time-outs or errors of the server in every try.
            GenerationError: no connection, no access, the rate limit or the budget, or too many failures.
        """
        forms = range(len(self._forms)) if self.form is None else [self.form]
        refused = RequestRefusedError()
        for form in forms:
            try:
                reply = self._request(messages, self._forms[form])
            except RequestRefusedError as error:
                refused = error
                continue
            self.form = form
            return reply
        raise refused

    def scrubbed(self, text: str) -> str:
        """Return a text without the key, wherever a server put it."""
        return text if self._key is None else text.replace(self._key, "***")

    def _request(self, messages: list[dict[str, str]], form: dict[str, Any]) -> Reply:
        said, status = "", None
        for tried in range(TRIES):
            self._take_turn()
            try:
                output = self._client.chat_completion(messages, model=self._model, **form)
            except (OSError, self._transport_error) as error:
                status, said, after = self._failure(error)
            except (ValueError, TypeError, KeyError, AttributeError) as error:  # InferenceClient's own
                status, after = None, 0.0
                said = self.scrubbed(f"not sent, or the reply is no chat completion: {error}")
            else:
                self._failures = 0
                return self._reply(output)
            if status in _REFUSING:
                raise RequestRefusedError(said)
            if status is not None and status not in _WAITING and status < 500:
                raise GenerationError(f"{self._model}: {said}")
            self._back_off(tried, after, said)
        self._failures += 1
        if status == 429 or said == _NO_CONNECTION or self._failures >= FAILURES_IN_A_ROW:
            raise GenerationError(f"{self._model}: {said}, {TRIES} times")
        raise NoReplyError(said)

    def _take_turn(self) -> None:
        """Wait for as long as a server asked anybody to, and count the request."""
        while (left := self._not_before - time.monotonic()) > 0 and not self.stopped.is_set():
            self.stopped.wait(left)
        with self._lock:
            if self.stopped.is_set():
                raise GenerationError("stopped")
            if self._max_requests is not None and self.requests >= self._max_requests:
                raise GenerationError(f"the budget of {self._max_requests} requests is used up")
            self.requests += 1

    def _back_off(self, tried: int, after: float | None, said: str) -> None:
        if after is not None:
            if after > LONGEST_RETRY_AFTER:
                raise GenerationError(f"{self._model}: {said}; the server asks to wait {after:.0f} s")
            with self._lock:
                self._not_before = max(self._not_before, time.monotonic() + after)
        elif tried < TRIES - 1:
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2**tried)
            self.stopped.wait(wait * random.uniform(0.5, 1.0))

    def _failure(self, error: Exception) -> tuple[int | None, str, float | None]:
        """Return the status, a line for people, and the seconds of Retry-After; none holds the key."""
        response = getattr(error, "response", None)
        if type(error).__name__ == "OfflineModeIsEnabled":
            raise GenerationError(
                f"{self._model}: HF_HUB_OFFLINE is set, which keeps huggingface_hub's client from every "
                f"server, that of base_url too; run this command with HF_HUB_OFFLINE=0"
            )
        if response is None:
            timed_out = isinstance(error, TimeoutError) or "Timeout" in type(error).__name__
            return None, "no reply in time" if timed_out else _NO_CONNECTION, None
        status = int(response.status_code)
        message = getattr(error, "server_message", None)
        if not message:
            try:
                message = response.text
            except Exception:  # a stream that was not read; each library has its own error
                message = ""
        said = " ".join(self.scrubbed(str(message)).split())[:300]
        said = f"HTTP {status}" + (f" ({said})" if said else "")
        return status, said, _seconds(response.headers.get("Retry-After"))

    def _reply(self, output: Any) -> Reply:
        usage = getattr(output, "usage", None)
        with self._lock:
            self.prompt_tokens += getattr(usage, "prompt_tokens", None) or 0
            self.completion_tokens += getattr(usage, "completion_tokens", None) or 0
        choices = getattr(output, "choices", None)
        if not choices:
            return Reply("", False)
        text = getattr(getattr(choices[0], "message", None), "content", None)
        cut_off = getattr(choices[0], "finish_reason", None) == "length"
        return Reply(self.scrubbed(text) if isinstance(text, str) else "", cut_off)


_NO_CONNECTION = "no connection to the server"


def _checked_key(key: str | None) -> str | None:
    if key is None:
        return None
    key = key.strip()
    # An HTTP library would quote it in its error.
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("api_key: is empty, or holds spaces or other characters that no key has")
    return key


def _seconds(retry_after: str | None) -> float | None:
    """Read Retry-After: seconds, or a date of HTTP."""
    if retry_after is None:
        return None
    if re.fullmatch(r"\s*-?\d+\s*", retry_after):
        return max(0.0, float(retry_after.strip()[:20]))  # more digits are more than is waited for, too
    try:
        date = parsedate_to_datetime(retry_after)
        date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
        return max(0.0, (date - datetime.now(UTC)).total_seconds())
    except (IndexError, OverflowError, TypeError, ValueError):  # of a date that is none, or in no year
        return None
