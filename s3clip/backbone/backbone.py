"""One interface to every dual encoder with a joint space of images and texts.

What differs between families is settled once, in the constructor: see `families` and `towers`. Texts become
tokens in `tokens`, names become models in `loading`, and `identity` says which model is which.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal

import torch
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from s3clip.backbone import identity
from s3clip.backbone.families import check_loaded, family_of, warn_of_other_pixels, warn_of_untrained_texts
from s3clip.backbone.image_transform import ImageTransform, check_pixels, checked_images, target_side
from s3clip.backbone.loading import explain, halves, load
from s3clip.backbone.prefix_tree import (
    disagreement,
    encode_prefix_tree,
    find_text_tower,
    prefix_tree,
    shareable,
)
from s3clip.backbone.tokens import Tokens, check_texts, unit_rows, warn_of_truncation
from s3clip.backbone.towers import (
    accepted_image_inputs,
    accepted_text_inputs,
    configured_dim,
    drop_text_side,
    evaluating,
    execution_device,
    known_tokens,
    own_tensor,
    pixel_weight_name,
    weight_of,
)
from s3clip.backbone.wrappers import unwrapped

# On these a tree of tokens must give what the text tower itself gives: they begin alike, and differ in
# length.
_PROBE_TEXTS = ["a photo of a cat", "a photo of a cat, which has stripes", "a photo of two dogs", "the sea"]

# Fewer tokens saved by a tree are not worth that comparison.
_WORTHWHILE_SAVING = 256

# Bars of shorter work are only noise.
_PROGRESS_DELAY_SECONDS = 2.0


@cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function compiled; not kept in a backbone, which can be copied and pickled."""
    compiled: Callable[..., Tensor] = torch.compile(function)
    return compiled


