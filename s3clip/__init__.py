"""Zero-shot classification with synonymous semantic spaces: a drop-in head for CLIP-like models."""

from s3clip.backbone import Backbone
from s3clip.config import HeadConfig
from s3clip.head import Prediction, SynonymousSpaceHead
from s3clip.synonyms import SynonymClass, SynonymSet

__version__ = "0.1.0"

__all__ = [
    "Backbone",
    "HeadConfig",
    "Prediction",
    "SynonymClass",
    "SynonymSet",
    "SynonymousSpaceHead",
    "__version__",
]
