"""A fitted class space on the Hub: one commit to push, one snapshot to load.

Not by the mixin of huggingface_hub, which would save the backbone too, sort the keys of a configuration and
fetch its files one by one.
"""

import os
import tempfile
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    snapshot_download,
)
from huggingface_hub.errors import HfHubHTTPError

from s3clip._version import __version__
from s3clip.artifact.card import model_card
from s3clip.artifact.folder import SPACE_FILE, is_artifact, save_artifact
from s3clip.class_space import BackboneReference, ClassSpace
from s3clip.files.hub import hub_connection, is_repository

_TRIES = 5
"""Pushes that begin at the same commit: all but one of them start again from the commit of that one."""


def download_artifact(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """Return the folder of one snapshot of a class space, fetched where the cache does not have it.

    Raises:
        OSError: the Hub's own errors: no such repository or revision, no access, no connection and nothing in
            the cache.
    """
    try:
        with hub_connection():
            snapshot = snapshot_download(
                repo_id,
                revision=revision,
                token=token,
                cache_dir=None if cache_dir is None else os.fspath(cache_dir),
                local_files_only=local_files_only,
                allow_patterns=["config.json", "space-*.safetensors"],
                library_name="s3clip",
                library_version=__version__,
            )
    except Exception as error:
        error.add_note(f"There is no folder {repo_id!r} here, so it was looked for on the Hub.")
        raise
    return Path(snapshot)


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
    space = _without_local_names(space)
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
                    commit_message=commit_message or f"Class space of {len(space.classes)} classes",
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


def _without_local_names(space: ClassSpace) -> ClassSpace:
    """Return the class space without the name of a backbone that is a folder of this machine."""
    backbone = space.backbone
    if backbone is None or backbone.reference.name is None or is_repository(backbone.reference.name):
        return space
    return replace(space, backbone=replace(backbone, reference=BackboneReference(name=None)))


def _check_is_artifact(api: HfApi, repo_id: str, revision: str) -> None:
    # Into a folder of its own: one file fetched into the cache would leave a snapshot that is not whole.
    with tempfile.TemporaryDirectory() as folder:
        config = api.hf_hub_download(repo_id, "config.json", revision=revision, local_dir=folder)
        if not is_artifact(Path(config)):
            raise ValueError(
                f"repo_id: {repo_id} holds a config.json of something else (a model?), which would be lost; "
                f"push to another repository"
            )