class Backbone(nn.Module):
    """A dual encoder with a joint space, seen through one interface.

    Fits the dual encoders of transformers (CLIP, SigLIP, SigLIP 2, MetaCLIP 2, AltCLIP, Chinese-CLIP, ALIGN,
    CLIPSeg, BLIP, GroupViT, OWL-ViT, OWLv2, AIMv2, FLAVA, TIPSv2, VisionTextDualEncoder) and any module with
    `encode_image(pixels)`, `encode_text(tokens)` and `logit_scale` (the logarithm of the multiplier), such as
    the models of open_clip.

    Args:
        model: The dual encoder, without what people put around it: see `wrappers.unwrapped`. It is used as it
            is: neither moved, cast nor put in evaluation mode.
        processor: A processor of transformers, or the pair `(tokenizer, image_processor)`. With an open_clip
            model it is the pair `(tokenizer, preprocess)`: `tokenizer(list[str])` gives a LongTensor
            (texts, length), padded and truncated, and `preprocess(image)` a float tensor (channels, height,
            width). Without it (None, or None in the pair) texts cannot be encoded, images not preprocessed.
        name: Hub id or folder of the model; by default what the model says of itself.
        revision: Revision asked for; the resolved commit is used instead where the model knows it.

    Attributes:
        tokenizer: Text half of the processor, or None.
        image_processor: Image half of the processor, or None.
        compiled: Whether images go through code of torch.compile: see `precision.compile_images`.
        has_text_tower: False once `drop_text_tower` was called.
        image_inputs: Names of what the image tower reads beside `pixel_values`.
        family: What is particular to its family.
        unshared_because: Why the last texts were padded, and not encoded as a tree; None where they were.

    Raises:
        TypeError: If `model` has no joint space of images and texts, or `processor` is neither of the above.

    Examples:
        >>> from s3clip.demo import model_folder
        >>> Backbone.from_pretrained(model_folder()).encode_texts(["a seven"]).shape
        torch.Size([1, 64])
    """

    model: nn.Module

    def __init__(
        self, model: nn.Module, processor: Any = None, *, name: str | None = None, revision: str | None = None
    ) -> None:
        super().__init__()
        model, processor = unwrapped(model, processor)
        self.family = family_of(model)
        check_loaded(model)
        self.model = model
        self.tokenizer, self.image_processor = halves(processor)
        self.name = name or getattr(model, "name_or_path", None) or None
        self.revision = getattr(getattr(model, "config", None), "_commit_hash", None) or revision
        self.has_text_tower, self.compiled = True, False
        self._dropped: dict[str, Tensor] = {}
        self.unshared_because: str | None = None
        self.image_inputs = () if self.family.is_open_clip else accepted_image_inputs(model)
        self._scale_name = next(name for name in self.family.scales if hasattr(model, name))
        self._max_log_scale: float | None = getattr(model, "max_log_logit_scale", None)
        self._pixel_weight = pixel_weight_name(model)
        self._dim = configured_dim(model)
        self._text_inputs = self.family.text_inputs
        if not self.family.is_open_clip:
            text_method = getattr(model, self.family.methods[1])
            self._text_inputs = accepted_text_inputs(text_method, self.family.text_inputs)
        self._text_length = self.tokens.most(model)
        warn_of_other_pixels(self.family, self.image_processor)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        text_tower: bool = True,
        **kwargs: Any,
    ) -> "Backbone":
        """Load a dual encoder and its processor from the Hub or a folder, in evaluation mode.

        Args:
            name: Hub id or folder of transformers, sentence-transformers or an adapter of PEFT; or, of
                open_clip, "hf-hub:user/name", "local-dir:FOLDER" or "open_clip:ARCHITECTURE/TAG", where a
                file of weights may stand for the tag.
            revision: Branch, tag or commit. The processor is read from the commit that the model came from.
            dtype: Cast to it, a type or its name; "checkpoint" is that of the weights (transformers' "auto");
                None keeps what transformers loads.
            device: Move to it; None keeps what transformers chooses.
            text_tower: Load the text tower and the tokenizer too. Without them (where the family allows it,
                else they are loaded and dropped) only images can be encoded, with far less memory.
            **kwargs: Go to `AutoModel.from_pretrained`; `token`, `cache_dir`, `local_files_only`,
                `force_download`, `subfolder` and `trust_remote_code` go to `AutoProcessor` as well. With a
                name of open_clip they go to `open_clip.create_model_from_pretrained`. `merge_adapter=True`
                merges an adapter of PEFT into its base.

        Raises:
            FileNotFoundError: If the name is a path and there is no such folder.
            TypeError: If the model has no joint space.
            ImportError: If the library that the name is of is not installed.
            ValueError: If the checkpoint lacks weights of the model, which would be random, or the name has a
                scheme that there is not.
        """
        place = {key: value for key, value in (("dtype", dtype), ("device", device)) if value is not None}
        try:
            loaded = load(name, revision, place, text_tower, **kwargs)
            backbone = cls(loaded.model, loaded.processor, name=loaded.name)
            backbone.revision = loaded.revision  # of an adapter its own, not that of its base
        except (OSError, TypeError, ValueError) as error:
            explain(error, name, revision, **kwargs)
            raise
        if not text_tower:
            backbone.drop_text_tower()
        return backbone

    @property
    def dim(self) -> int:
        """Width of the joint space."""
        if self._dim is None:
            self._dim = identity.embed_synthetic_image(self).shape[-1]
        return self._dim

    @property
    def activation(self) -> Literal["softmax", "sigmoid"]:
        """`"sigmoid"` for models with a bias, trained with a sigmoid loss (SigLIP), else `"softmax"`."""
        return "softmax" if getattr(self.model, "logit_bias", None) is None else "sigmoid"

    @property
    def text_length(self) -> int:
        """Most tokens the text tower reads, special tokens included; longer texts are truncated.

        Raises:
            ValueError: If neither the tokenizer nor the model says it.
        """
        if self._text_length is None:
            raise ValueError(
                f"text_length: neither the processor nor the configuration of {type(self.model).__name__} "
                "says how many tokens its text tower reads; pass a processor whose tokenizer does"
            )
        return self._text_length

    @property
    def device(self) -> torch.device:
        """Device that the image tower computes on."""
        return execution_device(self.model, self._pixel_weight)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights that meet the pixels, to which pixels are cast."""
        return weight_of(self.model, self._pixel_weight).dtype

    def logit_scale(self) -> Tensor:
        """Return the multiplier of cosines, () in float32, read from the model's parameter at every call.

        It is `exp(logit_scale)`, clamped first where the model does so (AIMv2), or `1 / temperature` (ALIGN,
        TIPSv2).
        """
        parameter = own_tensor(self.model, self._scale_name).float().reshape(())
        if self._scale_name == "temperature":
            return 1 / parameter
        if self._max_log_scale is not None:
            parameter = parameter.clamp(0.0, self._max_log_scale)
        return parameter.exp()

    def logit_bias(self) -> Tensor | None:
        """Return what is added to scaled cosines, () in float32, or None for a model without a bias."""
        if getattr(self.model, "logit_bias", None) is None:
            return None
        return own_tensor(self.model, "logit_bias").float().reshape(())

    def encode_texts(
        self, texts: Sequence[str], *, batch_size: int = 256, progress: bool | None = None
    ) -> Tensor:
        """Return the unit embeddings of texts, (texts, dim) in float32 on the model's device, no gradient.

        Distinct texts are encoded once, in evaluation mode; rows come in the order given. An embedding does
        not depend on the other texts of its batch.

        Where the text tower is causal and built like CLIP's, what texts have in common at their beginning is
        encoded once per batch of texts in alphabetical order: see `prefix_tree.py`. It is compared with
        the tower itself first. Other texts are padded to the longest of their batch, the longest first.

        Args:
            texts: Texts, none of them empty. Those longer than `text_length` tokens are truncated, with one
                warning a call (for an open_clip model: if its tokenizer takes `context_length`).
            batch_size: Distinct texts per pass through the text tower.
            progress: Whether to show a progress bar; None shows one in a terminal when the work is long.

        Raises:
            TypeError: If `texts` is one string, or holds something else than strings.
            ValueError: If a text is empty, its embedding is zero or not finite, or there is no tokenizer.
            RuntimeError: If the text tower was dropped.
        """
        if not self.has_text_tower:
            raise RuntimeError(
                "encode_texts: the text tower of this backbone was dropped; load the backbone again to "
                "encode texts"
            )
        if self.tokenizer is None:
            raise ValueError("processor: texts cannot be encoded without a tokenizer; pass the processor")
        if batch_size < 1:
            raise ValueError(f"batch_size: expected a positive number, got {batch_size}")
        check_texts(texts)
        distinct = list(dict.fromkeys(texts))
        tokens, lengths = self.tokens.read(distinct)
        warn_of_truncation(distinct, lengths, self.text_length, type(self.model).__name__)
        warn_of_untrained_texts(self.model, self.family)
        rows = torch.empty(len(distinct), self.dim, device=self.device, dtype=torch.float32)
        bar = tqdm(  # type: ignore[no-untyped-call]
            total=len(distinct),
            desc="texts",
            disable=None if progress is None else not progress,  # None: off when not a terminal
            delay=_PROGRESS_DELAY_SECONDS if progress is None else 0,
        )
        # Under autocast rows would be those of half precision, and kept on disk for others.
        exact = torch.autocast(self.device.type, enabled=False)
        with torch.no_grad(), exact, evaluating(self.model), bar:
            for chosen, features in self._batches(distinct, tokens, lengths, batch_size):
                rows[chosen] = unit_rows(features, [distinct[i] for i in chosen], self.dim)
                bar.update(len(chosen))
        position = {text: i for i, text in enumerate(distinct)}
        return rows[[position[text] for text in texts]]

    def encode_images(self, pixel_values: Tensor, **image_inputs: Any) -> Tensor:
        """Return the unit embeddings of images, (batch, dim), in the dtype that the model gives.

        Gradients flow. Rows are normalised in float32 at least. A zero embedding stays zero.

        Args:
            pixel_values: Preprocessed pixels, floating point, cast to the model's dtype: (batch, channels,
                height, width), for SigLIP 2 (batch, patches, patch size).
            **image_inputs: What else the image tower reads: see `image_inputs`.

        Raises:
            TypeError: If an image input is not read by this image tower, or one it needs is missing, or
                `pixel_values` is not floating point.
        """
        check_pixels(type(self.model).__name__, self.image_inputs, pixel_values, image_inputs)
        embed = _compiled(self.family.image_features) if self.compiled else self.family.image_features
        features = embed(self.model, pixel_values.to(self.dtype), **image_inputs)
        precise = torch.promote_types(features.dtype, torch.float32)
        return functional.normalize(features.to(precise), dim=-1).to(features.dtype)

    def preprocess(self, images: Iterable[Image.Image], *, resize: bool = True) -> dict[str, Tensor]:
        """Return the arguments of `encode_images` for images, on the model's device and in its dtype.

        Args:
            images: Images of any mode, read as RGB; as `ImageTransform` takes them.
            resize: Bring images to the model's size. False only scales their values, and needs a processor of
                transformers and images of one size.

        Raises:
            TypeError: If something is not a PIL image.
            ValueError: If there is no image, or no image processor.
        """
        placed = self.placed(self.image_transform(resize=resize)(checked_images(images)))
        return {
            key: value.to(self.dtype) if value.is_floating_point() else value for key, value in placed.items()
        }

    def placed(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return arguments of `encode_images` on the model's device, each copied once, cast there at most.

        A copy to CUDA from pinned memory is not waited for.
        """
        device, ahead = self.device, self.device.type == "cuda"
        return {key: value.to(device, non_blocking=ahead) for key, value in inputs.items()}

    def image_transform(self, *, resize: bool = True, near_size: bool = False) -> ImageTransform:
        """Return what `preprocess` does before its tensors go to the device: for the workers of a loader.

        Args:
            resize: As for `preprocess`.
            near_size: Let whoever opens pictures for it decode JPEGs near the size that the model needs.

        Raises:
            ValueError: there is no image processor; or, with `near_size`, it says no such size.
        """
        if self.image_processor is None:
            raise ValueError(
                "processor: images cannot be preprocessed without an image processor; pass the processor, or "
                "preprocessed pixel_values to encode_images"
            )
        inputs = ("pixel_values", *self.image_inputs)
        if near_size:
            target_side(self.image_processor, self.family.is_open_clip)
        return ImageTransform(self.image_processor, self.family.is_open_clip, inputs, resize, near_size)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text is, special tokens included, before truncation.

        Of an open_clip tokenizer it is only known whether they are more than `text_length`: 0 for those that
        are not, one more than that for the others.
        """
        return self.tokens.read(list(texts))[1]

    def drop_text_tower(self) -> None:
        """Free the parameters of the text side; images, scale and bias stay as they are.

        Raises:
            ValueError: If the parts of the model are not known well enough to find its text side.
        """
        if not self.has_text_tower:
            return
        # Which text tower it was must be known when another is to go on with its work.
        dropped = {part: rows for part, rows in self.fingerprint().items() if part != "image"}
        drop_text_side(self.model, self.family.text_side)
        self.has_text_tower, self._dropped = False, dropped

    def fingerprint(self) -> dict[str, Tensor]:
        """Return embeddings of fixed inputs that tell this backbone from another: `identity.fingerprint`."""
        return {**self._dropped, **identity.fingerprint(self)}

    def text_key(self) -> bytes:
        """Return 32 bytes by which a cache of texts tells backbones apart: `identity.text_key`."""
        return identity.text_key(self)

    def image_key(self) -> str:
        """Return 64 hex digits by which a cache of images tells backbones apart: `identity.image_key`."""
        return identity.image_key(self)

    def example_pixels(self) -> Tensor:
        """Return (1, channels, height, width) pixels at the size of the model's own images, on its device.

        Raises:
            ValueError: the image tower reads patches.
        """
        if "spatial_shapes" in self.image_inputs:
            raise ValueError(f"{type(self.model).__name__}: its image tower reads patches, not pixels alone")
        pixels = identity.synthetic_image_inputs(self.model, patches=False)["pixel_values"]
        return pixels.to(device=self.device, dtype=self.dtype)

    def warn_of_truncation(self, texts: Sequence[str]) -> None:
        """Warn of texts longer than `text_length`, as `encode_texts` does."""
        distinct = list(dict.fromkeys(texts))
        lengths = self.count_tokens(distinct)
        warn_of_truncation(distinct, lengths, self.text_length, type(self.model).__name__)

    @property
    def tokens(self) -> Tokens:
        """How texts become the inputs of the text tower."""
        family = self.family
        return family.tokens(self.tokenizer, family.padding, self._text_inputs, known_tokens(self.model))

    def _batches(
        self, texts: list[str], tokens: list[list[int]], lengths: list[int], batch_size: int
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield the positions of some texts and their embeddings, not normalised, until all are done."""
        done: set[int] = set()
        for chosen, features in self._tree_batches(texts, tokens, batch_size):
            done.update(chosen)
            yield chosen, features
        left = sorted((i for i in range(len(texts)) if i not in done), key=lambda i: -lengths[i])
        for start in range(0, len(left), batch_size):
            chosen = left[start : start + batch_size]
            yield chosen, self._text_features([texts[i] for i in chosen])

    def _tree_batches(
        self, texts: list[str], tokens: list[list[int]], batch_size: int
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield batches, in alphabetical order, of the texts whose beginnings can be shared.

        Why there are none of them, `unshared_because` says.
        """
        tower = None if self.family.is_open_clip else find_text_tower(self.model)
        if tower is None:
            self.unshared_because = f"{type(self.model).__name__} is not built like CLIP"
            return
        read = self.tokens.truncated(texts, tokens, self.text_length)
        probes = self.tokens.truncated(_PROBE_TEXTS, self.tokens.read(_PROBE_TEXTS)[0], self.text_length)
        shared, saving = shareable(read, probes)
        if saving < _WORTHWHILE_SAVING:
            self.unshared_because = f"the texts have only {saving} tokens in common"
            return
        self.unshared_because = disagreement(tower, probes, self._text_features(_PROBE_TEXTS))
        if self.unshared_because is not None:
            return
        for start in range(0, len(shared), batch_size):
            chosen = shared[start : start + batch_size]
            yield chosen, encode_prefix_tree(tower, prefix_tree([read[i] for i in chosen]))

    def _text_features(self, texts: list[str]) -> Tensor:
        """Return embeddings of texts, not normalised: (texts, width)."""
        inputs = self.tokens.batch(texts, self.text_length, self.device)
        return self.family.text_features(self.model, inputs)
