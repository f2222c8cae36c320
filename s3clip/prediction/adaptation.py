"""TS³, test-time adaptation: logits of images after the spaces of a head were shifted to each of them.

The mathematics is in `s3clip.space.shift`, the views of an image in `view_embeddings.py`.
"""

import copy
import math
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from s3clip.arguments import is_number, plain, whole_number
from s3clip.backbone.backbone import Backbone
from s3clip.config import HeadConfig
from s3clip.images.views import ViewSettings
from s3clip.prediction.view_embeddings import encode_views
from s3clip.space.folding import FoldedSpace
from s3clip.space.shift import ADAPTATIONS, AdaptableSpace, Settings, adaptable_space
from s3clip.space.synonymous_space import SynonymousSpace, unit_vectors

CHUNK_NUMBERS = 2**23
"""About how many numbers (32 MiB in float32) of shifts, logits and products are made for the images that are
adapted at once; a few tensors of that size live at the same time. One image is taken in any case."""


class AdaptableHead(Protocol):
    """What adaptation reads of a head."""

    backbone: Backbone | None

    @property
    def config(self) -> HeadConfig:
        """The settings."""

    @property
    def space(self) -> SynonymousSpace:
        """The spaces of all classes."""

    @property
    def folded(self) -> FoldedSpace:
        """The scores of images against them."""

    @property
    def activation(self) -> Any:
        """How logits become probabilities."""

    @property
    def logit_scale(self) -> Tensor:
        """() multiplies the scores."""

    @property
    def logit_bias(self) -> Tensor | float | None:
        """Is added to the logits."""

    def residual(self, embeds: Tensor, /) -> Tensor | None:
        """Return (images, classes) what labelled images add to the logits of unit embeddings."""

    @property
    def share_offsets(self) -> Tensor | None:
        """(classes,) what the shares of the classes add to the logits."""


