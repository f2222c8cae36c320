"""The zero-shot-image-classification pipeline of transformers, with synonyms and with texts encoded once.

Give the class to `pipeline` and keep the calls you have:

    from transformers import pipeline
    from s3clip import S3ZeroShotImageClassificationPipeline

    classify = pipeline(
        "zero-shot-image-classification",
        model="openai/clip-vit-base-patch32",
        pipeline_class=S3ZeroShotImageClassificationPipeline,
    )
    classify("photo.jpg", candidate_labels=["cat", "dog"])
    classify("photo.jpg", candidate_labels={"cat": ["feline", "kitty"], "dog": ["hound"]}, top_k=1)

`model` may be a class space that `push_to_hub` or `save_pretrained` wrote: it brings labels and model.
"""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Number
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Pipeline, PreTrainedModel, ZeroShotImageClassificationPipeline

from s3clip.arguments import is_count, plain
from s3clip.backbone.backbone import Backbone
from s3clip.backbone.identity import check_fingerprint
from s3clip.backbone.wrappers import unwrapped
from s3clip.config import HeadConfig
from s3clip.head import SynonymousSpaceHead
from s3clip.images.opening import is_one, one_or_several, open_image
from s3clip.integrations.auto_classes import ClassSpaceModel, Placed
from s3clip.prediction.groups import answer_probabilities
from s3clip.prediction.scope import Scope, scope_of
from s3clip.texts.synonyms import SynonymSet

DEFAULT_HYPOTHESIS = "This is a photo of {}."
"""The template of transformers' pipeline, not the one of `fit_classes`: the scores are to be the same."""

KEPT_LABEL_SETS = 8
"""Label sets whose embeddings are kept; the one not used for longest goes first."""

TEXT_BATCH = 1024
"""Texts per pass through the text tower. transformers' own pipeline puts all labels into one, whatever their
number: this needs no more memory, and the usual label set is one pass here too."""

# What says which texts are encoded, in the constructor or in a call.
_TEXT_ARGUMENTS = ("candidate_labels", "hypothesis_template", "tokenizer_kwargs")

Labels = list[Any] | dict[Any, Any] | SynonymSet


