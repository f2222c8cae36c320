"""What transformers' `pipeline` needs to load a class space by its name, and models that are not its own.

`pipeline("zero-shot-image-classification", model="user/pets-s3", pipeline_class=...)` reads the `model_type`
in the config.json of the class space, and asks the class that is registered for it.
"""

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForZeroShotImageClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from s3clip.head import SynonymousSpaceHead


class ClassSpaceConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """The config.json of a class space, as far as transformers reads it: not at all."""

    model_type = "s3clip"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        # From it `pipeline` knows the task where none is given; the class it has to be given all the same.
        self.custom_pipelines = {
            "zero-shot-image-classification": {
                "impl": "s3clip.S3ZeroShotImageClassificationPipeline",
                "pt": ("AutoModelForZeroShotImageClassification",),
            }
        }


class ClassSpaceModel(PreTrainedModel):
    """A head between transformers' loading of a name and the pipeline, which takes it out again."""

    config_class = ClassSpaceConfig
    head: SynonymousSpaceHead

    @classmethod
    def from_pretrained(cls, name: Any, *_: Any, **kwargs: Any) -> "ClassSpaceModel":  # type: ignore[override]
        """Load a class space and the backbone that it names: `SynonymousSpaceHead.from_pretrained`."""
        taken = ("revision", "token", "cache_dir", "local_files_only", "dtype", "torch_dtype")
        asked = {key: kwargs[key] for key in taken if kwargs.get(key) is not None}
        dtype = asked.pop("torch_dtype", asked.pop("dtype", None))
        model = cls(ClassSpaceConfig())
        model.head = SynonymousSpaceHead.from_pretrained(name, dtype=dtype, **asked)
        model.eval()  # type: ignore[no-untyped-call]
        return model


class Placed(nn.Module):
    """A model of another library, with what the constructor of transformers' pipelines asks of a model."""

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.device, self.dtype = model, device, dtype
        self.config = PretrainedConfig()

    def can_generate(self) -> bool:
        """It gives no texts."""
        return False


AutoConfig.register("s3clip", ClassSpaceConfig, exist_ok=True)
AutoModelForZeroShotImageClassification.register(ClassSpaceConfig, ClassSpaceModel, exist_ok=True)
