"""A function for CVAT's own command line, with the model in this process: a tag for every picture of a task.

    cvat-cli task auto-annotate 42 --function-file examples/cvat/function.py -p head=str:user/pets-s3

The names of the labels of the task are those of the classes; `--allow-unmatched-labels` if only some are. The
README.md has the way for a server of your own.
"""

from collections.abc import Sequence

import cvat_sdk.auto_annotation as cvataa
from cvat_sdk import models
from PIL import Image

from s3clip import SynonymousSpaceHead


class TagFunction:
    """Tags of a head.

    Args:
        head: a folder, or a repository of the Hub, that `save_pretrained` or `push_to_hub` wrote.
    """

    def __init__(self, head: str) -> None:
        self.head = SynonymousSpaceHead.from_pretrained(head)

    @property
    def spec(self) -> cvataa.DetectionFunctionSpec:
        """The classes, as labels that are tags."""
        names = enumerate(self.head.class_names)
        return cvataa.DetectionFunctionSpec(
            labels=[cvataa.label_spec(name, i, type="tag") for i, name in names]
        )

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: Image.Image
    ) -> Sequence[models.LabeledImageRequest]:
        """Return one tag, or none where the picture shows none of the classes or the answer is too unsure."""
        ((best,),) = self.head.predict(image, top_k=1)
        shown = best.accepted and best.score >= (context.conf_threshold or 0)
        return [cvataa.tag(best.class_index)] if shown else []


create = TagFunction
