"""The picture of `s3clip demo`: accuracy by the names that were picked, and digits with matched words."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SCALE = 2  # drawn at twice the size, for screens that show it so
WIDTH, HEIGHT, MARGIN = 960, 460, 24
ROW, LABELS, BARS = (
    31,
    190,
    190,
)  # pixels: width of the labels, length of a bar of 100 %
COLUMNS, TILE, GAP = 4, 72, 38
INK, MUTED, GREY, BLUE, RIGHT, WRONG = "#1f2328", "#59636e", "#9198a1", "#0969da", "#1a7f37", "#cf222e"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Bar:
    """A row of the left half.

    Attributes:
        label: what it is the accuracy of.
        accuracy: in [0, 1].
        colour: of the bar.
    """

    label: str
    accuracy: float
    colour: str = GREY


@dataclass(frozen=True)
class Tile:
    """A digit of the right half.

    Attributes:
        image: the digit.
        answer: the class that it was taken for.
        text: the text that matched.
        truth: its class, where the answer is another one.
    """

    image: Image.Image
    answer: str
    text: str
    truth: str | None = None


def draw(
    single: Sequence[Bar], together: Sequence[Bar], wrong: Sequence[Bar], tiles: Sequence[Tile]
) -> Image.Image:
    """Return the picture.

    Args:
        single: one name for each class, a bar for each choice.
        together: all names, a bar for each method.
        wrong: the same with wrong words in the lists.
        tiles: up to twelve.
    """
    sheet = Image.new("RGB", (SCALE * WIDTH, SCALE * HEIGHT), "white")
    pen = _Pen(ImageDraw.Draw(sheet))
    top = MARGIN
    for title, bars in (
        ("Right answers with one name for each class:", single),
        ("with all of them:", together),
        ("with a fifth of the synonyms in wrong classes:", wrong),
    ):
        pen.write(MARGIN, top, title, INK, 15)
        top += 26
        for bar in bars:
            length = round(bar.accuracy * BARS)
            pen.write(MARGIN, top + 3, bar.label, MUTED, 13, width=LABELS)
            pen.box(MARGIN + LABELS + 8, top, length, 20, bar.colour)
            pen.write(MARGIN + LABELS + 16 + length, top + 2, f"{bar.accuracy:.1%}", INK, 13)
            top += 25
        top += 10
    left = WIDTH - MARGIN - COLUMNS * (TILE + GAP) + GAP
    pen.write(left, MARGIN, "What the space says, and the words that matched:", INK, 15)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, COLUMNS)
        x, y = left + column * (TILE + GAP), MARGIN + 32 + row * (TILE + 62)
        place = (SCALE * x, SCALE * y)
        sheet.paste(tile.image.convert("RGB").resize((SCALE * TILE,) * 2, Image.Resampling.NEAREST), place)
        wide = TILE + GAP - 6
        pen.write(x, y + TILE + 4, tile.answer, RIGHT if tile.truth is None else WRONG, 13, width=wide)
        pen.write(x, y + TILE + 21, f"“{tile.text}”", MUTED, 12, width=wide)
        if tile.truth is not None:
            pen.write(x, y + TILE + 37, f"is {tile.truth}", WRONG, 12, width=wide)
    return sheet


@dataclass(frozen=True)
class _Pen:
    """Draws in pixels of the picture as it is looked at."""

    canvas: ImageDraw.ImageDraw

    def box(self, x: int, y: int, width: int, height: int, colour: str) -> None:
        self.canvas.rectangle((SCALE * x, SCALE * y, SCALE * (x + width), SCALE * (y + height)), fill=colour)

    def write(self, x: int, y: int, text: str, colour: str, size: int, width: int | None = None) -> None:
        """Write a text; what does not fit into `width` ends in an ellipsis."""
        font = ImageFont.load_default(size=SCALE * size)
        while width is not None and font.getlength(text) > SCALE * width and len(text) > 2:
            text = text[:-2].rstrip("… ,") + "…"
        self.canvas.text((SCALE * x, SCALE * y), text, fill=colour, font=font)
