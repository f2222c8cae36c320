"""What one does with a head: fit, predict, push and export it, and the demo."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3clip.cli.common import (
    BATCH_SIZE,
    Among,
    BackboneName,
    BatchSize,
    Classes,
    Compile,
    Config,
    Device,
    Format,
    HeadArgument,
    ImageDtype,
    InsteadOfHead,
    Level,
    OptionalBackbone,
    OptionalHead,
    Output,
    Revision,
    SavedBackbone,
    Template,
    Values,
    Views,
    class_source,
    fitted_head,
    head_config,
    print_rows,
    use_precision,
)
from s3clip.cli.stopping import encoded_texts, keeps
from s3clip.printing import counted, say

if TYPE_CHECKING:
    from s3clip import Prediction


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the picture and the saved head.")] = Path(
        "s3clip-demo"
    ),
    photos: Annotated[
        Path | None,
        typer.Option(help="Only write a hundred sample pictures into this folder, by class."),
    ] = None,
) -> None:
    """Show what the choice of names does, on handwritten digits: offline, with a small CLIP of its own."""
    from s3clip.files.folders import check_writable

    check_writable(*(out, "--out") if photos is None else (photos, "--photos"))
    if photos is not None:
        from s3clip.demo import write_photos

        say(f"Wrote {counted(len(write_photos(photos)), 'picture')} into {photos}")
        return
    import torch

    from s3clip.demo.run import run_demo

    torch.set_num_threads(1)  # its tensors are small: threads that wait for each other are slower than one
    result = run_demo(out)
    say(f"{result}\n\nPicture: {result.picture}. Head: {result.head_folder}")


@keeps(lambda **_: f"{encoded_texts()}; to go on")
def fit(
    classes: Classes,
    backbone: BackboneName,
    out: Annotated[Path, typer.Option(help="Folder to save the head in.")],
    revision: Revision = None,
    template: Template = None,
    config: Config = None,
    values: Values = "synonyms",
    text_batch_size: Annotated[int, typer.Option(help="How many texts go through the model at once.")] = 256,
    device: Device = None,
) -> None:
    """Build the synonymous space of every class in a synonym file, and save it."""
    from s3clip import SynonymousSpaceHead, SynonymSet
    from s3clip.artifact.folder import check_place

    check_place(out, "--out")
    settings = None if config is None else head_config(config)
    synonyms = SynonymSet.read(class_source(classes), values=values)  # type: ignore[arg-type]  # read() names a wrong one
    templates = template[0] if template and len(template) == 1 else template
    head = SynonymousSpaceHead.from_backbone(backbone, revision=revision, device=device, config=settings)
    head.fit_classes(synonyms, templates=templates or None, batch_size=text_batch_size)
    head.save_pretrained(out)
    space = head.space
    total, distinct, kept = len(space.owners), len(space.duplicate_of.unique()), len(space.kept)
    say(
        f"{counted(len(head.classes), 'class')}, {counted(total, head.config.points.removesuffix('s'))}: "
        f"{kept} kept, {distinct - kept} dropped, {total - distinct} repeated"
    )
    if len(head.classes) == 1:
        say("One class only: every image gets it; centering was skipped.")
    say(f"Saved to {out}. Try: s3clip predict IMAGES --head {shlex.quote(str(out))}")


def schema() -> None:
    """Print the JSON Schema of --config, for editors that complete and check it."""
    from s3clip.config import config_schema

    say(json.dumps(config_schema(), indent=1))


def predict(
    images: Annotated[list[str], typer.Argument(help="Image files, folders, globs or addresses.")],
    head: OptionalHead = None,
    classes: InsteadOfHead = None,
    backbone: OptionalBackbone = None,
    top_k: Annotated[int, typer.Option(help="How many classes to print for each image.")] = 1,
    output: Output = Format.TABLE,
    revision: Revision = None,
    batch_size: BatchSize = BATCH_SIZE,
    adapt: Annotated[
        str | None,
        typer.Option(
            help="Adapt the head to each image: shift, shared_shift, zero or mean_views. Takes as long as "
            "encoding its views."
        ),
    ] = None,
    views: Views = 64,
    sets: Annotated[
        bool,
        typer.Option(
            "--sets",
            help="Name all classes that an image may show, by the --coverage of `s3clip calibrate`, instead "
            "of --top-k.",
        ),
    ] = False,
    level: Level = None,
    among: Among = None,
    language: Annotated[
        str | None, typer.Option(help="Language of the labels, where the classes have names in it: de, zh.")
    ] = None,
    device: Device = None,
    dtype: ImageDtype = None,
    compiled: Compile = False,
) -> None:
    """Classify images with a saved head, or with --classes and --backbone.

    IMAGES may be links too (https://...), and data URIs.

    An image that cannot be read is named, the others are classified all the same, and the exit status is 1.
    """
    from s3clip import TestTimeAdapter
    from s3clip.images.walking import find_images_and_addresses

    if sets and adapt is not None:
        raise ValueError("--sets: chosen for answers that are not adapted; leave --adapt out")
    if sets and (level is not None or among):
        raise ValueError("--sets: chosen for all classes, one by one; leave --level and --among out")
    files = find_images_and_addresses(images)
    fitted = fitted_head(head, classes, backbone, revision, device)
    use_precision(fitted, dtype, compiled, files)
    adapter = None if adapt is None else TestTimeAdapter(fitted, adapt, views=views)
    answers: list[list[Prediction] | None]  # None: not a readable image
    if sets:
        answers = fitted.predict_sets(files, batch_size=batch_size, language=language)
    else:
        found = fitted.predict(
            files,
            top_k=top_k,
            batch_size=batch_size,
            adapt=adapter,
            level=level,
            among=among or None,
            language=language,
        )
        answers = [own or None for own in found]
    if output is Format.JSON:
        listed = [
            {"file": str(file), "predictions": [asdict(prediction) for prediction in own]}
            if own is not None
            else {"file": str(file), "error": "not a readable image"}
            for file, own in zip(files, answers, strict=True)
        ]
        say(json.dumps(listed, indent=1, ensure_ascii=False))
    else:
        header = ["file", "rank", "label", "score", "class_index", "class_id", "text", "accepted"]
        rows: list[list[Any]] = []
        for file, own in zip(files, answers, strict=True):
            if own == []:
                rows.append([str(file), None, "none of these", *[None] * 5])
            rows += [
                [
                    str(file),
                    rank,
                    p.label,
                    f"{p.score:.4f}",
                    p.class_index,
                    p.class_id,
                    p.text,
                    "yes" if p.accepted else "no",
                ]
                for rank, p in enumerate(own or (), 1)
            ]
        print_rows(header, rows, output)
    if None in answers:
        raise typer.Exit(1)


def push(
    head: Annotated[Path, typer.Argument(help="Folder that `s3clip fit` wrote.")],
    repository: Annotated[str, typer.Argument(help="Repository of the Hub: user/name.")],
    private: Annotated[bool | None, typer.Option(help="Who may see a repository that is made.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, made if need be. Default: main.")] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    pull_request: Annotated[bool, typer.Option(help="Open a pull request instead.")] = False,
    replace_card: Annotated[
        bool, typer.Option(help="Write the model card anew, also where there is one.")
    ] = False,
) -> None:
    """Push a saved head to the Hub: a few MB, without its model. Log in with `hf auth login` first."""
    from s3clip.artifact.folder import load_artifact, without_local_names
    from s3clip.artifact.hub import push_artifact, pushed_to

    space = load_artifact(head)
    address = push_artifact(
        space,
        repository,
        private=private,
        revision=revision,
        commit_message=message,
        create_pr=pull_request,
        replace_card=replace_card,
    )
    name, pull = pushed_to(address)
    words = ["s3clip predict IMAGES --head", name]
    if (where := pull or revision) is not None:
        words += ["--revision", shlex.quote(where)]
    if space.backbone is not None and without_local_names(space) is not space:
        local = space.backbone.reference.name
        say(f"Its model is a folder of this machine, {local}, not named on the Hub: others give theirs.")
        words += ["--backbone", shlex.quote(str(local))]
    say(f"Pushed to {address}. Try: {' '.join(words)}")


def export(
    head: HeadArgument,
    out: Annotated[Path, typer.Option(help="ONNX file to write.")],
    backbone: SavedBackbone = None,
    revision: Revision = None,
) -> None:
    """Write the image tower and the head as one ONNX graph, from pixels to logits."""
    from s3clip import SynonymousSpaceHead, export_onnx
    from s3clip.integrations.onnx import checked_runtimes

    path = export_onnx(
        SynonymousSpaceHead.from_pretrained(head, revision=revision, backbone=backbone or "saved"), out
    )
    checked = " and ".join(checked_runtimes())
    say(f"Wrote {path}, whose logits are those of torch in {checked}; class_names are in its metadata.")
