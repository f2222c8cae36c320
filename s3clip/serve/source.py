"""Where a head comes from, and whether there is another one by now."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from s3clip.backbone.precision import check_precision
from s3clip.files.hub import commit_of, fetch, is_repository
from s3clip.files.state import file_state
from s3clip.head import SynonymousSpaceHead
from s3clip.prediction.precision import set_precision, trial_inputs

log = logging.getLogger("s3clip.serve")

CONFIG = "config.json"
"""The file of an artifact that names the others by their digests: it is written last, and says all of it."""


@dataclass(frozen=True)
class HeadSource:
    """A saved head: a folder, or a repository on the Hub.

    Attributes:
        place: of it.
        revision: branch, tag or commit, on the Hub.
        backbone: as for `SynonymousSpaceHead.from_pretrained`.
        device: where to compute.
        dtype: in what the image tower computes, as for `s3clip.prediction.precision.set_precision`.
        compiled: see there.
        images: with which "auto" tries the types: as for `predict`. What it takes is said in the log.
    """

    place: str
    revision: str | None = None
    backbone: Any = "saved"
    device: str | torch.device | None = None
    dtype: str | None = None
    compiled: bool = False
    images: Sequence[Path | str] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for a `dtype` that is not known."""
        check_precision(self.dtype)

    def version(self) -> str:
        """Return what changes when the head does.

        Raises:
            OSError: it cannot be told now: the folder is gone, the Hub cannot be reached.
        """
        if is_repository(self.place):
            file = fetch(self.place, CONFIG, revision=self.revision)
            return commit_of(file) or str(file_state(file))
        if not os.path.isdir(self.place):
            raise FileNotFoundError(f"{self.place} is not a saved class space: no such folder")
        return str(file_state(os.path.join(self.place, CONFIG)))

    def load(self, before: SynonymousSpaceHead | None = None) -> SynonymousSpaceHead:
        """Load it; the image tower of the one before serves again where it is the same, in the same type.

        Raises:
            ValueError, OSError: as `SynonymousSpaceHead.from_pretrained` does; or code cannot be compiled.
        """
        found = SynonymousSpaceHead.from_pretrained
        if before is not None and before.backbone is not None:
            try:
                return found(self.place, revision=self.revision, backbone=before.backbone, device=self.device)
            except ValueError:  # of another backbone, or damaged, which the next one says
                pass
        head = found(self.place, revision=self.revision, backbone=self.backbone, device=self.device)
        if head.backbone is not None:
            inputs = partial(trial_inputs, head.backbone, self.images)
            trial = set_precision(head, self.dtype, compiled=self.compiled, inputs=inputs)
            if trial is not None:
                log.warning("dtype: %s", trial.said)
        return head

    def __str__(self) -> str:
        return self.place if is_repository(self.place) else str(Path(self.place).absolute())
