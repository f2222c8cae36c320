"""A class space as one matrix, for code that multiplies image features with a classifier."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from s3clip.backbone.backbone import Backbone
from s3clip.config import HeadConfig
from s3clip.head import SynonymousSpaceHead
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
    class's prompts. With synonyms it is the normalised mean of the texts that the Rips complex of the class
    keeps, under the default scale rule; the default metric is not linear, so a head is the better classifier.

    Args:
        model: a dual encoder, of open_clip's shape or of transformers.
        tokenizer: its tokenizer.
        classnames: names, a mapping name -> synonyms, or a `SynonymSet`.
        templates: with `{}` or `{c}` for the name, or callables that put a name where it belongs.
        num_classes_per_batch: names whose prompts go through the text tower at once; None: all of them.
        device: where to return the weights.
        use_tqdm: show a progress bar.

    Returns:
        (dim, classes) unit columns; `logit_scale * features @ classifier` are logits for unit features.

    Raises:
        ValueError: templates or classes that are refused (see `SynonymSet.read`).
        TypeError: a model with no joint space.
    """
    if not isinstance(classnames, SynonymSet):
        pairs = classnames.items() if isinstance(classnames, Mapping) else ((name, ()) for name in classnames)
        classnames = SynonymSet.read([{"name": name, "synonyms": own} for name, own in pairs])
    listed = [templates] if isinstance(templates, str) else list(templates)
    # A callable puts in what it is given: a placeholder makes it a template.
    written = [each("{}") if callable(each) else each for each in listed]
    at_once = len(classnames.classes) if num_classes_per_batch is None else num_classes_per_batch
    head = SynonymousSpaceHead(Backbone(model, (tokenizer, None)), config=HeadConfig(metric="center"))
    head.fit_classes(
        classnames, templates=written, batch_size=max(1, at_once * len(written)), progress=use_tqdm
    )
    return head.to_linear().to(device)
