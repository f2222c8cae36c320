"""`s3clip serve`: a head behind an address."""

import os
from typing import Annotated

import typer

from s3clip.cli.common import (
    BATCH_SIZE,
    AllowAddresses,
    BatchSize,
    Compile,
    Device,
    HeadArgument,
    ImageDtype,
    Revision,
    SavedBackbone,
    TrialImages,
    trial_images,
)
from s3clip.printing import say

TOKEN = "S3CLIP_SERVE_TOKEN"
"""The variable of the environment that holds what requests have to bear."""


def serve(
    head: HeadArgument,
    host: Annotated[
        str, typer.Option(help="Where to listen: this machine alone, or 0.0.0.0 for all networks.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Where to listen; 0: a port that is free.", min=0, max=65535)
    ] = 8000,
    backbone: SavedBackbone = None,
    revision: Revision = None,
    batch_size: BatchSize = BATCH_SIZE,
    longest_wait: Annotated[
        float,
        typer.Option(
            help="Milliseconds that a picture waits for others, where the model is idle.", min=0, max=60_000
        ),
    ] = 5.0,
    waiting: Annotated[
        int, typer.Option(help="Pictures that may wait; requests beyond are told to try again (503).")
    ] = 256,
    most_pictures: Annotated[int, typer.Option(help="In one request.")] = 64,
    most_bytes: Annotated[int, typer.Option(help="Of one request, in MiB.")] = 32,
    most_pixels: Annotated[int, typer.Option(help="Of one picture.")] = 50_000_000,
    look_every: Annotated[
        float,
        typer.Option(help="Seconds after which HEAD is looked at, and taken over if it changed.", min=0.1),
    ] = 5.0,
    allow_addresses: AllowAddresses = None,
    device: Device = None,
    dtype: ImageDtype = None,
    compiled: Compile = False,
    images: TrialImages = None,
) -> None:
    """Serve a head over HTTP: /predict, /embed, /classes, /healthz, /readyz, /metrics, and a page at /.

    Requests that arrive together are encoded together. Where S3CLIP_SERVE_TOKEN is set, requests have to bear
    it. Ctrl-C and SIGTERM finish what is in flight. No address is fetched unless --allow-addresses says so.
    """
    from s3clip.serve import Bounds, HeadSource, create_app, run

    bounds = Bounds(
        batch_size=batch_size,
        longest_wait=longest_wait / 1000,
        waiting=waiting,
        pictures=most_pictures,
        body_bytes=most_bytes << 20,
        pixels=most_pixels,
        addresses=tuple(allow_addresses or ()),
    )
    source = HeadSource(
        head,
        revision=revision,
        backbone=backbone or "saved",
        device=device,
        dtype=dtype,
        compiled=compiled,
        images=trial_images(dtype, images),
    )
    token = os.environ.get(TOKEN)
    app = create_app(source, bounds=bounds, token=token or None, look_every=look_every)
    run(app, host=host, port=port, started=lambda address: say(f"Serving {source} at {address}"))
