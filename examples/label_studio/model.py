"""A backend of Label Studio: it suggests a choice for every picture, and learns from the choices of people.

    label-studio-ml init backend --script examples/label_studio/model.py:SynonymBackend
    label-studio-ml start backend

README.md has the steps before and after. The environment says what cannot be found out:

- S3CLIP_HEAD: the folder of a head, as `s3clip fit --out` writes it. Choices are named as its classes are.
  What is learned is saved there.
- S3CLIP_NONE: the choice that means none of the classes, if there is one.
- LABEL_STUDIO_URL, LABEL_STUDIO_API_KEY: by which pictures and annotations are fetched.
"""

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import requests
from filelock import FileLock
from label_studio_ml.model import LabelStudioMLBase

from s3clip import Backbone, SynonymousSpaceHead

# Without it the package goes one half of the way of its first version, and fails at /train.
os.environ.setdefault("LABEL_STUDIO_ML_BACKEND_V2", "1")

FOLDER = os.environ["S3CLIP_HEAD"]
NONE = os.environ.get("S3CLIP_NONE")


class SavedHead:
    """The head of a folder, loaded again when the folder has changed: other processes learn."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.head: SynonymousSpaceHead | None = None
        self.state: tuple[int, int] | None = None

    def __call__(self) -> SynonymousSpaceHead:
        """Return it as it lies there now."""
        # Saving puts a new file into its place.
        found = os.stat(os.path.join(self.folder, "config.json"))
        state = (found.st_ino, found.st_mtime_ns)
        if self.head is None or state != self.state:
            backbone: Backbone | str = "saved"
            if self.head is not None and self.head.backbone is not None:
                backbone = self.head.backbone
            self.head, self.state = SynonymousSpaceHead.from_pretrained(self.folder, backbone=backbone), state
        return self.head


saved_head = SavedHead(FOLDER)


class Labelled(NamedTuple):
    """What the label configuration says.

    Attributes:
        choices: the name of the choices.
        picture: that of the picture.
        field: where the picture is in the data of a task.
        text: the name of a text area for the text that matched, if there is one.
    """

    choices: str
    picture: str
    field: str
    text: str | None


class SynonymBackend(LabelStudioMLBase):
    """Suggestions of a `SynonymousSpaceHead`, and few-shot learning."""

    # Each of these starts a `fit` in a process of its own. The last is the button Start Training.
    TRAIN_EVENTS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "START_TRAINING")

    def predict(self, tasks: list[dict[str, Any]], **kwargs: Any) -> list[dict[str, Any]]:
        """Return a choice for every task, with its probability and the text that matched."""
        names, head = self.labelled(), saved_head()
        answers = head.predict([self.picture(task, names.field) for task in tasks], top_k=1)
        return [self.suggestion(names, own) for own in answers]

    def suggestion(self, names: Labelled, answer: list[Any]) -> dict[str, Any]:
        """Return Label Studio's form of an answer: empty for a picture that cannot be read."""
        if not answer:
            return {"result": [], "score": 0.0}
        (best,) = answer
        choice = best.label if best.accepted or NONE is None else NONE
        place = {"to_name": names.picture, "score": best.score, "meta": {"text": [str(best.because)]}}
        result = [{**place, "from_name": names.choices, "type": "choices", "value": {"choices": [choice]}}]
        if names.text is not None:
            value = {"text": [str(best.because)]}
            result.append({**place, "from_name": names.text, "type": "textarea", "value": value})
        return {"result": result, "score": best.score}

    def fit(
        self, tasks: Iterable[dict[str, Any]], workdir: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Learn from annotated tasks: those given, that of an event, or all of its project.

        Labels are added to those that the head has; of a picture that comes again, the new one counts.
        """
        names = self.labelled()
        pictures, labels = [], []
        for task in list(tasks) or annotated(kwargs.get("data") or {}):
            choice = chosen(task, names.choices)
            if choice is not None:
                pictures.append(self.picture(task, names.field))
                labels.append(None if choice == NONE else choice)
        if not pictures:
            return {}
        # One after the other: events come in while others are learned from.
        with FileLock(f"{FOLDER}.lock"):
            head = SynonymousSpaceHead.from_pretrained(FOLDER, backbone=saved_head().backbone or "saved")
            head.fit_few_shot(pictures, labels, add=True).save_pretrained(FOLDER)
        report = head.few_shot
        assert report is not None  # it was just fitted
        return {"head": FOLDER, "learned": report.summary()}

    def labelled(self) -> Labelled:
        """Return the names of the label configuration: one <Choices> of one <Image>."""
        config = self.parsed_label_config
        found = [
            (name, each)
            for name, each in config.items()
            if each["type"] == "Choices" and [own["type"] for own in each["inputs"]] == ["Image"]
        ]
        if len(found) != 1:
            raise ValueError(
                f"label configuration: expected one <Choices> of one <Image>, got {sorted(config)}"
            )
        ((name, choices),) = found
        known = {*saved_head().class_names, NONE}
        if unknown := [label for label in choices["labels"] if label not in known]:
            raise ValueError(
                f"label configuration: {unknown[0]!r} is no class of {FOLDER}; add it there "
                f"(head.add_classes), or say with S3CLIP_NONE that it means none of them"
            )
        (picture,) = choices["to_name"]
        texts = [
            key for key, each in config.items() if each["type"] == "TextArea" and picture in each["to_name"]
        ]
        return Labelled(name, picture, choices["inputs"][0]["value"], texts[0] if texts else None)

    def picture(self, task: dict[str, Any], field: str) -> str:
        """Return the path of the picture of a task, fetched if need be."""
        return str(self.get_local_path(task["data"][field]))


def annotated(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tasks of an event: the one that was annotated, or all of the project."""
    if "annotation" in data:
        return [{**data["task"], "annotations": [data["annotation"]]}]
    url, key = os.environ["LABEL_STUDIO_URL"].rstrip("/"), os.environ["LABEL_STUDIO_API_KEY"]
    answer = requests.get(
        f"{url}/api/projects/{data['project']['id']}/export",
        params={"exportType": "JSON"},
        headers={"Authorization": f"Token {key}"},
        timeout=600,
    )
    answer.raise_for_status()
    tasks: list[dict[str, Any]] = answer.json()
    return tasks


def chosen(task: dict[str, Any], name: str) -> str | None:
    """Return the choice of the last annotation of a task; None where all were skipped."""
    found = [
        result["value"]["choices"][0]
        for annotation in task["annotations"]
        if not annotation.get("was_cancelled")
        for result in annotation["result"]
        if result["from_name"] == name and result["value"].get("choices")
    ]
    return found[-1] if found else None
