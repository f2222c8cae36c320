"""Zero-shot classification with synonymous semantic spaces: a drop-in head for CLIP-like models."""

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
