"""What would change if a text that was dropped were kept: other texts that come with it, other answers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from s3clip.class_space.edits import reconfigure
from s3clip.class_space.examples import LearnedResidual
from s3clip.head import SynonymousSpaceHead
from s3clip.inspection.matches import ImageMatch
from s3clip.inspection.reports import ClassReport

MOST_TRIED = 12
"""Settings of a head that are tried, each of which builds all spaces once more."""


@dataclass(frozen=True)
class Consequence:
    """What settings change.

    Attributes:
        kept: how many texts more are kept, all classes together.
        answers: how many of the images are taken for another class; None where there are no images.
    """

    kept: int
    answers: int | None


@torch.no_grad()
def find_consequences(
    head: SynonymousSpaceHead, reports: Sequence[ClassReport], matches: Sequence[ImageMatch] = ()
) -> dict[str, Consequence]:
    """Try the settings that keep texts that were dropped.

    Args:
        head: a fitted head, which stays as it is.
        reports: of its classes.
        matches: of the images.

    Returns:
        By the settings as JSON, those of the first `MOST_TRIED` that are there. Nothing for a head that holds
        what it learned of labelled images without those images: it has these settings alone.
    """
    space = head.class_space
    if isinstance(space.few_shot, LearnedResidual):
        return {}
    wanted: dict[str, dict[str, Any]] = {}
    for report in reports:
        wanted |= {json.dumps(t.reason.kept_by): t.reason.kept_by for t in report.texts if t.reason}
    before, found = len(head.space.kept), {}
    for settings in list(wanted)[:MOST_TRIED]:
        changed, answers = reconfigure(space, **wanted[settings]), None
        if matches:
            other = SynonymousSpaceHead(head.backbone, config=head.config)
            other._take(changed, progress=False)
            best = other(image_embeds=torch.stack([match.embedding for match in matches])).argmax(1)
            answers = sum(at != match.class_index for at, match in zip(best.tolist(), matches, strict=True))
            kept = len(other.space.kept)
        else:
            kept = len(changed.build(progress=False).kept)
        found[settings] = Consequence(kept - before, answers)
    return found
