"""Several benchmarks × several heads: every image is encoded once, then every head is scored from disk."""

import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from s3clip.backbone import Backbone
from s3clip.evaluation.baselines import CONTENDERS, CONTROL, DEFAULT
from s3clip.evaluation.datasets import EvaluationSet
from s3clip.evaluation.embeddings import StoredRows
from s3clip.evaluation.encoding import check_model, encode_set, read_set, set_folder
from s3clip.evaluation.picture import draw_run
from s3clip.evaluation.processes import Processes
from s3clip.evaluation.report import (
    Comparison,
    ContenderScores,
    Difference,
    format_difference,
    markdown_rows,
)
from s3clip.evaluation.runner import compare, versions
from s3clip.files import write_atomically
from s3clip.sources import BATCH_SIZE, Record

FORMAT = "s3clip-run/1"

WORST_CLASSES = 8
EXAMPLES = 4
THUMBNAIL = 96
"""Pixels of its longer side."""


@dataclass(frozen=True)
class Run:
    """What `evaluate` found.

    Attributes:
        results: everything that is the same each time: settings, versions, model, benchmarks. Plain values.
        measured: what is not: seconds, memory, how many processes.
        thumbnails: the content of the files that the results name, JPEG.
    """

    results: dict[str, Any]
    measured: dict[str, Any]
    thumbnails: dict[str, bytes]

    def to_dict(self) -> dict[str, Any]:
        """Return what `run.json` holds: two runs are the same if all of it but "measured" is."""
        return {"format": FORMAT, **self.results, "measured": self.measured}

    def markdown(self) -> str:
        """Return the summary of all benchmarks, and a table for each."""
        return run_markdown(self.to_dict())

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `run.json`, `run.md` and the thumbnails into a folder, made if need be, and return it."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        for name, content in self.thumbnails.items():
            (place / name).parent.mkdir(exist_ok=True)
            write_atomically(place / name, content)
        write_atomically(place / "run.md", self.markdown().encode("utf-8", "backslashreplace"))
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"
        write_atomically(place / "run.json", text.encode("utf-8", "backslashreplace"))
        return place

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Draw how far every contender is from the control on every benchmark, and return the path.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return draw_run(self.results["benchmarks"], self.results["settings"]["control"], path)


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
    if unknown := [name for name in contenders or () if name not in CONTENDERS]:  # before hours of encoding
        raise ValueError(f"contenders: {unknown[0]!r} is not known; known: {', '.join(CONTENDERS)}")
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
        benchmark, pictures, comparison = _score_set(each, records, embeds, backbone, asked)
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
        "peak_memory_mib": [_peak_memory(), *(process[-1][0] for process in everyone[1:])],
        "benchmarks": timing,
    }
    return Run(json.loads(json.dumps(results)), measured, thumbnails)


