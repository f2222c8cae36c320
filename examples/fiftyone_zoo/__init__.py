"""A remote source for FiftyOne's model zoo: heads of s3clip, with predictions, logits and embeddings.

import fiftyone.zoo as foz

foz.register_zoo_model_source("https://github.com/OWNER/NAME")  # where this folder lies
model = foz.load_zoo_model("s3clip", head="user/pets-s3")  # a folder, or a repository of the Hub
model = foz.load_zoo_model("s3clip", backbone="openai/clip-vit-base-patch32", classes={"cat": ["kitty"]})
dataset.apply_model(model, label_field="guess", store_logits=True)
dataset.compute_embeddings(model, embeddings_field="embedding")
"""

from .zoo import SynonymModel, download_model, load_model, parse_parameters, resolve_input

__all__ = ["SynonymModel", "download_model", "load_model", "parse_parameters", "resolve_input"]
