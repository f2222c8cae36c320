"""Which class does every pixel show?"""

import io
import json
import os
import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from s3clip.cli.common import (
    BatchSize,
    Compile,
    Device,
    Format,
    ImageDtype,
    InsteadOfHead,
    OptionalBackbone,
    OptionalHead,
    Output,
    Revision,
    fitted_head,
    keep_inputs,
    print_rows,
    use_precision,
)
from s3clip.cli.stopping import keeps
from s3clip.files.writing import write_atomically
from s3clip.printing import say


@keeps(lambda **_: "pictures that were written are kept, the table and --rle come at the end; to begin anew")
def segment(
    images: Annotated[list[str], typer.Argument(help="Image files, folders or globs.")],
    head: OptionalHead = None,
    classes: InsteadOfHead = None,
    backbone: OptionalBackbone = None,
    revision: Revision = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Palette PNG of the labels (255: no class); a folder where there are more images."),
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="PNG of the image with its classes over it; else as --out.")
    ] = None,
    heat_maps: Annotated[
        Path | None, typer.Option(help="Folder for a heat map of every class that is there.")
    ] = None,
    rle: Annotated[
        Path | None, typer.Option(help="JSON file of all masks, as COCO encodes them, with their areas.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="Embeddings of patches: patch, maskclip, sclip, naclip or clearclip.")
    ] = "sclip",
    window: Annotated[int | None, typer.Option(help="Pixels; the size of the model's images.")] = None,
    stride: Annotated[int | None, typer.Option(help="Pixels; half a window.")] = None,
    short_side: Annotated[int | None, typer.Option(help="Pixels; one and a half windows.")] = None,
    aggregation: Annotated[
        str, typer.Option(help="space, or the usual baseline softmax_then_max.")
    ] = "space",
    threshold: Annotated[
        float | None, typer.Option(help="Pixels whose best class is less probable show nothing.")
    ] = None,
    background: Annotated[str | None, typer.Option(help="The class that such pixels get.")] = None,
    memory: Annotated[int, typer.Option(help="MiB that logits of pixels may take at once.")] = 64,
    output: Output = Format.TABLE,
    batch_size: BatchSize = 8,
    device: Device = None,
    dtype: ImageDtype = None,
    compiled: Compile = False,
) -> None:
    """Say which class every pixel shows, and print the area of each class.

    An image that cannot be read is named, the others are segmented all the same, and the exit status is 1.
    """
    from s3clip.images.opening import BrokenImageError
    from s3clip.images.walking import find_images

    files = find_images(images)
    wanted = _Wanted(files, out, overlay, heat_maps, rle)
    fitted = fitted_head(head, classes, backbone, revision, device)
    use_precision(fitted, dtype, compiled, files)
    rows, masks, broken = [], [], False
    for i, file in enumerate(files):
        try:
            found = fitted.segment(
                file,
                method=method,
                window=window,
                stride=stride,
                short_side=short_side,
                aggregation=aggregation,
                threshold=threshold,
                background=background,
                batch_size=batch_size,
                max_bytes=memory * 2**20,
            )[0]
        except BrokenImageError as error:
            say(f"warning: {error}", error=True)
            broken = True
            continue
        wanted.save(i, found)
        if rle is not None:
            masks += [{"file": str(file), **each} for each in found.to_coco_rle()]
        rows += [[str(file), *area.values()] for area in found.areas()]
    if rle is not None:
        _write(rle, json.dumps(masks, indent=1, ensure_ascii=False).encode())
    header = ["file", "label", "class_index", "class_id", "pixels", "share"]
    if output is not Format.JSON:
        rows = [[*row[:-1], f"{row[-1]:.4f}"] for row in rows]
    print_rows(header, rows, output)
    if broken:
        raise typer.Exit(1)


class _Wanted:
    """Which pictures are wanted of each file, and where."""

    def __init__(
        self,
        files: list[Path],
        out: Path | None,
        overlay: Path | None,
        heat_maps: Path | None,
        rle: Path | None,
    ) -> None:
        self.files, self.out, self.overlay, self.heat_maps = files, out, overlay, heat_maps
        names = [file.stem for file in files]
        if (out or overlay or heat_maps) and len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"images: several are called {twice!r}, and would be written to one file")
        for option, path in (("--out", out), ("--overlay", overlay)):
            if path is None:
                continue
            if len(files) == 1 and path.suffix.lower() != ".png":
                raise ValueError(f"{option}: expected a name that ends in .png, got {path}")
            if len(files) > 1 and path.suffix:
                raise ValueError(f"{option}: expected a folder for {len(files)} images, got {path}")
        written = {
            "--out": [self._path(out, file) for file in files] if out else [],
            "--overlay": [self._path(overlay, file) for file in files] if overlay else [],
            "--rle": [] if rle is None else [rle],
        }
        heats = (
            [] if heat_maps is None else self._heat_maps_over([*files, *chain(*written.values())], heat_maps)
        )
        keep_inputs(files, {**written, "--heat-maps": heats})

    def _heat_maps_over(self, files: Iterable[Path], folder: Path) -> set[Path]:
        """Return those of some files that a heat map may be written over, whichever classes are there."""
        stems = {file.stem for file in self.files}
        named = {file: re.fullmatch(r"(.+)-\d+\.png", file.name) for file in files}
        return {
            file
            for file, match in named.items()
            if match and match[1] in stems and Path(os.path.realpath(file)).parent == folder.resolve()
        }

    def save(self, i: int, found: Any) -> None:
        from s3clip.segmentation.pictures import heat_map, overlay

        file = self.files[i]
        if self.out is not None:
            _write(self._path(self.out, file), _png(found.to_image()))
        if self.overlay is not None:
            _write(self._path(self.overlay, file), _png(overlay(file, found)))
        if self.heat_maps is not None:
            for area in found.areas():
                which = area["class_index"]
                _write(self.heat_maps / f"{file.stem}-{which}.png", _png(heat_map(file, found, which)))

    def _path(self, given: Path, file: Path) -> Path:
        return given if len(self.files) == 1 else given / f"{file.stem}.png"


def _png(picture: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
