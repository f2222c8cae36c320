"""Step 1: words in, prompts out."""

from s3clip.texts.synonyms import SynonymSet
from s3clip.texts.templates import TEMPLATES

__all__ = ["TEMPLATES", "SynonymSet"]
