"""Zero-shot classification with synonymous semantic spaces: a drop-in head for CLIP-like models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s3clip.adaptation import TestTimeAdapter
    from s3clip.backbone import Backbone
    from s3clip.calibration import Calibration
    from s3clip.classifier import build_zero_shot_classifier
    from s3clip.config import HeadConfig
    from s3clip.estimator import SynonymousSpaceClassifier
    from s3clip.export import export_onnx
    from s3clip.head import SynonymousSpaceHead
    from s3clip.pipeline import S3ZeroShotImageClassificationPipeline
    from s3clip.prediction import Prediction
    from s3clip.synonyms import SynonymClass, SynonymSet

__version__ = "0.1.0"

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
    "Backbone": "backbone",
    "Calibration": "calibration",
    "HeadConfig": "config",
    "Prediction": "prediction",
    "S3ZeroShotImageClassificationPipeline": "pipeline",
    "SynonymClass": "synonyms",
    "SynonymSet": "synonyms",
    "SynonymousSpaceClassifier": "estimator",
    "SynonymousSpaceHead": "head",
    "TestTimeAdapter": "adaptation",
    "build_zero_shot_classifier": "classifier",
    "export_onnx": "export",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 's3clip' has no attribute {name!r}")
    return getattr(import_module(f"s3clip.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
