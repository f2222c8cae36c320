"""A class space as one matrix, for code that multiplies image features with a classifier."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from s3clip.backbone.backbone import Backbone
from s3clip.backbone.encoding import encode_texts
from s3clip.config import HeadConfig
from s3clip.head import SynonymousSpaceHead
from s3clip.texts.prompts import resolve_templates
from s3clip.texts.synonyms import SynonymSet


def build_zero_shot_classifier(
    model: Any,
    tokenizer: Any,
    classnames: Sequence[str] | Mapping[str, Sequence[str]] | SynonymSet,
    templates: Sequence[str | Callable[[str], str]] | str,
    num_classes_per_batch: int | None = 10,
    device: str | torch.device = "cpu",
    use_tqdm: bool = False,
) -> Tensor:
    """Return the weights of a linear zero-shot classifier: open_clip's function, with synonyms.

    With one name a class the result is that of open_clip: the normalised mean of the unit embeddings of the
    class's prompts. With synonyms it is the normalised mean of the concepts that the Rips complex of the
    class keeps, under the default scale rule; the default metric is not linear, so a head is the better
    classifier.

    Args:
        model: a dual encoder, of open_clip's shape or of transformers.
        tokenizer: its tokenizer.
        classnames: names, a mapping name -> synonyms, or a `SynonymSet`.
        templates: with `{}` or `{c}` for the name, or functions that are called with each name.
        num_classes_per_batch: names whose prompts go through the text tower at once; None: all of them.
        device: where to return the weights.
        use_tqdm: show a progress bar.

    Returns:
        (dim, classes) unit columns; `logit_scale * features @ classifier` are logits for unit features.

    Raises:
        ValueError: templates or classes that are refused (see `SynonymSet.read`).
        TypeError: a model with no joint space.

    Examples:
        >>> model, tokenizer = head.backbone.model, head.backbone.tokenizer
        >>> words = {"one": ["1", "ace"], "seven": ["7", "siete"]}
        >>> build_zero_shot_classifier(model, tokenizer, words, ["a photo of a {}."]).shape
        torch.Size([64, 2])
    """
    if not isinstance(classnames, SynonymSet):
        pairs = classnames.items() if isinstance(classnames, Mapping) else ((name, ()) for name in classnames)
        classnames = SynonymSet.read([{"name": name, "synonyms": own} for name, own in pairs])
    listed: list[Any] = [templates] if isinstance(templates, str) else list(templates)
    if not any(callable(each) for each in listed):
        listed = [*resolve_templates(listed)]
    names = {*classnames.class_names}
    if any(callable(each) and len({each(name) for name in names}) < len(names) for each in listed):
        raise ValueError("templates: a function gives several classes the same text; it must put the name in")
    at_once = len(classnames.classes) if num_classes_per_batch is None else num_classes_per_batch
    backbone, size = Backbone(model, (tokenizer, None)), max(1, at_once * len(listed))
    texts = classnames.texts(listed, "concepts")
    raw = encode_texts(backbone, texts, batch_size=size, progress=use_tqdm)
    head = SynonymousSpaceHead(config=HeadConfig(metric="center", logit_scale=1.0))
    head.fit_embeddings(raw.split([len(own) for own in texts]), classnames.class_names)
    return head.to_linear().to(device)
