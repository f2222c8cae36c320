"""The settings of a comparison, checked, and the methods that it compares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from s3clip.arguments import whole_number
from s3clip.config import HeadConfig
from s3clip.evaluation.learners import LEARNERS
from s3clip.evaluation.methods import ADAPTED, DEFAULT, METHODS, Method
from s3clip.space.shift import ADAPTATIONS
from s3clip.texts.synonyms import SynonymSet


def has_descriptors(synonyms: SynonymSet) -> bool:
    """Say whether some class has descriptors, without which some methods have no texts."""
    return any(each.descriptors for each in synonyms.classes)


@dataclass(frozen=True)
class ComparisonSettings:
    """The arguments that `compare` and `compare_embeddings` share; see there."""

    NUMBERS: ClassVar = ("min_images", "bootstrap", "draws", "seed", "batch_size")

    methods: Sequence[str] | None
    configs: Mapping[str, HeadConfig] | None
    control: str
    min_images: int
    bootstrap: int
    draws: int
    seed: int
    batch_size: int
    adapt: Sequence[str]
    learn: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check them one by one; numbers may be of any type that is one, and become plain."""
        for name in self.NUMBERS:
            number = whole_number(getattr(self, name), name, least=0 if name == "seed" else 1)
            object.__setattr__(self, name, number)
        for name in ("methods", "adapt", "learn"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name}: expected a list of names, got {getattr(self, name)!r}")
        object.__setattr__(self, "learn", tuple(dict.fromkeys(self.learn)))
        if unknown := [learner for learner in self.learn if learner not in LEARNERS]:
            raise ValueError(f"learn: unknown learner {unknown[0]!r}; known: {', '.join(LEARNERS)}")
        if unknown := [adaptation for adaptation in self.adapt if adaptation not in ADAPTATIONS]:
            raise ValueError(f"adapt: unknown adaptation {unknown[0]!r}; known: {', '.join(ADAPTATIONS)}")

    def chosen(self, *, can_encode: bool, has_descriptors: bool) -> list[Method]:
        """Return the methods that are compared.

        Raises:
            ValueError: one that is not known, or that lacks what it needs.
        """
        configs = dict(self.configs or {})
        if taken := sorted(set(configs) & {*METHODS, *LEARNERS}):
            raise ValueError(f"configs: {taken[0]!r} is the name of a method already; choose another")
        wanted = list(METHODS) if self.methods is None else [self.control, *self.methods]
        found = []
        for name in dict.fromkeys(wanted):
            if name not in METHODS:
                raise ValueError(f"methods: {name!r} is not known; known: {', '.join(METHODS)}")
            method = METHODS[name]
            missing = None
            if method.texts is not None and not can_encode:
                missing = "a backbone to encode its texts with"
            elif method.descriptors and not has_descriptors:
                missing = "descriptors in the synonym file"
            if missing is None:
                found.append(method)
            elif self.methods is not None:
                raise ValueError(f"methods: {name!r} needs {missing}, and there is none")
        if self.control not in [method.name for method in found]:
            raise ValueError(f"control: {self.control!r} is not among the methods that can be compared here")
        own = [Method(name, config) for name, config in configs.items()]
        bases = [method for method in found if method.name in ADAPTED] + own
        adapted = [
            replace(base, name=f"{base.name}+{adaptation}", adapt=adaptation)
            for base in bases
            for adaptation in dict.fromkeys(self.adapt)
        ]
        learners = [replace(DEFAULT, name=name, learn=name) for name in self.learn]
        return [*found, *own, *adapted, *learners]