class TestTimeAdapter(nn.Module):
    """Logits of images after the spaces of a head were shifted to each of them.

    It holds nothing of the images: each starts from the head as it is. The head may be changed later.

    Args:
        head: a fitted head.
        method: "shift": one shift a class; "shared_shift": one for all classes, in few directions; "zero":
            no gradient, the confident views vote; "mean_views": the mean of all views, as a control.
        views: how many views are made of an image, the plain one among them.
        confidence: the share of the views, in (0, 1], that are trusted: those of lowest entropy. (Not read by
            `mean_views`.)
        steps: of AdamW; with 0 the shifts are none, and the logits those of the head.
        lr: the step size: about how far every coordinate of a shift goes in a step.
        seed: of the views. They depend on it and on the picture, on nothing else.
        crop_area: the smallest share of a picture's area that a view shows, in (0, 1].
        augmix: mix each view with distorted copies of itself (AugMix, Hendrycks et al. 2020).

    Raises:
        ValueError: an unknown method or a setting out of range.

    Examples:
        >>> head.predict("photo.jpg", adapt="shift")                            # doctest: +SKIP
        >>> adapter = TestTimeAdapter(head, method="zero", views=32)            # doctest: +SKIP
        >>> head.predict("photo.jpg", adapt=adapter)                            # doctest: +SKIP
        >>> logits = adapter(view_embeds)  # (images, views, dim)               # doctest: +SKIP
    """

    __test__ = False  # pytest would take the name for that of tests

    def __init__(
        self,
        head: AdaptableHead,
        method: str = "shift",
        views: int = ViewSettings.views,
        confidence: float = 0.1,
        steps: int = 1,
        lr: float = 5e-3,
        *,
        seed: int = ViewSettings.seed,
        crop_area: float = ViewSettings.crop_area,
        augmix: bool = False,
    ) -> None:
        super().__init__()
        if method not in ADAPTATIONS:
            raise ValueError(f"method: unknown method {method!r}; known: {', '.join(ADAPTATIONS)}")
        confidence, lr = plain(confidence), plain(lr)
        if not (is_number(confidence) and 0 < confidence <= 1):
            raise ValueError(f"confidence: expected a share of the views in (0, 1], got {confidence!r}")
        steps = whole_number(steps, "steps", least=0)
        if not (is_number(lr) and 0 < lr < math.inf):
            raise ValueError(f"lr: expected a finite number > 0, got {lr!r}")
        self.head = head
        self.method, self.confidence, self.steps, self.lr = method, confidence, steps, lr
        self.view_settings = ViewSettings(views=views, seed=seed, crop_area=crop_area, augmix=augmix)
        self._prepared: tuple[Any, FoldedSpace, AdaptableSpace] | None = None

    def extra_repr(self) -> str:
        """What `print(adapter)` shows besides the head."""
        return (
            f"method={self.method!r}, confidence={self.confidence}, steps={self.steps}, lr={self.lr}, "
            f"{self.view_settings}"
        )

    @torch.no_grad()
    def encode(self, pictures: Iterable[Image.Image]) -> Tensor:
        """Return the embeddings of the views of pictures: (pictures, views, dim), view 0 the plain one.

        Raises:
            ValueError: the head has no backbone, or one that reads patches instead of pixels.
        """
        if self.head.backbone is None:
            raise ValueError(
                "images: this head has no backbone; give image_embeds= of shape (images, views, dim)"
            )
        return encode_views(self.head.backbone, pictures, self.view_settings)

    @torch.no_grad()
    def forward(self, view_embeds: Tensor) -> Tensor:
        """Return the adapted logits of images, on the scale of the head's (`zero`: see there).

        No gradient flows. Computed in float32 at least, in chunks of images (`CHUNK_NUMBERS`).

        Args:
            view_embeds: (images, views, dim), any length but zero; view 0 is the plain image. Any number of
                views will do.

        Returns:
            (images, classes), in float32 at least.

        Raises:
            ValueError: the head is not fitted, or a shape does not fit.
        """
        dim = self.head.space.raw.shape[1]
        if view_embeds.ndim != 3 or view_embeds.shape[1] < 1 or view_embeds.shape[2] != dim:
            raise ValueError(
                f"view_embeds: expected shape (images, views, {dim}) with one view or more, got "
                f"{tuple(view_embeds.shape)}"
            )
        # Under autocast the products would be taken in half precision.
        with torch.autocast(view_embeds.device.type, enabled=False):
            folded, space = self._spaces()
            scale, bias = float(self.head.logit_scale), self.head.logit_bias
            settings = Settings(self.confidence, self.steps, self.lr, scale, self.head.activation)
            adapted = []
            for chunk in view_embeds.split(self._chunk_size(view_embeds.shape[1], space)):
                views = unit_vectors(chunk).to(folded.rows.dtype)
                logits = folded.logits(views.flatten(0, 1), settings.scale).unflatten(0, views.shape[:2])
                if bias is not None:
                    logits = logits + bias
                # Of each view, as what negatives take away; both stay where they are when the space shifts.
                if (residual := self.head.residual(views.flatten(0, 1))) is not None:
                    logits = logits + residual.unflatten(0, views.shape[:2]).to(logits)
                adapted.append(ADAPTATIONS[self.method](space, views, logits, settings))
        found = torch.cat(adapted) if adapted else folded.rows.new_zeros(0, len(space.position))
        # How common classes are says nothing of how an image is to be seen, so it comes last.
        return found if (offsets := self.head.share_offsets) is None else found + offsets

    def _chunk_size(self, views: int, space: AdaptableSpace) -> int:
        """How many images are adapted at once."""
        classes, dim = len(space.position), space.groups[0].points.shape[-1]
        texts = sum(len(group.points) * group.points.shape[1] for group in space.groups)
        confident = max(1, int(views * self.confidence))
        return max(1, CHUNK_NUMBERS // (classes * (dim + views) + texts * max(views // 2, 2 * confident)))

    def _spaces(self) -> tuple[FoldedSpace, AdaptableSpace]:
        """Prepare the head's space, and again when the head was changed or moved since."""
        folded, space = self.head.folded, self.head.space
        state = (folded, folded.rows.device, folded.rows.dtype)
        if self._prepared is None or self._prepared[0] != state:
            precise = torch.promote_types(folded.rows.dtype, torch.float32)
            wide = folded if folded.rows.dtype == precise else copy.deepcopy(folded).to(precise)
            config = self.head.config
            prepared = adaptable_space(space, config.metric, config.metric_options)
            self._prepared = (state, wide, prepared)
        return self._prepared[1], self._prepared[2]
