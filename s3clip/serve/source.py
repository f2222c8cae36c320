"""Where a head comes from, and whether there is another one by now."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from s3clip.files.hub import commit_of, fetch, is_repository
from s3clip.files.state import file_state
from s3clip.head import SynonymousSpaceHead

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
    """

    place: str
    revision: str | None = None
    backbone: Any = "saved"
    device: str | torch.device | None = None

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
        """Load it; the image tower of the one before serves again where it is the same.

        Raises:
            ValueError, OSError: as `SynonymousSpaceHead.from_pretrained` does.
        """
        found = SynonymousSpaceHead.from_pretrained
        if before is not None and before.backbone is not None:
            try:
                return found(self.place, revision=self.revision, backbone=before.backbone, device=self.device)
            except ValueError:  # of another backbone, or damaged, which the next one says
                pass
        return found(self.place, revision=self.revision, backbone=self.backbone, device=self.device)

    def __str__(self) -> str:
        return self.place if is_repository(self.place) else str(Path(self.place).absolute())
