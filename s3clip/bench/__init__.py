"""How fast is s3clip on this machine and model? Ratios to the plain way and to the floor, in one run.

Every number is a ratio of things measured in turns, so that it means something on a busy or a slow machine.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from s3clip.bench.timing import Row
from s3clip.bench.workload import QUICK, Workload

__all__ = ["PARTS", "Row", "SpeedReport", "Workload", "measure_speed"]

PARTS = ("texts", "space", "many-classes", "forward", "pipeline", "cold-start", "pictures", "embeddings")


@dataclass(frozen=True)
class SpeedReport:
    """What was measured.

    Attributes:
        settings: machine, versions, threads, dtype, device, model and sizes.
        rows: the comparisons, in the order of `PARTS`.
    """

    settings: dict[str, Any]
    rows: list[Row]

    def table(self) -> list[list[str]]:
        """Return a row of cells for each comparison, below `HEADER`."""
        return [
            [
                row.part,
                row.what,
                row.against,
                f"{row.ratio:.3g} {row.reading}",
                f"{row.ours:.3g} {row.unit}",
                f"{row.other:.3g} {row.unit}",
                ", ".join(f"{key} {_short(value)}" for key, value in row.settings.items()),
            ]
            for row in self.rows
        ]

    def record(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {"settings": self.settings, "rows": [asdict(row) for row in self.rows]}


HEADER = ["part", "what", "against", "ratio", "s3clip", "other", "settings"]


def _short(value: Any) -> str:
    return f"{value:.1e}" if isinstance(value, float) else str(value)


def _check_choice(parts: Sequence[str], backbone: str | None, tokenizer: str | None) -> None:
    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(f"parts: unknown {unknown[0]!r}; known: {', '.join(PARTS)}")
    if backbone is not None and tokenizer is not None:
        raise ValueError("tokenizer: a backbone brings its own; leave it out")


def measure_speed(
    parts: Sequence[str] = PARTS,
    *,
    backbone: str | None = None,
    tokenizer: str | None = None,
    lists: Path | None = None,
    quick: bool = False,
    device: str | None = None,
    progress: Callable[[str], None] = lambda part: None,
) -> SpeedReport:
    """Time s3clip on this machine.

    Args:
        parts: Some of `PARTS`.
        backbone: Model of transformers; None: a CLIP of the size of ViT-B/32 with random weights.
        tokenizer: Tokenizer of a CLIP for the random model; None: a token a word.
        lists: Folder of published lists, as `s3clip.bench.texts` reads them; None: the synonym
            sets of s3clip.
        quick: Small sizes, to see that it runs; the ratios say little.
        device: Where to compute; None: the CPU.
        progress: Called with the name of each part that begins.

    Raises:
        ValueError: an unknown part, or a tokenizer beside a backbone.
        FileNotFoundError: a published list that is not there.
    """
    from s3clip.bench.encoding import time_cold_start, time_pipeline, time_texts
    from s3clip.bench.labelling import time_embeddings, time_photographs, time_small_pictures
    from s3clip.bench.many_classes import time_many_classes
    from s3clip.bench.models import load_model, random_model
    from s3clip.bench.parts import time_forward, time_head, time_large_class, time_space
    from s3clip.bench.texts import food_prompts, imagenet_prompts, label_names

    _check_choice(parts, backbone, tokenizer)
    work = QUICK if quick else Workload()
    where = device or "cpu"
    prompts = {
        "ImageNet names x 7 templates": imagenet_prompts(lists, work.imagenet),
        "Food-101 x 5 synonyms x 20 descriptions": food_prompts(lists, work.food),
    }
    if backbone is not None:
        timed = load_model(backbone, where)
    else:
        vocabulary = [text for own in prompts.values() for text in own] + label_names(work.classes)
        timed = random_model(tokenizer, vocabulary, where)
    measures: dict[str, Callable[[], list[Row]]] = {
        "texts": lambda: [row for what, own in prompts.items() for row in time_texts(timed, own, what, work)],
        "space": lambda: time_space(work, where) + time_large_class(work, where),
        "many-classes": lambda: time_many_classes(work),
        "forward": lambda: time_forward(work, where) + time_head(timed.backbone, work, where),
        "pipeline": lambda: time_pipeline(timed, work),
        "cold-start": lambda: time_cold_start(timed, work),
        "pictures": lambda: time_photographs(timed, work) + time_small_pictures(timed, work),
        "embeddings": lambda: time_embeddings(work, where),
    }
    rows = []
    for part in PARTS:
        if part in parts:
            progress(part)
            rows += measures[part]()
    settings = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": where,
        "dtype": str(next(timed.model.parameters()).dtype).removeprefix("torch."),
        "model": timed.description,
        "texts": "s3clip's synonym sets" if lists is None else str(lists),
        "sizes": asdict(work),
    }
    return SpeedReport(settings, rows)
