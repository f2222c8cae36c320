"""Zero-shot classification with synonymous semantic spaces: a drop-in head for CLIP-like models."""

__version__ = "0.1.0"
