"""One interface to every dual encoder with a joint space of images and texts.

The only file (with `pipeline`) that calls a Hugging Face model. What differs between families is settled
once, in the constructor: which inputs the towers read, how texts are padded and masked, how many tokens are
read, and how cosines become logits.
"""

import hashlib
import inspect
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor
from transformers.utils import logging

from s3clip.backbone.prefix_tree import (
    disagreement,
    encode_prefix_tree,
    find_text_tower,
    prefix_tree,
    shared_lengths,
)

# What an image tower may read beside the pixels.
_PATCH_INPUTS = ("pixel_attention_mask", "spatial_shapes")
_INTERPOLATION = "interpolate_pos_encoding"
_IMAGE_TOWERS = ("vision_model", "image_model", "visual")

# The text side of the models of transformers (the last three: FLAVA's multimodal encoder, which reads texts),
# and of open_clip and OpenAI's clip.
_TEXT_SIDE = (
    "text_model",
    "text_projection",
    "text_to_mm_projection",
    "image_to_mm_projection",
    "multimodal_model",
)
_OPEN_CLIP_TEXT_SIDE = (
    "text",
    "text_decoder",
    "transformer",
    "token_embedding",
    "positional_embedding",
    "ln_final",
    "text_projection",
)

# Arguments of `from_pretrained` that say where files come from, which the processor needs too.
_HUB_ARGUMENTS = (
    "token",
    "cache_dir",
    "local_files_only",
    "force_download",
    "subfolder",
    "trust_remote_code",
)

# Saved fingerprints hang on these texts, and on the waves below: a change makes every saved artifact foreign.
_FINGERPRINT_TEXTS = ("a cat", "two red dogs", "the sea")

# On these a tree of tokens must give what the text tower itself gives: they begin alike, and differ in
# length.
_PROBE_TEXTS = ["a photo of a cat", "a photo of a cat, which has stripes", "a photo of two dogs", "the sea"]

# Fewer tokens saved by a tree are not worth that comparison.
_WORTHWHILE_SAVING = 256

# Bars of shorter work are only noise.
_PROGRESS_DELAY_SECONDS = 2.0


