"""How good is a head on labelled images?"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3clip.cli.common import BatchSize, Device, Format, Output, Views, json_option, print_rows

if TYPE_CHECKING:
    from s3clip.evaluation.benchmarks.sets import ClassificationSet, SegmentationSet


def compare(
    out: Annotated[Path, typer.Option(help="Folder for comparison.json, .md and .png.")],
    classes: Annotated[
        str | None,
        typer.Argument(help="Synonym file, as for `s3clip fit`; none if --embeddings brings the texts too."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="CLIP-like model: a Hub repository (openai/clip-vit-base-patch32) or a folder."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images: with --labels where its files lie, else one sub-folder a class."
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV with a line for each image; files beside it unless --images.")
    ] = None,
    file_column: Annotated[str, typer.Option(help="Its column of files.")] = "file",
    label_column: Annotated[str, typer.Option(help="Its column of class ids or names.")] = "label",
    embeddings: Annotated[
        Path | None,
        typer.Option(
            help="NumPy .npz instead of images: image_embeds and labels, and, to do without a model, "
            "text_embeds, owners (the class of each text), class_names and logit_scale."
        ),
    ] = None,
    template: Annotated[list[str] | None, typer.Option(help="As for `s3clip fit`.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Compare this one with the control alone; several times for more."),
    ] = None,
    config: Annotated[
        str | None, typer.Option(help='Compare these settings too, as "config": JSON or a file, as for fit.')
    ] = None,
    values: Annotated[str, typer.Option(help="As for `s3clip fit`.")] = "synonyms",
    min_images: Annotated[int, typer.Option(help="Recall counts classes with so many images.")] = 1,
    limit: Annotated[int | None, typer.Option(help="Only the first so many images.")] = None,
    bootstrap: Annotated[int, typer.Option(help="Resamples for the intervals.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the resamples and the random descriptors.")] = 0,
    adapt: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare the name, the default and --config with this test-time adaptation too: shift, "
            "shared_shift, zero or mean_views; several times for more."
        ),
    ] = None,
    views: Views = 64,
    device: Device = None,
) -> None:
    """Score every way to classify on your labelled images: which one is best for them?"""
    from s3clip import Backbone, HeadConfig, SynonymSet
    from s3clip.evaluation import compare as compare_images
    from s3clip.evaluation import compare_embeddings
    from s3clip.evaluation.inputs import labelled_images, read_embeddings

    if limit is not None and limit < 1:
        raise ValueError(f"--limit: expected a whole number >= 1, got {limit}")
    if embeddings is not None and (images is not None or labels is not None):
        raise ValueError("--embeddings: it brings the labels; leave --images and --labels out")
    settings = None if config is None else HeadConfig.model_validate(json_option("config", config))
    asked: dict[str, Any] = {
        "methods": method or None,
        "configs": None if settings is None else {"config": settings},
        "min_images": min_images,
        "bootstrap": bootstrap,
        "seed": seed,
        "adapt": tuple(adapt or ()),
    }
    given = read_embeddings(embeddings) if embeddings is not None else None
    if given is not None and given.texts is not None:
        if classes is not None or backbone is not None:
            raise ValueError(f"{embeddings} has texts of its own; leave the synonym file and --backbone out")
        truth, scale = given.labels[:limit], given.logit_scale
        result = compare_embeddings(
            given.texts, given.class_names, given.images[:limit], truth, logit_scale=scale, **asked
        )
    else:
        if classes is None or backbone is None:
            raise ValueError("expected a synonym file and --backbone, to encode the texts with")
        if given is not None:
            truth, asked["image_embeds"] = given.labels[:limit], given.images[:limit]
        else:
            files, named = labelled_images(images, labels, file_column, label_column)
            truth, asked["images"] = named[:limit], files[:limit]
        synonyms = SynonymSet.read(classes, values=values)  # type: ignore[arg-type]  # as in fit
        asked["templates"] = (template[0] if template and len(template) == 1 else template) or None
        model = Backbone.from_pretrained(backbone, device=device)
        result = compare_images(synonyms, truth, backbone=model, views=views, **asked)
    typer.echo(result.table())
    typer.echo(result.summary())
    result.save(out)
    try:
        result.draw(out / "comparison.png")
    except ImportError as error:
        typer.echo(f"warning: no picture: {error}", err=True)
    typer.echo(f"Saved to {out}.")


def bench(
    backbone: Annotated[
        str | None,
        typer.Option(help="Model of transformers to time; else one of ViT-B/32's size, weights random."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Tokenizer of a CLIP (folder or Hub) for the random model; else a word is a token."
        ),
    ] = None,
    lists: Annotated[
        Path | None,
        typer.Option(
            help="Folder of published lists to take texts from: clip_benchmark/en_classnames.json, "
            "neglected_tails/food101-LAION400M.json, awt/food101.json; else s3clip's synonym sets."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="texts, space, forward, pipeline or cold-start; several times for more."),
    ] = None,
    quick: Annotated[
        bool, typer.Option(help="Small sizes, to see that it runs: the ratios say little.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: torch's.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for everything that was measured.")] = None,
    device: Device = None,
    output: Output = Format.TABLE,
) -> None:
    """Time s3clip on this machine: every part against the plain way and against its floor, as ratios."""
    import torch

    from s3clip.bench import HEADER, PARTS, measure_speed
    from s3clip.files.writing import write_atomically

    if threads is not None:
        if threads < 1:
            raise ValueError(f"--threads: expected a whole number >= 1, got {threads}")
        torch.set_num_threads(threads)
    if out is not None and not out.absolute().parent.is_dir():  # said before the half hour, not after
        raise FileNotFoundError(f"--out: there is no folder {out.absolute().parent}")
    if out is not None and out.is_dir():
        raise IsADirectoryError(f"--out: expected the name of a file, got the folder {out}")
    report = measure_speed(
        only or PARTS,
        backbone=backbone,
        tokenizer=tokenizer,
        lists=lists,
        quick=quick,
        device=device,
        progress=lambda part: typer.echo(f"timing {part} ...", err=True),
    )
    if out is not None:
        write_atomically(out, (json.dumps(report.record(), indent=1) + "\n").encode())
    if output is Format.JSON:
        typer.echo(json.dumps(report.record(), indent=1))
        return
    print_rows(HEADER, report.table(), output)
    if output is Format.TABLE:
        told = {key: value for key, value in report.settings.items() if key != "sizes"}
        typer.echo(", ".join(f"{key} {value}" for key, value in told.items()))


def evaluate(
    sets: Annotated[
        list[str],
        typer.Argument(
            help="Benchmarks of the table (food101 dtd voc21), or a JSON file for a set of your own."
        ),
    ],
    backbone: Annotated[
        str,
        typer.Option(help="CLIP-like model: a Hub repository (openai/clip-vit-base-patch32) or a folder."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for run.json, run.md, run.png and thumbnails.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder of all data sets, or hf://datasets to stream them from the Hub; a set of your own "
            "lies beside its file."
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model.")] = None,
    convention: Annotated[
        str | None,
        typer.Option(
            help="coop or clip_benchmark; their splits and their headline scores differ. Segmentation, and "
            "a set of your own that has none of this name, are used by their first."
        ),
    ] = None,
    synonyms: Annotated[
        str, typer.Option(help="Synonym file for a single set, or builtin: the words that come with s3clip.")
    ] = "builtin",
    method: Annotated[
        list[str] | None,
        typer.Option(help="Score this one and the control alone; several times for more."),
    ] = None,
    patch_features: Annotated[
        str | None,
        typer.Option(
            help="Embeddings of patches, for segmentation: patch, maskclip, sclip (the default), naclip or "
            "clearclip."
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder of image embeddings, and of pixels counted, by default in --out. Runs that share it "
            "encode no image twice; one that was killed goes on where it stopped."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that open and prepare images.")] = 4,
    batch_size: BatchSize = 64,
    bootstrap: Annotated[int, typer.Option(help="Resamples for the intervals.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the resamples and the random descriptors.")] = 0,
    device: Device = None,
) -> None:
    """Score every way to classify, or to segment, on standard benchmarks: each image is encoded once.

    For several GPUs or machines start it with a launcher: accelerate launch -m s3clip.cli eval ...
    """
    from s3clip import Backbone
    from s3clip.evaluation.runs.processes import join_processes
    from s3clip.evaluation.runs.run import evaluate as evaluate_sets

    for option, value, least in (
        ("workers", workers, 0),
        ("batch-size", batch_size, 1),
        ("bootstrap", bootstrap, 1),
    ):
        if value < least:
            raise ValueError(f"--{option}: expected a whole number >= {least}, got {value}")
    opened = _open_sets(sets, data, convention, synonyms)
    processes = join_processes(device)
    if processes.index == 0:
        _warn((each.name, problem) for each in opened for problem in each.problems)
    model = Backbone.from_pretrained(backbone, revision=revision, device=processes.device)
    _make_folder("out", out)
    _make_folder("cache", cache or out)
    run = evaluate_sets(
        opened,
        backbone=model,
        cache=cache or out / "embeddings",
        processes=processes,
        methods=method or None,
        patch_features=patch_features,
        bootstrap=bootstrap,
        seed=seed,
        batch_size=batch_size,
        workers=workers,
    )
    if run is None:  # not the first of several processes
        return
    run.save(out)
    typer.echo(run.markdown())
    _warn(
        (each.name, warning)
        for each, found in zip(opened, run.results["benchmarks"], strict=True)
        for warning in found["warnings"]
        if warning not in each.problems  # which were said before
    )
    try:
        run.draw(out / "run.png")
    except ImportError as error:
        typer.echo(f"warning: no picture: {error}", err=True)
    typer.echo(f"Saved to {out}.")


def _open_sets(
    names: list[str], data: str | None, convention: str | None, synonyms: str
) -> "list[ClassificationSet | SegmentationSet]":
    from s3clip import SynonymSet
    from s3clip.evaluation.benchmarks.opening import open_benchmark
    from s3clip.evaluation.benchmarks.table import find_benchmark

    rows = [find_benchmark(name) for name in names]
    words = None if synonyms == "builtin" else SynonymSet.read(synonyms)
    if words is not None and len(rows) > 1:
        raise ValueError(f"--synonyms: a file has the classes of one set, and there are {len(rows)}")
    opened: list[ClassificationSet | SegmentationSet] = []
    for row in rows:
        if data is None and row.folder is None:
            raise ValueError(f"--data: {row.name} needs the folder of all data sets, or hf://datasets")
        has_own = row.is_segmentation or row.folder is not None
        chosen = None if has_own and convention not in row.conventions else convention
        opened.append(open_benchmark(row, data or "", convention=chosen, synonyms=words))
    return opened


def _warn(warnings: Iterable[tuple[str, str]]) -> None:
    for name, warning in warnings:
        typer.echo(f"warning: {name}: {warning}", err=True)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `s3clip eval` wrote.")],
    out: Annotated[Path, typer.Option(help="The page, one HTML file that asks for nothing else.")],
) -> None:
    """Put several runs side by side in one HTML page."""
    from s3clip.evaluation.report.page import read_runs, run_page
    from s3clip.files.writing import write_atomically

    read = read_runs(runs)
    try:
        page = run_page(read)
    except (KeyError, TypeError) as error:  # edited, or of another version
        named = ", ".join(str(folder / "run.json") for folder in runs)
        raise ValueError(f"{named}: not as this version writes it ({error!r}); evaluate again") from error
    _make_folder("out", out.absolute().parent)
    write_atomically(out, page.encode("utf-8", "backslashreplace"))
    typer.echo(f"Saved to {out}.")


def _make_folder(option: str, folder: Path) -> None:
    """Make a folder to write into, before the work and not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # of its kind, but it names no option
        raise OSError(f"--{option}: {folder} cannot be made a folder: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"--{option}: {folder} is not to be written to; choose another folder")