class S3ZeroShotImageClassificationPipeline(ZeroShotImageClassificationPipeline):
    """A drop-in for `transformers.ZeroShotImageClassificationPipeline`, over a `SynonymousSpaceHead`.

    Calls and answers are those of transformers; the scores too, to float rounding, where each label has one
    text and `centering` is None (the default). What differs:

    - A label may have synonyms, and a fitted head may stand in the place of labels.
    - A label set is encoded once, not once for every image. The last `KEPT_LABEL_SETS` are kept, until the
      tokenizer, the settings or weights of the model change (writes to `weight.data` go unseen: those need a
      new pipeline).
    - Texts are padded, masked and truncated as the model's family needs it, with a warning for those that are
      truncated; transformers' own fails at a label that is too long.
    - `tokenizer_kwargs` reach the tokenizer, which in transformers 5 they do not.
    - `candidate_labels="cat, dog"` are two labels, as in the zero-shot-classification pipeline, and not eight
      letters.
    - Every dual encoder that `Backbone` takes will do, one of open_clip among them, though `pipeline` itself
      loads by name only those listed for its task; give it others as objects, or give their names to this
      class itself.
    - Arguments that are not known are passed over, as by transformers, but with a warning.

    Args:
        model: A dual encoder, as `Backbone` takes it, or a `Backbone`; a name, as
            `Backbone.from_pretrained` takes it; by default that of `head`.
        tokenizer: Its tokenizer; by default that of `head` where the model is.
        image_processor: Its image processor; by default that of `head` where the model is.
        head: A fitted head, or the folder or repository of a saved one, used where a call gives no
            `candidate_labels`. It is not copied: its classes, settings and calibration are those of the call.
            It is moved to the pipeline's device.
        head_config: The settings for `candidate_labels`; by default those of `head`, or `HeadConfig()`. (Not
            `config`, which `pipeline` takes for the model's.)
        candidate_labels, hypothesis_template, tokenizer_kwargs, timeout, top_k: Defaults for the arguments of
            a call.
        **kwargs: What else transformers' pipelines take: `processor`, `device`, `batch_size`, ...

    Raises:
        TypeError: If the model has no joint space of images and texts.
        ValueError: If `head` is not fitted, was made with another model or is given together with
            `head_config`, or there is no image processor.

    Examples:
        >>> from transformers import pipeline
        >>> from s3clip import S3ZeroShotImageClassificationPipeline
        >>> classify = pipeline(
        ...     "zero-shot-image-classification",
        ...     model=head.backbone.model,
        ...     tokenizer=head.backbone.tokenizer,
        ...     image_processor=head.backbone.image_processor,
        ...     pipeline_class=S3ZeroShotImageClassificationPipeline,
        ... )
        >>> words = {"one": ["1", "ace"], "seven": ["7", "lucky number"]}
        >>> classify(images[7], candidate_labels=words)[0]["label"]
        'seven'
    """

    # Optional, as `Pipeline` has it in every version: a saved class space has none of its own.
    _load_tokenizer = _load_image_processor = Pipeline._load_tokenizer  # type: ignore[assignment]

    def __init__(
        self,
        *,
        head: SynonymousSpaceHead | str | os.PathLike[str] | None = None,
        head_config: HeadConfig | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(model := kwargs.get("model"), ClassSpaceModel):
            head, kwargs["model"] = (model.head if head is None else head), None
        if isinstance(head, str | os.PathLike):
            saved = "saved" if kwargs.get("model") is None else None
            head = SynonymousSpaceHead.from_pretrained(head, backbone=saved)
        if head is not None and not isinstance(head, SynonymousSpaceHead):
            raise TypeError(f"head: expected a SynonymousSpaceHead, got {type(head).__name__}")
        if head_config is not None and not isinstance(head_config, HeadConfig):
            raise TypeError(f"head_config: expected a HeadConfig, got {type(head_config).__name__}")
        if head is not None and head_config is not None:
            raise ValueError("head_config: the head has its own; use head.reconfigure(...)")
        kwargs = _with_model(kwargs, None if head is None else head.backbone)
        self._text_defaults = {key: kwargs.pop(key) for key in _TEXT_ARGUMENTS if key in kwargs}
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        if isinstance(self.model, Placed):
            self.model = self.model.model
        if self.image_processor is None:
            raise ValueError("image_processor: images cannot be read without one; pass it or the processor")
        self._backbone = Backbone(self.model, (self.tokenizer, self.image_processor))
        if head is not None:
            _check_head(head, self._backbone)
            head.to(self.device)
        self._head = head
        self._config = head_config
        # Oldest first. A plain dict and no lock: workers of a data loader get a pickled copy of the pipeline.
        self._heads: dict[Any, SynonymousSpaceHead] = {}

    def check_model_type(self, supported_models: Any) -> None:
        """Leave out transformers' log line on models outside its list; `Backbone` says what will not do."""

    def __call__(  # type: ignore[override]
        self, image: Any = None, candidate_labels: Any = None, **kwargs: Any
    ) -> Any:
        """Return the labels of images with their scores, the best first.

        Args:
            image: One or several, as for `s3clip.prediction.answers.predict`: what transformers' own takes (a
                PIL image, a path, a link, base64 text; a list, a generator or a dataset of these), bytes,
                arrays, tensors. A file is read as everywhere in s3clip, so that one that transformers' own
                clips to black or white, or whose transparency it ignores, gets other scores.
            candidate_labels: Names, or a mapping from each name to its synonyms (a list, which may be empty),
                or a `SynonymSet`, or one string of names separated by commas. Not needed where the pipeline
                has a head. A text loses the whitespace around it before it is encoded.
            **kwargs: `hypothesis_template`: A template with `{}` for the name, or several, whose embeddings
                are averaged, or a name of `s3clip.texts.TEMPLATES`; else that of the `SynonymSet`, else
                `"This is a photo of {}."`. `top_k`: How many labels to return; all by default.
                `level`, `among` and `language`: As for `s3clip.prediction.answers.predict`.
                `tokenizer_kwargs`: For the tokenizer. `timeout`: Seconds to wait for a link. `batch_size` and
                `num_workers`: As in every pipeline.

        Returns:
            `[{"score": float, "label": str}, ...]`, a list of such lists for several, an iterator over them
            for a generator or a dataset of torch. Scores are probabilities: of the softmax over the labels,
            or of the sigmoid for a model that was trained with it.

        Raises:
            ValueError: No image; no labels and no head; an empty label; a template without a place for the
                name, or one with a head, whose texts are encoded already.
            TypeError: Labels of no such form.
        """
        image = kwargs.pop("images", image)
        if image is None:
            raise ValueError("image: expected an image or several, got None")
        if isinstance(image, list) and not image:
            return []
        asked = {"candidate_labels": candidate_labels}
        asked |= {key: kwargs.pop(key) for key in _TEXT_ARGUMENTS if key in kwargs}
        asked = self._text_defaults | {key: value for key, value in asked.items() if value is not None}
        scoped = {key: kwargs.pop(key) for key in ("level", "among", "language") if key in kwargs}
        labels, head = self._labels_and_head(**asked)
        if any(value is not None for value in scoped.values()):
            kwargs["scope"] = scope = scope_of(head.classes, **scoped)
            labels = [scope.labels[answer] for answer in scope.answers]
        as_they_come = is_one(image) or isinstance(image, list | Dataset)
        several: Any = image if as_they_come else (each for each in one_or_several(image))
        # Not the parent's, which insists on labels.
        answers = Pipeline.__call__(self, several, head=head, labels=labels, **kwargs)  # type: ignore[no-untyped-call]
        return answers if as_they_come or isinstance(image, Iterator) else list(answers)

    def _sanitize_parameters(  # type: ignore[override]
        self,
        *,
        head: SynonymousSpaceHead | None = None,
        labels: list[str] | None = None,
        scope: Scope | None = None,
        timeout: float | None = None,
        top_k: int | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            warnings.warn(f"arguments that this pipeline does not know: {', '.join(unknown)}", stacklevel=3)
        if top_k is not None and not is_count(top_k):
            raise ValueError(f"top_k: expected a whole number >= 1, or None for all labels, got {top_k!r}")
        given = {
            "head": head,
            "labels": labels,
            "scope": scope,
            "timeout": plain(timeout),
            "top_k": plain(top_k),
        }
        stages = (("timeout",), ("head", "scope"), ("labels", "top_k"))
        before, model, after = ({key: given[key] for key in s if given[key] is not None} for s in stages)
        return before, model, after

    def preprocess(  # type: ignore[override]
        self, image: Any, timeout: float | None = None
    ) -> dict[str, Tensor]:
        """Return what the image tower reads of one image, on the CPU: this may run in a worker."""
        return self._backbone.image_transform()([open_image(image, timeout=timeout)])

    def _forward(  # type: ignore[override]
        self, model_inputs: dict[str, Tensor], head: SynonymousSpaceHead, scope: Scope | None = None
    ) -> dict[str, Tensor]:
        # Encoded by this pipeline's model: a head that was loaded by itself may have none.
        logits = head(image_embeds=self._backbone.encode_images(**model_inputs))
        if scope is None:
            return {"scores": head.probabilities(logits.float())}
        return {"scores": answer_probabilities(scope, head.current_calibration, logits.float())}

    def postprocess(  # type: ignore[override]
        self, model_outputs: dict[str, Tensor], labels: list[str], top_k: int | None = None
    ) -> list[dict[str, Any]]:
        """Return the labels of one image with their scores, the best first."""
        scores = model_outputs["scores"][0].tolist()
        ranked = sorted(zip(scores, labels, strict=True), key=lambda pair: -pair[0])
        return [{"score": score, "label": label} for score, label in ranked[:top_k]]

    def _labels_and_head(
        self,
        candidate_labels: Any = None,
        hypothesis_template: str | Sequence[str] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[list[str], SynonymousSpaceHead]:
        """Return the labels as they were given, and the head of this label set, fitted or found."""
        if candidate_labels is None:
            if self._head is None:
                raise ValueError(
                    "candidate_labels: expected a list of names or a mapping name -> synonyms, got None; "
                    "only a pipeline with a fitted head= can do without"
                )
            if hypothesis_template is not None or tokenizer_kwargs is not None:
                raise ValueError(
                    "hypothesis_template, tokenizer_kwargs: the texts of the head are encoded already; "
                    "give candidate_labels as well, or fit the head with templates="
                )
            return self._head.class_names, self._head
        labels = _read_labels(candidate_labels)
        names = labels.class_names if isinstance(labels, SynonymSet) else list(labels)
        # Texts of 1,000 labels take far less time to compare as written than to check again.
        written = labels if isinstance(labels, SynonymSet) else repr(labels)
        config = self._config or (HeadConfig() if self._head is None else self._head.config)
        asked = (written, repr(hypothesis_template), repr(tokenizer_kwargs), repr(config))
        key = (*asked, repr(self.tokenizer), _versions(self.model))
        head = self._heads.pop(key, None)
        if head is None:
            head = self._fit(labels, hypothesis_template, tokenizer_kwargs, config)
        self._heads[key] = head
        while len(self._heads) > KEPT_LABEL_SETS:
            self._heads.pop(next(iter(self._heads)), None)
        return names, head

    def _fit(
        self,
        labels: Labels,
        hypothesis_template: str | Sequence[str] | None,
        tokenizer_kwargs: Mapping[str, Any] | None,
        config: HeadConfig,
    ) -> SynonymousSpaceHead:
        synonyms = _synonym_set(labels)
        backbone = self._backbone
        if tokenizer_kwargs:
            backbone = Backbone(self.model, (_Tokenizer(self.tokenizer, tokenizer_kwargs), None))
        if hypothesis_template is None:
            hypothesis_template = synonyms.templates or DEFAULT_HYPOTHESIS
        if isinstance(hypothesis_template, str):
            hypothesis_template = hypothesis_template.replace("{0}", "{}")  # the same to str.format
        head = SynonymousSpaceHead(backbone, config=config)
        return head.fit_classes(
            synonyms,
            templates=hypothesis_template,
            batch_size=TEXT_BATCH,
            # Labels of a call are not to fill the disk, and arguments of the tokenizer change what they are.
            cache=False,
        )


class _Tokenizer:
    """A tokenizer with arguments that go before those of the caller."""

    def __init__(self, tokenizer: Any, arguments: Mapping[str, Any]) -> None:
        self.tokenizer = tokenizer
        self.arguments = dict(arguments)
        self.model_max_length = getattr(tokenizer, "model_max_length", None)  # open_clip's have none

    def __call__(self, texts: list[str], **arguments: Any) -> Any:
        return self.tokenizer(texts, **{**arguments, **self.arguments})


def _with_model(kwargs: dict[str, Any], backbone: Backbone | None) -> dict[str, Any]:
    """Return the arguments of the constructor with a model that transformers' pipelines can be given."""
    given = {key: value for key, value in kwargs.items() if value is not None}
    model = given.get("model")
    if isinstance(model, str | os.PathLike):
        backbone = Backbone.from_pretrained(model)
    elif isinstance(model, Backbone):
        backbone = model
    elif model is not None:
        given["model"], processor = unwrapped(model, given.get("processor"))
        if processor is not None:
            given["processor"] = processor
        backbone = None
    if backbone is not None:
        parts = {"tokenizer": backbone.tokenizer, "image_processor": backbone.image_processor}
        given = {**parts, **given, "model": backbone.model}
    model = given.get("model")
    if isinstance(model, nn.Module) and not isinstance(model, PreTrainedModel):
        found = Backbone(model)
        given["model"] = Placed(model, found.device, found.dtype)
    return given


def _versions(model: Any) -> tuple[tuple[int, int], ...]:
    """Return what changes when a weight of the model is written to or replaced; it costs microseconds."""
    return tuple(
        (weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in model.parameters()
    )


def _read_labels(candidate_labels: Any) -> Labels:
    """Return labels in a form that can be read twice and written out whole."""
    if isinstance(candidate_labels, SynonymSet):
        return candidate_labels
    if isinstance(candidate_labels, str):
        return [label.strip() for label in candidate_labels.split(",") if label.strip()]
    if isinstance(candidate_labels, Mapping):
        return dict(candidate_labels)
    if isinstance(candidate_labels, Iterable) and not isinstance(candidate_labels, bytes):
        return list(candidate_labels)
    raise TypeError(
        "candidate_labels: expected a list of names, a mapping name -> synonyms or a SynonymSet, got "
        f"{type(candidate_labels).__name__}"
    )


def _synonym_set(labels: Labels) -> SynonymSet:
    if isinstance(labels, SynonymSet):
        return labels
    given = labels.items() if isinstance(labels, dict) else ((name, ()) for name in labels)
    # transformers writes numbers into the template as they are.
    synonyms = ((str(name) if isinstance(name, Number) else name, own) for name, own in given)
    # As records, which are never taken for one of the published formats.
    try:
        return SynonymSet.read([{"name": name, "synonyms": own} for name, own in synonyms])
    except ValueError as error:
        raise ValueError(f"candidate_labels: {error}") from None


def _check_head(head: SynonymousSpaceHead, backbone: Backbone) -> None:
    """Raise ValueError for a head that is not fitted or does not belong to the model of the pipeline."""
    width = head.space.raw.shape[1]
    if width != backbone.dim:
        raise ValueError(
            f"head: its texts have dimension {width}, the images of {type(backbone.model).__name__} have "
            f"{backbone.dim}; give the model that it was fitted with"
        )
    if head.activation != backbone.activation:
        raise ValueError(
            f"head: it answers with a {head.activation}, {type(backbone.model).__name__} with a "
            f"{backbone.activation}; build it on the model: SynonymousSpaceHead(model, processor)"
        )
    if head.backbone is not None and head.backbone.model is backbone.model:
        # What was dropped there is missing here.
        backbone.has_text_tower = head.backbone.has_text_tower
    else:
        check_fingerprint(head.fingerprint(), backbone.fingerprint(), "head")
