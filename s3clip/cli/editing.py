"""`s3clip app`: edit synonyms in a browser, and see what changes."""

from typing import Annotated

import typer

from s3clip.cli.common import DEMO, Device, RequiredBackbone, class_source


def app(
    classes: Annotated[
        str | None, typer.Argument(help="Synonym file, as for `s3clip fit`; without one, the demo's digits.")
    ] = None,
    backbone: RequiredBackbone = DEMO,
    port: Annotated[
        int | None, typer.Option(help="Of this machine; else one that is free from 7860 on.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    device: Device = None,
) -> None:
    """Edit synonyms in a browser, and see logits, matched texts and the space change."""
    try:
        from s3clip.app.widgets import build, launch
    except ModuleNotFoundError as error:
        raise ImportError("the app needs gradio: pip install 's3clip[app]'") from error
    from s3clip import Backbone, SynonymSet
    from s3clip.demo import synonym_file

    words = SynonymSet.read(synonym_file() if classes is None else class_source(classes))
    launch(build(Backbone.from_pretrained(backbone, device=device), words), port=port, open_browser=browser)
