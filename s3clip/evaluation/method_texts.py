"""The embeddings of the texts that each method gets: what several of them share is encoded once."""

from collections.abc import Sequence

from torch import Tensor

from s3clip.backbone.backbone import Backbone
from s3clip.backbone.encoding import encode_texts
from s3clip.evaluation.methods import Method
from s3clip.texts.prompts import Points, resolve_templates
from s3clip.texts.synonyms import SynonymSet
from s3clip.texts.templates import DEFAULT_TEMPLATES

_Rows = dict[Points, list[Tensor]]


class MethodTexts:
    """The texts of some classes, as methods have them encoded.

    Args:
        backbone: with its text tower.
        synonyms: the classes.
        templates: as `fit_classes` takes them.

    Attributes:
        class_names: of the classes, in order.
        templates: that were used, where a method has none of its own.
        embeddings: (texts, dim) float32 for each class, on the CPU; the first is its own name.
        negatives: of each class the (dim,) embeddings of its negatives, by the text; None: no class has one.
    """

    def __init__(
        self, backbone: Backbone, synonyms: SynonymSet, templates: str | Sequence[str] | None
    ) -> None:
        chosen = templates if templates is not None else synonyms.templates
        self.templates = resolve_templates(DEFAULT_TEMPLATES if chosen is None else chosen)
        self._backbone, self._synonyms = backbone, synonyms
        self._encoded: dict[tuple[object, ...], _Rows] = {}
        self.class_names = synonyms.class_names
        self._at_hand = _encoded(backbone, synonyms, self.templates)
        self.embeddings = self._at_hand["texts"]
        self.negatives = _negatives(backbone, synonyms)

    def of(self, method: Method, draw: int) -> list[Tensor]:
        """Return the rows (n, dim) of each class that a method has; `draw` is the seed of what is drawn."""
        rows = self._at_hand
        if method.texts is not None:
            key = (*method.texts, draw)
            if key not in self._encoded:
                rewritten = method.texts.classes(self._synonyms, draw)
                chosen = resolve_templates(method.texts.templates or self.templates)
                self._encoded[key] = _encoded(self._backbone, rewritten, chosen)
            rows = self._encoded[key]
        return texts_at_hand(method, rows["texts" if method.config is None else method.config.points])


def texts_at_hand(method: Method, embeddings: list[Tensor]) -> list[Tensor]:
    """Return what a method without texts of its own takes of the texts that there are."""
    return [own[:1] for own in embeddings] if method.name_only else embeddings


def _negatives(backbone: Backbone, synonyms: SynonymSet) -> list[dict[str, Tensor]] | None:
    texts = synonyms.negative_texts()
    if not any(texts):
        return None
    rows = iter(encode_texts(backbone, texts).float().cpu())
    return [{text.label: next(rows) for text in own} for own in texts]


def _encoded(backbone: Backbone, synonyms: SynonymSet, templates: Sequence[str]) -> _Rows:
    """Return the rows of every class, of its texts and of its concepts, whose prompts are the same."""
    texts = synonyms.texts(templates, "texts")
    concepts = synonyms.texts(templates, "concepts")
    encoded = encode_texts(backbone, [*texts, *concepts]).float().cpu()
    rows = encoded.split([len(own) for own in (*texts, *concepts)])
    return {"texts": list(rows[: len(texts)]), "concepts": list(rows[len(texts) :])}
