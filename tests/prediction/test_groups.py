"""Groups and subsets as answers, compared with plain loops and with heads of fewer classes."""

import copy
import math
from collections import defaultdict
from dataclasses import replace

import pytest
import torch

from s3clip import SynonymousSpaceHead
from s3clip.class_space import Calibration, ClassSpace, FittedClass
from s3clip.config import HeadConfig
from s3clip.prediction.groups import top_classes_and_group
from s3clip.prediction.top_classes import best_classes

GROUPS = [
    {"kingdom": "animal", "family": "dog"},
    {"kingdom": "animal", "family": "cat"},
    {"kingdom": "plant", "family": "rose"},
    {"kingdom": "animal", "family": "dog"},
    {"kingdom": "plant"},
    {"kingdom": "animal", "family": "cat"},
    {},
]
NAMES = ["beagle", "tabby", "briar", "husky", "moss", "manx", "rock"]
IMAGES = torch.randn(40, 16, generator=torch.Generator().manual_seed(1))
ACTIVATIONS = ("softmax", "sigmoid")


def head_of(groups=GROUPS, names=NAMES, activation="softmax", order=None, **settings):
    """A head whose class c has c % 3 + 1 texts, in some order of the classes."""
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randn(c % 3 + 1, 16, generator=generator) for c in range(len(names))]
    order = range(len(names)) if order is None else order
    classes = tuple(
        FittedClass(name=names[c], id=f"n{c}", rows=len(texts[c]), groups=groups[c], names={"de": f"D{c}"})
        for c in order
    )
    raw = torch.cat([texts[c] for c in order])
    space = ClassSpace(raw, classes, HeadConfig(**settings), fitted_logit_scale=6.0)
    head = SynonymousSpaceHead()._take(space)
    head.calibration = Calibration(activation=activation, temperature=1.3, bias=-0.5)
    return head


def without(head, classes):
    """A copy of a head without some classes, and with its calibration."""
    alone = copy.deepcopy(head)
    alone.calibration = None
    alone.remove_classes(classes).calibration = head.calibration
    return alone


def by_loop(head, level):
    """(images) dicts from the group of each class to its probability, class by class."""
    probabilities = head.predict_proba(image_embeds=IMAGES).double()
    found = []
    for row in probabilities.tolist():
        of_group = defaultdict(list)
        for each, probability in zip(head.classes, row, strict=True):
            of_group[each.groups.get(level, each.name)].append(probability)
        if head.calibration.activation == "softmax":
            found.append({group: sum(values) for group, values in of_group.items()})
        else:
            missing = {group: math.prod(1 - value for value in values) for group, values in of_group.items()}
            found.append({group: 1 - value for group, value in missing.items()})
    return found