def _score_set(
    which: EvaluationSet,
    records: list[Record],
    embeds: StoredRows,
    backbone: Backbone,
    asked: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, bytes], Comparison]:
    readable = [record for record in records if record.error is None]
    broken = [record for record in records if record.error is not None]
    labels: list[int] = []
    kept: list[int] = []
    strange: Counter[str] = Counter()
    for row, record in enumerate(readable):
        try:
            labels.append(which.label_of(record))
        except ValueError:  # its label is no class
            strange["no label" if record.label is None else str(record.label)] += 1
        else:
            kept.append(row)
    if not kept:
        raise ValueError(
            f"{which.name}: no image to score: {len(records):,} found, {len(broken):,} cannot be read, and "
            f"none of the others has the label of a class; their labels: {_few(sorted(strange), 5) or 'none'}"
        )
    comparison = compare(
        which.synonyms,
        labels,
        backbone=backbone,
        image_embeds=embeds if len(kept) == len(embeds) else embeds[torch.tensor(kept)],
        templates=which.templates or None,
        **asked,
    )
    warnings = list(which.problems)
    if broken:
        warnings.append(
            f"cannot be read: {len(broken)} of the images: {_few([str(r.error) for r in broken])}"
        )
    if which.expected_images is not None and len(records) != which.expected_images:
        warnings.append(
            f"{len(records)} images found where the table says {which.expected_images}: these are not the "
            f"scores of {which.name}"
        )
    left_out = sorted(strange.items(), key=lambda item: (-item[1], item[0]))
    if left_out:
        named = _few([f"{label} ({images:,})" for label, images in left_out], 5)
        warnings.append(
            f"{strange.total():,} images are left out: their labels, {len(left_out):,} in all, are none of "
            f"the classes: {named}"
        )
    worst, thumbnails = _worst_classes(which, comparison, labels, [readable[row] for row in kept])
    benchmark = {
        "name": which.name,
        "split": which.split,
        "convention": which.convention,
        "headline": which.headline,
        "counts": {
            "scored": len(kept),
            "of": len(records) if which.expected_images is None else which.expected_images,
            "found": len(records),
            "expected": which.expected_images,
            "broken": len(broken),
            "left_out": strange.total(),
        },
        "left_out_labels": left_out,
        "classes": comparison.classes,
        "scored_classes": comparison.scored_classes,
        "texts": comparison.texts,
        "templates": comparison.settings["templates"],
        "configs": comparison.settings["configs"],
        "warnings": warnings,
        "broken": [{"key": record.key, "error": record.error} for record in broken],
        "scores": [_plain(score) for score in comparison.scores],
        "worst_classes": worst,
    }
    return benchmark, thumbnails, comparison


def _plain(score: ContenderScores) -> dict[str, Any]:
    def interval(difference: Difference) -> dict[str, float]:
        return {"value": difference.value, "low": difference.low, "high": difference.high}

    return {
        "name": score.name,
        "acc1": score.top1,
        "acc5": score.top5,
        "mean_per_class_recall": score.recall,
        "differences": {
            "top1": interval(score.top1_difference),
            "recall": interval(score.recall_difference),
        },
        "calibration_error": score.calibration_error,
        "dropped": score.dropped,
        "seeds": score.seeds,
        "acc1_spread": score.top1_spread,
        "mean_per_class_recall_spread": score.recall_spread,
    }


HEADLINES = {"top1": "acc1", "recall": "mean_per_class_recall"}