@dataclass(frozen=True)
class ImageTransform:
    """PIL images in, the arguments of `Backbone.encode_images` out, on the CPU. It can be pickled.

    Attributes:
        processor: an image processor of transformers, or a function of one image.
        of_one_image: whether it is the latter, as in open_clip.
        inputs: which of its outputs the image tower reads.
        resize: whether images are brought to the model's size, else their values are scaled alone.
    """

    processor: Any
    of_one_image: bool
    inputs: tuple[str, ...]
    resize: bool = True

    def __call__(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Return the arguments for one image or more, of any mode, read as RGB."""
        colour = [image.convert("RGB") for image in images]
        if self.of_one_image:
            return {"pixel_values": torch.stack([self.processor(image) for image in colour])}
        unresized = {} if self.resize else dict.fromkeys(("do_resize", "do_center_crop", "do_pad"), False)
        outputs = self.processor(images=colour, return_tensors="pt", **unresized)
        return {key: outputs[key] for key in self.inputs if key in outputs}


class Backbone(nn.Module):
    """A dual encoder with a joint space, seen through one interface.

    Fits the dual encoders of transformers (CLIP, SigLIP, SigLIP 2, MetaCLIP 2, AltCLIP, Chinese-CLIP, ALIGN,
    CLIPSeg, BLIP, GroupViT, OWL-ViT, OWLv2, AIMv2, FLAVA, TIPSv2, VisionTextDualEncoder) and any module with
    `encode_image(pixels)`, `encode_text(tokens)` and `logit_scale` (the logarithm of the multiplier), such as
    the models of open_clip.

    Args:
        model: The dual encoder. It is used as it is: neither moved, cast nor put in evaluation mode.
        processor: A processor of transformers, or the pair `(tokenizer, image_processor)`. With an open_clip
            model it is the pair `(tokenizer, preprocess)`: `tokenizer(list[str])` gives a LongTensor
            (texts, length), padded and truncated, and `preprocess(image)` a float tensor (channels, height,
            width). Without it (None, or None in the pair) texts cannot be encoded, images not preprocessed.
        name: Hub id or folder of the model; by default what the model says of itself.
        revision: Revision asked for; the resolved commit is used instead where the model knows it.

    Attributes:
        model: The dual encoder.
        tokenizer: Text half of the processor, or None.
        image_processor: Image half of the processor, or None.
        name: Hub id or folder, or None.
        revision: Commit hash or revision, or None.
        has_text_tower: False once `drop_text_tower` was called.
        image_inputs: Names of what the image tower reads beside `pixel_values`.

    Raises:
        TypeError: If `model` has no joint space of images and texts, or `processor` is neither of the above.
    """

    model: nn.Module

    def __init__(
        self, model: nn.Module, processor: Any = None, *, name: str | None = None, revision: str | None = None
    ) -> None:
        super().__init__()
        self._is_open_clip = _checked_kind(model) == "open_clip"
        self.model = model
        self.tokenizer, self.image_processor = _halves(processor)
        config = getattr(model, "config", None)
        self._family = getattr(config, "model_type", None)
        self.name = name or getattr(model, "name_or_path", None) or None
        self.revision = getattr(config, "_commit_hash", None) or revision
        self.has_text_tower = True
        self._unshared_because: str | None = None
        self.image_inputs = () if self._is_open_clip else _accepted_image_inputs(model)
        self._scale_name = "logit_scale" if hasattr(model, "logit_scale") else "temperature"
        self._max_log_scale: float | None = getattr(model, "max_log_logit_scale", None)
        self._pixel_weight = _pixel_weight_name(model)
        self._dim = _configured_dim(model)
        self._text_length = self._longest_text()
        if not self._is_open_clip:
            self._text_inputs = _accepted_text_inputs(model, self._family)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        text_tower: bool = True,
        **kwargs: Any,
    ) -> "Backbone":
        """Load a dual encoder and its processor from the Hub or a folder, in evaluation mode.

        Args:
            name: Hub id or folder.
            revision: Branch, tag or commit. The processor is read from the commit that the model came from.
            dtype: Cast to it; None keeps what transformers loads.
            device: Move to it; None keeps what transformers chooses.
            text_tower: Load the text tower and the tokenizer too. Without them (where the family allows it,
                else they are loaded and dropped) only images can be encoded, with far less memory.
            **kwargs: Go to `AutoModel.from_pretrained`; `token`, `cache_dir`, `local_files_only`,
                `force_download`, `subfolder` and `trust_remote_code` go to `AutoProcessor` as well.

        Raises:
            FileNotFoundError: If the name is a path and there is no such folder.
            TypeError: If the model has no joint space.
            ValueError: If the checkpoint lacks weights of the model, which would be random.
        """
        name = os.fspath(name)
        # Else transformers says that it is no valid name of a repository.
        if name.startswith((".", "/", "~")) and not Path(name).is_dir():
            raise FileNotFoundError(f"name: there is no folder {name!r}; give that of a model, or a Hub id")
        hub = {key: kwargs[key] for key in _HUB_ARGUMENTS if key in kwargs}
        kwargs["revision"] = revision or "main"
        model = None if text_tower else _without_text_tower(name, hub, kwargs)
        missing: list[str] = []
        if model is None:
            model, loaded = AutoModel.from_pretrained(name, output_loading_info=True, **kwargs)
            missing = sorted(loaded["missing_keys"])
        # A BLIP captioner opens as BlipModel with random projections, and only a log line says so.
        if missing:
            raise ValueError(
                f"name: the checkpoint {name!r} lacks {len(missing)} weights of {type(model).__name__} (the "
                f"first: {missing[0]!r}), so it is not one of a dual encoder; name a checkpoint trained as "
                "one, or load the model yourself and pass it as Backbone(model, processor)"
            )
        if device is not None or dtype is not None:
            model = model.to(device=device, dtype=dtype)
        commit = getattr(model.config, "_commit_hash", None) or revision
        processors: Any = AutoProcessor if text_tower else AutoImageProcessor
        processor = processors.from_pretrained(name, revision=commit or "main", **hub)
        backbone = cls(
            model.eval(), processor if text_tower else (None, processor), name=name, revision=revision
        )
        if not text_tower:
            backbone.drop_text_tower()
        return backbone

    @property
    def dim(self) -> int:
        """Width of the joint space."""
        if self._dim is None:
            self._dim = self._embed_synthetic_image().shape[-1]
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
        """Device of the image tower."""
        return self.model.get_parameter(self._pixel_weight).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights that meet the pixels, to which pixels are cast."""
        return self.model.get_parameter(self._pixel_weight).dtype

    def logit_scale(self) -> Tensor:
        """Return the multiplier of cosines, () in float32, read from the model's parameter at every call.

        It is `exp(logit_scale)`, clamped first where the model does so (AIMv2), or `1 / temperature` (ALIGN,
        TIPSv2).
        """
        parameter: Tensor = getattr(self.model, self._scale_name).float().reshape(())
        if self._scale_name == "temperature":
            return 1 / parameter
        if self._max_log_scale is not None:
            parameter = parameter.clamp(0.0, self._max_log_scale)
        return parameter.exp()

    def logit_bias(self) -> Tensor | None:
        """Return what is added to scaled cosines, () in float32, or None for a model without a bias."""
        bias: Tensor | None = getattr(self.model, "logit_bias", None)
        return None if bias is None else bias.float().reshape(())

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
        _check_texts(texts)
        distinct = list(dict.fromkeys(texts))
        tokens = self._token_ids(distinct)
        lengths = self._token_counts(distinct, tokens)
        self._warn_of_truncation(distinct, lengths)
        rows = torch.empty(len(distinct), self.dim, device=self.device)
        bar = tqdm(  # type: ignore[no-untyped-call]
            total=len(distinct),
            desc="texts",
            disable=None if progress is None else not progress,  # None: off when not a terminal
            delay=_PROGRESS_DELAY_SECONDS if progress is None else 0,
        )
        with torch.no_grad(), _evaluating(self.model), bar:
            for chosen, features in self._batches(distinct, tokens, lengths, batch_size):
                rows[chosen] = _unit_rows(features, [distinct[i] for i in chosen], self.dim)
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
        for key in image_inputs:
            if key not in self.image_inputs:
                raise TypeError(
                    f"{key}: the image tower of {type(self.model).__name__} does not read it; it reads "
                    f"{('pixel_values', *self.image_inputs)}"
                )
        if "spatial_shapes" in self.image_inputs and "spatial_shapes" not in image_inputs:
            raise TypeError(
                f"spatial_shapes: {type(self.model).__name__} needs it and pixel_attention_mask; pass all "
                "that preprocess gives"
            )
        if not pixel_values.is_floating_point():
            raise TypeError(
                f"pixel_values: expected preprocessed, floating-point pixels, got {pixel_values.dtype}; use "
                "preprocess for raw images"
            )
        model: Any = self.model
        pixel_values = pixel_values.to(self.dtype)
        if self._is_open_clip:
            features = model.encode_image(pixel_values)
        else:
            features = _joint_embedding(model.get_image_features(pixel_values=pixel_values, **image_inputs))
        precise = torch.promote_types(features.dtype, torch.float32)
        return functional.normalize(features.to(precise), dim=-1).to(features.dtype)

    def preprocess(self, images: Sequence[Image.Image], *, resize: bool = True) -> dict[str, Tensor]:
        """Return the arguments of `encode_images` for images, on the model's device and in its dtype.

        Args:
            images: Images of any mode, read as RGB.
            resize: Bring images to the model's size. False only scales their values, and needs a processor of
                transformers and images of one size.

        Raises:
            TypeError: If something is not a PIL image.
            ValueError: If there is no image, or no image processor.
        """
        if self.image_processor is None:
            raise ValueError(
                "processor: images cannot be preprocessed without an image processor; pass the processor, or "
                "preprocessed pixel_values to encode_images"
            )
        if len(images) == 0:
            raise ValueError("images: expected at least one image, got none")
        for i, image in enumerate(images):
            if not isinstance(image, Image.Image):
                raise TypeError(f"images: expected PIL images, got {type(image).__name__} at position {i}")
        return {
            key: value.to(self.device, self.dtype if value.is_floating_point() else None)
            for key, value in self.image_transform(resize=resize)(images).items()
        }

    def image_transform(self, *, resize: bool = True) -> "ImageTransform":
        """Return what `preprocess` does before its tensors go to the device: for the workers of a loader.

        Args:
            resize: As for `preprocess`.

        Raises:
            ValueError: there is no image processor.
        """
        if self.image_processor is None:
            raise ValueError("processor: images cannot be preprocessed without an image processor; pass it")
        inputs = ("pixel_values", *self.image_inputs)
        return ImageTransform(self.image_processor, self._is_open_clip, inputs, resize)

    def image_key(self) -> str:
        """Return 64 hex digits that are the same where images get the same embeddings, but for rounding.

        They are made of the weights, their type, and the settings of the image processor. Unlike bits of an
        embedding they do not depend on the device or on how many threads compute.
        """
        digest = hashlib.sha256(repr((type(self.model).__name__, str(self.dtype))).encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        processor = self.image_processor
        settings = processor.to_dict() if hasattr(processor, "to_dict") else repr(processor)
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        return digest.hexdigest()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text is, special tokens included, before truncation.

        Of an open_clip tokenizer it is only known whether they are more than `text_length`: 0 for those that
        are not, one more than that for the others.
        """
        every = list(texts)
        return self._token_counts(every, self._token_ids(every))

    def drop_text_tower(self) -> None:
        """Free the parameters of the text side; images, scale and bias stay as they are.

        Raises:
            ValueError: If the parts of the model are not known well enough to tell its text side.
        """
        if not self.has_text_tower:
            return
        names = _OPEN_CLIP_TEXT_SIDE if self._is_open_clip else _TEXT_SIDE
        own = [*self.model.named_children(), *self.model.named_parameters(recurse=False)]
        present = [name for name, _ in own if name in names]
        if not present or _image_tower(self.model) is self.model:
            raise ValueError(
                f"drop_text_tower: {type(self.model).__name__} has no text and image towers that can be told "
                f"apart; expected an image tower named one of {_IMAGE_TOWERS} and a text side among {names}"
            )
        for name in present:
            setattr(self.model, name, None)
        self.has_text_tower = False

    def fingerprint(self) -> dict[str, Tensor]:
        """Return embeddings that tell this backbone from another: of one fixed image and three fixed texts.

        The image is made by a formula at the size that the model's configuration gives (224 where it gives
        none), so it does not depend on the image processor.

        Returns:
            `"image"` (dim,) and, where texts can be encoded, `"texts"` (3, dim): unit rows, float32, on the
            CPU.
        """
        prints = {"image": self._embed_synthetic_image()}
        if self.has_text_tower and self.tokenizer is not None:
            prints["texts"] = self.encode_texts(_FINGERPRINT_TEXTS, progress=False).cpu()
        return prints

    def example_pixels(self) -> Tensor:
        """Return (1, channels, height, width) pixels at the size of the model's own images, on its device.

        Raises:
            ValueError: the image tower reads patches.
        """
        if "spatial_shapes" in self.image_inputs:
            raise ValueError(f"{type(self.model).__name__}: its image tower reads patches, not pixels alone")
        pixels = _synthetic_image_inputs(self.model, patches=False)["pixel_values"]
        return pixels.to(device=self.device, dtype=self.dtype)

    def text_key(self) -> bytes:
        """Return 32 bytes that are the same where texts get the same embeddings: what a cache goes by.

        They are made of the bits of three embeddings, so another dtype or device has another key, as it has
        other roundings.
        """
        texts = self.encode_texts(_FINGERPRINT_TEXTS, progress=False).cpu().numpy()
        tokenizer = self.tokenizer
        size = len(tokenizer) if hasattr(tokenizer, "__len__") else None
        facts = (type(tokenizer).__name__, size, self._longest_text(), str(self.dtype))
        return hashlib.blake2b(texts.tobytes() + repr(facts).encode(), digest_size=32).digest()

    def warn_of_truncation(self, texts: Sequence[str]) -> None:
        """Warn of texts longer than `text_length`, as `encode_texts` does."""
        distinct = list(dict.fromkeys(texts))
        self._warn_of_truncation(distinct, self.count_tokens(distinct))

    def _embed_synthetic_image(self) -> Tensor:
        inputs = _synthetic_image_inputs(self.model, patches="spatial_shapes" in self.image_inputs)
        inputs = {key: value.to(self.device) for key, value in inputs.items()}
        with torch.no_grad(), _evaluating(self.model):
            return self.encode_images(**inputs)[0].float().cpu()

    def _longest_text(self) -> int | None:
        """Return how many tokens both the tokenizer and the text tower allow, None if neither says."""
        if self._is_open_clip:
            if self.tokenizer is None:
                return getattr(self.model, "context_length", None)
            return int(self.tokenizer(["a"]).shape[-1])
        limits = [
            getattr(self.tokenizer, "model_max_length", None),
            _text_positions(self.model),
        ]
        # A tokenizer without a limit says 1e30.
        return min((int(limit) for limit in limits if limit is not None and limit < 1e9), default=None)

    def _token_ids(self, texts: list[str]) -> list[list[int]]:
        """Return the tokens of each text before truncation (open_clip: nothing)."""
        if self._is_open_clip or not texts:
            return []
        # verbose=False: the tokenizer's own warning of long texts would come besides ours.
        tokens: list[list[int]] = self.tokenizer(texts, padding=False, truncation=False, verbose=False)[
            "input_ids"
        ]
        return tokens

    def _token_counts(self, texts: list[str], token_ids: list[list[int]]) -> list[int]:
        """Return the number of tokens of each text before truncation (open_clip: 0, or more than is read)."""
        if not self._is_open_clip or not texts:
            return [len(ids) for ids in token_ids]
        if "context_length" not in _parameters(self.tokenizer):
            return [0] * len(texts)
        # One column more than is read adds only padding, unless the text is longer. The end of a longer text
        # may look like padding (SigLIP), but then its row differs before.
        wider = self.text_length + 1
        tokens = self.tokenizer(texts, context_length=wider)
        padding = self.tokenizer(["a"], context_length=wider)[0, -1]
        is_longer = (tokens[:, -1] != padding) | (tokens[:, :-1] != self.tokenizer(texts)).any(1)
        return [wider * int(longer) for longer in is_longer]

    def _warn_of_truncation(self, texts: list[str], lengths: list[int]) -> None:
        too_long = [text for text, length in zip(texts, lengths, strict=True) if length > self.text_length]
        if too_long:
            warnings.warn(
                f"{len(too_long)} of {len(texts)} distinct texts are longer than the {self.text_length} "
                f"tokens that {type(self.model).__name__} reads and are truncated, such as {too_long[0]!r}",
                stacklevel=3,
            )

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

        Why there are none of them, `_unshared_because` says.
        """
        tower = None if self._is_open_clip else find_text_tower(self.model)
        if tower is None:
            self._unshared_because = f"{type(self.model).__name__} is not built like CLIP"
            return
        read = self._truncated(texts, tokens)
        probes = self._truncated(_PROBE_TEXTS, self._token_ids(_PROBE_TEXTS))
        # A text is read off its first end token or, in OWL-ViT and by old configurations, its largest. That
        # is its last, but where a text names special tokens. Where all tokens are larger, as in XLM-R's
        # vocabulary, a tower that takes the largest does not pass the comparison.
        end = probes[0][-1]
        largest = end if end == max(map(max, probes)) else math.inf
        shared = [
            i
            for i, ids in enumerate(read)
            if ids[-1:] == [end] and end not in ids[:-1] and max(ids) <= largest
        ]
        shared.sort(key=read.__getitem__)
        saving = int(shared_lengths([read[i] for i in shared]).sum()) if shared else 0
        if saving < _WORTHWHILE_SAVING:
            self._unshared_because = f"the texts have only {saving} tokens in common"
            return
        self._unshared_because = disagreement(tower, probes, self._text_features(_PROBE_TEXTS))
        if self._unshared_because is not None:
            return
        for start in range(0, len(shared), batch_size):
            chosen = shared[start : start + batch_size]
            yield chosen, encode_prefix_tree(tower, prefix_tree([read[i] for i in chosen]))

    def _truncated(self, texts: list[str], tokens: list[list[int]]) -> list[list[int]]:
        """Return the tokens of texts, of each no more than is read."""
        longest = self.text_length
        return [
            ids
            if len(ids) <= longest
            else self.tokenizer(text, truncation=True, max_length=longest)["input_ids"]
            for text, ids in zip(texts, tokens, strict=True)
        ]

    def _text_features(self, texts: list[str]) -> Tensor:
        """Return embeddings of texts, not normalised: (texts, width)."""
        model: Any = self.model
        if self._is_open_clip:
            features: Tensor = model.encode_text(self.tokenizer(texts).to(self.device))
            return features
        # SigLIP reads a text off the last token of one padded on the right; its tokenizers' class pads on the
        # left where a checkpoint does not say.
        padding = {"padding": "longest"}
        if _is_siglip(self._family):
            padding = {"padding": "max_length", "padding_side": "right"}
        tokens = self.tokenizer(
            texts,
            **padding,
            truncation=True,
            max_length=self.text_length,
            return_tensors="pt",
        )
        inputs = {key: tokens[key].to(self.device) for key in self._text_inputs if key in tokens}
        if self._family == "chinese_clip":
            # transformers 4.57 projects a pooled output that this text tower does not have (PR #42351).
            return model.text_projection(model.text_model(**inputs)[0][:, 0])  # type: ignore[no-any-return]
        if self._family == "aimv2":
            return _joint_embedding(model.get_text_features(**_with_padded_row(inputs)))[:-1]
        return _joint_embedding(model.get_text_features(**inputs))


def _without_text_tower(name: str, hub: dict[str, Any], kwargs: dict[str, Any]) -> Any:
    """Return the dual encoder of a checkpoint with a text tower of no layers and hardly any vocabulary.

    transformers then reads the weights of the rest alone. None where that leaves out more than the text side,
    or the configuration is not known well enough.
    """
    config = AutoConfig.from_pretrained(name, revision=kwargs["revision"], **hub)
    texts: Any = getattr(config, "text_config", None)
    if not all(isinstance(getattr(texts, key, None), int) for key in ("num_hidden_layers", "vocab_size")):
        return None
    texts.num_hidden_layers = 0
    padding = getattr(texts, "pad_token_id", None)
    texts.vocab_size = (padding if isinstance(padding, int) else 0) + 1
    level = logging.get_verbosity()
    # Its warnings would be of weights that are left out, which is what we are here for.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        model, loaded = AutoModel.from_pretrained(
            name, config=config, ignore_mismatched_sizes=True, output_loading_info=True, **kwargs
        )
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return None  # of families that cannot be built so; the whole model says what is wrong, if anything
    finally:
        logging.set_verbosity(level)
    mismatched = (each if isinstance(each, str) else each[0] for each in loaded["mismatched_keys"])
    is_text = tuple(f"{part}." for part in _TEXT_SIDE)
    return model if all(key.startswith(is_text) for key in (*loaded["missing_keys"], *mismatched)) else None


