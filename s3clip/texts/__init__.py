"""Step 1: words in, prompts out."""

from s3clip.texts.prompts import TEMPLATES
from s3clip.texts.synonyms import SynonymSet

__all__ = ["TEMPLATES", "SynonymSet"]
