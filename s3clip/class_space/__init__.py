"""The fitted class space: the value that is saved, pushed, merged, counted and handed to every other room."""

from s3clip.class_space.edits import (
    add,
    class_position,
    drop,
    merge,
    reconfigure,
    rename,
    set_shares,
    teach,
    without_examples,
)
from s3clip.class_space.examples import Examples, FewShotReport, Gain, LearnedResidual
from s3clip.class_space.making import facts_of, from_embeddings, joined, named_classes
from s3clip.class_space.value import (
    Activation,
    BackboneFacts,
    BackboneReference,
    Calibration,
    ClassSpace,
    FittedClass,
)

__all__ = [
    "Activation",
    "BackboneFacts",
    "BackboneReference",
    "Calibration",
    "ClassSpace",
    "Examples",
    "FewShotReport",
    "FittedClass",
    "Gain",
    "LearnedResidual",
    "add",
    "class_position",
    "drop",
    "facts_of",
    "from_embeddings",
    "joined",
    "merge",
    "named_classes",
    "reconfigure",
    "rename",
    "set_shares",
    "teach",
    "without_examples",
]
