"""The head: class names and synonyms in, zero-shot logits out."""

import math
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from s3clip.arguments import is_count, is_number
from s3clip.artifact.folder import (
    Artifact,
    BackboneFacts,
    BackboneReference,
    FittedClass,
    load_artifact,
    named_backbone,
    save_artifact,
)
from s3clip.artifact.hub import download_artifact, is_repository, push_artifact
from s3clip.backbone.backbone import Backbone
from s3clip.backbone.encoding import checked_class_embeddings, encode_classes
from s3clip.backbone.identity import check_fingerprint
from s3clip.config import HeadConfig
from s3clip.prediction.adaptation import TestTimeAdapter
from s3clip.prediction.answers import (
    Prediction,
    TopClasses,
    as_embeds,
    check_image_embeds,
    check_view_embeds,
    matched_texts,
    opened_batches,
    top_classes,
)
from s3clip.prediction.calibrating import Calibration, fit_calibration, rejection_threshold
from s3clip.prediction.labels import checked_labels
from s3clip.segmentation.segmenter import MAX_BYTES, Segmentation, segment
from s3clip.space.folding import FoldedSpace
from s3clip.space.synonymous_space import SynonymousSpace, build_space, unit_vectors
from s3clip.texts.prompts import resolve_templates
from s3clip.texts.synonyms import SynonymSet
from s3clip.texts.templates import DEFAULT_TEMPLATES

_DERIVED = ("kept", "duplicate_of", "scales", "deaths", "death_owners", "margins", "mean", "spread")


