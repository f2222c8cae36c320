"""A fitted class space on the Hub: one commit to push, two files of one commit to load.

Not by the mixin of huggingface_hub, which would save the backbone too, and sort the keys of a configuration.
"""

import os
import re
import tempfile
from http import HTTPStatus
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError

from s3clip._version import __version__
from s3clip.artifact.card import model_card
from s3clip.artifact.folder import (
    SPACE_FILE,
    DamagedFileError,
    is_artifact,
    load_artifact,
    save_artifact,
    without_local_names,
)
from s3clip.class_space import ClassSpace
from s3clip.files.hub import fetch, hub_connection
from s3clip.files.json import LARGEST, read_json
from s3clip.printing import counted

_TRIES = 5
"""Pushes that begin at the same commit: all but one of them start again from the commit of that one."""


def load_from_hub(repo_id: str, **hub: Any) -> ClassSpace:
    """Return a class space of the Hub; a file that the cache holds damaged is fetched again, once.

    Args:
        repo_id: "user/name".
        hub: `revision`, `token`, `cache_dir` and `local_files_only`, as for `download_artifact`.

    Raises:
        ValueError: a broken artifact, or a newer format.
        OSError: as `download_artifact`.
    """
    folder = download_artifact(repo_id, **hub)
    try:
        return load_artifact(folder)
    except DamagedFileError as error:
        damaged = error
    advice = ""
    if not (hub.get("local_files_only") or constants.HF_HUB_OFFLINE):
        try:
            folder = download_artifact(repo_id, **hub, force=True)
            return load_artifact(folder)
        except DamagedFileError as error:
            damaged, advice = error, "it was fetched twice; "
        except OSError as error:
            advice = f"it cannot be fetched again ({error}); "
    # The files themselves: what is deleted in the folder of a snapshot is but a link to them.
    kept = " and ".join(os.path.realpath(path) for path in sorted(folder.iterdir()) if path.is_file())
    raise DamagedFileError(f"{damaged}; {advice}if the repository is whole, delete {kept}") from damaged


def download_artifact(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force: bool = False,
) -> Path:
    """Return the folder of one commit of a class space, fetched where the cache does not have it.

    Two files, and nothing else that a repository may hold: config.json, and the one that it names.

    Raises:
        OSError: the Hub's own errors: no such repository or revision, no access, no connection and nothing in
            the cache.
    """
    place: dict[str, Any] = {
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
        "token": token,
        "force": force,
    }
    try:
        try:
            return _both(repo_id, revision, place)
        except RevisionNotFoundError:
            if revision is not None:
                raise
            return _both(repo_id, revision, place)  # the history was written anew between the two
    except Exception as error:
        error.add_note(f"there is no folder {repo_id!r} here, so it was looked for on the Hub")
        raise


def _both(repo_id: str, revision: str | None, place: dict[str, Any]) -> Path:
    config = fetch(repo_id, "config.json", revision=revision, **place, largest=LARGEST)
    folder = config.parent
    try:
        content = read_json(config)
    except ValueError:
        return folder  # whoever loads it says so
    name = content.get("space_file") if isinstance(content, dict) else None
    if isinstance(name, str) and SPACE_FILE.fullmatch(name):
        try:
            # Of the commit of the first: a branch may move between the two.
            fetch(repo_id, name, revision=folder.name, **place)
        except EntryNotFoundError:
            if place["local_files_only"]:
                raise
    return folder


@hub_connection()
def push_artifact(
    space: ClassSpace,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    replace_card: bool = False,
) -> str:
    """Write an artifact to a repository in one commit, which takes the place of the one that was there.

    A backbone that is a folder of this machine is left unnamed: others cannot load it by that.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        ValueError: the repository holds the config.json of something else, such as a model.
        OSError: the Hub's own errors, and no connection to it.
    """
    api = HfApi(token=token, library_name="s3clip", library_version=__version__)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not create_pr:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    space = without_local_names(space)
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_artifact(temporary, space)
        for left in reversed(range(_TRIES)):
            parent = api.model_info(repo_id, revision=revision)
            there = {sibling.rfilename for sibling in parent.siblings or ()}
            if "config.json" in there:
                _check_is_artifact(api, repo_id, str(parent.sha))
            if replace_card or "README.md" not in there:
                model_card(space, repo_id).save(folder / "README.md")
            written = sorted(path.name for path in folder.iterdir())
            gone = [name for name in there - set(written) if SPACE_FILE.fullmatch(name)]
            try:
                commit = api.create_commit(
                    repo_id,
                    [
                        *(CommitOperationAdd(name, folder / name) for name in written),
                        *(CommitOperationDelete(name) for name in sorted(gone)),
                    ],
                    commit_message=commit_message or f"Class space of {counted(len(space.classes), 'class')}",
                    revision=revision,
                    create_pr=create_pr,
                    parent_commit=parent.sha,
                )
            except HfHubHTTPError as error:
                status = getattr(error.response, "status_code", None)
                if status not in (HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED) or not left:
                    raise
                # Somebody else pushed meanwhile: what is to be deleted is another file now.
                (folder / "README.md").unlink(missing_ok=True)
                continue
            return str(commit.pr_url if create_pr else commit.commit_url)
    raise AssertionError("the last try returns or raises")


def pushed_to(address: str) -> tuple[str, str | None]:
    """Return the repository's full name and, of a pull request, its revision, from the address of a push."""
    found = re.search(r"([^/]+/[^/]+)/(?:commit/|discussions/(\d+))", address)
    if found is None:
        raise ValueError(f"address: expected that of a commit or of a pull request, got {address}")
    return found[1], None if found[2] is None else f"refs/pr/{found[2]}"


def _check_is_artifact(api: HfApi, repo_id: str, revision: str) -> None:
    # Into a folder of its own: one file fetched into the cache would leave a snapshot that is not whole.
    with tempfile.TemporaryDirectory() as folder:
        config = api.hf_hub_download(repo_id, "config.json", revision=revision, local_dir=folder)
        if not is_artifact(Path(config)):
            raise ValueError(
                f"repo_id: {repo_id} holds a config.json of something else (a model?), which would be lost; "
                f"push to another repository"
            )
