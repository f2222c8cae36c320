"""The embeddings of the texts that each method gets: what several of them share is encoded once."""

from collections.abc import Sequence

from torch import Tensor

from s3clip.backbone.backbone import Backbone
from s3clip.evaluation.methods import CONTROL, Method
from s3clip.head import SynonymousSpaceHead
from s3clip.texts.synonyms import SynonymSet


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
    """

    def __init__(
        self, backbone: Backbone, synonyms: SynonymSet, templates: str | Sequence[str] | None
    ) -> None:
        head = SynonymousSpaceHead(backbone, config=CONTROL.config).fit_classes(synonyms, templates=templates)
        self._backbone, self._synonyms = backbone, synonyms
        self._encoded: dict[tuple[object, ...], list[Tensor]] = {}
        self.class_names = head.class_names
        self.templates = head.templates or ()
        self.embeddings = _rows_by_class(head)

    def of(self, method: Method, draw: int) -> list[Tensor]:
        """Return (texts, dim) for each class; `draw` is the seed of what is drawn at random."""
        if method.texts is None:
            return texts_at_hand(method, self.embeddings)
        key = (*method.texts, draw)
        if key not in self._encoded:
            rewritten = method.texts.classes(self._synonyms, draw)
            head = SynonymousSpaceHead(self._backbone, config=CONTROL.config).fit_classes(
                rewritten, templates=method.texts.templates or self.templates
            )
            self._encoded[key] = _rows_by_class(head)
        return self._encoded[key]


def texts_at_hand(method: Method, embeddings: list[Tensor]) -> list[Tensor]:
    """Return what a method without texts of its own takes of the texts that there are."""
    return [own[:1] for own in embeddings] if method.name_only else embeddings


def _rows_by_class(head: SynonymousSpaceHead) -> list[Tensor]:
    return list(head.space.raw.float().cpu().split([each.rows for each in head.classes]))
