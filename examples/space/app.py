"""A Hugging Face Space: edit the synonyms of a class, and see what changes.

    pip install 's3clip[app]' && python app.py

The variables of the Space say which model and which classes: S3CLIP_BACKBONE, a repository of the Hub such as
openai/clip-vit-base-patch32, and S3CLIP_CLASSES, a synonym file such as builtin:oxford_pets. Without them:
the digits and the small model that come with s3clip.
"""

import os

from s3clip import Backbone, SynonymSet
from s3clip.app.widgets import build, launch
from s3clip.demo import model_folder, synonym_file

backbone = Backbone.from_pretrained(os.environ.get("S3CLIP_BACKBONE", model_folder()))
demo = build(backbone, SynonymSet.read(os.environ.get("S3CLIP_CLASSES", synonym_file())))

if __name__ == "__main__":
    launch(demo)
