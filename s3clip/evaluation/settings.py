"""What a comparison is asked for: its settings, checked, and the contenders that it compares."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from s3clip.arguments import is_count
from s3clip.config import HeadConfig
from s3clip.evaluation.methods import ADAPTED, CONTENDERS, Contender
from s3clip.space.shift import ADAPTATIONS
from s3clip.texts.synonyms import SynonymSet


def has_descriptors(synonyms: SynonymSet) -> bool:
    """Say whether some class has descriptors, without which some contenders have no texts."""
    return any(each.descriptors for each in synonyms.classes)


class Asked(NamedTuple):
    """What `compare` and `compare_embeddings` are asked alike; see there."""

    contenders: Sequence[str] | None
    configs: Mapping[str, HeadConfig] | None
    control: str
    min_images: int
    bootstrap: int
    draws: int
    seed: int
    batch_size: int
    adapt: Sequence[str]

    def chosen(self, *, can_encode: bool, has_descriptors: bool) -> list[Contender]:
        """Check what was asked, and return the contenders that are compared."""
        self._check()
        configs = dict(self.configs or {})
        if taken := sorted(set(configs) & set(CONTENDERS)):
            raise ValueError(f"configs: {taken[0]!r} is the name of a contender already; choose another")
        wanted = list(CONTENDERS) if self.contenders is None else [self.control, *self.contenders]
        found = []
        for name in dict.fromkeys(wanted):
            if name not in CONTENDERS:
                raise ValueError(f"contenders: {name!r} is not known; known: {', '.join(CONTENDERS)}")
            contender = CONTENDERS[name]
            missing = None
            if contender.texts is not None and not can_encode:
                missing = "a backbone to encode its texts with"
            elif contender.descriptors and not has_descriptors:
                missing = "descriptors in the synonym file"
            if missing is None:
                found.append(contender)
            elif self.contenders is not None:
                raise ValueError(f"contenders: {name!r} needs {missing}, and there is none")
        if self.control not in [contender.name for contender in found]:
            raise ValueError(
                f"control: {self.control!r} is not among the contenders that can be compared here"
            )
        own = [Contender(name, config) for name, config in configs.items()]
        bases = [contender for contender in found if contender.name in ADAPTED] + own
        adapted = [
            replace(base, name=f"{base.name}+{method}", adapt=method)
            for base in bases
            for method in dict.fromkeys(self.adapt)
        ]
        return [*found, *own, *adapted]

    def _check(self) -> None:
        for name in ("min_images", "bootstrap", "draws", "batch_size"):
            if not is_count(getattr(self, name)):
                raise ValueError(f"{name}: expected a whole number >= 1, got {getattr(self, name)!r}")
        for name in ("contenders", "adapt"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name}: expected a list of names, got {getattr(self, name)!r}")
        if unknown := [method for method in self.adapt if method not in ADAPTATIONS]:
            raise ValueError(f"adapt: unknown method {unknown[0]!r}; known: {', '.join(ADAPTATIONS)}")