def _means(benchmarks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean headline of every contender that was scored on all benchmarks, the best first."""
    names = [score["name"] for score in benchmarks[0]["scores"]]
    rows = []
    for name in names:
        scores = [_score(each, name) for each in benchmarks]
        values = [
            score[HEADLINES[each["headline"]]]
            for each, score in zip(benchmarks, scores, strict=True)
            if score
        ]
        if len(values) == len(benchmarks):
            rows.append({"name": name, "headline": sum(values) / len(values)})
    return sorted(rows, key=lambda row: (-row["headline"], row["name"]))


def _score(benchmark: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((score for score in benchmark["scores"] if score["name"] == name), None)


def _worst_classes(
    which: EvaluationSet,
    comparison: Comparison,
    labels: list[int],
    records: list[Record],
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the classes that are recognised least, what they are taken for, and a few such images."""
    names = which.class_names
    contender = DEFAULT.name if DEFAULT.name in comparison.predicted else comparison.control
    predicted = comparison.predicted[contender].tolist()
    wrong: dict[int, list[int]] = {}
    totals = Counter(labels)
    for row, (label, answer) in enumerate(zip(labels, predicted, strict=True)):
        if label != answer:
            wrong.setdefault(label, []).append(row)
    order = sorted(wrong, key=lambda label: (1 - len(wrong[label]) / totals[label], -totals[label], label))
    rows = []
    thumbnails: dict[str, bytes] = {}
    shards = {shard.name: shard for shard in which.shards}
    for label in order[:WORST_CLASSES]:
        taken_for = Counter(predicted[row] for row in wrong[label])
        examples = []
        for row in wrong[label][:EXAMPLES]:
            record = records[row]
            picture = _thumbnail(shards[record.shard], record)
            name = f"thumbnails/{which.name}-{len(thumbnails):03}.jpg"
            if picture is not None:
                thumbnails[name] = picture
            examples.append(
                {
                    "key": record.key,
                    "taken_for": names[predicted[row]],
                    "thumbnail": None if picture is None else name,
                }
            )
        rows.append(
            {
                "class": names[label],
                "images": totals[label],
                "recall": 1 - len(wrong[label]) / totals[label],
                "taken_for": [[names[other], count] for other, count in taken_for.most_common(3)],
                "examples": examples,
            }
        )
    return {"contender": contender, "classes": rows}, thumbnails


def _thumbnail(shard: Any, record: Record) -> bytes | None:
    """Return a small JPEG of an image; None where it cannot be read any more."""
    try:
        image = next(shard.samples(record.index)).open()
    except (OSError, ValueError, StopIteration):
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def run_markdown(run: dict[str, Any]) -> str:
    """Return a run as Markdown: a summary of all benchmarks, and a table for each."""
    control, model = run["settings"]["control"], run["model"]
    lines = [
        f"# {_escaped(str(model['name']))}",
        "",
        f"Revision {model['revision']}, fingerprint {model['fingerprint'][:16]}, {model['dtype']}. Percent; "
        f"differences from {control} in points with 95 % paired-bootstrap intervals.",
    ]
    names = [row["name"] for row in run["mean"] if row["name"] in ("name", CONTROL.name, DEFAULT.name)]
    header = ["benchmark", "score", "images", *names, f"{DEFAULT.name} - {control}"]
    rows = []
    for each in run["benchmarks"]:
        own = [_score(each, name) for name in names]
        default = _score(each, DEFAULT.name)
        difference = "" if default is None else _difference(default, each["headline"])
        values = [_percent(score[HEADLINES[each["headline"]]]) if score else "" for score in own]
        rows.append(
            [_escaped(each["name"]), HEADLINES[each["headline"]], _counted(each), *values, difference]
        )
    means = {row["name"]: _percent(row["headline"]) for row in run["mean"]}
    rows.append(["**mean**", "", "", *(means[name] for name in names), ""])
    lines += ["", markdown_rows(header, rows)]
    for each in run["benchmarks"]:
        lines += ["", f"## {_escaped(each['name'])}", ""]
        lines += [f"**Warning: {_escaped(warning)}**\n" for warning in each["warnings"]]
        left_out = each["counts"]["left_out"]
        lines += [
            f"{_counted(each)} images ({each['convention']}, {each['split']}), {each['classes']} classes, "
            f"{each['texts']} texts"
            + (f", {left_out} images of no class left out" if left_out else "")
            + f"; the headline is {HEADLINES[each['headline']]}.",
            "",
        ]
        header = [
            "contender", "acc1", "acc5", "mean per-class recall", f"acc1 - {control}", f"recall - {control}",
            "ECE", "dropped",
        ]  # fmt: skip
        lines.append(markdown_rows(header, [_cells(score, control) for score in each["scores"]]))
    return "\n".join(lines) + "\n"


def _cells(score: dict[str, Any], control: str) -> list[str]:
    is_control = score["name"] == control
    return [
        score["name"],
        *(_percent(score[key]) for key in ("acc1", "acc5", "mean_per_class_recall")),
        *("control" if is_control else _difference(score, what) for what in ("top1", "recall")),
        _percent(score["calibration_error"]),
        _percent(score["dropped"]),
    ]


def _difference(score: dict[str, Any], what: str) -> str:
    return format_difference(Difference(**score["differences"][what]))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _counted(benchmark: dict[str, Any]) -> str:
    counts = benchmark["counts"]
    return f"{counts['scored']:,} of {counts['of']:,}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _few(texts: Sequence[str], limit: int = 3) -> str:
    more = f"; and {len(texts) - limit} more" if len(texts) > limit else ""
    return "; ".join(texts[:limit]) + more


def _peak_memory() -> float | None:
    """Return the most memory that this process held, without its workers and its GPU, in MiB."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
