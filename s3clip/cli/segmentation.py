"""Which class does every pixel show?"""

import io
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from s3clip.cli.common import (
    BATCH_SIZE,
    BatchSize,
    Compile,
    Device,
    Format,
    ImageDtype,
    InsteadOfHead,
    OptionalBackbone,
    OptionalHead,
    Output,
    PatchFeatures,
    Revision,
    fitted_head,
    keep_inputs,
    print_rows,
    use_precision,
)
from s3clip.cli.stopping import keeps
from s3clip.files.folders import check_pictures, make_for_pictures
from s3clip.files.writing import write_atomically
from s3clip.printing import counted, say


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
        Path | None,
        typer.Option(help="Folder for a heat map of every class that covers 0.1 % or more: photo-cat.png."),
    ] = None,
    rle: Annotated[
        Path | None, typer.Option(help="JSON file of all masks, as COCO encodes them, with their areas.")
    ] = None,
    patch_features: PatchFeatures = None,
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
    memory: Annotated[int, typer.Option(help="MiB that logits of pixels may take at once.", min=1)] = 64,
    output: Output = Format.TABLE,
    batch_size: BatchSize = BATCH_SIZE,
    device: Device = None,
    dtype: ImageDtype = None,
    compiled: Compile = False,
) -> None:
    """Say which class every pixel shows, and print the area of each class.

    An image that cannot be read is named, the others are segmented all the same, and the exit status is 1.
    """
    from s3clip.images.opening import BrokenImageError
    from s3clip.images.walking import find_images
    from s3clip.segmentation.dense import PATCH_FEATURES
    from s3clip.segmentation.pictures import SMALLEST_SHARE

    if patch_features is not None and patch_features not in PATCH_FEATURES:
        known = ", ".join(PATCH_FEATURES)
        raise ValueError(f"--patch-features: expected one of {known}, got {patch_features!r}")
    files = find_images(images)
    wanted = _Wanted(files, out, overlay, heat_maps, rle)
    keep_inputs([*files, head, classes, backbone], wanted.written)
    fitted = fitted_head(head, classes, backbone, revision, device)
    wanted.name_heat_maps(fitted.class_names)
    use_precision(fitted, dtype, compiled, files)
    rows, masks, broken = [], [], False
    for i, file in enumerate(files):
        try:
            found = fitted.segment(
                file,
                method=patch_features or "sclip",
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
    shown = [row for row in rows if output is not Format.TABLE or row[-1] >= SMALLEST_SHARE]
    if output is not Format.JSON:
        shown = [[*row[:-1], f"{row[-1]:.4f}"] for row in shown]
    print_rows(header, shown, output)
    if len(shown) < len(rows):
        say(f"{counted(len(rows) - len(shown), 'area')} under 0.1 % of the image left out.")
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
            if len(files) > 1:
                if path.suffix:
                    raise ValueError(f"{option}: expected a folder for {len(files)} images, got {path}")
                check_pictures(path, option)
        if heat_maps is not None:
            check_pictures(heat_maps, "--heat-maps")
        written: dict[str, list[Path | None]] = {
            "--out": [self._path(out, file) for file in files] if out else [],
            "--overlay": [self._path(overlay, file) for file in files] if overlay else [],
            "--rle": [rle],
        }
        self.written, self.maps = written, list[str]()

    def name_heat_maps(self, class_names: Sequence[str]) -> None:
        """Call the heat map of each class after it, and refuse one that would go over another file."""
        if self.heat_maps is None:
            return
        plain = [re.sub(r"[^\w.-]+", "_", name)[:80] for name in class_names]
        counts = Counter(name.casefold() for name in plain)
        self.maps = [name if counts[name.casefold()] == 1 else f"{name}-{i}" for i, name in enumerate(plain)]
        # Any class may be there, and they may be many: the files are compared, not all that may be written.
        folder, known = self.heat_maps.resolve(), {name.casefold() for name in self.maps}
        stems = {file.stem for file in self.files}
        over = [
            file
            for file in filter(None, [*self.files, *chain(*self.written.values())])
            if Path(os.path.realpath(file)).parent == folder and file.suffix.lower() == ".png"
            for dash in re.finditer("-", file.stem)
            if file.stem[: dash.start()] in stems and file.stem[dash.end() :].casefold() in known
        ]
        keep_inputs(self.files, {**self.written, "--heat-maps": over})

    def save(self, i: int, found: Any) -> None:
        from s3clip.segmentation.pictures import SMALLEST_SHARE, heat_map, overlay

        file = self.files[i]
        if self.out is not None:
            self._write_picture(self.out, file, found.to_image())
        if self.overlay is not None:
            self._write_picture(self.overlay, file, overlay(file, found))
        if self.heat_maps is not None:
            for area in found.areas():
                which = area["class_index"]
                if area["share"] >= SMALLEST_SHARE:
                    name = f"{file.stem}-{self.maps[which]}.png"
                    make_for_pictures(self.heat_maps)
                    _write(self.heat_maps / name, _png(heat_map(file, found, which)))

    def _write_picture(self, given: Path, file: Path, picture: Any) -> None:
        if len(self.files) > 1:
            make_for_pictures(given)
        _write(self._path(given, file), _png(picture))

    def _path(self, given: Path, file: Path) -> Path:
        return given if len(self.files) == 1 else given / f"{file.stem}.png"


def _png(picture: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
