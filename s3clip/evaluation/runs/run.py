"""Several benchmarks × several heads: every image is encoded once, then every head is scored from disk."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s3clip.backbone.backbone import Backbone
from s3clip.evaluation.benchmarks.sets import ClassificationSet, SegmentationSet
from s3clip.evaluation.methods import CONTROL
from s3clip.evaluation.report.comparison import versions
from s3clip.evaluation.report.run import Run
from s3clip.evaluation.runs.cache import Cache, check_cache, folder_of_model
from s3clip.evaluation.runs.classification import score_images
from s3clip.evaluation.runs.embeddings import ImageJob, stored_rows
from s3clip.evaluation.runs.encoding import check_model, encode, images_of
from s3clip.evaluation.runs.pixels import DEFAULT_FEATURES, PixelJob
from s3clip.evaluation.runs.precision import settle_precision
from s3clip.evaluation.runs.processes import Processes
from s3clip.evaluation.runs.segmentation import score_pixels
from s3clip.evaluation.settings import ComparisonSettings, has_descriptors
from s3clip.images.sources import BATCH_SIZE


def _job(
    which: ClassificationSet | SegmentationSet,
    backbone: Backbone,
    asked: dict[str, Any],
    batch_size: int,
    patch_features: str,
    near_size: bool,
) -> ImageJob | PixelJob:
    """Return the job of a set. What is asked and cannot be is refused here, before anything is encoded."""
    settings = ComparisonSettings(
        configs=None, control=CONTROL.name, batch_size=batch_size, adapt=(), **asked
    )
    if isinstance(which, SegmentationSet):
        return PixelJob(which, backbone, settings, patch_features)
    settings.chosen(can_encode=True, has_descriptors=has_descriptors(which.synonyms))
    return ImageJob(which, backbone, near_size)


def evaluate(
    sets: Sequence[ClassificationSet | SegmentationSet],
    *,
    backbone: Backbone,
    cache: Path,
    processes: Processes | None = None,
    methods: Sequence[str] | None = None,
    patch_features: str | None = None,
    min_images: int = 1,
    bootstrap: int = 2000,
    draws: int = 3,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
    dtype: str | None = None,
    compiled: bool = False,
    near_size: bool = False,
) -> Run | None:
    """Encode the images of all sets, each once, and score every method on every set.

    Args:
        sets: what to score on, of classification and of segmentation.
        backbone: on the device of this process.
        cache: folder of image embeddings and of counted pixels. What a run before this one left there, even
            one that was killed, is not encoded again. With several machines, one that all of them see.
        processes: which process this is; None: the only one.
        methods: as for `compare`, and so are the arguments that follow; None: all of them on sets of
            classification, `METHODS_PER_PIXEL` on those of segmentation.
        patch_features: embeddings of patches for segmentation, as for `head.segment`; None: "sclip".
        min_images: see `compare`.
        bootstrap: see `compare`.
        draws: see `compare`.
        seed: see `compare`.
        batch_size: images, or windows of an image, per call of the image tower.
        workers: processes that open and prepare images, for each process of the run.
        dtype: in what the image tower computes, see `s3clip.prediction.precision.set_precision`; what "auto"
            takes is kept in the cache, for the next run of this model. The backbone is changed in place.
        compiled: let torch.compile make the code of the image tower.
        near_size: decode JPEGs of sets of classification near the size that the model needs: see
            `s3clip.images.opening.open_image`. What it makes has a place of its own in the cache.

    Returns:
        What was found; None in all processes but the first, which scores.

    Raises:
        ValueError: no set, two with one name, patch features without a set of segmentation, `near_size`
            without one of classification, a cache in a folder of something else, or what `compare` refuses.
        TypeError: a set of segmentation, and a backbone whose patches have no embeddings.
    """
    own = processes or Processes(0, 1, str(backbone.device))
    names = [each.name for each in sets]
    if not sets or len(set(names)) < len(names):
        raise ValueError(f"sets: expected one or more, each once, got {', '.join(names) or 'none'}")
    if patch_features is not None and not any(isinstance(each, SegmentationSet) for each in sets):
        raise ValueError(f"patch_features: {patch_features!r} is of segmentation, and none of the sets is")
    if near_size and not any(isinstance(each, ClassificationSet) for each in sets):
        raise ValueError("near_size: is of classification, and none of the sets is; leave it out")
    check_cache(cache)
    started = time.perf_counter()
    asked: dict[str, Any] = {
        "methods": methods,
        "min_images": min_images,
        "bootstrap": bootstrap,
        "draws": draws,
        "seed": seed,
    }
    precision = settle_precision(sets, backbone, cache, own, dtype, compiled=compiled, near_size=near_size)
    key = backbone.image_key()
    folder = folder_of_model(cache, key)
    if own.index == 0:
        check_model(folder, backbone)
    features = patch_features or DEFAULT_FEATURES
    jobs = [_job(each, backbone, asked, batch_size, features, near_size) for each in sets]
    # Devices that differ may round differently: the first process says where in the cache things go.
    places = own.gather([job.place(key) for job in jobs])[0]
    shared = {place: Cache(folder / place) for place in places}
    work = {"process": own.index, "processes": own.count, "batch_size": batch_size, "workers": workers}
    # Every process waits for the others after each set: what it shares with the next is not encoded again.
    everyone = [
        own.gather(encode(job, shared[place], **work)) for job, place in zip(jobs, places, strict=True)
    ]
    memory = own.gather(_peak_memory())
    if own.index != 0:
        return None

    found, timing = [], []
    thumbnails: dict[str, bytes] = {}
    for job, place, done in zip(jobs, places, everyone, strict=True):
        scoring = time.perf_counter()
        images = sum(process.images for process in done)
        seconds = max(process.seconds for process in done)
        stored, seen = shared[place], images_of(done)
        stored.refresh()
        if isinstance(job, PixelJob):
            benchmark, pictures, times = score_pixels(job, stored, seen, done)
        else:
            rows = stored_rows(stored, seen, backbone.dim)
            benchmark, pictures, times = score_images(job.which, seen, rows, backbone, asked)
        found.append(benchmark)
        thumbnails |= pictures
        timing.append(
            {
                "name": job.which.name,
                "images_encoded": images,
                "encoding_seconds": round(seconds, 3),
                "images_per_second": round(images / seconds, 1) if images else None,
                "scoring_seconds": round(time.perf_counter() - scoring, 3),
                "methods": times,
            }
        )
    return Run.of(
        thumbnails,
        settings={**asked, "control": CONTROL.name, "batch_size": batch_size, "near_size": near_size},
        versions=versions(),
        model={
            "name": backbone.name,
            "revision": backbone.revision,
            "fingerprint": key,
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "compiled": backbone.compiled,
            "logit_scale": backbone.logit_scale().item(),
        },
        benchmarks=found,
        measured={
            "seconds": round(time.perf_counter() - started, 3),
            "processes": own.count,
            "workers": workers,
            "precision": precision,
            "device": own.device,
            "peak_memory_mib": [_peak_memory(), *memory[1:]],
            "benchmarks": timing,
        },
    )


def _peak_memory() -> float | None:
    """Return the most memory that this process held, without its workers and its GPU, in MiB."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
