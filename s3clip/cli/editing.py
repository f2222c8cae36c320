"""`s3clip app`: edit synonyms in a browser, and see what changes."""

from typing import Annotated

import typer

from s3clip.cli.common import Device, OptionalBackbone, OptionalClasses, class_source


def app(
    classes: OptionalClasses = None,
    backbone: OptionalBackbone = None,
    port: Annotated[
        int | None, typer.Option(help="Where to listen; else at one that is free from 7860 on.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    device: Device = None,
) -> None:
    """Edit synonyms in a browser, and see logits, matched texts and the space change.

    Without CLASSES and --backbone these are the demo's digits and its model.
    """
    try:
        from s3clip.app.widgets import build, launch
    except ModuleNotFoundError as error:
        raise ImportError("the app needs gradio: pip install 's3clip[app]'") from error
    from s3clip import Backbone, SynonymSet
    from s3clip.demo import model_folder, synonym_file

    words = SynonymSet.read(synonym_file() if classes is None else class_source(classes))
    model = Backbone.from_pretrained(backbone or str(model_folder()), device=device)
    launch(build(model, words), port=port, open_browser=browser)
