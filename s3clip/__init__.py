"""Zero-shot classification with synonymous semantic spaces: a drop-in head for CLIP-like models.

The method in the order in which it runs, which is the order to read it in; on the right the public names:

    texts.synonyms              words of every class                  SynonymSet, SynonymClass
    texts.prompts               words to prompts
    backbone.encoding           prompts to rows, one a text
    backbone.backbone           one interface to every dual encoder   Backbone
    space.rips                  the Rips complex of a class
    space.scale_rules           its scale
    space.synonymous_space      what is kept
    space.metrics               how near an image is to it
    space.folding               all classes at once
    config                      the settings                          HeadConfig
    class_space                 the fitted value                      Calibration
    head                        all of it together                    SynonymousSpaceHead
    prediction.answers          logits to answers                     Prediction
    prediction.adaptation       spaces shifted to each image          TestTimeAdapter
    integrations.estimator      scikit-learn                          SynonymousSpaceClassifier
    integrations.linear         one matrix                            build_zero_shot_classifier
    integrations.onnx           other runtimes                        export_onnx
    integrations.pipeline       transformers                          S3ZeroShotImageClassificationPipeline

docs/development.md has the other rooms, and how data flows through them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from s3clip._version import __version__

if TYPE_CHECKING:
    from s3clip.backbone.backbone import Backbone
    from s3clip.class_space import Calibration
    from s3clip.config import HeadConfig
    from s3clip.head import SynonymousSpaceHead
    from s3clip.integrations.estimator import SynonymousSpaceClassifier
    from s3clip.integrations.linear import build_zero_shot_classifier
    from s3clip.integrations.onnx import export_onnx
    from s3clip.integrations.pipeline import S3ZeroShotImageClassificationPipeline
    from s3clip.prediction.adaptation import TestTimeAdapter
    from s3clip.prediction.answers import Prediction
    from s3clip.texts.synonyms import SynonymClass, SynonymSet

__all__ = [
    "Backbone",
    "Calibration",
    "HeadConfig",
    "Prediction",
    "S3ZeroShotImageClassificationPipeline",
    "SynonymClass",
    "SynonymSet",
    "SynonymousSpaceClassifier",
    "SynonymousSpaceHead",
    "TestTimeAdapter",
    "__version__",
    "build_zero_shot_classifier",
    "export_onnx",
]

# Names are imported when they are used: torch and transformers take seconds, `s3clip --help` should not.
_HOMES = {
    "Backbone": "backbone.backbone",
    "Calibration": "class_space",
    "HeadConfig": "config",
    "Prediction": "prediction.answers",
    "S3ZeroShotImageClassificationPipeline": "integrations.pipeline",
    "SynonymClass": "texts.synonyms",
    "SynonymSet": "texts.synonyms",
    "SynonymousSpaceClassifier": "integrations.estimator",
    "SynonymousSpaceHead": "head",
    "TestTimeAdapter": "prediction.adaptation",
    "build_zero_shot_classifier": "integrations.linear",
    "export_onnx": "integrations.onnx",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 's3clip' has no attribute {name!r}")
    return getattr(import_module(f"s3clip.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