class SynonymousSpaceHead(nn.Module):
    """A zero-shot classifier head for CLIP-like models, over the synonymous semantic space of each class.

    What is kept is the raw text embeddings and the settings (`config`); the space is a function of the two,
    built in float64 whenever one of them changes.

    Args:
        model: a dual encoder of transformers, anything with `encode_text`, `encode_image` and `logit_scale`,
            a `Backbone`, or None for a head that works on embeddings alone.
        processor: its processor; needed for texts and pictures, not for `forward`.
        config: the settings; the defaults of `HeadConfig` if None.

    Example:
        >>> head = SynonymousSpaceHead.from_backbone("openai/clip-vit-base-patch32")  # doctest: +SKIP
        >>> head.fit_classes({"cat": ["feline", "kitty"], "dog": ["hound"]})          # doctest: +SKIP
        >>> head.predict("photo.jpg", top_k=1)                                        # doctest: +SKIP
    """

    text_embeddings: Tensor | None
    owners: Tensor | None

    def __init__(self, model: Any = None, processor: Any = None, *, config: HeadConfig | None = None) -> None:
        super().__init__()
        if config is not None and not isinstance(config, HeadConfig):
            raise TypeError(
                f"config: expected a HeadConfig, got {type(config).__name__}; HeadConfig(**settings)"
            )
        self.backbone: Backbone | None
        if model is None or isinstance(model, Backbone):
            self.backbone = model
        else:
            self.backbone = Backbone(model, processor)
        self.config = HeadConfig() if config is None else config
        self.templates: tuple[str, ...] | None = None
        self.calibration: Calibration | None = None
        self.folded: FoldedSpace | None = None
        self._classes: list[FittedClass] = []
        self._fitted_scale: float | None = None
        # What an artifact or a state dict says of the backbone it was made with, for use without it.
        self._facts: BackboneFacts | None = None
        # How its backbone was looked for, to load the text tower alike; no token, which pickles would spread.
        self._hub: dict[str, Any] = {}
        self.register_buffer("text_embeddings", None)
        self.register_buffer("owners", None)
        for name in _DERIVED:
            self.register_buffer(f"space_{name}", None, persistent=False)

    @classmethod
    def from_backbone(
        cls,
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        config: HeadConfig | None = None,
        **kwargs: Any,
    ) -> "SynonymousSpaceHead":
        """Load a dual encoder from the Hub or a folder and put an unfitted head on it.

        Args:
            name: a Hub repository or a folder, as transformers' `from_pretrained` takes it.
            revision: branch, tag or commit.
            dtype: of the backbone's parameters.
            device: where to put it; the CPU if None.
            config: the settings of the head.
            kwargs: for transformers' `from_pretrained`.
        """
        backbone = Backbone.from_pretrained(
            os.fspath(name), revision=revision, dtype=dtype, device=device, **kwargs
        )
        return cls(backbone, config=config)

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
        resolved = resolve_templates(DEFAULT_TEMPLATES if chosen is None else chosen)
        fitted, raw = encode_classes(
            self._text_backbone(),
            synonyms,
            resolved,
            batch_size=batch_size,
            progress=progress,
            cache=cache,
        )
        self._adopt(raw, fitted, resolved, None)
        return self

    def fit_embeddings(
        self,
        embeddings: Sequence[Tensor],
        class_names: Sequence[str],
        *,
        texts: Sequence[Sequence[str]] | None = None,
        logit_scale: float | Tensor | None = None,
    ) -> "SynonymousSpaceHead":
        """Build the space from text embeddings computed before.

        Args:
            embeddings: one (n_c, dim) tensor per class, normalised or not; the first row is the class's own
                name.
            class_names: one per class.
            texts: what each row stands for, for `Prediction.text`.
            logit_scale: multiplies the scores; else `config.logit_scale`, else the backbone's.

        Returns:
            The head itself.

        Raises:
            ValueError: counts or shapes that do not agree, an empty class, NaN, Inf or a row of length zero.
        """
        if isinstance(logit_scale, Tensor):
            logit_scale = logit_scale.item()
        if logit_scale is not None and not (is_number(logit_scale) and 0 < logit_scale < math.inf):
            raise ValueError(f"logit_scale: expected a finite number > 0, got {logit_scale}")
        if logit_scale is None and self.config.logit_scale is None and self.backbone is None:
            raise ValueError(
                "logit_scale: a head without a backbone has none; give logit_scale=, or "
                "HeadConfig(logit_scale=...): the exp of the model's parameter, 100 for OpenAI's CLIP"
            )
        rows = checked_class_embeddings(embeddings, class_names)
        if self.backbone is not None and rows[0].shape[1] != self.backbone.dim:
            raise ValueError(
                f"embeddings: expected the backbone's dimension {self.backbone.dim}, got {rows[0].shape[1]}"
            )
        if texts is not None and [len(own) for own in texts] != [len(own) for own in rows]:
            raise ValueError("texts: expected one text for every row of embeddings, class by class")
        if texts is not None and not all(isinstance(text, str) for own in texts for text in own):
            raise TypeError("texts: expected a list of strings for each class")
        fitted = [
            FittedClass(name=name, rows=len(own), texts=None if texts is None else list(texts[i]))
            for i, (name, own) in enumerate(zip(class_names, rows, strict=True))
        ]
        self._adopt(torch.cat(rows), fitted, None, logit_scale)
        if self.backbone is None:
            self._facts = None  # what an artifact said of its backbone holds for its embeddings only
        return self

    def add_classes(
        self, classes: Any, *, batch_size: int = 256, progress: bool | None = None, cache: bool = True
    ) -> "SynonymousSpaceHead":
        """Append classes; only their texts are encoded, with the templates of the fit.

        For the arguments see `fit_classes`.

        Raises:
            ValueError: the head is not fitted, was fitted from embeddings, or has no text tower.
        """
        raw, _ = self._fitted()
        if self.templates is None:
            raise ValueError(
                "add_classes: this head was fitted from embeddings; fit it again with all of them"
            )
        fitted, added = encode_classes(
            self._text_backbone(),
            SynonymSet.read(classes),
            self.templates,
            batch_size=batch_size,
            progress=progress,
            cache=cache,
        )
        self._adopt(
            torch.cat([raw, added.to(raw)]), [*self._classes, *fitted], self.templates, self._fitted_scale
        )
        return self

    def remove_classes(self, classes: Iterable[int | str]) -> "SynonymousSpaceHead":
        """Drop classes by position or by name; nothing is encoded again.

        Raises:
            ValueError: a name that no class or several classes have, a position out of range, or no class
                left.
        """
        raw, owners = self._fitted()
        if isinstance(classes, int | str):
            classes = [classes]
        gone = {self._position(which) for which in classes}
        left = [i for i in range(len(self._classes)) if i not in gone]
        if not left:
            raise ValueError("remove_classes: at least one class must be left")
        rows = torch.isin(owners, torch.tensor(left, device=owners.device))
        self._adopt(raw[rows], [self._classes[i] for i in left], self.templates, self._fitted_scale)
        return self

    def rename_class(self, which: int | str, name: str) -> "SynonymousSpaceHead":
        """Give a class another label; its texts, and so the logits, stay as they are.

        Args:
            which: its position, or its name if no other class has it.
            name: the new label.

        Raises:
            ValueError: not fitted, no such class, or several.
            TypeError: a name that is not a string.
        """
        self._fitted()
        if not isinstance(name, str):
            raise TypeError(f"name: expected a string, got {type(name).__name__}")
        if not name.strip() or not name.isprintable():
            raise ValueError(f"name: expected a label of printable characters, got {name!r}")
        position = self._position(which)
        self._classes[position] = self._classes[position].model_copy(update={"name": name})
        return self

    def merge(self, other: "SynonymousSpaceHead") -> "SynonymousSpaceHead":
        """Append the classes of another head of the same backbone; nothing is encoded.

        Settings stay those of this head.

        Raises:
            ValueError: one is not fitted, or they were fitted by other backbones, templates or scales.
        """
        if not isinstance(other, SynonymousSpaceHead):
            raise TypeError(f"other: expected a SynonymousSpaceHead, got {type(other).__name__}")
        (raw, _), (more, _) = self._fitted(), other._fitted()
        own, others = self.fingerprint(), other.fingerprint()
        if raw.shape[1] != more.shape[1] or bool(own) != bool(others):
            raise ValueError(
                f"other: its texts lie in another space, of dimension {more.shape[1]} "
                f"({'with' if others else 'without'} a known backbone), those of this head in one of "
                f"{raw.shape[1]} ({'with' if own else 'without'}); fit both on one backbone"
            )
        check_fingerprint(own, others, "other")
        for argument, mine, its in (
            ("templates", self.templates, other.templates),
            ("logit_scale", self._fitted_scale, other._fitted_scale),
        ):
            if mine != its:
                raise ValueError(f"other: fitted with {argument} {its}, this head with {mine}; fit one again")
        self._adopt(
            torch.cat([raw, more.to(raw)]),
            [*self._classes, *other._classes],
            self.templates,
            self._fitted_scale,
        )
        return self

    def to_linear(self) -> Tensor:
        """Return the weights of a linear classifier that scores as this head does.

        For code that does `features @ classifier`, with unit features: the logits are `logit_scale` times
        that product (plus the bias of a sigmoid family). It exists where every class is folded into one
        vector: with the metrics `center` and `mean_similarity`, and with any metric but `subspace` and `hull`
        where each class has one text.

        Returns:
            (dim, classes), as open_clip's `build_zero_shot_classifier` gives it. The columns have length 1
            with the metric `center`.

        Raises:
            ValueError: not fitted, or a metric that is not linear.
        """
        self._fitted()
        assert self.folded is not None  # it is, where there are embeddings
        weights = self.folded.linear()
        if weights is None:
            raise ValueError(
                f"to_linear: the metric {self.config.metric!r} with {self.config.metric_options} is not one "
                f'vector a class; head.reconfigure(metric="center") is, and encodes nothing again'
            )
        return weights

    def reconfigure(self, **changes: Any) -> "SynonymousSpaceHead":
        """Change settings (the fields of `HeadConfig`) and build the space again; nothing is encoded."""
        before, self.config = self.config, self.config.replaced(**changes)
        if self.text_embeddings is not None:
            try:
                self._rebuild()
            except ValueError:
                self.config = before
                raise
        if changes.get("logit_scale") is not None:
            self._fitted_scale = None  # the later word counts
        if self.config != before:
            self._forget_calibration()
        return self

    # ---- probabilities ------------------------------------------------------------------------------------

    def calibrate(
        self,
        images: Any = None,
        labels: Any = None,
        *,
        image_embeds: Tensor | None = None,
        batch_size: int = 32,
    ) -> "SynonymousSpaceHead":
        """Fit probabilities to held-out images whose classes are known; logits stay as they are.

        Classes or settings that change later drop the calibration, with a warning. `head.calibration = None`
        drops it too.

        Args:
            images: as for `predict`.
            labels: the class of each image, as positions or names; or a table of zeros and ones (images,
                classes) where an image may show several classes or none. With a table, probabilities are
                sigmoids, and a class is accepted from the threshold of its largest F1 score on.
            image_embeds: (images, dim) embeddings instead.
            batch_size: images per call of the image tower.

        Returns:
            The head itself.

        Raises:
            ValueError: not fitted, labels that do not fit, or logits that tell nothing of them.
        """
        if labels is None:
            raise ValueError("labels: expected the class of each image, got None")
        logits, _ = self._logits_and_embeds(images, image_embeds, batch_size)
        truth = checked_labels(labels, self.class_names, len(logits))
        fitted = fit_calibration(logits, truth.to(logits.device), self.activation)
        if (
            fitted.thresholds is None and self.calibration is not None
        ):  # a rejection fitted before still holds
            fitted = fitted.model_copy(update={"thresholds": self.calibration.thresholds})
        self.calibration = fitted
        return self

    def fit_rejection(
        self,
        images: Any = None,
        *,
        image_embeds: Tensor | None = None,
        false_accept_rate: float = 0.05,
        distractors: Any = None,
        batch_size: int = 32,
    ) -> "SynonymousSpaceHead":
        """Choose the logit below which an image shows none of the classes (`Prediction.accepted`).

        Of logits: a softmax over the classes is as sure of an image that shows something else.

        Args:
            images: images that show none of the classes; with `distractors`, any images of the kind that is
                to come.
            image_embeds: (images, dim) embeddings instead.
            false_accept_rate: the share of images of no class that are accepted all the same, in [0, 1).
            distractors: names of other things that images may show, as `fit_classes` takes classes. Of
                unlabelled images, those nearest to one of them are taken for images that show no class.
            batch_size: images per call of the image tower.

        Returns:
            The head itself.

        Raises:
            ValueError: not fitted, no such images, or a rate outside [0, 1).
        """
        logits, embeds = self._logits_and_embeds(images, image_embeds, batch_size)
        if distractors is not None:
            negative = self._nearest_to_distractors(embeds, distractors)
            if not bool(negative.any()):
                raise ValueError(
                    f"distractors: none of {len(embeds)} images is nearer to one of them than to every "
                    f"class; give other names, or images that show none of the classes"
                )
            logits = logits[negative]
        threshold = rejection_threshold(logits.amax(-1), false_accept_rate)
        self.calibration = self.current_calibration.model_copy(update={"thresholds": (threshold,)})
        return self

    def drop_text_tower(self) -> "SynonymousSpaceHead":
        """Free the memory of the text tower, which is not needed once classes are fitted."""
        if self.backbone is None:
            raise ValueError("drop_text_tower: this head has no backbone")
        self.backbone.drop_text_tower()
        return self

    # ---- what it holds ------------------------------------------------------------------------------------

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in the order of the logits."""
        return [fitted.name for fitted in self._classes]

    @property
    def classes(self) -> list[FittedClass]:
        """The classes with their ids and texts, in the order of the logits."""
        return list(self._classes)

    @property
    def space(self) -> SynonymousSpace:
        """The spaces of all classes; a view of the head's buffers.

        Raises:
            ValueError: the head is not fitted.
        """
        raw, owners = self._fitted()
        derived = {name: self.get_buffer(f"space_{name}") for name in _DERIVED}
        folded = self.folded
        assert folded is not None  # set wherever `text_embeddings` is
        return SynonymousSpace(
            raw=raw, owners=owners, centered=folded.centered, relative=folded.relative, **derived
        )

    @property
    def logit_scale(self) -> Tensor:
        """() what the scores are multiplied with.

        Raises:
            ValueError: no `fit_embeddings(logit_scale=)`, no `config.logit_scale` and no backbone.
        """
        return torch.as_tensor(self._scale())

    @property
    def activation(self) -> Literal["softmax", "sigmoid"]:
        """How logits become probabilities: "sigmoid" where the family was trained so, else "softmax"."""
        if self.backbone is not None:
            return self.backbone.activation
        return "softmax" if self._facts is None else self._facts.activation

    @property
    def current_calibration(self) -> Calibration:
        """The calibration or, where there is none, what the model's own probabilities are."""
        return Calibration(activation=self.activation) if self.calibration is None else self.calibration

    def fingerprint(self) -> dict[str, Tensor]:
        """Return the backbone's embeddings of fixed inputs, by which another backbone is told apart.

        Returns:
            "image" (dim,) and, where a text tower made or makes them, "texts" (3, dim); empty for a head that
            never had a backbone.
        """
        known = {} if self._facts is None else self._facts.fingerprint
        return known if self.backbone is None else {**known, **self.backbone.fingerprint()}

    def extra_repr(self) -> str:
        """What `print(head)` shows besides the submodules."""
        fitted = "not fitted" if self.text_embeddings is None else repr(self.space)
        return f"classes={len(self._classes)}, {fitted}, metric={self.config.metric!r}"

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
        folded, embeds = self._inputs(pixel_values, image_embeds, image_inputs)
        return self._logits(folded(embeds))

    @torch.no_grad()
    def top_classes(
        self,
        pixel_values: Tensor | None = None,
        *,
        image_embeds: Tensor | None = None,
        k: int = 5,
        **image_inputs: Any,
    ) -> TopClasses:
        """Return the k classes of the largest logits of every image, in one pass over blocks of classes.

        What `forward`, `probabilities` and `topk` say, without the (batch, classes) logits in memory: for
        large batches and tens of thousands of classes.

        Args:
            pixel_values: as for `forward`, like the next two.
            image_embeds: (batch, dim).
            k: how many classes; all of them where there are fewer.
            image_inputs: further inputs of the image tower.

        Raises:
            ValueError: `k` below 1, or what `forward` raises.
        """
        if not is_count(k):
            raise ValueError(f"k: expected a whole number >= 1, got {k!r}")
        folded, embeds = self._inputs(pixel_values, image_embeds, image_inputs)
        blocks = ((classes, self._logits(scores)) for classes, scores in folded.scores_by_block(embeds))
        return top_classes(blocks, k, self.current_calibration)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of (..., classes) logits: calibrated, if the head is, else the model's."""
        return self.current_calibration.probabilities(logits)

    @torch.inference_mode()
    def predict_proba(
        self, images: Any = None, *, image_embeds: Tensor | None = None, batch_size: int = 32
    ) -> Tensor:
        """Return (images, classes) probabilities. For the arguments see `predict`.

        Raises:
            ValueError: also for a file that is not a readable image.
        """
        logits, _ = self._logits_and_embeds(images, image_embeds, batch_size)
        return self.probabilities(logits)

    @torch.inference_mode()
    def predict(
        self,
        images: Any = None,
        *,
        image_embeds: Tensor | None = None,
        top_k: int = 5,
        batch_size: int = 32,
        adapt: str | TestTimeAdapter | None = None,
    ) -> list[list[Prediction]]:
        """Return the `top_k` most probable classes of every image, the best first.

        Args:
            images: one or several PIL images, paths, uint8 arrays (height, width, 3) or uint8 tensors
                (3, height, width).
            image_embeds: (images, dim) embeddings instead; where they adapt, (images, views, dim), view 0 the
                plain image.
            top_k: how many classes; all of them where there are fewer.
            batch_size: images per call of the image tower.
            adapt: shift the spaces to each image first: one of `prediction.adaptation.METHODS` ("shift"), or
                a `TestTimeAdapter` of this head with settings of its own. Takes as long as its views do.

        Returns:
            One list per image, in the order given. For a file that is not a readable image it is empty, and a
            warning names the file.

        Raises:
            FileNotFoundError: a path that does not exist.
            ValueError: `top_k` below 1, both inputs or neither, embeddings that are not finite or are zero,
                or an adapter of another head.
        """
        if not is_count(top_k):
            raise ValueError(f"top_k: expected a whole number >= 1, got {top_k!r}")
        adapter = None if adapt is None else self._adapter(adapt)
        answers: list[list[Prediction]] = []
        for readable, logits, embeds in self._batches(images, image_embeds, batch_size, True, adapter):
            # By logits: probabilities that round to 0 or to 1 would tie.
            order = logits.topk(min(top_k, logits.shape[1]), dim=1).indices
            scores = self.probabilities(logits).gather(1, order)
            accepted = self.current_calibration.accepts(logits).gather(1, order)
            texts = matched_texts(self.space, self._classes, embeds, order)
            found = iter(
                [
                    Prediction(self._classes[i].name, score, i, self._classes[i].id, text, is_accepted)
                    for score, i, text, is_accepted in zip(*row, strict=True)
                ]
                for row in zip(scores.tolist(), order.tolist(), texts, accepted.tolist(), strict=True)
            )
            answers.extend(next(found) if is_readable else [] for is_readable in readable)
        return answers

    def segment(
        self,
        images: Any,
        *,
        method: str = "sclip",
        window: int | None = None,
        stride: int | None = None,
        short_side: int | None = None,
        aggregation: str = "space",
        threshold: float | None = None,
        background: int | str | None = None,
        batch_size: int = 8,
        max_bytes: int = MAX_BYTES,
    ) -> list[Segmentation]:
        """Return which class every pixel of every picture shows.

        Args:
            images: one or several, as for `predict`.
            method: where embeddings of patches come from: `s3clip.segmentation.dense.METHODS`.
            window: side in pixels of the windows that are encoded; None: the size of the model's images.
            stride: from one window to the next; None: half a window.
            short_side: pixels that the short side of a picture is resized to first, the long side to 2,048 at
                most; None: one and a half windows. With a model for 224 pixels the three are the published
                224, 112 and 336.
            aggregation: "space" scores the synonymous space of each class, as `forward` does;
                "softmax_then_max" is the usual baseline, a softmax over all texts and the best of each class.
            threshold: pixels whose best class is less probable show nothing; a probability in [0, 1].
            background: the class that such pixels get, by position or name; None: -1.
            batch_size: windows per call of the image tower.
            max_bytes: what logits of pixels may take at once; those of patches, and the image tower, come on
                top. At least one row of pixels is computed.

        Returns:
            One for each picture, in the order given, at its own size.

        Raises:
            TypeError: a backbone whose patches have no known embeddings.
            ValueError: not fitted, no backbone, or a setting out of range.
            FileNotFoundError: a path that does not exist.
        """
        return segment(
            self,
            images,
            method=method,
            window=window,
            stride=stride,
            short_side=short_side,
            aggregation=aggregation,
            threshold=threshold,
            background=background,
            batch_size=batch_size,
            max_bytes=max_bytes,
        )

    # ---- keeping it ---------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Save the class space into a folder: the raw text embeddings and the settings, not the backbone.

        Returns:
            The folder.
        """
        return save_artifact(folder, self._artifact())

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        replace_card: bool = False,
    ) -> str:
        """Push the class space to the Hub in one commit: the raw text embeddings, the settings and a card.

        Args:
            repo_id: "user/name"; made if need be. A class space that is there is replaced.
            private: who may see a repository that is made; None: the account's default.
            token: of the Hub; None: the one of `hf auth login`.
            revision: a branch, made if need be; None: main.
            commit_message: of the commit.
            create_pr: open a pull request instead.
            replace_card: write the model card anew where there is one; it may have been edited.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            ValueError: the head is not fitted, or the repository holds something else, such as a model.
            OSError: the Hub's own errors.
        """
        return push_artifact(
            self._artifact(),
            repo_id,
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message,
            create_pr=create_pr,
            replace_card=replace_card,
        )

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
        dtype: torch.dtype | None = None,
    ) -> "SynonymousSpaceHead":
        """Load a saved class space, and the image tower of the backbone that it names.

        The text tower is loaded when `add_classes` or `fit_classes` needs it, and for as long; `token` is not
        kept until then, so that a private backbone needs `hf auth login`.

        Args:
            repo_or_path: a folder that `save_pretrained` wrote, or a repository of the Hub ("user/name") that
                `push_to_hub` wrote. A folder goes first.
            revision: branch, tag or commit of the repository.
            token: of the Hub, also for the backbone; None: the one of `hf auth login`.
            cache_dir: where the Hub's files are kept, those of the backbone too.
            local_files_only: ask the Hub for nothing; what is not in the cache is an error.
            backbone: "saved" loads the backbone that the artifact names (none, if it never had one); another
                name or folder is loaded, a model or a `Backbone` taken, and checked against the artifact's
                fingerprint; None gives a head for embeddings.
            processor: the processor that goes with a model.
            device: where to put the head and a backbone that is loaded.
            dtype: of the parameters of a backbone that is loaded.

        Raises:
            FileNotFoundError: no such folder, or no artifact in it.
            ValueError: a broken artifact, a newer format, another backbone, or a revision of a folder.
            OSError: the Hub's own errors.
        """
        hub: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        folder = Path(repo_or_path)
        if is_repository(where := os.fspath(repo_or_path)):
            folder = download_artifact(where, revision=revision, **hub)
        elif revision is not None:
            raise ValueError(f"revision: {where} is a folder, or no repository of the form user/name")
        artifact = load_artifact(folder)
        if isinstance(backbone, str | os.PathLike):
            name, saved_revision = os.fspath(backbone), None
            if name == "saved":
                name, saved_revision = named_backbone(artifact, where)
            backbone = None
            if name is not None:
                backbone = Backbone.from_pretrained(
                    name, revision=saved_revision, dtype=dtype, device=device, text_tower=False, **hub
                )
        head = cls(backbone, processor, config=artifact.config)
        if head.backbone is not None:
            if artifact.raw.shape[1] != head.backbone.dim:
                raise ValueError(
                    f"{where}: made with a backbone of dimension {artifact.raw.shape[1]}, this one has "
                    f"{head.backbone.dim}; give the backbone it names, or fit the classes again"
                )
        head._facts = artifact.backbone
        head._hub = {"cache_dir": cache_dir, "local_files_only": local_files_only}
        templates = None if artifact.templates is None else tuple(artifact.templates)
        # Beside a backbone, which says where; `device` places a head for embeddings.
        head._adopt(artifact.raw.to(device), list(artifact.classes), templates, artifact.fitted_logit_scale)
        # After the space is built: until they are used, weights lie in the file, and so the peak is lower.
        if head.backbone is not None and artifact.backbone is not None:
            check_fingerprint(artifact.backbone.fingerprint, head.backbone.fingerprint(), where)
        head.calibration = artifact.calibration
        return head.eval()

    def get_extra_state(self) -> dict[str, Any]:
        """Return what the state dict holds besides tensors: names, texts, settings."""
        return {
            "classes": [fitted.model_dump() for fitted in self._classes],
            "config": self.config.model_dump(),
            "templates": None if self.templates is None else list(self.templates),
            "fitted_logit_scale": self._fitted_scale,
            "calibration": None if self.calibration is None else self.calibration.model_dump(),
            # A backbone stands in the state dict itself.
            "backbone": None if self.backbone is not None or self._facts is None else self._facts.to_dict(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take names, texts and settings, and build the space from the embeddings just loaded."""
        self._classes = [FittedClass.model_validate(fitted) for fitted in state["classes"]]
        self.config = HeadConfig.model_validate(state["config"])
        self.templates = None if state["templates"] is None else tuple(state["templates"])
        self._fitted_scale = state["fitted_logit_scale"]
        calibration = state.get("calibration")
        self.calibration = None if calibration is None else Calibration.model_validate(calibration)
        if self.backbone is None:
            facts = state.get("backbone")
            self._facts = None if facts is None else BackboneFacts.from_dict(facts)
        if self.text_embeddings is not None:
            self._rebuild()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        found = state_dict.get(f"{prefix}_extra_state")
        if found is not None and self.text_embeddings is not None:
            names = [fitted["name"] for fitted in found["classes"]]
            if names != self.class_names:
                raise ValueError(
                    f"state_dict: it holds {len(names)} classes {names[:3]}, this head is fitted to "
                    f"{len(self._classes)} others {self.class_names[:3]}; load it into an unfitted head"
                )
        for name in ("text_embeddings", "owners"):
            if (value := state_dict.get(prefix + name)) is not None:
                device = value.device if self.backbone is None else self.backbone.device
                setattr(self, name, torch.empty_like(value, device=device))
        super()._load_from_state_dict(state_dict, prefix, *args)

    # ---- inside -------------------------------------------------------------------------------------------

    def _fitted(self) -> tuple[Tensor, Tensor]:
        if self.text_embeddings is None or self.owners is None:
            raise ValueError("the head is not fitted: call fit_classes() or fit_embeddings() first")
        return self.text_embeddings, self.owners

    def _inputs(
        self, pixel_values: Tensor | None, image_embeds: Tensor | None, image_inputs: dict[str, Any]
    ) -> tuple[FoldedSpace, Tensor]:
        """Return the folded space, and the unit image embeddings of what `forward` was given."""
        if self.folded is None:
            raise ValueError("the head is not fitted: call fit_classes() or fit_embeddings() first")
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
        if not isinstance(image_embeds, Tensor):
            raise TypeError(f"image_embeds: expected a torch.Tensor, got {type(image_embeds).__name__}")
        rows = self.folded.rows
        if image_embeds.ndim != 2 or image_embeds.shape[1] != rows.shape[1]:
            raise ValueError(
                f"image_embeds: expected shape (batch, {rows.shape[1]}), got {tuple(image_embeds.shape)}"
            )
        return self.folded, unit_vectors(image_embeds).to(rows.dtype)

    def _logits(self, scores: Tensor) -> Tensor:
        logits: Tensor = scores * self._scale()
        bias = self._bias()
        return logits if bias is None else logits + bias

    def _scale(self) -> Tensor | float:
        if self._fitted_scale is not None:
            return self._fitted_scale
        if self.config.logit_scale is not None:
            return self.config.logit_scale
        if self.backbone is not None:
            return self.backbone.logit_scale()
        if self._facts is not None:
            return self._facts.logit_scale
        raise ValueError("logit_scale: the head has no backbone; give fit_embeddings(logit_scale=) or config")

    def _bias(self) -> Tensor | float | None:
        if self.backbone is not None:
            return self.backbone.logit_bias()
        return None if self._facts is None else self._facts.logit_bias

    def _position(self, which: int | str) -> int:
        if isinstance(which, bool) or not isinstance(which, int | str):
            raise TypeError(f"classes: expected positions or names, got {type(which).__name__}: {which!r}")
        if isinstance(which, int):
            if not -len(self._classes) <= which < len(self._classes):
                raise ValueError(
                    f"classes: position {which} is out of range for {len(self._classes)} classes"
                )
            return which % len(self._classes)
        positions = [i for i, name in enumerate(self.class_names) if name == which]
        if len(positions) != 1:
            what = f"at positions {positions}; give the position" if positions else "no class"
            raise ValueError(f"classes: {which!r} names {what}")
        return positions[0]

    def _text_backbone(self) -> Backbone:
        """The backbone if it still has its text tower, else one loaded for this use alone."""
        if self.backbone is not None and self.backbone.has_text_tower:
            return self.backbone
        if self.backbone is not None:
            name, revision = self.backbone.name, self.backbone.revision
        elif self._facts is not None:
            name, revision = self._facts.reference.name, self._facts.reference.revision
        else:
            raise ValueError("classes: this head has no backbone to encode texts with; use fit_embeddings()")
        if name is None:
            raise ValueError(
                "classes: this head has no text tower, and its backbone has no name to load one by; "
                "build the head on the whole model again"
            )
        whole = Backbone.from_pretrained(name, revision=revision, **self._hub)
        check_fingerprint(self.fingerprint(), whole.fingerprint(), name)
        return whole

    def _adopt(
        self,
        raw: Tensor,
        classes: list[FittedClass],
        templates: tuple[str, ...] | None,
        fitted_scale: float | None,
    ) -> None:
        """Take new classes as a whole, or, if no space can be built of them, leave everything as it was."""
        before = (self.text_embeddings, self.owners, self._classes, self.templates, self._fitted_scale)
        if self.backbone is not None:
            raw = raw.to(self.backbone.device)
        counts = torch.tensor([fitted.rows for fitted in classes], device=raw.device)
        # Half precision stores a direction to 3 digits only: keep what comes exactly, and at least float32.
        self.text_embeddings = raw.detach().to(torch.promote_types(raw.dtype, torch.float32))
        self.owners = torch.repeat_interleave(torch.arange(len(counts), device=raw.device), counts)
        self._classes, self.templates, self._fitted_scale = classes, templates, fitted_scale
        try:
            self._rebuild()
        except ValueError:
            self.text_embeddings, self.owners, self._classes, self.templates, self._fitted_scale = before
            raise
        self._forget_calibration()

    def _forget_calibration(self) -> None:
        if self.calibration is not None:
            self.calibration = None
            warnings.warn(
                "the calibration was of other classes or settings and is dropped; calibrate() again",
                stacklevel=4,
            )

    def _rebuild(self) -> None:
        raw, owners = self._fitted()
        # float64 is missing on MPS; building is small enough for the CPU.
        at = torch.device("cpu") if raw.device.type == "mps" else raw.device
        # Under autocast the products that decide what is kept would be taken in half precision.
        with torch.autocast(at.type, enabled=False):
            space = build_space(
                raw.to(at),
                owners.to(at),
                self.class_names,
                scale_rule=self.config.scale_rule,
                scale_options=self.config.scale_options,
                keep_name=self.config.keep_name,
                centering=self.config.centering,
            )
            folded = FoldedSpace(
                space,
                self.config.metric,
                self.config.metric_options,
                fused=os.environ.get("S3CLIP_TRITON") == "1",
            )
        for name in _DERIVED:
            value = getattr(space, name)
            dtype = raw.dtype if value.is_floating_point() else value.dtype
            setattr(self, f"space_{name}", value.to(device=raw.device, dtype=dtype))
        self.folded = folded.to(device=raw.device, dtype=raw.dtype)

    def _artifact(self) -> Artifact:
        raw, _ = self._fitted()
        return Artifact(
            raw=raw.float() if raw.dtype != torch.float64 else raw,
            classes=self._classes,
            config=self.config,
            templates=self.templates,
            backbone=self._backbone_facts(),
            fitted_logit_scale=self._fitted_scale,
            calibration=self.calibration,
        )

    def _backbone_facts(self) -> BackboneFacts | None:
        """What there is to say of the backbone, or of the one that an artifact was made with."""
        if self.backbone is None:
            return self._facts
        name = self.backbone.name
        # A relative folder would be lost when the artifact is loaded from another working directory.
        name = os.path.abspath(name) if name is not None and os.path.isdir(name) else name
        bias = self.backbone.logit_bias()
        return BackboneFacts(
            reference=BackboneReference(name=name, revision=self.backbone.revision),
            activation=self.backbone.activation,
            logit_scale=self.backbone.logit_scale().item(),
            logit_bias=None if bias is None else bias.item(),
            fingerprint=self.fingerprint(),
        )

    def _adapter(self, adapt: str | TestTimeAdapter) -> TestTimeAdapter:
        if isinstance(adapt, str):
            return TestTimeAdapter(self, adapt)
        if not isinstance(adapt, TestTimeAdapter):
            raise TypeError(
                f"adapt: expected the name of a method or a TestTimeAdapter, got {type(adapt).__name__}"
            )
        if adapt.head is not self:
            raise ValueError("adapt: this adapter is one of another head; make it with TestTimeAdapter(head)")
        return adapt

    def _batches(
        self,
        images: Any,
        image_embeds: Tensor | None,
        batch_size: int,
        skip_broken: bool = False,
        adapter: TestTimeAdapter | None = None,
    ) -> Iterable[tuple[list[bool], Tensor, Tensor]]:
        """Yield (which of the images could be read, their logits, their unit embeddings)."""
        raw, _ = self._fitted()
        if (images is None) == (image_embeds is None):
            got = "neither" if images is None else "both"
            raise ValueError(f"images, image_embeds: expected exactly one of the two, got {got}")
        if not is_count(batch_size):
            raise ValueError(f"batch_size: expected a whole number >= 1, got {batch_size!r}")
        if image_embeds is not None:
            chunks = as_embeds(image_embeds).to(raw.device).split(batch_size)
            for number, chunk in enumerate(chunks):
                yield [True] * len(chunk), *self._checked_logits(chunk, number * batch_size, adapter)
            return
        if self.backbone is None:
            raise ValueError("images: this head has no backbone; give image_embeds=")
        for start, readable, pictures in opened_batches(images, batch_size, skip_broken):
            if not pictures:
                yield readable, raw.new_zeros(0, len(self._classes)), raw.new_zeros(0, raw.shape[1])
                continue
            if adapter is None:
                embeds = self.backbone.encode_images(**self.backbone.preprocess(pictures))
            else:
                embeds = adapter.encode(pictures)
            yield readable, *self._checked_logits(embeds, start, adapter)

    def _checked_logits(
        self, image_embeds: Tensor, first: int = 0, adapter: TestTimeAdapter | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (logits, unit embeddings); `first` is the position of row 0 among all images."""
        if adapter is not None:
            check_view_embeds(image_embeds, first)
            return adapter(image_embeds).float(), unit_vectors(image_embeds[:, 0])
        check_image_embeds(image_embeds, first)
        return self(image_embeds=image_embeds).float(), unit_vectors(image_embeds)

    @torch.no_grad()
    def _logits_and_embeds(
        self, images: Any, image_embeds: Tensor | None, batch_size: int
    ) -> tuple[Tensor, Tensor]:
        """Return (images, classes) logits and (images, dim) unit embeddings of all images."""
        raw, _ = self._fitted()
        found = [(raw.new_zeros(0, len(self._classes)), raw.new_zeros(0, raw.shape[1]))]
        found += [(logits, embeds) for _, logits, embeds in self._batches(images, image_embeds, batch_size)]
        logits, embeds = zip(*found, strict=True)
        return torch.cat([each.float() for each in logits]), torch.cat([each.to(raw) for each in embeds])

    @torch.no_grad()
    def _nearest_to_distractors(self, embeds: Tensor, distractors: Any) -> Tensor:
        """Return a mask of the (images, dim) embeddings whose best class is one of the distractors."""
        raw, _ = self._fitted()
        if self.templates is None:
            raise ValueError(
                "distractors: this head was fitted from embeddings; give images of no class instead"
            )
        fitted, added = encode_classes(self._text_backbone(), SynonymSet.read(distractors), self.templates)
        both = SynonymousSpaceHead(config=self.config.replaced(logit_scale=1.0))
        both._adopt(torch.cat([raw, added.to(raw)]), [*self._classes, *fitted], None, None)
        logits: Tensor = both(image_embeds=embeds)
        return logits.argmax(-1) >= len(self._classes)
