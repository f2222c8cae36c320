"""The Hub: what a repository is called, files of one fetched or found in the cache, and what may go wrong.

A server that is busy is asked again for `PATIENCE` seconds. Where the Hub cannot be asked at all, the file in
the cache is taken, with a warning; where there is none, one sentence says why, and what can be done without a
network.
"""

import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from s3clip.files.folders import beside
from s3clip.files.waiting import seconds_to_wait

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")

TRANSPORT_ERROR: Any = HfHubHTTPError.__mro__[1]
"""The base of the errors of its HTTP library: requests in older versions, httpx in newer ones."""

PATIENCE = 30.0
"""Seconds after which a server that is busy is not asked again; one that asks for more is not waited for."""
_FIRST_WAIT = 0.5  # seconds, doubled each time
_MOST_REDIRECTS = 5
_BUSY = (408, 429, 500, 502, 503, 504)
_NO_ACCESS = (401, 403, 404)

OFFLINE = "without a network, give a folder of this machine, or s3clip.demo.model_folder(), the demo model"

ACCESS = ("token", "cache_dir", "local_files_only")
"""Arguments of `fetch` that mean the same wherever a file of the Hub is asked for."""

Result = TypeVar("Result")


@contextmanager
def hub_connection() -> Iterator[None]:
    """Raise ConnectionError for errors of huggingface_hub's HTTP library that it lets through."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or not isinstance(error, TRANSPORT_ERROR):
            raise
        raise ConnectionError(f"the connection to the Hub failed ({error}); try again") from error


def is_repository(name: str) -> bool:
    """Whether a name has the form user/name of a repository on the Hub, and no such folder is here."""
    return _REPOSITORY.fullmatch(name) is not None and not os.path.isdir(name)


def is_hub_name(name: str) -> bool:
    """Whether a name can be of the Hub alone: no path of this machine, and no address."""
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) is not None


def fetch(
    repo_id: str,
    file: str,
    *,
    repo_type: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force: bool = False,
    largest: int | None = None,
) -> Path:
    """Return a file of a repository, whole: from the Hub, or from its cache where the Hub cannot be asked.

    Args:
        repo_id: "user/name".
        file: its path there.
        repo_type: "dataset", or None for a model.
        revision: branch, tag or commit; a file of a commit that is in the cache is not asked for.
        token: of the Hub; None: the one of `hf auth login`.
        cache_dir: the Hub's cache; None: the usual one.
        local_files_only: ask the Hub for nothing.
        force: fetch it anew, also where the cache has it.
        largest: bytes that it may have.

    Raises:
        RevisionNotFoundError, EntryNotFoundError: no such revision or file; and the Hub's other errors of
            access, where the cache has nothing.
        FileNotFoundError: not in the cache, and the Hub is not to be asked.
        ConnectionError: it cannot be reached, or is busy for too long, and the cache has nothing.
        ValueError: it is larger than `largest`.
    """
    from huggingface_hub import hf_hub_download

    folder = None if cache_dir is None else os.fspath(cache_dir)
    where: dict[str, Any] = {"repo_type": repo_type, "revision": revision, "cache_dir": folder}
    kept = None if force else _cached(repo_id, file, where)
    if kept is not None and (local_files_only or _COMMIT.fullmatch(revision or "")):
        return kept
    if local_files_only:
        return Path(hf_hub_download(repo_id, file, **where, local_files_only=True))  # its error says it
    patience = PATIENCE if kept is None else 0.0
    try:
        commit = _answered(lambda: _ask(repo_id, file, repo_type, revision, token, largest), patience)

        def download(force: bool) -> str:
            return str(
                hf_hub_download(
                    repo_id, file, **where, token=token, force_download=force, library_name="s3clip"
                )
            )

        try:
            found = Path(_answered(lambda: download(force), patience))
            if found == kept and commit not in found.parts:  # before version 1 it says nothing of it
                raise ConnectionError("the file cannot be fetched")
            return found
        except OSError as error:
            if force or not _is_cut(error):
                raise
            # What is left of the first try may be longer than the file: it would never be whole.
            return Path(_answered(lambda: download(True), patience))
    except Exception as error:
        return _fallen_back(error, kept, repo_id, file)


def find_model(
    name: str, *, revision: str | None = None, subfolder: str = "", local_files_only: bool = False, **hub: Any
) -> tuple[str | None, bool]:
    """Return the commit of a model, and whether it can be had from the cache alone, as a warning then says.

    Args:
        name: of the model, as transformers takes it.
        revision: branch, tag or commit.
        subfolder: of the repository.
        local_files_only: the Hub is not to be asked.
        hub: `token` and `cache_dir`; what else there is has no meaning here.

    Returns:
        The commit, None where transformers says what is wrong; and True where the Hub cannot be asked.

    Raises:
        EntryNotFoundError: it has no config.json, and so is of another kind.
        FileNotFoundError: there is no such model, or no access to it.
        ConnectionError: the Hub cannot be reached, and the cache has nothing.
    """
    hub = {key: value for key, value in hub.items() if key in ("token", "cache_dir")}
    file = f"{subfolder}/config.json" if subfolder else "config.json"
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = fetch(name, file, revision=revision, local_files_only=local_files_only, **hub)
    except (RevisionNotFoundError, HFValidationError, LocalEntryNotFoundError):
        return None, False
    except EntryNotFoundError:
        raise
    except HfHubHTTPError as error:
        raise FileNotFoundError(
            f"name: no model {name!r} on the Hub that can be read ({_reason(error)}); check how it is spelt, "
            f"or log in with `hf auth login`; {OFFLINE}{beside(name)}"
        ) from error
    for each in said:
        warnings.warn(str(each.message), stacklevel=3)
    return commit_of(found), bool(said)


def commit_of(file: Path) -> str | None:
    """Return the commit of a file that `fetch` returned, None for one that is not of the cache."""
    parts = file.parts
    after = parts.index("snapshots") + 1 if "snapshots" in parts else len(parts)
    return parts[after] if after < len(parts) else None


def _cached(repo_id: str, file: str, where: dict[str, Any]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo_id, file, **where)
    return Path(found) if isinstance(found, str) else None


def _ask(
    repo_id: str,
    file: str,
    repo_type: str | None,
    revision: str | None,
    token: str | bool | None,
    largest: int | None,
) -> str:
    """Return the commit that has a file; asked once: huggingface_hub waits for as long as a server says."""
    from huggingface_hub import hf_hub_url

    about = _head(hf_hub_url(repo_id, file, repo_type=repo_type, revision=revision), token).headers
    if not about.get("X-Repo-Commit") or not (about.get("X-Linked-Etag") or about.get("ETag")):
        raise ConnectionError("what answers is not the Hub; is there a proxy?")
    size = about.get("X-Linked-Size") or about.get("Content-Length") or ""
    if largest is not None and size.isdecimal() and int(size[:20]) > largest:
        raise ValueError(f"{repo_id}/{file}: {int(size[:20]):,} bytes, more than is read ({largest:,})")
    return str(about["X-Repo-Commit"])


def _head(url: str, token: str | bool | None) -> Any:
    """Return the answer to a HEAD; redirects within the Hub are followed, those to its storage are not."""
    from huggingface_hub import constants, utils

    hub: Any = utils  # says of none of these that it exports it
    session = hub.get_session()
    headers = {**hub.build_hf_headers(token=token, library_name="s3clip"), "Accept-Encoding": "identity"}
    # requests before version 1 of huggingface_hub, then httpx
    stay = {"allow_redirects": False} if hasattr(session, "adapters") else {"follow_redirects": False}
    for _ in range(_MOST_REDIRECTS):
        answer = session.head(url, headers=headers, timeout=constants.HF_HUB_ETAG_TIMEOUT, **stay)
        hub.hf_raise_for_status(answer)
        target = urljoin(url, answer.headers.get("Location") or url)
        if answer.status_code < 300 or urlsplit(target).netloc != urlsplit(url).netloc:
            return answer
        url = target
    raise ConnectionError(f"{_MOST_REDIRECTS} redirects, one after the other")


def _answered(call: Callable[[], Result], patience: float) -> Result:
    """Call the Hub, again where it is busy or hangs up, within so many seconds.

    Before version 1 huggingface_hub waits in a download too, 23 s in all: so much later it may end.
    """
    began, wait, broken = time.monotonic(), _FIRST_WAIT, 0
    while True:
        try:
            return call()
        except Exception as error:
            status, after = _status(error)
            broken += status is None
            is_worth_it = status in _BUSY or (_hangs_up(error) and broken == 1)
            pause = wait if after is None else after
            if not is_worth_it or time.monotonic() - began + pause > patience:
                raise
        time.sleep(pause)
        wait *= 2


def _status(error: Exception) -> tuple[int | None, float | None]:
    """Return the status of an answer, and the seconds that it asks to wait."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if response is None or not isinstance(status, int):
        return None, None
    return status, seconds_to_wait(response.headers.get("Retry-After"))


