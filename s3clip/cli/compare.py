"""`s3clip compare`: every way to classify, on one's own labelled images."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3clip.arguments import refuse_unless_pictures
from s3clip.cli.common import (
    AllowAddresses,
    Compile,
    Config,
    Device,
    FileColumn,
    ImageDtype,
    LabelColumn,
    LabelledImages,
    Labels,
    OptionalBackbone,
    OptionalClasses,
    Template,
    Values,
    Views,
    class_source,
    head_config,
    keep_inputs,
    typed_backbone,
    use_precision,
)
from s3clip.cli.stopping import encoded_texts, keeps
from s3clip.printing import counted, say

if TYPE_CHECKING:
    from s3clip import SynonymSet
    from s3clip.evaluation import Comparison, WordComparison


@keeps(lambda **_: f"{encoded_texts()}; to begin anew")
def compare(
    out: Annotated[
        Path, typer.Option(help="Folder for comparison.json, .md and .png, or words.json and .md.")
    ],
    classes: OptionalClasses = None,
    backbone: OptionalBackbone = None,
    images: LabelledImages = None,
    labels: Labels = None,
    file_column: FileColumn = "file",
    label_column: LabelColumn = "label",
    embeddings: Annotated[
        Path | None,
        typer.Option(
            help="NumPy .npz instead of images: image_embeds and labels, and, to do without a model, "
            "text_embeds, owners (the class of each text), class_names and logit_scale in the place of "
            "CLASSES and --backbone."
        ),
    ] = None,
    template: Template = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Only this method beside the control; several times for more."),
    ] = None,
    config: Config = None,
    values: Values = "synonyms",
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
    allow_addresses: AllowAddresses = None,
    learn: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare what learns from the labels too, on images that it did not see: "
            "few_shot, and beside it logistic, class_means or tip_adapter; several times for more."
        ),
    ] = None,
    words: Annotated[
        bool,
        typer.Option(
            "--words",
            help="Leave out one word at a time instead, with the default settings or --config: which of your "
            "words help, and which hurt?",
        ),
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Print all rows, not the first ten.")] = False,
    device: Device = None,
    dtype: ImageDtype = None,
    compiled: Compile = False,
) -> None:
    """Score every way to classify on your labelled images: which one is best for them?

    With --config these settings too, as "config".
    """
    from s3clip import Backbone, SynonymousSpaceHead, SynonymSet
    from s3clip.evaluation import compare as compare_images
    from s3clip.evaluation import compare_embeddings, compare_words
    from s3clip.evaluation.inputs import labelled_images, read_embeddings
    from s3clip.evaluation.report.folder import BEST_CLASSES, check_report_folder
    from s3clip.prediction.class_labels import names_and_ids

    check_report_folder(out, "--out")
    if limit is not None and limit < 1:
        raise ValueError(f"--limit: expected a whole number >= 1, got {limit}")
    if embeddings is not None and (images is not None or labels is not None):
        raise ValueError("--embeddings: it brings the labels; leave --images and --labels out")
    refuse_unless_pictures(
        embeddings is None, dtype=dtype, compiled=compiled, allow_addresses=allow_addresses
    )
    if words and (method or adapt or learn):
        raise ValueError("--words: it compares words, not methods; leave --method, --adapt and --learn out")
    settings = None if config is None else head_config(config)
    numbers: dict[str, Any] = {"min_images": min_images, "bootstrap": bootstrap, "seed": seed}
    compared: dict[str, Any] = {
        "methods": method or None,
        "configs": None if settings is None else {"config": settings},
        "adapt": tuple(adapt or ()),
        "learn": tuple(learn or ()),
        **numbers,
    }
    given = read_embeddings(embeddings) if embeddings is not None else None
    written = ("words.json", "words.md") if words else ("comparison.json", "comparison.md", "comparison.png")
    places = {"--out": [out / name for name in (*written, *(() if words else (BEST_CLASSES, "curve.png")))]}
    inputs = [classes, config, labels, embeddings, backbone]
    if given is not None and given.texts is not None:
        about_texts = {"CLASSES": classes, "--backbone": backbone, "--template": template, "--device": device}
        about_texts["--values"] = None if values == "synonyms" else values
        unused = ", ".join(name for name, value in about_texts.items() if value is not None)
        if unused or words:
            advice = "--words need a synonym file" if words else f"leave out: {unused}"
            raise ValueError(f"{embeddings} has texts of its own; {advice}")
        keep_inputs(inputs, places)
        truth, scale = given.labels[:limit], given.logit_scale
        _show(
            compare_embeddings(
                given.texts, given.class_names, given.images[:limit], truth, logit_scale=scale, **compared
            ),
            out,
            every,
        )
        return
    if classes is None or backbone is None:
        raise ValueError("expected a synonym file and --backbone, to encode the texts with")
    synonyms = SynonymSet.read(class_source(classes), values=values)  # type: ignore[arg-type]  # as in fit
    scored: dict[str, Any] = {}
    if given is not None:
        truth, scored["image_embeds"] = given.labels[:limit], given.images[:limit]
    else:
        files, named = labelled_images(
            images,
            labels,
            file_column,
            label_column,
            is_class=names_and_ids(synonyms.classes).__contains__,
            allow_addresses=allow_addresses or (),
        )
        truth, scored["images"] = named[:limit], files[:limit]
        inputs += files
    keep_inputs(inputs, places)
    scored["templates"] = (template[0] if template and len(template) == 1 else template) or None
    scored["backbone"] = Backbone.from_pretrained(backbone, device=device)
    if dtype is not None or compiled:
        trial = SynonymousSpaceHead(scored["backbone"]).fit_classes(synonyms, templates=scored["templates"])
        use_precision(trial, dtype, compiled, scored["images"])
    if words:
        _show(compare_words(synonyms, truth, config=settings, **scored, **numbers), out, every)
        return
    result = compare_images(synonyms, truth, views=views, **scored, **compared)
    named_by = [classes, *(["--values", values] if values != "synonyms" else [])]
    _show(result, out, every, _use(result, synonyms, out, named_by, backbone, template or [], views))


def _show(result: "Comparison | WordComparison", out: Path, every: bool, use: str = "") -> None:
    """Print what was found, the sentence that concludes it last, and write it into a folder."""
    from s3clip.evaluation.report.comparison import SHOWN, Comparison, draw_curve

    table, total = result.table(None if every else SHOWN), len(result.table().rows)
    say(str(table))
    if len(table.rows) < total:
        say(f"{len(table.rows)} of {counted(total, 'row')}; --all prints all.")
    say(result.summary())
    result.save(out)
    if isinstance(result, Comparison):
        if (levels := result.level_table(None if every else SHOWN)) is not None:
            say(f"By the level of the classes' groups:\n{levels}")
        if result.curve:
            say(f"By the number of labelled images, top-1 / recall (worst draw):\n{result.curve_table()}")
        try:
            result.draw(out / "comparison.png")
            if result.curve:
                draw_curve(result, out / "curve.png")
        except ImportError as error:
            say(f"warning: no picture: {error}", error=True)
    say(f"Saved to {out}.")
    say(result.closing(use) if isinstance(result, Comparison) else result.conclusion())


def _use(
    result: "Comparison",
    synonyms: "SynonymSet",
    out: Path,
    classes: list[str],
    backbone: str,
    templates: list[str],
    views: int,
) -> str:
    """Return how to use the best method, and write the classes with the texts that it takes, if need be.

    Args:
        result: of the comparison.
        synonyms: the classes that were compared.
        out: the folder of the comparison.
        classes: the arguments that name them.
        backbone: as it was given.
        templates: those that were given.
        views: how many a method that adapts makes of an image.
    """
    from s3clip.config import HeadConfig
    from s3clip.evaluation.methods import METHODS, WITHOUT_NEGATIVES, Texts, names_alone
    from s3clip.evaluation.report.folder import BEST_CLASSES

    name, adapt = result.control if result.best is None else result.best.name, None
    if name not in METHODS and "+" in name:
        name, _, adapt = name.rpartition("+")
    method = METHODS.get(name)
    texts = None if method is None else Texts(names_alone) if method.name_only else method.texts
    if texts is None and method is not None and not method.negatives and any(synonyms.negative_texts()):
        texts = WITHOUT_NEGATIVES
    if texts is not None:
        path = out / BEST_CLASSES
        out.mkdir(parents=True, exist_ok=True)
        texts.classes(synonyms, result.settings["seed"]).write(path)
        classes, templates = [str(path)], [texts.templates] if texts.templates else templates
    # softmax_max answers as the nearest text does.
    config = result.settings["configs"].get(
        name, {"points": "texts", "metric": "nearest", "scale_rule": None}
    )
    changes = HeadConfig(**config).changes()
    line = ["s3clip", "fit", *classes, "--backbone", typed_backbone(backbone)]
    line += [part for template in templates for part in ("--template", template)]
    line += ["--config", json.dumps(changes, ensure_ascii=False)] if changes else []
    fit = shlex.join([*line, "--out", str(out / "head")])
    adapting = "" if adapt is None else f" (and predict with --adapt {adapt} --views {views})"
    return f"To use it: {fit}{adapting}"
