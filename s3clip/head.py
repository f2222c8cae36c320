"""The head: class names and synonyms in, zero-shot logits out, over a class space and a backbone."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s3clip import class_space as spaces
from s3clip.artifact.folder import save_artifact
from s3clip.artifact.hub import push_artifact
from s3clip.artifact.opening import open_artifact, open_text_tower
from s3clip.backbone.backbone import Backbone
from s3clip.backbone.encoding import encode_texts
from s3clip.backbone.identity import check_fingerprint
from s3clip.class_space import Activation, BackboneFacts, BackboneReference, ClassSpace, FittedClass
from s3clip.class_space.fitted import ClassSpaceModule
from s3clip.config import HeadConfig
from s3clip.prediction.answers import predict, predict_proba
from s3clip.prediction.calibrating import calibrate, fit_rejection
from s3clip.prediction.conformal import predict_sets
from s3clip.prediction.few_shot import fit_few_shot
from s3clip.prediction.groups import group_names, group_probabilities, top_groups
from s3clip.prediction.label_check import check_labels
from s3clip.prediction.linear_weights import to_linear
from s3clip.prediction.suggesting import suggest
from s3clip.prediction.top_classes import top_classes
from s3clip.segmentation.segmenter import segment
from s3clip.texts.prompts import resolve_templates
from s3clip.texts.synonyms import SynonymSet
from s3clip.texts.templates import DEFAULT_TEMPLATES


class SynonymousSpaceHead(ClassSpaceModule):
    """A zero-shot classifier head for CLIP-like models, over the synonymous semantic space of each class.

    What is kept is a `ClassSpace`: the raw text embeddings and the settings (`config`). The spaces are a
    function of it, built in float64 whenever it changes; a change that fails leaves the head as it was.

    Args:
        model: a dual encoder of transformers, anything with `encode_text`, `encode_image` and `logit_scale`,
            a `Backbone`, or None for a head that works on embeddings alone.
        processor: its processor; needed for texts and pictures, not for `forward`.
        config: the settings; the defaults of `HeadConfig` if None.
        fused: use the Triton kernel of `s3clip.space.kernels` where it can be used; not saved.

    Examples:
        >>> from s3clip.demo import held_out_digits, model_folder  # or a model of the Hub, and your images
        >>> head = SynonymousSpaceHead.from_backbone(model_folder())
        >>> head.fit_classes({"one": ["1", "ace"], "seven": ["7", "lucky number"]}).class_names
        ['one', 'seven']
        >>> head.predict(held_out_digits()[0][7], top_k=1)[0][0].label
        'seven'
    """

    def __init__(
        self,
        model: Any = None,
        processor: Any = None,
        *,
        config: HeadConfig | None = None,
        fused: bool = False,
    ) -> None:
        if config is not None and not isinstance(config, HeadConfig):
            raise TypeError(
                f"config: expected a HeadConfig, got {type(config).__name__}; HeadConfig(**settings)"
            )
        super().__init__(config or HeadConfig(), fused=fused)
        given = model is None or isinstance(model, Backbone)
        self.backbone: Backbone | None = model if given else Backbone(model, processor)
        # How its backbone was looked for, to load the text tower alike; no token, which pickles would spread.
        self._hub: dict[str, Any] = {}

    @classmethod
    def from_backbone(
        cls,
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        config: HeadConfig | None = None,
        fused: bool = False,
        **kwargs: Any,
    ) -> "SynonymousSpaceHead":
        """Load a dual encoder from the Hub or a folder, and put an unfitted head on it.

        `config` and `fused` are as for the constructor, the rest as for `Backbone.from_pretrained`.
        """
        backbone = Backbone.from_pretrained(name, revision=revision, dtype=dtype, device=device, **kwargs)
        return cls(backbone, config=config, fused=fused)

    # ---- fitting ------------------------------------------------------------------------------------------

    def fit_classes(
        self,
        classes: Any,
        *,
        templates: str | Sequence[str] | None = None,
        batch_size: int = 256,
        progress: bool | None = None,
        cache: bool = True,
    ) -> "SynonymousSpaceHead":
        """Encode the texts of every class, each distinct one once, and build the space.

        Args:
            classes: a path, a dict, a list of names or records, a `SynonymSet`, "hf://..." or "builtin:...".
            templates: prompt templates or the name of a set of them (`s3clip.texts.TEMPLATES`); else the
                file's own, else "a photo of a {}.".
            batch_size: texts per call of the text tower.
            progress: show a progress bar; None: on a terminal.
            cache: look for texts on disk first, and keep new ones there; see `s3clip.backbone.text_cache`.

        Returns:
            The head itself.

        Raises:
            ValueError: no backbone, or a synonym file that is refused (see `SynonymSet.read`).
        """
        synonyms = SynonymSet.read(classes)
        chosen = templates if templates is not None else synonyms.templates
        used = resolve_templates(DEFAULT_TEMPLATES if chosen is None else chosen)
        encoding: dict[str, Any] = {"batch_size": batch_size, "progress": progress, "cache": cache}
        named, raw, negatives = self._encoded(synonyms, used, adding=False, **encoding)
        space = ClassSpace(raw, named, self.config, used, self._kept_facts(), negatives=negatives)
        return self._take(space, progress=progress)

    def fit_embeddings(
        self,
        embeddings: Sequence[Tensor] | Mapping[str, Tensor],
        class_names: Sequence[str] | None = None,
        *,
        texts: Sequence[Sequence[str]] | None = None,
        negatives: Sequence[Mapping[str, Tensor]] | None = None,
        logit_scale: float | Tensor | None = None,
    ) -> "SynonymousSpaceHead":
        """Build the space from text embeddings computed before: see `s3clip.class_space.from_embeddings`."""
        space = spaces.from_embeddings(
            embeddings, class_names, self.config, texts=texts, negatives=negatives, logit_scale=logit_scale
        )
        if self.backbone is not None and space.raw.shape[1] != self.backbone.dim:
            raise ValueError(
                f"embeddings: expected the backbone's dimension {self.backbone.dim}, got {space.raw.shape[1]}"
            )
        # Without a backbone, what an artifact said of one holds for its embeddings only.
        return self._take(replace(space, backbone=self._kept_facts() if self.backbone else None))

    def add_classes(
        self, classes: Any, *, batch_size: int = 256, progress: bool | None = None, cache: bool = True
    ) -> "SynonymousSpaceHead":
        """Append classes; only their texts are encoded, with the templates of the fit. See `fit_classes`.

        Raises:
            ValueError: the head is not fitted, was fitted from embeddings, or has no text tower.
        """
        space = self._value()
        if space.templates is None:
            raise ValueError(
                "add_classes: this head was fitted from embeddings; fit it again with all of them"
            )
        encoding: dict[str, Any] = {"batch_size": batch_size, "progress": progress, "cache": cache}
        added = self._encoded(SynonymSet.read(classes), space.templates, adding=True, **encoding)
        return self._take(spaces.add(space, *added), progress=progress)

    def remove_classes(self, classes: int | str | Iterable[int | str]) -> "SynonymousSpaceHead":
        """Drop classes by position or by name; nothing is encoded again: `s3clip.class_space.drop`."""
        return self._take(spaces.drop(self._value(), classes))

    def rename_class(self, which: int | str, name: str) -> "SynonymousSpaceHead":
        """Give a class another label; its texts and logits stay: `s3clip.class_space.rename`."""
        return self._take(spaces.rename(self._value(), which, name))

    def merge(self, other: "SynonymousSpaceHead") -> "SynonymousSpaceHead":
        """Append the classes of another head of the same backbone: `s3clip.class_space.merge`."""
        if not isinstance(other, SynonymousSpaceHead):
            raise TypeError(f"other: expected a SynonymousSpaceHead, got {type(other).__name__}")
        space = other.class_space
        return self._take(spaces.merge(self.class_space, space), merged=space)

    def reconfigure(self, **changes: Any) -> "SynonymousSpaceHead":
        """Change settings and build the space again; nothing is encoded: `s3clip.class_space.reconfigure`."""
        if self._fitted is None:
            self._unfitted_config = self.config.replaced(**changes)
            return self
        return self._take(spaces.reconfigure(self._value(), **changes))

    fit_few_shot = fit_few_shot
    calibrate = calibrate
    fit_rejection = fit_rejection

    def drop_text_tower(self) -> "SynonymousSpaceHead":
        """Free the memory of the text tower, which is not needed once classes are fitted."""
        if self.backbone is None:
            raise ValueError("drop_text_tower: this head has no backbone")
        self.backbone.drop_text_tower()
        if self._fitted is not None:
            # Which text tower it was, which the backbone remembers, goes with the class space from now on.
            self._take(self.class_space)
        return self

    # ---- what it holds ------------------------------------------------------------------------------------

    @property
    def class_space(self) -> ClassSpace:
        """The fitted class space with what is known of the backbone: what is saved, pushed and merged.

        Raises:
            ValueError: the head is not fitted.
        """
        known = self._known_facts()
        facts = known if self.backbone is None else spaces.facts_of(self.backbone, known)
        return replace(self._value(), backbone=facts)

    @property
    def logit_scale(self) -> Tensor:
        """() what the scores are multiplied with.

        Raises:
            ValueError: no `fit_embeddings(logit_scale=)`, no `config.logit_scale` and no backbone.
        """
        scale = self._scale()
        return scale if isinstance(scale, Tensor) else torch.tensor(scale, dtype=torch.float32, device="cpu")

    @property
    def logit_bias(self) -> Tensor | float | None:
        """What is added to the logits: the backbone's, None where it has none."""
        return self._known_bias() if self.backbone is None else self.backbone.logit_bias()

    @property
    def activation(self) -> Activation:
        """How logits become probabilities: "sigmoid" where the family was trained so, else "softmax"."""
        if self.backbone is not None:
            return self.backbone.activation
        return self._known_activation()  # compilers cannot read super().activation

    def fingerprint(self) -> dict[str, Tensor]:
        """Return the backbone's embeddings of fixed inputs: see `s3clip.backbone.identity`.

        Those of texts are of the text tower that made the embeddings, where it has been dropped since. Empty
        for a head that never had a backbone.
        """
        return spaces.joined(
            self._known_facts(), {} if self.backbone is None else self.backbone.fingerprint()
        )

    def extra_repr(self) -> str:
        """What `print(head)` shows besides the submodules."""
        fitted = "not fitted" if self._fitted is None else repr(self.space)
        against = sum(len(each.negatives) for each in self.classes)
        fitted += f", negatives={against}" if against else ""
        taught = "" if self.few_shot is None else f"\nfew_shot: {self.few_shot.summary()}"
        return f"classes={len(self.classes)}, {fitted}, metric={self.config.metric!r}{taught}"

    # ---- using it -----------------------------------------------------------------------------------------

    def forward(
        self, pixel_values: Tensor | None = None, *, image_embeds: Tensor | None = None, **image_inputs: Any
    ) -> Tensor:
        """Return the logits of images against every class, on the scale of CLIP's `logits_per_image`.

        Args:
            pixel_values: preprocessed images, as the backbone takes them.
            image_embeds: (batch, dim) image embeddings instead, normalised or not.
            image_inputs: further inputs of the image tower (`pixel_attention_mask`, `spatial_shapes`,
                `interpolate_pos_encoding`).

        Returns:
            (batch, classes).

        Raises:
            ValueError: both inputs or neither, not fitted, or a wrong embedding size.
        """
        embeds = self._unit_embeds(pixel_values, image_embeds, image_inputs)
        return self._further(self.folded.logits(embeds, self._scale()), embeds)

    def word_logits(self, image_embeds: Tensor) -> Tensor:
        """Return the logits of (batch, dim) embeddings without what labelled images add: as of patches."""
        embeds = self._unit_embeds(None, image_embeds, {})
        return self._further(self.folded.logits(embeds, self._scale()))

    def logits_by_block(
        self, pixel_values: Tensor | None = None, *, image_embeds: Tensor | None = None, **image_inputs: Any
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what `forward` returns some classes at a time: (c,) positions and (batch, c) logits."""
        embeds = self._unit_embeds(pixel_values, image_embeds, image_inputs)
        for classes, logits in self.folded.logits_by_block(embeds, self._scale()):
            yield classes, self._further(logits, embeds, classes)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of (..., classes) logits: calibrated, if the head is, else the model's."""
        return self.current_calibration.probabilities(logits)

    top_classes = top_classes
    top_groups = top_groups
    group_names = group_names
    group_probabilities = group_probabilities
    predict = predict
    predict_proba = predict_proba
    predict_sets = predict_sets
    suggest = suggest
    check_labels = check_labels
    segment = segment
    to_linear = to_linear

    # ---- keeping it ---------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | os.PathLike[str], *, examples: bool = True) -> Path:
        """Save the class space into a folder, and return it: `s3clip.artifact.folder.save_artifact`.

        With `examples=False` what labelled images added is saved, and not the images: classes and settings
        of what is loaded again are then fixed.
        """
        return save_artifact(folder, self._to_save(examples))

    def push_to_hub(self, repo_id: str, *, examples: bool = True, **options: Any) -> str:
        """Push the class space to "user/name" on the Hub: `s3clip.artifact.hub.push_artifact`.

        `examples` is as for `save_pretrained`.
        """
        return push_artifact(self._to_save(examples), repo_id, **options)

    @classmethod
    def from_pretrained(
        cls,
        repo_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        backbone: Any = "saved",
        processor: Any = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        fused: bool = False,
    ) -> "SynonymousSpaceHead":
        """Load a saved class space, and the image tower of the backbone that it names.

        For the arguments see `s3clip.artifact.opening.open_artifact`; `fused` is as for the constructor. The
        text tower is loaded when `add_classes` or `fit_classes` needs it, and for as long; `token` is not
        kept until then, so that a private backbone needs `hf auth login`.
        """
        kept: dict[str, Any] = {"cache_dir": cache_dir, "local_files_only": local_files_only}
        space, found = open_artifact(
            repo_or_path,
            revision=revision,
            backbone=backbone,
            processor=processor,
            device=device,
            dtype=dtype,
            token=token,
            **kept,
        )
        head = cls(found, config=space.config, fused=fused)
        head._hub = kept
        # Beside a backbone, which says where; `device` places a head for embeddings.
        head._take(replace(space, raw=space.raw.to(device)))
        # After the space is built: until they are used, weights lie in the file, and so the peak is lower.
        if found is not None and space.backbone is not None:
            check_fingerprint(space.backbone.fingerprint, found.fingerprint(), os.fspath(repo_or_path))
        return head.eval()

    # ---- inside -------------------------------------------------------------------------------------------

    def _to_save(self, examples: bool) -> ClassSpace:
        space = self.class_space
        return space if examples else spaces.without_examples(space, self._checked().learned)

    def _unit_embeds(
        self, pixel_values: Tensor | None, image_embeds: Tensor | None, image_inputs: dict[str, Any]
    ) -> Tensor:
        """Return the unit image embeddings of what `forward` was given."""
        fitted = self._checked()
        if (pixel_values is None) == (image_embeds is None):
            got = "neither" if pixel_values is None else "both"
            raise ValueError(f"pixel_values, image_embeds: expected exactly one of the two, got {got}")
        if image_embeds is None:
            if self.backbone is None:
                raise ValueError("pixel_values: this head has no backbone; give image_embeds=")
            assert pixel_values is not None  # it is, where image_embeds is not
            image_embeds = self.backbone.encode_images(pixel_values, **image_inputs)
        elif image_inputs:
            raise TypeError(f"image_embeds takes no further inputs, got {sorted(image_inputs)}")
        return fitted.built.folded.unit_embeds(image_embeds)

    def _further(self, logits: Tensor, embeds: Tensor | None = None, classes: Tensor | None = None) -> Tensor:
        """Return logits of words with the bias, what labelled images add, then the shares of classes."""
        residual = None if embeds is None else self._checked().residual(embeds, classes)
        shares = self.share_offsets
        shares = shares if shares is None or classes is None else shares[classes]
        for added in (self.logit_bias, residual, shares):
            if added is not None:
                logits = logits + (added.to(logits) if isinstance(added, Tensor) else added)
        return logits

    def _scale(self) -> Tensor | float:
        fixed = self.config.logit_scale if self._fitted is None else self._fitted.fixed_scale
        if fixed is not None:
            return fixed
        if self.backbone is not None:
            return self.backbone.logit_scale()
        if self._fitted is not None and self._fitted.known_scale is not None:
            return self._fitted.known_scale
        raise ValueError("logit_scale: the head has no backbone; give fit_embeddings(logit_scale=) or config")

    def _scale_of(self, space: ClassSpace) -> Tensor | float | None:
        if space.fixed_logit_scale is None and self.backbone is not None:
            return self.backbone.logit_scale()
        return super()._scale_of(space)

    def _device(self) -> torch.device | None:
        return None if self.backbone is None else self.backbone.device

    def _kept_facts(self) -> BackboneFacts | None:
        """What stays known when all classes are encoded anew: nothing where a text tower is here to ask."""
        return None if self.backbone is not None and self.backbone.has_text_tower else self._known_facts()

    def _encoded(
        self, synonyms: SynonymSet, templates: Sequence[str], *, adding: bool, **encoding: Any
    ) -> tuple[tuple[FittedClass, ...], Tensor, Tensor | None]:
        texts, absent = synonyms.texts(templates, self.config.points), synonyms.negative_texts()
        rows = encode_texts(self._text_backbone(adding), [*texts, *absent], **encoding)
        raw, negatives = rows.split([sum(map(len, texts)), sum(map(len, absent))])
        return spaces.named_classes(synonyms, texts), raw, negatives if len(negatives) else None

    def _text_backbone(self, adding: bool) -> Backbone:
        """The backbone if it still has its text tower, else one loaded for this use alone."""
        if self.backbone is not None and self.backbone.has_text_tower:
            if adding and self._known_facts() is not None:
                check_fingerprint(self.fingerprint(), self.backbone.fingerprint(), "classes")
            return self.backbone
        named, facts = self.backbone, self._known_facts()
        if named is not None:
            reference = BackboneReference(name=named.name, revision=named.revision)
        elif facts is not None:
            reference = facts.reference
        else:
            raise ValueError("classes: this head has no backbone to encode texts with; use fit_embeddings()")
        return open_text_tower(reference, self.fingerprint(), adding=adding, **self._hub)
