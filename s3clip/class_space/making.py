"""A class space made: of the texts of a synonym set, or of embeddings; and what is known of its backbone."""

import os
from collections.abc import Mapping, Sequence

import torch
from pydantic import ValidationError
from torch import Tensor

from s3clip.arguments import LARGEST_SCALE, is_scale, plain
from s3clip.backbone.backbone import Backbone
from s3clip.backbone.encoding import checked_rows
from s3clip.class_space.value import BackboneFacts, BackboneReference, ClassSpace, FittedClass
from s3clip.config import HeadConfig
from s3clip.files.problems import first_problem
from s3clip.texts.prompts import Text
from s3clip.texts.synonyms import SynonymSet


def named_classes(synonyms: SynonymSet, texts: Sequence[Sequence[Text]]) -> tuple[FittedClass, ...]:
    """Return the classes of a synonym set with the texts that stand for their rows."""
    return tuple(
        FittedClass(
            name=each.name,
            id=each.id,
            rows=len(own),
            texts=[text.label for text in own],
            variants=[list(text.variants) for text in own] if any(text.variants for text in own) else None,
            groups=each.groups,
            names=({synonyms.language: each.name} if synonyms.language else {})
            | {code: names[0] for code, names in each.names.items()},
            negatives=list(dict.fromkeys(each.negatives)),
        )
        for each, own in zip(synonyms.classes, texts, strict=True)
    )


def from_embeddings(
    embeddings: Sequence[Tensor] | Mapping[str, Tensor],
    class_names: Sequence[str] | None,
    config: HeadConfig,
    *,
    texts: Sequence[Sequence[str]] | None = None,
    negatives: Sequence[Mapping[str, Tensor]] | None = None,
    logit_scale: float | Tensor | None = None,
) -> ClassSpace:
    """Return the class space of text embeddings computed elsewhere.

    Args:
        embeddings: one floating (n_c, dim) tensor or array per class, normalised or not; the first row is the
            class's own name. Or a mapping from the names to these.
        class_names: one per class; None with a mapping.
        config: the settings.
        texts: what each row stands for, for `Prediction.text`.
        negatives: of each class the (dim,) embeddings of texts of what is seen where it is not there, by the
            text; see `s3clip.space.absence`.
        logit_scale: multiplies the scores; else `config.logit_scale`, else the backbone's.

    Raises:
        ValueError: counts or shapes that do not agree, an empty class, or a scale that is not > 0.
        TypeError: names or texts that are not strings.
    """
    # The parameter of SigLIP has the shape (1,).
    is_tensor = isinstance(logit_scale, Tensor) and logit_scale.numel() == 1
    scale: float | None = logit_scale.item() if is_tensor else plain(logit_scale)  # type: ignore[union-attr]
    if scale is not None and not is_scale(scale):
        raise ValueError(f"logit_scale: expected a number > 0, at most {LARGEST_SCALE:g}, got {scale}")
    # A float, whatever number was given: as one it is saved, and a digest tells 100 from 100.0.
    scale = None if scale is None else float(scale)
    names, rows = checked_rows(embeddings, class_names)
    if texts is not None and [len(own) for own in texts] != [len(own) for own in rows]:
        raise ValueError("texts: expected one text for every row of embeddings, class by class")
    if texts is not None and not all(isinstance(text, str) for own in texts for text in own):
        raise TypeError("texts: expected a list of strings for each class")
    absent: Sequence[Mapping[str, Tensor]] = [{}] * len(names) if negatives is None else negatives
    if len(absent) != len(names) or not all(isinstance(own, Mapping) for own in absent):
        raise ValueError(
            f"negatives: expected a mapping of texts to embeddings for each of {len(names)} classes"
        )
    classes = []
    for i, (name, own) in enumerate(zip(names, rows, strict=True)):
        try:
            classes.append(
                FittedClass(
                    name=name,
                    rows=len(own),
                    texts=None if texts is None else list(texts[i]),
                    negatives=list(absent[i]),
                )
            )
        except ValidationError as error:
            raise ValueError(f"class {i}: {first_problem(error)}") from None
    listed = [torch.as_tensor(row, device=rows[0].device) for own in absent for row in own.values()]
    if listed and {row.shape for row in listed} != {rows[0].shape[1:]}:
        raise ValueError(
            f"negatives: expected embeddings of shape {tuple(rows[0].shape[1:])}, "
            f"got {sorted({tuple(row.shape) for row in listed})}"
        )
    against = torch.stack(listed) if listed else None
    return ClassSpace(torch.cat(rows), tuple(classes), config, fitted_logit_scale=scale, negatives=against)


def joined(known: BackboneFacts | None, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a fingerprint: of images as found now, of texts by the text tower that encoded the classes."""
    recorded = {} if known is None else known.fingerprint
    return {**found, **{part: rows for part, rows in recorded.items() if part != "image" or not found}}


def facts_of(backbone: Backbone, known: BackboneFacts | None) -> BackboneFacts:
    """Return what there is to say of a backbone.

    Args:
        backbone: as it is now.
        known: what is known of it from before: the fingerprint of a text tower that it has no more.
    """
    name = backbone.name
    # A relative folder would be lost when the artifact is loaded from another working directory.
    name = os.path.abspath(name) if name is not None and os.path.isdir(name) else name
    bias = backbone.logit_bias()
    return BackboneFacts(
        reference=BackboneReference(name=name, revision=backbone.revision),
        activation=backbone.activation,
        logit_scale=backbone.logit_scale().item(),
        logit_bias=None if bias is None else bias.item(),
        fingerprint=joined(known, backbone.fingerprint()),
    )
