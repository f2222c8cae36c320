"""How much `s3clip bench` times."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """Numbers of texts, classes and images, and how often each thing is timed.

    Attributes:
        imagenet: classes of ImageNet whose prompts are encoded.
        food: classes of Food-101.
        padded_batches: batches that are encoded padded, and as products alone.
        classes: classes of the space, `forward`, the pipeline and the cold start.
        space_texts: texts of each in the space.
        forward_texts: texts of each in `forward`.
        head_texts: texts of each beside the image tower, and in the cold start.
        large_class: texts of one class that has very many.
        linked: those of them that scipy links too.
        many: classes and texts of a space of very many classes, and of `forward` on one.
        calibrated: images by which it is calibrated.
        dim: of the embeddings.
        images: of a batch.
        stock_images: of transformers' own pipeline.
        encoded: classes that the cold start of the whole model encodes.
        photographs: that are labelled, `photograph_side` pixels wide and three quarters of it high.
        photograph_side: see there.
        pictures: of the model's own size that are labelled.
        distinct: of both that differ.
        rows: embeddings that are labelled.
        workers: threads or processes that decode; None: as many as `label` takes by itself.
        label_repeats: of the jobs.
        repeats: of what takes milliseconds.
        space_repeats: of the space and the loops over other libraries.
        slow_repeats: of what takes seconds.
    """

    imagenet: int = 1000
    food: int = 100
    padded_batches: int = 2
    classes: int = 1000
    space_texts: int = 50
    forward_texts: int = 32
    head_texts: int = 20
    large_class: int = 50_000
    linked: int = 8000
    many: tuple[int, int] = (21_000, 30)
    calibrated: int = 500
    dim: int = 512
    images: int = 64
    stock_images: int = 3
    encoded: int = 4
    photographs: int = 250
    photograph_side: int = 4000
    pictures: int = 2500
    distinct: int = 20
    rows: int = 5_000_000
    workers: int | None = None
    label_repeats: int = 3
    repeats: int = 15
    space_repeats: int = 9
    slow_repeats: int = 3


QUICK = Workload(
    imagenet=20,
    food=2,
    padded_batches=1,
    classes=50,
    space_texts=20,
    large_class=5000,
    linked=500,
    many=(2000, 10),
    calibrated=50,
    images=4,
    encoded=1,
    photographs=10,
    photograph_side=1000,
    pictures=20,
    distinct=3,
    rows=20_000,
    workers=0,
    label_repeats=1,
    repeats=5,
    space_repeats=2,
    slow_repeats=2,
)
"""Sizes to see that everything runs; the ratios say little."""