@pytest.mark.parametrize("level", ["kingdom", "family"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_group_probabilities_are_those_of_a_plain_loop(activation, level):
    head = head_of(activation=activation)
    expected = by_loop(head, level)
    found = head.group_probabilities(head(image_embeds=IMAGES), level)
    names = head.group_names(level)
    assert [list(own) for own in expected] == [names] * len(IMAGES)
    torch.testing.assert_close(
        found.double(), torch.tensor([list(own.values()) for own in expected]).double(), atol=1e-6, rtol=0
    )
    if activation == "softmax":
        torch.testing.assert_close(found.sum(1), torch.ones(len(IMAGES)))
    # Of one image, and of any number of dimensions.
    logits = head(image_embeds=IMAGES)
    torch.testing.assert_close(head.group_probabilities(logits[0], level), found[0])
    torch.testing.assert_close(head.group_probabilities(logits.view(4, 10, -1), level).flatten(0, 1), found)


@pytest.mark.parametrize("level", ["kingdom", "family"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_predictions_are_ranked_by_group(activation, level):
    head = head_of(activation=activation)
    expected = by_loop(head, level)
    logits = head(image_embeds=IMAGES)
    for own, of_group, row in zip(
        head.predict(image_embeds=IMAGES, level=level, top_k=99), expected, logits, strict=True
    ):
        assert {each.label: pytest.approx(each.score, abs=1e-6) for each in own} == of_group
        assert [each.score for each in own] == sorted((each.score for each in own), reverse=True)
        for each in own:
            members = [i for i, c in enumerate(head.classes) if c.groups.get(level, c.name) == each.label]
            assert each.class_index == max(members, key=row.__getitem__)
            assert each.class_id == f"n{each.class_index}"
    top = head.top_groups(level, image_embeds=IMAGES, k=2)
    two = head.predict(image_embeds=IMAGES, level=level, top_k=2)
    names = head.group_names(level)
    assert [[names[i] for i in own] for own in top.group.tolist()] == [[p.label for p in own] for own in two]
    torch.testing.assert_close(
        top.probabilities, torch.tensor([[p.score for p in own] for own in two]), atol=1e-6, rtol=0
    )


def test_a_group_of_sigmoids_lies_between_the_largest_and_the_sum():
    head = head_of(activation="sigmoid")
    single = head.predict_proba(image_embeds=IMAGES)[:, [0, 1, 3, 5]]
    animal = head.group_probabilities(head(image_embeds=IMAGES), "kingdom")[:, 0]
    assert bool((single.amax(1) <= animal + 1e-6).all())
    assert bool((animal <= single.sum(1).clamp_max(1) + 1e-6).all())


def test_predictions_say_their_groups():
    head = head_of()
    for own in head.predict(image_embeds=IMAGES, top_k=99):
        assert [each.groups for each in own] == [GROUPS[each.class_index] for each in own]
    shared = {
        "dog": GROUPS[0],
        "cat": GROUPS[1],
        "rose": GROUPS[2],
        "moss": {"kingdom": "plant"},  # has no family
        "rock": {},
    }
    for own in head.predict(image_embeds=IMAGES, top_k=99, level="family"):
        assert {each.label: each.groups for each in own} == shared
    for own in head.predict(image_embeds=IMAGES, top_k=99, level="kingdom"):
        assert [each.groups for each in own] == [
            {} if each.label == "rock" else {"kingdom": each.label} for each in own
        ]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_names_and_order_of_classes_and_groups_change_nothing(activation):
    head = head_of(activation=activation)
    called = {group: f"X{i}" for i, group in enumerate(["animal", "plant", "dog", "cat", "rose"])}
    renamed = [{f"Z{level}": called[group] for level, group in own.items()} for own in GROUPS]
    turned = [dict(reversed(own.items())) for own in GROUPS]
    order = [4, 2, 6, 0, 5, 1, 3]
    others = head_of(renamed, activation=activation), head_of(turned, order=order, activation=activation)
    called |= {name: name for name in NAMES}
    for level in ("kingdom", "family"):
        expected = [
            {p.label: pytest.approx(p.score, abs=1e-6) for p in own}
            for own in head.predict(image_embeds=IMAGES, level=level, top_k=99)
        ]
        found = [
            {p.label: p.score for p in own}
            for own in others[1].predict(image_embeds=IMAGES, level=level, top_k=99)
        ]
        assert found == expected
        found = others[0].predict(image_embeds=IMAGES, level=f"Z{level}", top_k=99)
        assert [{p.label: p.score for p in own} for own in found] == [
            {called[label]: score for label, score in own.items()} for own in expected
        ]


SUBSETS = {
    "names": (["moss", "beagle"], [0, 4]),
    "a name": ("moss", [4]),
    "positions": ([5, 1, 1], [1, 5]),
    "a position": (6, [6]),
    "ids": (["n2", "n6"], [2, 6]),
    "a group": ("dog", [0, 3]),
    "a group with its level": ({"kingdom": "plant"}, [2, 4]),
    "two levels": ({"kingdom": "animal", "family": "cat"}, [1, 5]),
    "mixed": (["plant", {"family": "cat"}, "n6", 3], [1, 2, 3, 4, 5, 6]),
    "a tensor": (torch.tensor([0, 2]), [0, 2]),
}


@pytest.mark.parametrize(("among", "positions"), SUBSETS.values(), ids=SUBSETS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_among_answers_as_a_head_of_those_classes_alone(among, positions, activation):
    # The default rule measures scales in margins between the classes there are: fewer may keep other texts.
    head = head_of(activation=activation, scale_rule=None)
    alone = without(head, [c for c in range(7) if c not in positions])
    for level in (None, "kingdom", "family"):
        if level is not None and not any(level in GROUPS[c] for c in positions):
            continue
        found = head.predict(image_embeds=IMAGES, among=among, top_k=99, level=level)
        expected = alone.predict(image_embeds=IMAGES, top_k=99, level=level)
        for own, those in zip(found, expected, strict=True):
            assert [p.label for p in own] == [p.label for p in those]
            assert [p.class_index for p in own] == [positions[p.class_index] for p in those]
            assert [p.score for p in own] == pytest.approx([p.score for p in those], abs=1e-6)
    top = head.top_classes(image_embeds=IMAGES, among=among, k=2)
    expected = alone.top_classes(image_embeds=IMAGES, k=2)
    assert top.class_index.tolist() == torch.tensor(positions)[expected.class_index].tolist()
    torch.testing.assert_close(top.probabilities, expected.probabilities, atol=1e-6, rtol=0)


def test_among_is_the_softmax_of_those_logits():
    head = head_of()
    expected = head.calibration.probabilities(head(image_embeds=IMAGES)[:, [2, 4, 6]])
    for own, row in zip(head.predict(image_embeds=IMAGES, among=["plant", 6]), expected, strict=True):
        assert [p.score for p in own] == pytest.approx(sorted(row.tolist(), reverse=True), abs=1e-6)


def test_among_goes_together_with_shares_and_rejection():
    head = head_of(scale_rule=None).set_class_shares({"beagle": 0.5, "moss": 0.2})
    head.fit_rejection(image_embeds=torch.randn(200, 16), false_accept_rate=0.3)
    alone = without(head, ["tabby", "manx", "husky"])
    found = head.predict(image_embeds=IMAGES, among=["plant", "rock", "beagle"], top_k=99)
    expected = alone.predict(image_embeds=IMAGES, top_k=99)
    for own, those in zip(found, expected, strict=True):
        assert [p.label for p in own] == [p.label for p in those]
        # Shares of fewer classes are those divided by their sum, so that a softmax is the same.
        assert [p.score for p in own] == pytest.approx([p.score for p in those], abs=1e-6)
    plain = [{p.class_index: p.accepted for p in own} for own in head.predict(image_embeds=IMAGES, top_k=99)]
    assert 0 < sum(sum(own.values()) for own in plain) < 7 * len(IMAGES)
    for own, accepted in zip(found, plain, strict=True):
        assert all(p.accepted == accepted[p.class_index] for p in own)  # the threshold is of the class
    for own, accepted in zip(head.predict(image_embeds=IMAGES, level="family", top_k=99), plain, strict=True):
        for p in own:
            members = [i for i, c in enumerate(head.classes) if c.groups.get("family", c.name) == p.label]
            assert p.accepted == any(accepted[i] for i in members)


@pytest.mark.parametrize("thresholds", [(0.5,), (0.1, 3.0, -1.0, 2.0, 0.0, 0.3, 9.0)])
def test_a_group_is_accepted_where_one_of_its_classes_is(thresholds):
    head = head_of(activation="sigmoid")
    head.calibration = head.calibration.model_copy(update={"thresholds": thresholds})
    logits = head(image_embeds=IMAGES)
    accepted = logits >= torch.tensor(thresholds)
    for own, row in zip(head.predict(image_embeds=IMAGES, level="kingdom", top_k=99), accepted, strict=True):
        for p in own:
            members = [i for i, c in enumerate(head.classes) if c.groups.get("kingdom", c.name) == p.label]
            assert p.accepted == bool(row[members].any())


def test_groups_are_those_of_the_logits_that_labelled_images_changed():
    head = head_of()
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(140) % 7
    shown = torch.randn(7, 16, generator=generator)[labels] + 0.3 * torch.randn(140, 16, generator=generator)
    with pytest.warns(UserWarning, match="the calibration"):
        head.fit_few_shot(image_embeds=shown, labels=labels)
    assert head.few_shot.strength is not None
    expected = head.predict_proba(image_embeds=IMAGES)[:, [0, 1, 3, 5]].sum(1)
    found = head.predict(image_embeds=IMAGES, level="kingdom", top_k=99)
    assert [next(p.score for p in own if p.label == "animal") for own in found] == pytest.approx(
        expected.tolist(), abs=1e-6
    )
    within = head.predict(image_embeds=IMAGES, top_k=1, among=["beagle", "tabby", "rock"])
    assert {p.because and p.because[:4] for own in within for p in own} == {None, "like"}


def test_the_groups_of_a_set_hold_the_right_one_wherever_the_set_does():
    head = head_of()
    labels = head(image_embeds=IMAGES + torch.randn(IMAGES.shape)).argmax(1)
    head.calibrate(image_embeds=IMAGES, labels=labels, coverage=0.8)
    sets = head.predict_sets(image_embeds=IMAGES, language="de")
    right = grouped = 0
    for own, label in zip(sets, labels.tolist(), strict=True):
        right += label in {p.class_index for p in own}
        grouped += GROUPS[label].get("kingdom") in {p.groups.get("kingdom") for p in own}
        assert all(p.label == f"D{p.class_index}" for p in own)
    assert len(IMAGES) * 0.8 <= right <= grouped


def test_ties_go_to_the_group_whose_class_stands_first():
    space = head_of().class_space
    same = replace(space, raw=space.raw[:1].expand(13, 16).clone())
    head = SynonymousSpaceHead()._take(same)
    assert [p.label for p in head.predict(image_embeds=IMAGES[:1], level="kingdom")[0]] == [
        "animal",
        "plant",
        "rock",
    ]
    assert head.predict(image_embeds=IMAGES[:1], level="family")[0][1].label == "cat"
    assert head.predict(image_embeds=IMAGES[:1], level="family")[0][0].class_index == 0


def test_blocks_of_classes_give_the_same():
    head = head_of()
    logits = head(image_embeds=IMAGES)
    whole = best_classes([(torch.arange(7), logits)], 3, head.calibration)
    assert head.top_classes(image_embeds=IMAGES, k=3).class_index.tolist() == whole.class_index.tolist()
    from s3clip.prediction.groups import best_groups

    owners = torch.tensor([0, 0, 1, 0, 1, 0, 2])
    for activation in ACTIVATIONS:
        calibration = Calibration(activation=activation, temperature=0.7, thresholds=(0.2,))
        one = best_groups([(torch.arange(7), logits)], 3, calibration, owners)
        several = best_groups(
            [(part, logits[:, part]) for part in torch.tensor([6, 3, 0, 5, 2, 1, 4]).split(2)],
            3,
            calibration,
            owners,
        )
        for a, b in zip(one, several, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("level", ["kingdom", "family"])
@pytest.mark.parametrize("among", [None, ["animal"], [0, 2, 6], ["moss"]])
@pytest.mark.parametrize("k", [1, 2, 9])
def test_one_pass_says_what_two_do(monkeypatch, activation, level, among, k):
    """To the last bit, and the logits are computed once, a class or two at a time."""
    head = head_of(activation=activation)
    passes = []
    real = SynonymousSpaceHead.logits_by_block

    def counted(self, *given, **more):
        passes.append(True)
        for classes, logits in real(self, *given, **more):
            for part in torch.arange(len(classes)).split(2):
                yield classes[part], logits[:, part]

    monkeypatch.setattr(SynonymousSpaceHead, "logits_by_block", counted)
    found = top_classes_and_group(head, level, image_embeds=IMAGES, k=k, among=among)
    assert len(passes) == 1
    alone = head.top_classes(image_embeds=IMAGES, k=k, among=among)
    groups = head.top_groups(level, image_embeds=IMAGES, k=1, among=among)
    for own, expected in zip(found, (alone, groups), strict=True):
        for a, b in zip(own, expected, strict=True):
            assert torch.equal(a, b)


def test_no_images_are_no_answers():
    head = head_of()
    assert head.predict(image_embeds=IMAGES[:0], level="kingdom", among=["dog"]) == []
    assert head.group_probabilities(head(image_embeds=IMAGES[:0]), "kingdom").shape == (0, 3)
    assert [len(each) for each in head.top_groups("kingdom", image_embeds=IMAGES[:0])] == [0] * 5


def test_a_language_that_is_missing_falls_back_and_says_so():
    head = head_of()
    assert {p.label for p in head.predict(image_embeds=IMAGES, language="de")[0]} <= {
        f"D{c}" for c in range(7)
    }
    with pytest.warns(UserWarning, match="7 of 7 classes have no name in 'fr'.* names in de") as caught:
        assert {p.label for p in head.predict(image_embeds=IMAGES, language="fr")[0]} <= set(NAMES)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="groups have one name each"):
        head.predict(image_embeds=IMAGES, language="de", level="kingdom")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"level": "genus"},
            ValueError,
            "level: no class has a group at 'genus'; there are 'kingdom', 'family'",
        ),
        ({"level": 1.5}, TypeError, "level: expected the name of a level, got float"),
        ({"level": 0}, ValueError, "level: no class has a group at '0'"),
        ({"among": []}, ValueError, "among: expected classes or groups, got none"),
        ({"among": {}}, ValueError, "among: no class is in {}"),
        ({"among": ["beagel"]}, ValueError, "no class or group is called 'beagel'; did you mean 'beagle'"),
        ({"among": [7]}, ValueError, "among: position 7 is out of range for 7 classes"),
        ({"among": [-1]}, ValueError, "among: position -1"),
        ({"among": [0.5]}, TypeError, "among: expected positions or strings, got 0.5"),
        ({"among": [None]}, TypeError, "among: expected positions or strings"),
        ({"among": {"kingdom": "dog"}}, ValueError, "among: no class is in {'kingdom': 'dog'}"),
        ({"language": "german"}, ValueError, "language: 'german' is no code of a language"),
        ({"language": 3}, ValueError, "language: 3 is no text"),
    ],
)
def test_what_is_not_there_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        head_of().predict(image_embeds=IMAGES, **options)


def test_a_name_of_a_class_and_of_a_group_is_ambiguous_where_they_differ():
    groups = [dict(own) for own in GROUPS]
    groups[1]["family"] = groups[5]["family"] = "beagle"
    with pytest.raises(
        ValueError, match=r"'beagle' may be class 0 or {'family': 'beagle'}; give the position"
    ):
        head_of(groups).predict(image_embeds=IMAGES, among="beagle")
    alone = [{**own, "order": name} for own, name in zip(GROUPS, NAMES, strict=True)]
    (answer,) = head_of(alone).predict(image_embeds=IMAGES[:1], among="beagle")[0]
    assert answer.class_index == 0
    assert answer.score == 1


def test_levels_without_names_are_numbers():
    head = head_of([{"0": own.get("kingdom", "none")} for own in GROUPS])
    assert head.group_names(0) == head.group_names("0") == ["animal", "plant", "none"]


def test_without_groups_there_is_no_level():
    head = head_of([{}] * 7)
    assert head.levels == ()
    with pytest.raises(ValueError, match="no class is in a group"):
        head.predict(image_embeds=IMAGES, level="kingdom")
    with pytest.raises(ValueError, match=r"logits: expected shape \(..., 7\), got \(2, 5\)"):
        head_of().group_probabilities(torch.zeros(2, 5), "kingdom")


def test_levels_without_names_and_ids_that_are_numbers_are_known_as_such():
    records = [{"0": "animal", "1": "dog"}, {"0": "animal", "1": "cat"}, {"0": "plant"}]
    head = head_of(records, ["beagle", "tabby", "moss"])
    classes = tuple(each.model_copy(update={"id": 70 + i}) for i, each in enumerate(head.classes))
    head._take(replace(head.class_space, classes=classes))
    for among, positions in (
        ({0: "animal"}, [0, 1]),
        ([{0: "animal", "1": "cat"}], [1]),
        ("71", [1]),
        (["72", 0], [0, 2]),
    ):
        (best, *_) = head.predict(image_embeds=IMAGES, among=among)
        assert sorted(each.class_index for each in best) == positions, among


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda head: head.top_groups(None, image_embeds=IMAGES), TypeError, "level: expected the name"),
        (lambda head: head.top_groups(b"family", image_embeds=IMAGES), TypeError, "level: expected the name"),
        (lambda head: head.top_groups("family", image_embeds=IMAGES, k=0), ValueError, "k: expected"),
        (lambda head: head.group_probabilities([[0.0] * 7], "family"), TypeError, "logits: expected a torch"),
        (lambda head: head.group_names(float("nan")), TypeError, "level: expected the name"),
        (lambda head: head.predict(image_embeds=IMAGES, among=[{}]), ValueError, "among: no class is in {}"),
        (lambda head: head.predict(image_embeds=IMAGES, among=[{"family": ["dog"]}]), ValueError, "no class"),
        (lambda head: head.predict(image_embeds=IMAGES, among=[["tabby"]]), TypeError, "among: expected"),
        (lambda head: head.predict(image_embeds=IMAGES, language="de-"), ValueError, "no code of a language"),
        (lambda head: head.predict(image_embeds=IMAGES, language=b"de"), ValueError, "language: .* no text"),
    ],
)
def test_what_is_no_level_group_or_language_is_refused_by_name(ask, error, message):
    with pytest.raises(error, match=message):
        ask(head_of())
