"""`s3clip demo`: the whole job on handwritten digits, offline, with the small CLIP in this folder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from s3clip.config import HeadConfig
from s3clip.demo import held_out_digits, model_folder, synonym_file
from s3clip.head import SynonymousSpaceHead
from s3clip.prediction.answers import Prediction
from s3clip.texts.synonyms import SynonymSet

PICTURE_COLUMNS, PICTURE_ROWS = 6, 4

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured and wrote.

    Attributes:
        images: how many held-out digits were classified.
        accuracy: top-1 in [0, 1] by method: the plain name, the mean of all texts, the space.
        texts: how many texts the synonym file gave.
        kept: how many of them make the spaces.
        reload_difference: largest difference of a logit between the head and its saved and loaded copy.
        head_folder: where the head was saved.
        picture: where the picture was written.
    """

    images: int
    accuracy: dict[str, float]
    texts: int
    kept: int
    reload_difference: float
    head_folder: Path
    picture: Path


def run_demo(out: Path) -> DemoResult:
    """Fit, classify, save, load and draw, with everything written into the folder `out`."""
    images, labels = held_out_digits()
    synonyms = SynonymSet.read(synonym_file())
    head = SynonymousSpaceHead.from_backbone(model_folder())
    backbone = head.backbone
    assert backbone is not None  # from_backbone gave it
    with torch.inference_mode():
        embeds = backbone.encode_images(**backbone.preprocess(images))

    plain = SynonymousSpaceHead(backbone, config=HeadConfig(centering=None, scale_rule=None, metric="center"))
    accuracy = {
        "plain name": _accuracy(
            plain.fit_classes(synonyms.class_names, templates=synonyms.templates), embeds, labels
        ),
        "mean of all texts": _accuracy(plain.fit_classes(synonyms), embeds, labels),
        "synonymous space": _accuracy(head.fit_classes(synonyms), embeds, labels),
    }
    folder = head.save_pretrained(out / "head")
    loaded = SynonymousSpaceHead.from_pretrained(folder)
    with torch.inference_mode():
        difference = (loaded(image_embeds=embeds) - head(image_embeds=embeds)).abs().max().item()
    picture = out / "digits.png"
    shown = PICTURE_COLUMNS * PICTURE_ROWS
    draw_predictions(images[:shown], loaded.predict(images[:shown], top_k=1), labels[:shown]).save(picture)
    return DemoResult(
        images=len(images),
        accuracy=accuracy,
        texts=len(head.space.owners),
        kept=len(head.space.kept),
        reload_difference=difference,
        head_folder=folder,
        picture=picture,
    )


def _accuracy(head: SynonymousSpaceHead, embeds: Tensor, labels: np.ndarray) -> float:
    with torch.inference_mode():
        return float((head(image_embeds=embeds).argmax(1).numpy() == labels).mean())


def draw_predictions(
    images: list[Image.Image], predictions: list[list[Prediction]], labels: np.ndarray
) -> Image.Image:
    """Return a grid of the images, each over its label, its probability and the text that matched."""
    side, caption, margin = 112, 62, 12
    font = ImageFont.load_default(size=13)
    width = margin + PICTURE_COLUMNS * (side + margin)
    sheet = Image.new("RGB", (width, margin + PICTURE_ROWS * (side + caption + margin)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, (best, *_), label) in enumerate(zip(images, predictions, labels, strict=True)):
        row, column = divmod(i, PICTURE_COLUMNS)
        x, y = margin + column * (side + margin), margin + row * (side + caption + margin)
        sheet.paste(image.convert("RGB").resize((side, side), Image.Resampling.NEAREST), (x, y))
        colour = "#1a7f37" if best.class_index == label else "#cf222e"
        draw.text((x, y + side + 3), f"{best.label}  {best.score:.0%}", fill=colour, font=font)
        for line, words in enumerate(_two_lines(f"“{best.text}”", side, font)):
            draw.text((x, y + side + 22 + 17 * line), words, fill="#57606a", font=font)
    return sheet


def _two_lines(text: str, width: int, font: Font) -> list[str]:
    """Break a text at a space; what does not fit into two lines ends in an ellipsis."""
    first, *rest = text.split(" ")
    while rest and font.getlength(f"{first} {rest[0]}") <= width:
        first = f"{first} {rest.pop(0)}"
    return [_shortened(line, width, font) for line in (first, " ".join(rest)) if line]


def _shortened(text: str, width: int, font: Font) -> str:
    while font.getlength(text) > width and len(text) > 2:
        text = text[:-2].rstrip("… ") + "…"
    return text
