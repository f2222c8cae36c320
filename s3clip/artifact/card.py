"""The model card of a class space: what it classifies, how it was made, and a snippet that runs."""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from s3clip._version import __version__
from s3clip.artifact.folder import without_local_names
from s3clip.backbone.names import hub_repository
from s3clip.class_space import ClassSpace, Examples

_TEMPLATE = Path(__file__).parent / "model_card.md"
_EXAMPLES = 20

_SAMPLE = "https://huggingface.co/datasets/mishig/sample_images/resolve/main/cat-dog-music.png"
"""The picture that the cards of CLIP models show."""


def model_card(space: ClassSpace, repo_id: str) -> ModelCard:
    """Return a card that says what the space classifies and how it was made, with a snippet that runs."""
    facts = without_local_names(space).backbone
    name, revision = (None, None) if facts is None else (facts.reference.name, facts.reference.revision)
    data = ModelCardData(
        library_name="s3clip",
        pipeline_tag="zero-shot-image-classification",
        base_model=None if name is None else hub_repository(name),
        tags=["s3clip", "zero-shot-image-classification", "synonyms"],
        widget=_widget([each.name for each in space.classes]),
    )
    kept = space.few_shot
    settings = space.config.model_dump(exclude_none=True)
    kwargs: dict[str, Any] = {
        "repo_id": repo_id,
        "title": repo_id.split("/")[-1],
        "classes": len(space.classes),
        "texts": len(space.raw),
        "examples": [_literal(each.name) for each in space.classes[:_EXAMPLES]],
        "more": max(0, len(space.classes) - _EXAMPLES),
        "backbone": None if name is None else _literal(name),
        "revision": revision,
        "templates": [_literal(each) for each in space.templates or ()],
        "few_shot": None if kept is None or kept.report is None else kept.report.summary(),
        "examples_kept": isinstance(kept, Examples),
        "settings": json.dumps(settings, indent=2),
        "version": __version__,
    }
    card: ModelCard = ModelCard.from_template(data, template_path=str(_TEMPLATE), **kwargs)
    return card


def _widget(names: list[str]) -> list[dict[str, str]] | None:
    """Return what the Hub's page offers to try: a picture with labels in one text, with commas between."""
    labels = [name for name in names if "," not in name][:_EXAMPLES]
    return [{"src": _SAMPLE, "candidate_labels": ", ".join(labels)}] if labels else None


def _literal(text: str) -> str:
    """Return a text as Markdown code, which no character of it can leave."""
    plain = " ".join(text.split())
    longest = max((len(run) for run in re.findall("`+", plain)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {plain} {fence}" if longest else f"`{plain}`"
