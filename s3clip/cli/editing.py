"""`s3clip app`: edit synonyms in a browser, and see what changes."""

from typing import Annotated

import typer

from s3clip.cli.common import (
    Compile,
    Device,
    ImageDtype,
    OptionalBackbone,
    OptionalClasses,
    TrialImages,
    class_source,
    trial_images,
    use_precision,
)


def app(
    classes: OptionalClasses = None,
    backbone: OptionalBackbone = None,
    port: Annotated[
        int | None,
        typer.Option(help="Where to listen; else at one that is free from 7860 on.", min=0, max=65535),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    device: Device = None,
    dtype: ImageDtype = None,
    compiled: Compile = False,
    images: TrialImages = None,
) -> None:
    """Edit synonyms in a browser, and see logits, matched texts and the space change.

    Without CLASSES and --backbone these are the demo's digits and its model.
    """
    try:
        from s3clip.app.widgets import build, launch
    except ModuleNotFoundError as error:
        raise ImportError("the app needs gradio: pip install 's3clip[app]'") from error
    from s3clip import Backbone, SynonymousSpaceHead, SynonymSet
    from s3clip.demo import model_folder, synonym_file

    tried = trial_images(dtype, images)
    words = SynonymSet.read(synonym_file() if classes is None else class_source(classes))
    model = Backbone.from_pretrained(backbone or str(model_folder()), device=device)
    head = SynonymousSpaceHead(model)
    if tried:
        head.fit_classes(words)
    use_precision(head, dtype, compiled, tried)
    launch(build(model, words), port=port, open_browser=browser)
