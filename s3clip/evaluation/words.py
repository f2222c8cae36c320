"""Which words of a synonym file help and which hurt: each left out in turn, on labelled images."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from s3clip.backbone.backbone import Backbone
from s3clip.class_space import FittedClass, named_classes
from s3clip.config import HeadConfig
from s3clip.evaluation.comparison import labelled_embeds
from s3clip.evaluation.methods import CONTROL
from s3clip.evaluation.report.comparison import Difference, versions
from s3clip.evaluation.report.words import WordComparison, WordEffect
from s3clip.evaluation.scores import holm, interval, resampled_class_means, resampled_means, sign_test
from s3clip.evaluation.scoring import ImageEmbeds, resampled_differences, scored_classes
from s3clip.evaluation.settings import ComparisonSettings
from s3clip.head import SynonymousSpaceHead
from s3clip.prediction.batches import check_embeds
from s3clip.space.absence import Absence
from s3clip.space.folding import FoldedSpace
from s3clip.space.metrics import METRICS
from s3clip.space.synonymous_space import SynonymousSpace, unit_vectors
from s3clip.texts.synonyms import SynonymClass, SynonymSet


class LeftOut(NamedTuple):
    """A class without one of its words.

    Attributes:
        word: what is left out, with its descriptors.
        is_name: whether that is the class's own name.
        left: the class without it.
    """

    word: str
    is_name: bool
    left: SynonymClass


def compare_words(
    synonyms: Any,
    labels: Iterable[int | str],
    *,
    backbone: str | os.PathLike[str] | Backbone,
    images: Iterable[Any] | None = None,
    image_embeds: Tensor | ImageEmbeds | None = None,
    templates: str | Sequence[str] | None = None,
    config: HeadConfig | None = None,
    min_images: int = 1,
    bootstrap: int = 2000,
    seed: int = 0,
    batch_size: int = 64,
) -> WordComparison:
    """Leave out one word of the classes at a time, with its descriptors, and compare the answers.

    Images and texts are encoded once. Each time the space is built whole, since with a relative scale rule
    every class sees where the others lie; only classes whose points change are scored again. The answers are
    those of `fit_classes` on a file without the word.

    Args:
        synonyms: what `SynonymousSpaceHead.fit_classes` takes.
        labels: one per image: the position of a class, or, as a string, a class's id or name.
        backbone: a Hub repository, a folder or a `Backbone`.
        images: as for `predict`; or
        image_embeds: (images, dim) embeddings of the same model.
        templates: prompt templates, as `fit_classes` takes them.
        config: the settings of the head; the default ones if None.
        min_images: recall is the mean over the classes with so many images.
        bootstrap: resamples of the images for the intervals.
        seed: of the resamples.
        batch_size: images that are encoded and scored at once.

    Raises:
        ValueError: counts that do not agree, a label that is not known, no image left, or words of which none
            can be left out.

    Examples:
        >>> from s3clip.demo import model_folder
        >>> words = {"one": ["1", "ace"], "seven": ["7", "siete"]}
        >>> names = [each.name for each in head.classes]
        >>> truth = [names[label] for label in labels[:100]]
        >>> found = compare_words(words, truth, backbone=model_folder(), images=images[:100], bootstrap=20)
        >>> sorted(each.word for each in found.words)
        ['1', '7', 'ace', 'one', 'seven', 'siete']
    """
    settings = ComparisonSettings(
        None, None, CONTROL.name, min_images, bootstrap, 1, seed, batch_size, adapt=()
    )
    classes = SynonymSet.read(synonyms)
    words = [list(words_of(each)) for each in classes.classes]
    if not any(words):
        raise ValueError("synonyms: every class has one name only, which cannot be left out")
    model, encoded, truth, strange = labelled_embeds(
        classes, labels, backbone, images, image_embeds, settings.batch_size
    )
    scored = scored_classes(truth, len(classes.classes), settings.min_images)
    first, unit = 0, []
    for batch in encoded.split(settings.batch_size):
        check_embeds(batch, first)
        first += len(batch)
        unit.append(unit_vectors(batch.float().cpu()))
    head = SynonymousSpaceHead(model, config=config).fit_classes(classes, templates=templates)
    answers = _Answers(head, unit)
    effects, differences = _left_out(head, answers, classes, words, truth)
    top1, recall = resampled_differences(differences, truth, scored, settings)
    every, correct = torch.ones(1, len(truth)), answers.predicted == truth
    exact = [
        resampled_means(differences, every)[0].tolist(),
        resampled_class_means(differences, every, truth, scored)[0].tolist(),
    ]
    p = holm(sign_test(*(torch.tensor([each[what] for each in effects]) for what in ("gained", "lost"))))
    found = [
        WordEffect(
            **each,
            top1=Difference.of(exact[0][row], interval(top1[:, row])),
            recall=Difference.of(exact[1][row], interval(recall[:, row])),
            p=float(p[row]),
        )
        for row, each in enumerate(effects)
    ]
    return WordComparison(
        words=tuple(_worst_first(found)),
        single=sum(not any(each.is_name for each in own) for own in words),
        images=len(truth),
        left_out=strange,
        classes=len(scored),
        scored_classes=int(scored.sum()),
        top1=float(correct.double().mean()),
        recall=float(resampled_class_means(correct[None], every, truth, scored)),
        settings={
            "backbone": model.name,
            "revision": model.revision,
            "templates": list(head.templates or ()),
            "config": head.config.model_dump(),
            **{name: getattr(settings, name) for name in ("min_images", "bootstrap", "seed", "batch_size")},
        },
        versions=versions(),
    )


def _left_out(
    head: SynonymousSpaceHead,
    answers: "_Answers",
    classes: SynonymSet,
    words: Sequence[Sequence[LeftOut]],
    truth: Tensor,
) -> tuple[list[dict[str, Any]], Tensor]:
    """Leave out every word in turn, of a head that was fitted to these classes.

    Returns:
        What a `WordEffect` says of each word but for the statistics, and (words, images) float64, by image 1
        where the word makes the answer right, -1 where it makes it wrong, mostly 0: a sparse tensor.
    """
    templates, points = head.templates or (), head.config.points
    counts = torch.bincount(truth, minlength=len(classes.classes)).tolist()
    correct = answers.predicted == truth
    effects: list[dict[str, Any]] = []
    adds: list[Tensor] = []
    for position, own in enumerate(classes.texts(templates, points)):
        row_of = {text: row for row, text in enumerate(own)}
        for word, is_name, left in words[position]:
            alone = SynonymSet(classes=(left,))
            texts_left = alone.texts(templates, points)
            rows = [row_of[text] for text in texts_left[0]]
            predicted = answers.without(position, rows, named_classes(alone, texts_left)[0])
            added = correct.long() - (predicted == truth).long()
            gone = sorted(set(range(len(own))) - set(rows))
            effects.append(
                {
                    "class_index": position,
                    "class_name": classes.class_names[position],
                    "word": word,
                    "is_name": is_name,
                    "points": len(gone),
                    "kept": answers.kept(position, gone),
                    "class_images": counts[position],
                    "changed": int((predicted != answers.predicted).sum()),
                    "gained": int((added > 0).sum()),
                    "lost": int((added < 0).sum()),
                }
            )
            adds.append(added.to_sparse())
    return effects, torch.stack(adds).double()


def words_of(each: SynonymClass) -> Iterator[LeftOut]:
    """Give every word of a class with what the class is without it.

    A word is a name, with all descriptors, or a sentence. The own name gives its place to the first synonym;
    without one, it stays.
    """
    names = list(dict.fromkeys((each.name, *each.synonyms)))
    for name in names if len(names) > 1 else []:
        first, *others = [other for other in names if other != name]
        left = each.model_copy(update={"name": first, "synonyms": tuple(others)})
        yield LeftOut(name, name == each.name, left)
    for sentence in dict.fromkeys(each.prompts):
        others = [other for other in each.prompts if other != sentence]
        yield LeftOut(sentence, False, each.model_copy(update={"prompts": tuple(others)}))


def _worst_first(effects: list[WordEffect]) -> list[WordEffect]:
    """Return words class by class: a class stands where its worst word would."""

    def worth(each: WordEffect) -> tuple[float, float]:
        return each.top1.value, each.recall.value

    worst: dict[int, tuple[float, float]] = {}
    for each in effects:
        worst[each.class_index] = min(worst.get(each.class_index, worth(each)), worth(each))
    return sorted(effects, key=lambda each: (worst[each.class_index], each.class_index, worth(each)))


class _Answers:
    """The answers of a head to some images, with all of its texts and without some.

    Args:
        head: fitted.
        images: batches of (images, dim) unit embeddings.

    Attributes:
        predicted: (images,) the class of each, with all texts.
    """

    def __init__(self, head: SynonymousSpaceHead, images: Sequence[Tensor]) -> None:
        value = head.class_space
        negatives = None if value.negatives is None else value.negatives.float().cpu()
        self._value = replace(value, raw=value.raw.float().cpu(), negatives=negatives)
        self._images = images
        self._scale, bias = head.logit_scale.item(), head.logit_bias
        self._bias = bias.item() if isinstance(bias, Tensor) else bias or 0.0
        self._space = self._value.build()
        self._logits = self._logits_of(self._space, torch.arange(len(value.classes)))
        self.predicted = self._logits.argmax(1)
        sizes = torch.tensor([each.rows for each in value.classes])
        self._starts = (sizes.cumsum(0) - sizes).tolist()

    def kept(self, position: int, rows: Sequence[int]) -> int:
        """Return how many of some rows of a class are kept, or repeat one that is."""
        own = self._space.duplicate_of[torch.tensor(rows) + self._starts[position]]
        return int(torch.isin(own, self._space.kept).sum())

    def without(self, position: int, rows: Sequence[int], left: FittedClass) -> Tensor:
        """Return (images,) answers where a class has these rows alone.

        Args:
            position: of the class.
            rows: of it, in order.
            left: what is then said of it.
        """
        start, every = self._starts[position], torch.arange(len(self._value.raw))
        end = start + self._value.classes[position].rows
        row_before = torch.cat([every[:start], torch.tensor(rows) + start, every[end:]])
        classes = list(self._value.classes)
        classes[position] = left
        space = replace(self._value, raw=self._value.raw[row_before], classes=tuple(classes)).build()
        if space.centered or METRICS[self._value.config.metric].reads_edges:
            changed = torch.arange(len(classes))
        else:  # a class whose points are the same has the same scores
            rows_now, rows_then = row_before[space.kept], self._space.kept
            moved = torch.cat([rows_now, rows_then])
            moved, times = moved.unique(return_counts=True)
            owners = self._space.owners[moved[times == 1]]
            changed = torch.cat([owners, torch.tensor([position])]).unique()
        logits = self._logits.clone()
        logits[:, changed] = self._logits_of(space, changed)
        return logits.argmax(1)

    def _logits_of(self, space: SynonymousSpace, classes: Tensor) -> Tensor:
        """(images, c) logits of some classes, in ascending order."""
        rows = torch.isin(space.owners, classes)
        kept = torch.zeros(len(rows), dtype=torch.bool).index_fill_(0, space.kept, True)
        part = replace(  # what scores are made of; the trees are left as they are
            space,
            raw=space.raw[rows],
            owners=torch.searchsorted(classes, space.owners[rows]),
            kept=torch.nonzero(kept[rows])[:, 0],
            scales=space.scales[classes],
            margins=space.margins[rows],
        )
        config = self._value.config
        absence = None
        if self._value.negatives is not None:
            owners = self._value.negative_owners
            own = torch.isin(owners, classes)
            negatives = self._value.negatives[own]
            absence = (
                Absence(part, negatives, torch.searchsorted(classes, owners[own])) if own.any() else None
            )
        folded = FoldedSpace(part, config.metric, config.metric_options, absence=absence)
        with torch.inference_mode():
            return torch.cat([folded.logits(batch, self._scale) + self._bias for batch in self._images])