def _checked_kind(model: nn.Module) -> str:
    """Return "transformers" or "open_clip" by the methods of a model, or raise TypeError for another."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch module, got {type(model).__name__}")
    methods = {
        "transformers": ("get_image_features", "get_text_features"),
        "open_clip": ("encode_image", "encode_text"),
    }
    scales = {"transformers": ("logit_scale", "temperature"), "open_clip": ("logit_scale",)}
    for kind, names in methods.items():
        has_scale = any(torch.is_tensor(getattr(model, name, None)) for name in scales[kind])
        if has_scale and all(callable(getattr(model, name, None)) for name in names):
            return kind
    core = getattr(model, "base_model", model)
    hint = f"; its base_model, a {type(core).__name__}, may have one" if core is not model else ""
    raise TypeError(
        f"model: {type(model).__name__} has no joint space of single images and texts{hint}. Expected a dual "
        "encoder: get_image_features, get_text_features and logit_scale or temperature (CLIP, SigLIP and "
        "others of transformers), or encode_image, encode_text and logit_scale (open_clip)"
    )


def _halves(processor: Any) -> tuple[Any, Any]:
    """Return the text half and the image half of a processor or a pair, None for what is missing."""
    if processor is None:
        return None, None
    if isinstance(processor, tuple):
        if len(processor) != 2:
            raise TypeError(
                f"processor: expected a pair (tokenizer, image_processor), got {len(processor)} values"
            )
        return processor
    halves = getattr(processor, "tokenizer", None), getattr(processor, "image_processor", None)
    if halves == (None, None):
        raise TypeError(
            "processor: expected a processor of transformers, with a tokenizer and an image_processor, or "
            f"the pair (tokenizer, image_processor), got {type(processor).__name__}"
        )
    return halves


def _joint_embedding(output: Any) -> Tensor:
    """Return the embedding in what a `get_*_features` method gave: (batch, width).

    transformers 4 gives a tensor, 5 an object with the embedding in `pooler_output`, or a tuple with it in
    second place where the configuration asks for tuples. FLAVA embeds every token; the first stands for the
    whole.
    """
    if not torch.is_tensor(output):
        output = output[1] if isinstance(output, tuple) else output.pooler_output
    embedding: Tensor = output[:, 0] if output.ndim == 3 else output
    return embedding


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _image_tower(model: nn.Module) -> nn.Module:
    """Return the image tower of a dual encoder, or the whole model where it has no usual name."""
    towers = (getattr(model, name, None) for name in _IMAGE_TOWERS)
    return next((tower for tower in towers if isinstance(tower, nn.Module)), model)


def _accepted_image_inputs(model: Any) -> tuple[str, ...]:
    """Return what the image tower reads beside the pixels.

    Whether it interpolates positions, `get_image_features` alone does not tell: in transformers 5 it passes
    on whatever it is given, at which some towers fail (GroupViT); AIMv2 names it, and its tower fails.
    """
    method = _parameters(model.get_image_features)
    accepted = [name for name in _PATCH_INPUTS if name in method]
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in method.values())
    tower = _parameters(_image_tower(model).forward)
    if _INTERPOLATION in tower and (passes_on or _INTERPOLATION in method):
        accepted.append(_INTERPOLATION)
    return tuple(accepted)


def _accepted_text_inputs(model: Any, family: str | None) -> tuple[str, ...]:
    """Return what the text tower is given of a tokenizer's output."""
    if _is_siglip(family):
        # Trained on texts padded to a fixed length, padding seen; some tokenizers give a mask all the same,
        # and it would change every embedding.
        return ("input_ids",)
    accepted = _parameters(model.get_text_features)
    return ("input_ids", *(name for name in ("attention_mask", "token_type_ids") if name in accepted))


