"""What FiftyOne asks of a model, answered by a `SynonymousSpaceHead`."""

from collections.abc import Iterable, Sequence
from typing import Any

import fiftyone.core.labels as fol
import fiftyone.core.models as fom
import fiftyone.operators.types as types
import numpy as np
import torch
from fiftyone.utils.torch import GetItem

from s3clip import Prediction, SynonymousSpaceHead
from s3clip.images.opening import open_image

Pixels = dict[str, torch.Tensor]


def download_model(model_name: str, model_path: str) -> None:
    """Do nothing: heads and backbones come from the Hub or a folder when they are loaded."""


def load_model(
    model_name: str,
    model_path: str,
    head: str | None = None,
    backbone: str | None = None,
    classes: Any = None,
    device: str | None = None,
) -> "SynonymModel":
    """Return a model: a saved head, or classes for a backbone.

    Args:
        model_name: by which it was asked for.
        model_path: where this source lies.
        head: a folder, or a repository of the Hub, that `save_pretrained` or `push_to_hub` wrote.
        backbone: instead of a head: a model, as `SynonymousSpaceHead.from_backbone` takes it.
        classes: with a backbone: as `fit_classes` takes them, with or without synonyms.
        device: where it runs; None: on a GPU if there is one.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if (head is None) == (backbone is None) or (backbone is None) != (classes is None):
        raise ValueError(f"{model_name}: expected head=, or backbone= and classes=")
    if head is not None:
        return SynonymModel(SynonymousSpaceHead.from_pretrained(head, device=device))
    return SynonymModel(SynonymousSpaceHead.from_backbone(backbone, device=device).fit_classes(classes))


def resolve_input(model_name: str, ctx: Any) -> types.Property:
    """Say what a form in the app asks for."""
    inputs = types.Object()
    inputs.str("head", label="Head", description="A folder, or a repository of the Hub")
    inputs.str("backbone", label="Backbone", description="Instead of a head: a CLIP-like model of the Hub")
    inputs.str(
        "classes", label="Classes", description="With a backbone: names with commas between, or a file"
    )
    return types.Property(inputs)


def parse_parameters(model_name: str, ctx: Any, params: dict[str, Any]) -> None:
    """Leave out what was left empty in the form; names with commas between become a list."""
    for name in ("head", "backbone", "classes"):
        if not params.get(name):
            params.pop(name, None)
    if isinstance(params.get("classes"), str) and "," in params["classes"]:
        params["classes"] = [name.strip() for name in params["classes"].split(",")]


class Opened(GetItem):  # type: ignore[misc]  # no types there
    """A picture file as pixels, read by s3clip, in the workers of a data loader."""

    def __init__(self, transform: Any, **kwargs: Any) -> None:
        self.transform = transform
        super().__init__(**kwargs)

    @property
    def required_keys(self) -> list[str]:
        """What is read of a sample."""
        return ["filepath"]

    def __call__(self, sample: dict[str, Any]) -> Pixels:
        """Return the arguments of the image tower for one picture."""
        return pixels_of(self.transform, [sample["filepath"]])


def pixels_of(transform: Any, images: Iterable[Any]) -> Pixels:
    """Return the arguments of the image tower for pictures: paths, or arrays (height, width, 3)."""
    return dict(transform(open_image(image) for image in images))


def together(batch: Sequence[Pixels]) -> Pixels:
    """Return the arguments for several pictures; those are of one size."""
    return {key: torch.cat([each[key] for each in batch]) for key in batch[0]}


class SynonymModel(fom.LogitsMixin, fom.EmbeddingsMixin, fom.SupportsGetItem, fom.TorchModelMixin, fom.Model):  # type: ignore[misc]
    """Classifications with a confidence, the text that matched, logits and embeddings.

    Args:
        head: fitted, with a backbone.
    """

    def __init__(self, head: SynonymousSpaceHead) -> None:
        super().__init__()
        if head.backbone is None:
            raise ValueError("head: expected one with a backbone; FiftyOne has pictures for it")
        self.head, self.backbone = head.eval(), head.backbone
        self.transform = self.backbone.image_transform()
        self._preprocess = True
        self._using_gpu = self.backbone.device.type == "cuda"  # read where memory is pinned
        self._embeddings: np.ndarray | None = None

    media_type = "image"
    has_logits = True
    has_embeddings = True
    has_collate_fn = True
    ragged_batches = False
    collate_fn = staticmethod(together)

    @property
    def transforms(self) -> Any:
        """What makes pixels of a picture."""
        return lambda image: pixels_of(self.transform, [image])

    @property
    def preprocess(self) -> bool:
        """Whether pictures come in, rather than pixels."""
        return self._preprocess

    @preprocess.setter
    def preprocess(self, value: bool) -> None:
        self._preprocess = value

    def build_get_item(self, field_mapping: dict[str, str] | None = None) -> Opened:
        """Return what reads a sample."""
        return Opened(self.transform, field_mapping=field_mapping)

    @torch.inference_mode()
    def embed_all(self, args: Any) -> np.ndarray:
        """Return (pictures, dim) embeddings of length one, of pictures or of pixels."""
        pixels = pixels_of(self.transform, args) if self.preprocess else args
        placed = {key: value.to(self.backbone.device) for key, value in pixels.items()}
        embeds = torch.nn.functional.normalize(self.backbone.encode_images(**placed).float(), dim=-1)
        self._embeddings = embeds.cpu().numpy()
        return self._embeddings

    def predict_all(self, args: Any) -> list[fol.Classification]:
        """Return a label for each of several pictures, or of their pixels."""
        embeds = torch.from_numpy(self.embed_all(args))
        answers = self.head.predict(image_embeds=embeds, top_k=1)
        logits: Sequence[Any] = [None] * len(answers)
        if self.store_logits:
            with torch.inference_mode():
                logits = self.head(image_embeds=embeds.to(self.backbone.device)).float().cpu().numpy()
        return [classification(best, own) for (best,), own in zip(answers, logits, strict=True)]

    def predict(self, arg: Any) -> fol.Classification:
        """Return the label of one picture, or of its pixels."""
        return self.predict_all([arg] if self.preprocess else arg)[0]

    def embed(self, arg: Any) -> np.ndarray:
        """Return the (1, dim) embedding of one picture, or of its pixels."""
        return self.embed_all([arg] if self.preprocess else arg)

    def get_embeddings(self) -> np.ndarray:
        """Return the embeddings of the last pictures."""
        if self._embeddings is None:
            raise ValueError("no picture was seen yet")
        return self._embeddings


def classification(best: Prediction, logits: Any) -> fol.Classification:
    """Return FiftyOne's form of an answer, with what matched beside it."""
    return fol.Classification(
        label=best.label, confidence=best.score, logits=logits, text=best.text, accepted=best.accepted
    )