def _hangs_up(error: Exception) -> bool:
    """Whether a connection was refused or broke off, which may be mended; a time-out has been waited for."""
    slow = isinstance(error, TimeoutError) or "Timeout" in type(error).__name__
    return _is_of_network(error) and not slow and not isinstance(error, OfflineModeIsEnabled)


def _is_of_network(error: Exception) -> bool:
    library = type(error).__module__.partition(".")[0] in ("requests", "urllib3", "httpx", "httpx2")
    known = (TRANSPORT_ERROR, HfHubHTTPError, LocalEntryNotFoundError, ConnectionError, TimeoutError)
    return library or _is_cut(error) or isinstance(error, (*known, OverflowError, RecursionError))


def _is_cut(error: Exception) -> bool:
    """Whether a file is not as long as it was said to be."""
    # A plain OSError of huggingface_hub: of a disk that is full, the number is set.
    return isinstance(error, OSError) and error.errno is None and "onsistency" in str(error)


def _fallen_back(error: Exception, kept: Path | None, repo: str, file: str) -> Path:
    """Return the file of the cache, with a warning, or raise what is wrong in a sentence."""
    what = f"{repo}/{file}"
    if isinstance(error, RevisionNotFoundError) or not _is_of_network(error):
        raise error
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        raise error
    if kept is None:
        if _status(error)[0] in _NO_ACCESS:
            raise error
        said = f"{what}: not in the cache, and {_reason(error)}; {OFFLINE}{beside(repo)}"
        raise ConnectionError(said) from error
    if not isinstance(error, OfflineModeIsEnabled):
        warnings.warn(
            f"{what}: {_reason(error)}; the copy of it in the cache is used, which may be older", stacklevel=4
        )
    return kept


def _reason(error: Exception) -> str:
    status, after = _status(error)
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if status is None:
        said = (str(error) or type(error).__name__).splitlines()[0][:200]
        return f"the Hub cannot be reached ({said})"
    asked = f", which asks to wait {after:,.0f} s" if status in _BUSY and after else ""
    return f"the Hub answers HTTP {status}{asked}"
