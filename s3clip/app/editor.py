"""What the app does, without its widgets."""

import html
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from s3clip.backbone.backbone import Backbone
from s3clip.head import SynonymousSpaceHead
from s3clip.images.opening import open_image
from s3clip.images.thumbnails import thumbnail
from s3clip.inspection.page import page_data, render_page
from s3clip.texts.synonyms import SynonymSet, slips

MOST_IMAGES = 32
MOST_SYNONYMS = 200
TOP_K = 3


@dataclass(frozen=True)
class Photos:
    """What was uploaded.

    Attributes:
        names: of the files, without folders.
        thumbnails: each as a data: URI.
        embeds: (images, dim), or None where there is none.
    """

    names: tuple[str, ...] = ()
    thumbnails: tuple[str, ...] = ()
    embeds: Tensor | None = None


@dataclass(frozen=True)
class Answer:
    """One of the best classes of an image.

    Attributes:
        image: its position.
        label: of the class.
        logit: of the class.
        change: of the logit, since the words were edited; None where it was not there before.
        score: its probability.
        text: that matched.
    """

    image: int
    label: str
    logit: float
    change: float | None
    score: float
    text: str


@dataclass(frozen=True)
class Shown:
    """What a set of words gives.

    Attributes:
        answers: the best classes of every image.
        logits: of all images and classes, by position, to compare the next ones with.
        space: the inspection page.
        warnings: of the words, and what was said while the space was built.
    """

    answers: tuple[Answer, ...]
    logits: dict[tuple[int, int], float]
    space: str
    warnings: tuple[str, ...]


class Editor:
    """Fits, answers, edits, saves and pushes, for one model and any number of visitors.

    Args:
        backbone: the model.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def encode(self, files: Sequence[str]) -> Photos:
        """Return image files with their embeddings.

        Raises:
            ValueError: more files than `MOST_IMAGES`, or one that is no image.
        """
        if not files:
            return Photos()
        if len(files) > MOST_IMAGES:
            raise ValueError(
                f"{len(files)} images are more than the {MOST_IMAGES} that this app takes at once"
            )
        names = tuple(Path(file).name for file in files)
        pictures = []
        for name, file in zip(names, files, strict=True):
            try:
                pictures.append(open_image(file))
            except ValueError as error:  # which would name a folder of the server
                raise ValueError(f"{name} is not an image that can be read") from error
        with torch.inference_mode():
            embeds = self.backbone.encode_images(**self.backbone.preprocess(pictures))
        return Photos(names, tuple(thumbnail(picture) for picture in pictures), embeds)

    def show(
        self, synonyms: SynonymSet, position: int, photos: Photos, before: dict[tuple[int, int], float]
    ) -> Shown:
        """Return what these words give for these images, and the space with one class open."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            head = self.fitted(synonyms)
        data = page_data(head, first=[position]) | {"open": position}
        answers: list[Answer] = []
        now: dict[tuple[int, int], float] = {}
        if photos.embeds is not None:
            with torch.inference_mode():
                logits = head(image_embeds=photos.embeds).tolist()
            now = {(i, c): logit for i, own in enumerate(logits) for c, logit in enumerate(own)}
            for i, own in enumerate(head.predict(image_embeds=photos.embeds, top_k=TOP_K)):
                for each in own:
                    at = i, each.class_index
                    change = now[at] - before[at] if at in before else None
                    answers.append(Answer(i, each.label, now[at], change, each.score, each.text or ""))
        said = dict.fromkeys([*slips(synonyms), *(str(each.message) for each in caught)])
        return Shown(tuple(answers), now, render_page(data, title="The space"), tuple(said))

    def fitted(self, synonyms: SynonymSet) -> SynonymousSpaceHead:
        """Return a head with these classes."""
        return SynonymousSpaceHead(self.backbone).fit_classes(synonyms, progress=False)

    def save(self, synonyms: SynonymSet) -> str:
        """Write the synonym file, and return where it is."""
        path = Path(tempfile.mkdtemp()) / "synonyms.json"
        synonyms.write(path)
        return str(path)

    def push(self, synonyms: SynonymSet, repository: str, token: str) -> str:
        """Push the space, and return its address. The token of whoever runs the app is never used.

        Raises:
            ValueError: no token, or what the Hub said, without the token in it.
        """
        if not (token := token.strip()):
            raise ValueError("Paste a token of yours that may write; it is used for this push and not kept")
        try:
            return self.fitted(synonyms).push_to_hub(repository.strip(), token=token)
        except (OSError, ValueError) as error:
            raise ValueError(str(error).replace(token, "***")) from None


def words_of(synonyms: SynonymSet, position: int) -> str:
    """Return the synonyms of a class, one a line."""
    return "\n".join(synonyms.classes[position].synonyms)


def split_words(words: str) -> list[str]:
    """Return what was written, one a line, each once."""
    return list(dict.fromkeys(line.strip() for line in words.splitlines() if line.strip()))


def edited(synonyms: SynonymSet, position: int, words: str) -> SynonymSet:
    """Return the classes with other synonyms for one of them.

    Raises:
        ValueError: more than `MOST_SYNONYMS`, or what no synonym may be.
    """
    own = split_words(words)
    if len(own) > MOST_SYNONYMS:
        raise ValueError(f"{len(own)} synonyms are more than the {MOST_SYNONYMS} that this app takes")
    content = synonyms.model_dump(exclude_none=True) | {"format": "s3clip-synonyms/1"}
    classes = [each.model_dump() for each in synonyms.classes]
    classes[position]["synonyms"] = own
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # `Editor.show` has them
        return SynonymSet.read(content | {"classes": classes})


def is_edited(synonyms: SynonymSet, position: int, words: str) -> bool:
    """Whether the words differ from those that the class has."""
    return split_words(words) != split_words(words_of(synonyms, position))


def _changed(change: float | None) -> str:
    return "" if change is None or abs(change) < 0.005 else f" ({change:+.2f})"


def answers_html(photos: Photos, answers: Sequence[Answer]) -> str:
    """Return the images with their answers, as HTML that fits a telephone."""
    if not photos.names:
        return "<p>Drop images on the left: the classes, logits and matched texts of each are shown here.</p>"
    shown = []
    for i, (name, picture) in enumerate(zip(photos.names, photos.thumbnails, strict=True)):
        rows = "".join(
            f"<tr><th scope='row'>{html.escape(each.label)}</th><td>{each.score:.1%}</td>"
            f"<td>{each.logit:.2f}{_changed(each.change)}</td>"
            f"<td>{html.escape(each.text)}</td></tr>"
            for each in answers
            if each.image == i
        )
        head = "<tr><th>class</th><th>probability</th><th>logit</th><th>matched</th></tr>"
        shown.append(
            f"<figure><img src='{picture}' alt='{html.escape(name, quote=True)}'>"
            f"<figcaption>{html.escape(name)}</figcaption>"
            f"<table><thead>{head}</thead><tbody>{rows}</tbody></table></figure>"
        )
    return "".join(shown)
