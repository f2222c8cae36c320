"""Which images to label next, against a plain loop; and wrong labels, against those that were changed."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from s3clip import SynonymousSpaceHead
from tests.prediction.test_class_shares import problem


def plain_choice(head, embeds, n, labelled=()):  # noqa: C901  # plain loops
    """The same in numpy, image by image."""
    points = embeds.double().numpy()
    points = points / np.linalg.norm(points, axis=1, keepdims=True)
    mean = points.mean(0)

    def direction(point):
        return (point - mean) / np.linalg.norm(point - mean)

    points = np.array([direction(each) for each in points])
    probabilities = head.predict_proba(image_embeds=embeds).double().numpy()
    best = np.sort(probabilities, 1)
    taken_for = probabilities.argmax(1)
    counts = np.bincount(taken_for)
    weights = (1 - (best[:, -1] - best[:, -2])) / np.sqrt(counts[taken_for])
    known = [direction(each) for each in labelled]
    near_known = [max([-np.inf] + [point @ other for other in known]) for point in points]
    starts = []
    while len(starts) < n:
        far = [
            min([1.0, 1 - near] + [1 - point @ points[i] for i in starts])
            for point, near in zip(points, near_known, strict=True)
        ]
        worth = [w * f if f > 1e-6 else -1 for w, f in zip(weights, far, strict=True)]
        if max(worth) < 0:
            break
        starts.append(int(np.argmax(worth)))
    centres = [points[i] for i in starts]
    for _ in range(8):
        members = [[] for _ in centres]
        for i, point in enumerate(points):
            cosines = [point @ centre for centre in centres]
            if max(cosines) > near_known[i]:
                members[int(np.argmax(cosines))].append(i)
        for group, own in enumerate(members):
            total = sum((weights[i] * points[i] for i in own), np.zeros(len(mean)))
            if np.linalg.norm(total) > 0:
                centres[group] = total / np.linalg.norm(total)
    chosen, taken = [], list(known)
    for centre in centres:
        free = [i for i, p in enumerate(points) if all(1 - p @ other > 1e-6 for other in taken)]
        if not free:
            break
        chosen.append(max(free, key=lambda i: points[i] @ centre))
        taken.append(points[chosen[-1]])
    return chosen


def test_suggestions_are_those_of_a_plain_loop():
    head, embeds, labels = problem(images=80)
    assert head.suggest(image_embeds=embeds, n=15) == plain_choice(head, embeds, 15)
    head.calibrate(image_embeds=embeds, labels=labels).set_class_shares({0: 0.6})
    first = head.suggest(image_embeds=embeds, n=15, batch_size=7)
    assert first == plain_choice(head, embeds, 15)
    head.set_class_shares(None)
    head.fit_few_shot(image_embeds=embeds[first], labels=labels[first])
    known = head.class_space.few_shot.embeds.double().numpy()
    known = known / np.linalg.norm(known, axis=1, keepdims=True)
    more = head.suggest(image_embeds=embeds, n=10)
    assert more == plain_choice(head, embeds, 10, known)
    assert not set(more) & set(first)


def test_nothing_is_suggested_where_all_is_labelled():
    generator = torch.Generator().manual_seed(0)
    texts, images = torch.randn(2, 2, 8, generator=generator), torch.randn(6, 8, generator=generator).half()
    head = SynonymousSpaceHead().fit_embeddings(texts, ["a", "b"], logit_scale=10.0)
    images = torch.nn.functional.normalize(images.float(), dim=1).half()
    head.fit_few_shot(image_embeds=images, labels=[0, 1] * 3)
    assert head.suggest(image_embeds=head.examples.embeds.float(), n=3) == []


def test_copies_are_not_suggested():
    head, embeds, _ = problem(images=6)
    found = head.suggest(image_embeds=torch.cat([embeds, embeds, 2 * embeds[:2]]), n=50)
    assert sorted(i % 6 for i in found) == list(range(6))
    alone = SynonymousSpaceHead().fit_embeddings([torch.eye(12)[:2]], ["one"], logit_scale=1.0)
    assert sorted(alone.suggest(image_embeds=embeds, n=6)) == list(range(6))


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "5"])
def test_bad_numbers_are_named(n):
    head, embeds, _ = problem()
    with pytest.raises(ValueError, match="n: expected a whole number"):
        head.suggest(image_embeds=embeds, n=n)


def test_nothing_to_choose_from_is_named():
    head, embeds, _ = problem()
    with pytest.raises(ValueError, match="images to choose from"):
        head.suggest(image_embeds=embeds[:0])


def wrong_labels(count=200, changed=10):
    head, embeds, labels = problem(images=count, dim=64)
    given = labels.clone()
    given[:changed] = (labels[:changed] + 1) % 4
    return head, embeds, labels, given


def test_changed_labels_are_found():
    head, embeds, labels, given = wrong_labels()
    before = head(image_embeds=embeds)
    found = head.check_labels(image_embeds=embeds, labels=given)
    listed = {each.image for each in found}
    assert len(listed & set(range(10))) >= 8
    assert len(listed - set(range(10))) <= 2
    assert head.few_shot is None
    assert torch.equal(head(image_embeds=embeds), before)
    for each in found:
        assert each.given == given[each.image]
        assert each.likely != each.given
        assert 0.5 < each.wrong <= 1
    doubts = [each.wrong for each in found]
    assert doubts == sorted(doubts, reverse=True)
    names = [head.class_names[i] for i in given.tolist()]
    assert head.check_labels(image_embeds=embeds, labels=names) == found
    assert not head.check_labels(image_embeds=embeds[10:], labels=labels[10:])


def test_an_image_is_asked_without_itself():
    """No image is vouched for by itself or its copies: a residual that saw it would excuse it."""
    head, embeds, _, given = wrong_labels()
    own = LogisticRegression(C=1e4, max_iter=3000).fit(embeds.numpy(), given.numpy())
    assert (own.predict(embeds.numpy()) == given.numpy()).mean() > 0.95
    (first, *_) = head.check_labels(image_embeds=embeds, labels=given)
    again = [first.image] * 6
    many, labels = torch.cat([embeds, embeds[again]]), torch.cat([given, given[again]])
    listed = {each.image for each in head.check_labels(image_embeds=many, labels=labels)}
    assert listed >= {first.image, *range(200, 206)}


def test_images_of_no_class_are_not_asked():
    head, embeds, _, given = wrong_labels()
    found = head.check_labels(image_embeds=embeds, labels=given)
    labels = [None, *given.tolist(), None]
    other = torch.randn(2, 64, generator=torch.Generator().manual_seed(4))
    again = head.check_labels(image_embeds=torch.cat([other[:1], embeds, other[1:]]), labels=labels)
    assert [each.image - 1 for each in again] == [each.image for each in found]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0] * 200, ValueError, "two or more classes"),
        ([None] * 200, ValueError, "two or more classes"),
        ([0, 1], ValueError, "one for each of 200 images, got 2"),
        (["cat"] * 200, ValueError, "'cat' is no class"),
        (None, TypeError, "one for each image"),
    ],
)
def test_bad_labels_are_named(labels, error, message):
    head, embeds, _, _ = wrong_labels()
    with pytest.raises(error, match=message):
        head.check_labels(image_embeds=embeds, labels=labels)
