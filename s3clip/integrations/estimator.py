"""The space and the metric as a scikit-learn estimator, for embeddings that lie in a vector store."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d, validate_data

from s3clip.arguments import plain
from s3clip.config import HeadConfig
from s3clip.head import SynonymousSpaceHead


class SynonymousSpaceClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # no types there
    """Classify image embeddings by the synonymous spaces of text embeddings.

    Args:
        metric, metric_options, scale_rule, scale_options, keep_name, centering: as in `HeadConfig`; options
            of None are the defaults.
        logit_scale: multiplies the scores before the softmax: the exp of the model's parameter, 100 for
            OpenAI's CLIP.
        class_shares: how common classes are among the images, by label, as `head.set_class_shares` takes it.

    Attributes:
        classes_: the distinct labels, sorted.
        head_: the fitted head, to save or to inspect.
        n_features_in_: the dimension.

    Examples:
        >>> texts = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]
        >>> classifier = SynonymousSpaceClassifier().fit(texts, ["cat", "cat", "dog"])
        >>> classifier.predict([[2.0, 0.3]]).tolist()
        ['cat']
    """

    def __init__(
        self,
        *,
        metric: str = "local_center",
        metric_options: Mapping[str, Any] | None = None,
        scale_rule: str | None = "margin",
        scale_options: Mapping[str, Any] | None = None,
        keep_name: Literal["tie", "always"] = "tie",
        centering: Literal["class_mean"] | None = None,
        logit_scale: float = 100.0,
        class_shares: Mapping[Any, float] | None = None,
    ) -> None:
        self.metric = metric
        self.metric_options = metric_options
        self.scale_rule = scale_rule
        self.scale_options = scale_options
        self.keep_name = keep_name
        self.centering = centering
        self.logit_scale = logit_scale
        self.class_shares = class_shares

    def fit(
        self, X: Any, y: Any, *, images: Any = None, image_labels: Any = None
    ) -> "SynonymousSpaceClassifier":  # scikit-learn's names
        """Build the space of every class, and learn from labelled images where there are some.

        Args:
            X: (texts, dim) text embeddings, normalised or not, none of them zero.
            y: (texts,) the class of each. The first row of a class is that of its own name.
            images: (images, dim) embeddings of labelled images, as for `head.fit_few_shot`.
            image_labels: (images,) the class of each, as in `y`; None for an image of none of the classes.
        """
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, owners = np.unique(y, return_inverse=True)
        rows = torch.tensor(X, device="cpu")
        head = SynonymousSpaceHead(config=self._config())
        head.fit_embeddings(
            [rows[torch.from_numpy(owners == i)] for i in range(len(self.classes_))],
            [str(label) for label in self.classes_],
            logit_scale=self.logit_scale,
        )
        if self.class_shares is not None:
            positions = {label: i for i, label in enumerate(self.classes_.tolist())}
            if unknown := [label for label in self.class_shares if label not in positions]:
                raise ValueError(f"class_shares: {unknown[0]!r} is no label of y")
            head.set_class_shares({positions[label]: own for label, own in self.class_shares.items()})
        if (images is None) != (image_labels is None):
            raise ValueError("images, image_labels: expected both or neither")
        if images is not None:
            images = check_array(images, dtype=[np.float64, np.float32], input_name="images")
            known: dict[Any, int | None] = {label: i for i, label in enumerate(self.classes_.tolist())}
            labels = [plain(label) for label in column_or_1d(image_labels)]
            known |= {None: None}
            if unknown := [label for label in labels if label not in known]:
                raise ValueError(f"image_labels: {unknown[0]!r} is no class of y")
            places = [known[label] for label in labels]
            head.fit_few_shot(image_embeds=torch.tensor(images, device="cpu"), labels=places, batch_size=1024)
        self.head_ = head.eval()
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return (images, classes) probabilities of (images, dim) image embeddings, none of them zero."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return self.head_.predict_proba(image_embeds=torch.tensor(X, device="cpu"), batch_size=1024).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Return the label of each of (images, dim) image embeddings."""
        best = self.predict_proba(X).argmax(1)
        return np.asarray(self.classes_[best])

    def _config(self) -> HeadConfig:
        return HeadConfig(
            metric=self.metric,
            metric_options=dict(self.metric_options or {}),
            scale_rule=self.scale_rule,
            scale_options=dict(self.scale_options or {}),
            keep_name=self.keep_name,
            centering=self.centering,
        )
