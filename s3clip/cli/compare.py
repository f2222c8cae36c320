"""`s3clip compare`: every way to classify, on one's own labelled images."""

from pathlib import Path
from typing import Annotated, Any

import typer

from s3clip.cli.common import Device, OptionalBackbone, Views, class_source, head_config, keep_inputs
from s3clip.printing import say


def compare(
    out: Annotated[Path, typer.Option(help="Folder for comparison.json, .md and .png.")],
    classes: Annotated[
        str | None,
        typer.Argument(help="Synonym file, as for `s3clip fit`; none if --embeddings brings the texts too."),
    ] = None,
    backbone: OptionalBackbone = None,
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
    from s3clip import Backbone, SynonymSet
    from s3clip.evaluation import compare as compare_images
    from s3clip.evaluation import compare_embeddings
    from s3clip.evaluation.inputs import labelled_images, read_embeddings

    if limit is not None and limit < 1:
        raise ValueError(f"--limit: expected a whole number >= 1, got {limit}")
    if embeddings is not None and (images is not None or labels is not None):
        raise ValueError("--embeddings: it brings the labels; leave --images and --labels out")
    settings = None if config is None else head_config(config)
    arguments: dict[str, Any] = {
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
            given.texts, given.class_names, given.images[:limit], truth, logit_scale=scale, **arguments
        )
    else:
        if classes is None or backbone is None:
            raise ValueError("expected a synonym file and --backbone, to encode the texts with")
        if given is not None:
            truth, arguments["image_embeds"] = given.labels[:limit], given.images[:limit]
        else:
            files, named = labelled_images(images, labels, file_column, label_column)
            truth, arguments["images"] = named[:limit], files[:limit]
            keep_inputs(files, {"--out": [out / f"comparison.{ending}" for ending in ("json", "md", "png")]})
        synonyms = SynonymSet.read(class_source(classes), values=values)  # type: ignore[arg-type]  # as in fit
        arguments["templates"] = (template[0] if template and len(template) == 1 else template) or None
        model = Backbone.from_pretrained(backbone, device=device)
        result = compare_images(synonyms, truth, backbone=model, views=views, **arguments)
    say(str(result.table()))
    say(result.summary())
    result.save(out)
    try:
        result.draw(out / "comparison.png")
    except ImportError as error:
        say(f"warning: no picture: {error}", error=True)
    say(f"Saved to {out}.")