def _is_siglip(family: str | None) -> bool:
    return family in ("siglip", "siglip2")


def _pixel_weight_name(model: nn.Module) -> str:
    """Return the name of the parameter that meets the pixels: of those with most dimensions the first.

    That is a convolution's kernel. Others may have another dtype: open_clip keeps layer norms and scales in
    float32.
    """
    tower = _image_tower(model)
    weights = {id(p): p.ndim for p in tower.parameters() if p.is_floating_point()}
    names = {name: weights[id(p)] for name, p in model.named_parameters() if id(p) in weights}
    if not names:
        raise TypeError(f"model: {type(model).__name__} has no floating-point parameters in its image tower")
    return max(names, key=lambda name: names[name])


def _configured_dim(model: Any) -> int | None:
    """Return the width of the joint space by the model's configuration, None where it does not say."""
    config = getattr(model, "config", None)
    # SigLIP and TIPSv2 project nothing: the space is that of the image tower's states.
    width = getattr(config, "projection_dim", None) or getattr(
        getattr(config, "vision_config", None), "hidden_size", None
    )
    return width or getattr(getattr(model, "visual", None), "output_dim", None)


def _text_positions(model: nn.Module) -> int | None:
    """Return how many positions the text tower has for tokens, None where the configuration does not say."""
    config = getattr(getattr(model, "config", None), "text_config", None)
    rows = getattr(config, "max_position_embeddings", None)
    if rows is None:
        return None
    # RoBERTa-like towers (AltCLIP) count positions from padding_idx + 1.
    text_model = getattr(model, "text_model", None)
    tables = text_model.named_modules() if isinstance(text_model, nn.Module) else ()
    for name, table in tables:
        padding = getattr(table, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            return int(rows) - int(padding) - 1
    return int(rows)


def _with_padded_row(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a batch of texts with a copy of its first row that ends in padding.

    AIMv2's text tower is causal, but transformers leaves the causal mask out when a batch has no padding, and
    then attends to both sides: the same text would have two embeddings. One padded row keeps the mask.
    """
    mask = inputs["attention_mask"]
    padded = mask[:1].clone()
    padded[:, -1] = 0
    return {
        "input_ids": torch.cat([inputs["input_ids"], inputs["input_ids"][:1]]),
        "attention_mask": torch.cat([mask, padded]),
    }


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise TypeError(f"texts: expected a sequence of strings, got the one string {texts!r}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts: expected strings, got {type(text).__name__} at position {i}")
        if not text.strip():
            raise ValueError(f"texts: the text at position {i} is empty")


def _unit_rows(features: Tensor, texts: list[str], dim: int) -> Tensor:
    """Return embeddings of texts with length 1, in float32, or raise ValueError for what has no direction."""
    if features.shape[-1] != dim:
        raise ValueError(
            f"model: texts are embedded in {features.shape[-1]} dimensions, images in {dim}: no joint space"
        )
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    norms = features.norm(dim=-1, keepdim=True)
    usable = (norms.isfinite() & (norms > 0)).squeeze(-1).tolist()
    if not all(usable):
        i = usable.index(False)
        what = "zero" if norms[i].item() == 0 else "not finite"
        raise ValueError(
            f"texts: the embedding of {texts[i]!r} is {what}; check the model's weights and dtype"
        )
    return functional.normalize(features, dim=-1, eps=0.0).float()


def _synthetic_image_inputs(model: nn.Module, *, patches: bool) -> dict[str, Tensor]:
    """Return the inputs of a fixed image of waves, at the size of the model's own images.

    Args:
        model: The dual encoder; its configuration gives the size, or else its image tower.
        patches: Give (1, patches, patch size) with mask and shape, as SigLIP 2 reads them, not
            (1, channels, height, width).
    """
    config = getattr(model, "config", None)
    images: Any = getattr(config, "vision_config", None) or getattr(config, "image_config", None)
    channels = getattr(images, "num_channels", None) or 3
    if patches:
        grid, patch = math.isqrt(images.num_patches), images.patch_size
        pixels = _waves(channels, grid * patch, grid * patch).reshape(channels, grid, patch, grid, patch)
        return {
            "pixel_values": pixels.permute(1, 3, 2, 4, 0).reshape(1, grid * grid, -1),
            "pixel_attention_mask": torch.ones(1, grid * grid, dtype=torch.long),
            "spatial_shapes": torch.tensor([[grid, grid]]),
        }
    visual = getattr(model, "visual", None)
    size = (
        getattr(images, "image_size", None)
        or getattr(visual, "image_size", None)  # open_clip
        or getattr(visual, "input_resolution", None)  # OpenAI's clip
        or 224
    )
    height, width = (size, size) if isinstance(size, int) else size
    return {"pixel_values": _waves(channels, height, width)[None]}


def _waves(channels: int, height: int, width: int) -> Tensor:
    """Return waves that differ by channel c, with x and y in [0, 1): (channels, height, width)."""
    c = torch.arange(channels, dtype=torch.float64)[:, None, None]
    y = torch.arange(height, dtype=torch.float64)[None, :, None] / height
    x = torch.arange(width, dtype=torch.float64)[None, None, :] / width
    return (torch.sin(2 * math.pi * ((c + 1) * x + (c + 2) * y)) + torch.cos(2 * math.pi * x * y)).float()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and each module back in its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
