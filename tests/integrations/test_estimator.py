"""The scikit-learn estimator: its contract, and the same answers as the head."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.estimator_checks import parametrize_with_checks

from s3clip import HeadConfig, SynonymousSpaceClassifier, SynonymousSpaceHead


def problem(seed: int = 0):
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((4, 16))
    owners = np.repeat(np.arange(4), 6)
    texts = centers[owners] + 0.3 * rng.standard_normal((24, 16))
    labels = np.array(["d", "a", "c", "b"])[owners]
    return texts, labels, centers[owners] + 0.5 * rng.standard_normal((24, 16))


@parametrize_with_checks(
    [SynonymousSpaceClassifier()],
    expected_failed_checks=lambda estimator: {
        "check_estimators_dtypes": "it rounds data to whole numbers, and rows of zeros have no direction",
    },
)
def test_the_contract_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("settings", [{}, {"metric": "center", "scale_rule": None}])
def test_the_answers_are_those_of_the_head(settings):
    texts, labels, images = problem()
    found = SynonymousSpaceClassifier(**settings).fit(texts, labels)
    names = sorted(set(labels))
    head = SynonymousSpaceHead(config=HeadConfig(**settings)).fit_embeddings(
        [torch.from_numpy(texts[labels == name]) for name in names], names, logit_scale=100.0
    )
    expected = head.predict_proba(image_embeds=torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found.predict_proba(images), expected, atol=1e-6)
    assert found.predict(images).tolist() == [names[i] for i in expected.argmax(1)]
    assert found.score(images, labels) > 0.8


def test_in_a_pipeline_and_a_search():
    texts, labels, images = problem()
    search = GridSearchCV(
        make_pipeline(Normalizer(), SynonymousSpaceClassifier()),
        {"synonymousspaceclassifier__metric": ["center", "local_center"]},
        cv=2,
    )
    assert search.fit(texts, labels).score(images, labels) > 0.8


def test_a_wrong_setting_is_named_at_fit():
    texts, labels, _ = problem()
    with pytest.raises(ValueError, match="metric"):
        SynonymousSpaceClassifier(metric="nonsense").fit(texts, labels)
    with pytest.raises(ValueError, match="zero"):
        SynonymousSpaceClassifier().fit(np.zeros((4, 3)), [0, 0, 1, 1])
