"""Several benchmarks × several heads: every image is encoded once, then every head is scored from disk."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s3clip.backbone import Backbone
from s3clip.evaluation.baselines import CONTROL
from s3clip.evaluation.classification import score_set
from s3clip.evaluation.datasets import EvaluationSet
from s3clip.evaluation.encoding import check_model, encode_set, read_set, set_folder
from s3clip.evaluation.processes import Processes
from s3clip.evaluation.report import versions
from s3clip.evaluation.results import HEADLINES, Run, score_of
from s3clip.sources import BATCH_SIZE


def evaluate(
    sets: Sequence[EvaluationSet],
    *,
    backbone: Backbone,
    cache: Path,
    processes: Processes | None = None,
    contenders: Sequence[str] | None = None,
    min_images: int = 1,
    bootstrap: int = 2000,
    draws: int = 3,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
) -> Run | None:
    """Encode the images of all sets, each once, and score every contender on every set.

    Args:
        sets: what to score on.
        backbone: on the device of this process.
        cache: folder of image embeddings. What a run before this one left there, even one that was killed, is
            not encoded again. With several machines, one that all of them see.
        processes: which process this is; None: the only one.
        contenders: as for `compare`, and so are the arguments that follow.
        min_images: see `compare`.
        bootstrap: see `compare`.
        draws: see `compare`.
        seed: see `compare`.
        batch_size: images per call of the image tower.
        workers: processes that open and prepare images, for each process of the run.

    Returns:
        What was found; None in all processes but the first, which scores.

    Raises:
        ValueError: no set, two with one name, or what `compare` refuses.
    """
    own = processes or Processes(0, 1, str(backbone.device))
    names = [each.name for each in sets]
    if not sets or len(set(names)) < len(names):
        raise ValueError(f"sets: expected one or more, each once, got {', '.join(names) or 'none'}")
    started = time.perf_counter()
    key = backbone.image_key()
    if own.index == 0:
        check_model(cache, key, backbone)
    folders = [set_folder(cache, key, each) for each in sets]
    encoded = [
        encode_set(
            each,
            backbone,
            folder,
            process=own.index,
            processes=own.count,
            batch_size=batch_size,
            workers=workers,
        )
        for each, folder in zip(sets, folders, strict=True)
    ]
    everyone = own.gather([[each.images, each.seconds] for each in encoded] + [[_peak_memory(), 0.0]])
    if own.index != 0:
        return None

    found, timing = [], []
    thumbnails: dict[str, bytes] = {}
    asked: dict[str, Any] = {
        "contenders": contenders,
        "min_images": min_images,
        "bootstrap": bootstrap,
        "draws": draws,
        "seed": seed,
    }
    for number, (each, folder) in enumerate(zip(sets, folders, strict=True)):
        scoring = time.perf_counter()
        records, embeds = read_set(each, folder, backbone.dim)
        benchmark, pictures, comparison = score_set(each, records, embeds, backbone, asked)
        found.append(benchmark)
        thumbnails |= pictures
        images = sum(process[number][0] for process in everyone)
        seconds = max(process[number][1] for process in everyone)
        timing.append(
            {
                "name": each.name,
                "images_encoded": images,
                "encoding_seconds": round(seconds, 3),
                "images_per_second": round(images / seconds, 1) if images else None,
                "scoring_seconds": round(time.perf_counter() - scoring, 3),
                "contenders": {
                    score.name: {"image_ms": score.image_ms, "fit_ms": score.fit_ms}
                    for score in comparison.scores
                },
            }
        )
    results = {
        "settings": {**asked, "control": CONTROL.name, "batch_size": batch_size},
        "versions": versions(),
        "model": {
            "name": backbone.name,
            "revision": backbone.revision,
            "fingerprint": key,
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "logit_scale": backbone.logit_scale().item(),
        },
        "benchmarks": found,
        "mean": _means(found),
    }
    measured = {
        "seconds": round(time.perf_counter() - started, 3),
        "processes": own.count,
        "workers": workers,
        "device": own.device,
        "peak_memory_mib": [process[-1][0] for process in everyone],
        "benchmarks": timing,
    }
    return Run(json.loads(json.dumps(results)), measured, thumbnails)


def _means(benchmarks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean headline of every contender that was scored on all benchmarks, the best first."""
    names = [score["name"] for score in benchmarks[0]["scores"]]
    rows = []
    for name in names:
        scores = [score_of(each, name) for each in benchmarks]
        values = [
            score[HEADLINES[each["headline"]]]
            for each, score in zip(benchmarks, scores, strict=True)
            if score
        ]
        if len(values) == len(benchmarks):
            rows.append({"name": name, "headline": sum(values) / len(values)})
    return sorted(rows, key=lambda row: (-row["headline"], row["name"]))


def _peak_memory() -> float | None:
    """Return the most memory that this process held, without its workers and its GPU, in MiB."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
