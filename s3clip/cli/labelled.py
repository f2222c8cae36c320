"""What a saved head learns of one's own images: probabilities, what to reject, how common classes are."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3clip.cli.common import (
    BATCH_SIZE,
    AllowAddresses,
    BatchSize,
    Compile,
    Device,
    FileColumn,
    Format,
    HeadSource,
    ImageDtype,
    LabelColumn,
    LabelledImages,
    Labels,
    Output,
    Revision,
    SavedBackbone,
    given_json,
    keep_inputs,
    print_rows,
    use_precision,
)
from s3clip.printing import Table, counted, say

if TYPE_CHECKING:
    from s3clip import SynonymousSpaceHead

Out = Annotated[
    Path | None, typer.Option(help="Folder to save the head in. Default: the one it was loaded from.")
]


def calibrate(
    head: HeadSource,
    images: LabelledImages = None,
    labels: Labels = None,
    out: Out = None,
    coverage: Annotated[
        float | None,
        typer.Option(
            help="Choose also the sets of `s3clip predict --sets`, which hold the right class so often: 0.9."
        ),
    ] = None,
    file_column: FileColumn = "file",
    label_column: LabelColumn = "label",
    allow_addresses: AllowAddresses = None,
    backbone: SavedBackbone = None,
    revision: Revision = None,
    batch_size: BatchSize = BATCH_SIZE,
    device: Device = None,
    dtype: ImageDtype = None,
    compiled: Compile = False,
) -> None:
    """Make the probabilities of a head mean something, by images whose classes are known.

    A few hundred that nothing was learned from. With --labels a CSV as `s3clip compare` takes it.
    """
    from s3clip.evaluation.sureness import measure_sureness
    from s3clip.prediction.conformal import needed_images

    folder = _Place(head, out)
    fitted = _loaded(head, revision, backbone or "saved", device)
    files, known = _labelled(fitted, images, labels, file_column, label_column, allow=allow_addresses)
    if coverage is not None:
        needed_images(coverage, len(files))
    use_precision(fitted, dtype, compiled, files)
    embeds = _encoded(fitted, files, batch_size)
    before = measure_sureness(fitted, embeds, known)
    fitted.calibrate(image_embeds=embeds, labels=known, coverage=coverage)
    after = measure_sureness(fitted, embeds, known)
    folder.save(fitted)
    sets = ""
    if after.set_size is not None:
        sets = f"; sets of {after.set_size:.1f} classes hold the right one {coverage:.1%} of the time"
    say(
        f"On your {counted(len(files), 'image')} {after.right:.1%} of the best answers are right, and the "
        f"head, which was {before.sure:.1%} sure of them, is {after.sure:.1%} sure now{sets}; saved to "
        f"{folder}."
    )


def teach(
    head: HeadSource,
    images: LabelledImages = None,
    labels: Labels = None,
    out: Out = None,
    add: Annotated[
        bool, typer.Option("--add", help="Keep the labelled images that the head has already.")
    ] = False,
    none: Annotated[
        str | None, typer.Option(help="The label of images that show none of the classes.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            help="Save nothing, but list the labels that the other images contradict, and write a page of "
            "them: doubts.html."
        ),
    ] = None,
    file_column: FileColumn = "file",
    label_column: LabelColumn = "label",
    allow_addresses: AllowAddresses = None,
    output: Output = Format.TABLE,
    backbone: SavedBackbone = None,
    revision: Revision = None,
    batch_size: BatchSize = BATCH_SIZE,
    device: Device = None,
    dtype: ImageDtype = None,
    compiled: Compile = False,
) -> None:
    """Learn from labelled images, ten or thousands, and say what that gains.

    With --labels a CSV as `s3clip compare` takes it. The images stay in the head, as embeddings.
    """
    folder = _Place(head, out)
    fitted = _loaded(head, revision, backbone or "saved", device)
    files, known = _labelled(
        fitted, images, labels, file_column, label_column, none=none, allow=allow_addresses
    )
    use_precision(fitted, dtype, compiled, files)
    if check is not None:
        keep_inputs([*files, labels, head], {"--check": [check]})
        _check(fitted, files, known, check, output, batch_size)
        return
    fitted.fit_few_shot(files, known, add=add, batch_size=batch_size)
    folder.save(fitted)
    report = fitted.few_shot
    assert report is not None  # it is there once something was learned from
    count, top1, recall = sum(report.seen) + report.none, report.top1, report.recall
    if report.strength is None:
        right = f" ({top1.before:.1%} right)" if any(report.seen) else ""
        say(
            f"On your {counted(count, 'image')} nothing that can be learned from them gains more than "
            f"chance, so that answers stay as they are{right}; saved to {folder}."
        )
        return
    say(
        f"On your {counted(count, 'image')} {top1}, mean recall {recall.change}, by cross-validation; saved "
        f"to {folder}."
    )


def suggest(
    images: Annotated[list[str], typer.Argument(help="Image files, folders or globs to choose from.")],
    head: HeadSource,
    out: Annotated[Path, typer.Option(help="CSV to write, with an empty column to fill in: next.csv.")],
    n: Annotated[int, typer.Option("-n", help="How many images.")] = 20,
    backbone: SavedBackbone = None,
    revision: Revision = None,
    batch_size: BatchSize = BATCH_SIZE,
    device: Device = None,
    dtype: ImageDtype = None,
    compiled: Compile = False,
) -> None:
    """Choose the images that are the most useful to label, for `s3clip teach --labels`."""
    from s3clip.files.writing import write_atomically
    from s3clip.images.walking import find_images

    files = [file.absolute() for file in find_images(images)]
    folder = Path(os.path.commonpath([file.parent for file in files]))
    keep_inputs([*files, head], {"--out": [out]})
    if out.exists():
        raise FileExistsError(f"--out: {out} is there, perhaps with labels filled in; name another file")
    fitted = _loaded(head, revision, backbone or "saved", device)
    use_precision(fitted, dtype, compiled, files)
    embeds = _encoded(fitted, files, batch_size)
    chosen = fitted.suggest(image_embeds=embeds, n=n)
    guesses = fitted.predict(image_embeds=embeds[chosen], top_k=1)
    rows = [
        [str(files[at].relative_to(folder)), "", guess.label, f"{guess.score:.4f}"]
        for at, (guess,) in zip(chosen, guesses, strict=True)
    ]
    write_atomically(out, Table(["file", "label", "guess", "score"], rows).csv().encode())
    line = ["s3clip", "teach", "--head", head, "--images", str(folder), "--labels", str(out), "--add"]
    say(
        f"Chose {len(chosen):,} of {counted(len(files), 'image')}; fill in the column label of {out}, and "
        f"try: {shlex.join(line)}"
    )


def reject(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders or globs that show none of the classes; with --accept-rate, that show "
            "them."
        ),
    ],
    head: HeadSource,
    out: Out = None,
    false_accept_rate: Annotated[
        float | None,
        typer.Option(help="The share of such images that may be accepted all the same; 0.05 without either."),
    ] = None,
    accept_rate: Annotated[
        float | None,
        typer.Option(help="For images that show the classes: the share of them that is to be accepted."),
    ] = None,
    backbone: SavedBackbone = None,
    revision: Revision = None,
    batch_size: BatchSize = BATCH_SIZE,
    device: Device = None,
    dtype: ImageDtype = None,
    compiled: Compile = False,
) -> None:
    """Teach a head to say "none of these", by images that show none of its classes, or by some that do.

    It holds for images like those: of things that look more like the classes, more are accepted.
    """
    from s3clip.images.walking import find_images

    folder = _Place(head, out)
    files = find_images(images)
    fitted = _loaded(head, revision, backbone or "saved", device)
    use_precision(fitted, dtype, compiled, files)
    embeds = _encoded(fitted, files, batch_size)
    fitted.fit_rejection(image_embeds=embeds, false_accept_rate=false_accept_rate, accept_rate=accept_rate)
    accepted = sum(own[0].accepted for own in fitted.predict(image_embeds=embeds, top_k=1))
    of = "no class" if accept_rate is None else "the classes"
    folder.save(fitted)
    say(
        f"Of your {counted(len(files), 'image')} of {of} {accepted:,} are accepted from now on, and the "
        f'others "none of these"; saved to {folder}.'
    )


def shares(
    given: Annotated[
        str,
        typer.Argument(
            metavar="SHARES",
            help='How common classes are: JSON such as {"shoe": 0.6, "hat": 0.1}, or a file of it; the '
            "others have what is left, in equal parts. null takes it back.",
        ),
    ],
    head: HeadSource,
    out: Out = None,
    revision: Revision = None,
) -> None:
    """Tell a head how common its classes are, where you know: wrong shares lose more than true ones gain."""
    folder = _Place(head, out)
    wanted = None if given.strip() == "null" else given_json(given, "SHARES")[0]
    fitted = _loaded(head, revision, None, None)
    fitted.set_class_shares(wanted)
    folder.save(fitted)
    if fitted.class_shares is None:
        say(f"No class counts as more common than another; saved to {folder}.")
        return
    most = max(range(len(fitted.classes)), key=fitted.class_shares.__getitem__)
    say(
        f"The most common of {counted(len(fitted.classes), 'class')} is {fitted.class_names[most]} with "
        f"{fitted.class_shares[most]:.1%} of the images; saved to {folder}."
    )


class _Place:
    """The folder that a head goes into, asked for before the work."""

    def __init__(self, head: str, out: Path | None) -> None:
        from s3clip.artifact.folder import check_place

        if out is None and not os.path.isdir(head):
            raise ValueError(f"--out: {head} is not a folder here; give one to save the head in")
        self.folder = check_place(head if out is None else out, "--out")
        self._before = self._state()

    def save(self, head: "SynonymousSpaceHead") -> None:
        """Save a head, unless another command changed what lies there, which would be lost."""
        if self._state() != self._before:
            raise ValueError(
                f"{self.folder}: another command saved a head there meanwhile, which would be lost; run this "
                f"one again, or give another --out"
            )
        head.save_pretrained(self.folder)

    def _state(self) -> bytes | None:
        config = self.folder / "config.json"
        return config.read_bytes() if config.is_file() else None

    def __str__(self) -> str:
        return str(self.folder)


def _loaded(head: str, revision: str | None, backbone: Any, device: str | None) -> "SynonymousSpaceHead":
    from s3clip import SynonymousSpaceHead

    return SynonymousSpaceHead.from_pretrained(head, revision=revision, backbone=backbone, device=device)


def _check(
    head: "SynonymousSpaceHead",
    files: list[Path],
    known: list[Any],
    page: Path,
    output: Format,
    batch_size: int,
) -> None:
    from s3clip.inspection.contact_sheet import write_contact_sheet

    doubts = head.check_labels(files, known, batch_size=batch_size)
    names = head.class_names
    rows = [
        [
            str(files[each.image]),
            names[each.given],
            names[each.likely],
            f"{each.wrong:.4f}",
        ]
        for each in doubts
    ]
    print_rows(["file", "label", "likely", "wrong"], rows, output)
    write_contact_sheet(head, files, doubts, page)
    if output is Format.TABLE:
        say(
            f"Of your {counted(len(files), 'label')} the other images contradict {len(doubts):,}; look at "
            f"{page}."
        )


def _labelled(
    head: "SynonymousSpaceHead",
    images: Path | None,
    labels: Path | None,
    *columns: str,
    none: str | None = None,
    allow: list[str] | None = None,
) -> tuple[list[Path], list[Any]]:
    """Return files and the positions of their classes, None for the label `none`; others are left out."""
    from s3clip.evaluation.inputs import labelled_images
    from s3clip.prediction.class_labels import class_positions, names_and_ids
    from s3clip.texts.labels import alike

    if images is None and labels is None:
        raise ValueError("expected --images, a folder with a sub-folder a class, or --labels, a CSV")
    known_as = names_and_ids(head.classes)
    if none is not None and none in known_as:
        raise ValueError(f"--none: {none} is a class of the head; call the folder of other images otherwise")

    def is_none(label: str) -> bool:
        return none is not None and alike(label) == alike(none)

    def is_class(folder: str) -> bool:
        return folder in known_as or is_none(folder)

    files, named = labelled_images(images, labels, *columns, is_class=is_class, allow_addresses=allow or ())
    if none is not None and not any(map(is_none, named)):
        raise ValueError(
            f"--none: no image has the label {none!r}; there are {', '.join(sorted(set(named))[:5])}"
        )
    positions = class_positions(named, head.class_names, [each.id for each in head.classes])
    known = [
        (file, place)
        for file, place, label in zip(files, positions, named, strict=True)
        if place is not None or is_none(label)
    ]
    if not known:
        raise ValueError(
            f"no label is that of a class: {', '.join(sorted(set(named))[:5])}; the head has "
            f"{', '.join(head.class_names[:5])}"
        )
    if gone := len(files) - len(known):
        others = {
            own for own, place in zip(named, positions, strict=True) if place is None and not is_none(own)
        }
        said = f"have a label that is no class, such as {min(others)!r}"
        say(f"warning: {gone:,} of {counted(len(files), 'image')} {said}", error=True)
    return [file for file, _ in known], [place for _, place in known]


def _encoded(head: "SynonymousSpaceHead", files: list[Path], batch_size: int) -> Any:
    from s3clip.prediction.batches import all_logits

    return all_logits(head, files, None, batch_size)[1]
