"""Operations in any order: a head is what fitting it directly into that state gives, whatever came before."""

import copy
import io
import pickle
import tempfile
import warnings
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from s3clip import Calibration, HeadConfig, SynonymousSpaceHead

WORDS = ["cat", "dog", "bird", "bee", "ant", "fish", "newt", "cow"]
DIM, IMAGES = 8, 64
_generator = torch.Generator().manual_seed(7)
_centres = torch.randn(len(WORDS), DIM, generator=_generator)
TEXTS = {
    word: _centres[i] + torch.randn(i % 4 + 1, DIM, generator=_generator) for i, word in enumerate(WORDS)
}
EMBEDS = 1.2 * _centres.repeat(IMAGES // len(WORDS), 1) + 0.6 * torch.randn(IMAGES, DIM, generator=_generator)
SHOWN, ASKED = range(IMAGES // 2), range(IMAGES // 2, IMAGES)
"""Images to learn from; and others, to calibrate with and to ask of."""

DROPPED = {
    "calibration": "the calibration was of other classes, settings or labelled images and is dropped; "
    "calibrate() again",
    "few_shot": "the labelled images were of other classes and are dropped; fit_few_shot() again",
    "shares": "the class shares were of other classes and are dropped; set_class_shares() again",
    "rejection": "the coverage was of another rejection and is dropped; calibrate(coverage=) again",
    "coverage": "the coverage was of other class shares and is dropped; calibrate(coverage=) again",
}
SETTINGS = [
    {"metric": "center"},
    {"metric": "hull"},
    {"scale_rule": None},
    {"scale_rule": "quantile"},
    {"centering": "class_mean"},
    {"centering": None},
    {"logit_scale": 5.0},
    {"logit_scale": 10.0},
]
TOLD = ("labels: every image is classified right", "centering")
"""What may be said of the data, whatever is changed."""


def word_of(image):
    return WORDS[image % len(WORDS)]


@dataclass
class State:
    """What a head was told, and nothing of what follows from it."""

    words: list[str]
    config: HeadConfig = field(default_factory=HeadConfig)
    scale: float | None = 10
    names: dict[str, str] = field(default_factory=dict)
    examples: dict[int, str | None] = field(default_factory=dict)
    rate: float = 0.05
    kept: bool = True
    shares: dict[str, float] | None = None
    calibrated: list = field(default_factory=list)

    def label(self, word):
        return self.names.get(word, word)

    def fitted(self):
        head = SynonymousSpaceHead(config=self.config).eval()
        head.fit_embeddings([TEXTS[word] for word in self.words], self.words, logit_scale=self.scale)
        for at, word in enumerate(self.words):
            head.rename_class(at, self.label(word))
        if self.examples:
            head.fit_few_shot(
                image_embeds=EMBEDS[list(self.examples)],
                labels=[None if word is None else self.words.index(word) for word in self.examples.values()],
                false_accept_rate=self.rate,
            )
        if self.shares:
            head.set_class_shares({self.words.index(word): share for word, share in self.shares.items()})
        with warnings.catch_warnings(action="ignore"):
            for step in self.calibrated:
                step(head)
        return head


@dataclass
class Calibrated:
    """A call of `calibrate`, of images of some classes."""

    words: list[str]
    coverage: float | None
    rounded: bool  # logits had shares, which were taken off again

    def __call__(self, head):
        images = [i for i in ASKED if word_of(i) in self.words]
        labels = [self.words.index(word_of(i)) for i in images]
        return head.calibrate(image_embeds=EMBEDS[images], labels=labels, coverage=self.coverage)


@dataclass
class Rejected:
    """A call of `fit_rejection`, of images of other classes."""

    words: list[str]
    rate: float
    rounded: bool

    def __call__(self, head):
        images = [i for i in ASKED if word_of(i) not in self.words]
        return head.fit_rejection(image_embeds=EMBEDS[images], false_accept_rate=self.rate)


def without_coverage(steps):
    return [replace(step, coverage=None) if isinstance(step, Calibrated) else step for step in steps]


def answers(head, embeds=EMBEDS[ASKED]):
    """All that a head says, and what it would save."""
    state = {name: part.tolist() for name, part in head.state_dict().items()}
    own = [sorted(vars(head)), head.calibration, head.class_shares, head.config, head.few_shot, str(head)]
    return head(image_embeds=embeds).tolist(), head.predict(image_embeds=embeds), state, own


WRONG = {
    "remove_classes": lambda head: head.remove_classes([0, "nobody"]),
    "remove_classes, all": lambda head: head.remove_classes(head.class_names),
    "rename_class": lambda head: head.rename_class(0, " "),
    "reconfigure": lambda head: head.reconfigure(metric="center", scale_rule="none such"),
    "merge": lambda head: head.merge(SynonymousSpaceHead()),
    "merge, narrower": lambda head: head.merge(
        SynonymousSpaceHead().fit_embeddings([torch.eye(3)], ["z"], logit_scale=10.0)
    ),
    "fit_embeddings": lambda head: head.fit_embeddings([EMBEDS * 0], ["a"], logit_scale=1.0),
    "fit_few_shot": lambda head: head.fit_few_shot(image_embeds=EMBEDS[:2], labels=[0, "nobody"]),
    "fit_few_shot, twice": lambda head: head.fit_few_shot(image_embeds=EMBEDS[[0, 0]], labels=[0, None]),
    "fit_few_shot, NaN": lambda head: head.fit_few_shot(image_embeds=EMBEDS / 0, labels=[0] * IMAGES),
    "calibrate": lambda head: head.calibrate(image_embeds=EMBEDS[:2], labels=[0, "nobody"]),
    "calibrate, few": lambda head: head.calibrate(image_embeds=EMBEDS[:2], labels=[0, 1], coverage=0.9),
    "fit_rejection": lambda head: head.fit_rejection(image_embeds=EMBEDS[:2], accept_rate=0.9),
    "set_class_shares": lambda head: head.set_class_shares({0: 0.5, "nobody": 0.1}),
    "calibration": lambda head: setattr(head, "calibration", 0.5),
    "calibration, others": lambda head: setattr(
        head, "calibration", Calibration(activation="softmax", thresholds=(1.0,) * 99)
    ),
    "load_state_dict": lambda head: head.load_state_dict(
        {**head.state_dict(), "text_embeddings": head.text_embeddings[1:]}
    ),
    "load_state_dict, older": lambda head: head.load_state_dict({**head.state_dict(), "_extra_state": {}}),
    "predict": lambda head: head.predict(image_embeds=EMBEDS / 0),
}


class Sequences(RuleBasedStateMachine):
    """A head beside what it was told."""

    @initialize(words=st.permutations(WORDS), count=st.integers(2, 5), own=st.booleans())
    def begin(self, words, count, own):
        config = HeadConfig(logit_scale=10.0) if own else HeadConfig()
        self.state = State(list(words[:count]), config, None if own else 10)
        self.head = self.state.fitted()

    def changed(self, change, state, *dropped):
        """Make a change, which says what it drops and nothing else."""
        calibration = self.head.calibration
        if calibration is None:
            dropped = [each for each in dropped if each != "calibration"]
        expected = {each: DROPPED[each] for each in dropped}
        if "calibration" in expected and len(calibration.thresholds or ()) == 1:
            expected["calibration"] += ". The rejection went with it; fit_rejection() again"
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            self.head = change(self.head)
        told = [str(each.message) for each in said]
        assert sorted(each for each in told if not each.startswith(TOLD)) == sorted(expected.values())
        self.state = state

    def changed_unless_fixed(self, change, state, *dropped):
        """Make a change that is refused where labelled images are not kept."""
        if self.state.kept:
            return self.changed(change, state, "calibration", *dropped)
        before = answers(self.head)
        with pytest.raises(ValueError, match="examples=False"):
            change(self.head)
        assert answers(self.head) == before

    @precondition(lambda self: len(self.state.words) > 2)
    @rule(data=st.data())
    def remove_classes(self, data):
        state = self.state
        some = st.sets(st.sampled_from(state.words), max_size=len(state.words) - 2)
        gone = sorted(data.draw(some))
        if not gone:
            return self.changed(lambda head: head.remove_classes([]), state)
        words = [word for word in state.words if word not in gone]
        examples = {i: word for i, word in state.examples.items() if word not in gone}
        shares = state.shares and {word: state.shares[word] for word in words}
        shares = shares and {word: share / sum(shares.values()) for word, share in shares.items()}
        after = replace(state, words=words, examples=examples, shares=shares, calibrated=[])
        dropped = ["few_shot"] if state.examples and not examples else []
        names = [state.label(word) for word in gone]
        self.changed_unless_fixed(lambda head: head.remove_classes(names), after, *dropped)

    @rule(data=st.data(), name=st.sampled_from([None, "lion", "ox"]))
    def rename_class(self, data, name):
        word = data.draw(st.sampled_from(self.state.words))
        before = self.state.label(word)
        after = replace(self.state, names={**self.state.names, word: name or before})
        if name in map(after.label, (other for other in after.words if other != word)):
            return
        self.changed(lambda head: head.rename_class(before, name or before), after)

    @rule(change=st.sampled_from(SETTINGS))
    def reconfigure(self, change):
        state, scale = self.state, change.get("logit_scale")
        config = state.config.replaced(**change)
        after = replace(state, config=config, scale=state.scale if scale is None else None, calibrated=[])
        if scale == (state.scale or state.config.logit_scale) or config == state.config:
            return self.changed(
                lambda head: head.reconfigure(**change), replace(after, calibrated=state.calibrated)
            )
        self.changed_unless_fixed(lambda head: head.reconfigure(**change), after)

    @precondition(lambda self: self.state.scale is None)
    @rule()
    def forget_the_scale(self):
        before = answers(self.head)
        with pytest.raises(ValueError, match="logit_scale: a head without a backbone has none"):
            self.head.reconfigure(logit_scale=None)
        assert answers(self.head) == before

    def examples_of(self, images, words):
        return {i: word_of(i) if word_of(i) in words else None for i in images}

    @rule(
        images=st.lists(st.sampled_from(SHOWN), min_size=8, unique=True),
        add=st.booleans(),
        rate=st.sampled_from([0, 0.4]),
    )
    def fit_few_shot(self, images, add, rate):
        state = self.state
        if add and not state.kept:
            return
        examples = self.examples_of(images, state.words)
        labels = [word and state.label(word) for word in examples.values()]
        before = {i: word for i, word in state.examples.items() if add and i not in examples}
        self.changed(
            lambda head: head.fit_few_shot(
                image_embeds=EMBEDS[images], labels=labels, add=add, false_accept_rate=rate, batch_size=9
            ),
            replace(state, examples=before | examples, rate=rate, kept=True, calibrated=[]),
            "calibration",
        )

    @rule()
    def forget_examples(self):
        state = self.state
        after = replace(state, examples={}, kept=True, calibrated=[] if state.examples else state.calibrated)
        self.changed(lambda head: head.forget_examples(), after, *(["calibration"] if state.examples else []))

    @rule(coverage=st.sampled_from([None, 0.5]))
    def calibrate(self, coverage):
        step = Calibrated(list(self.state.words), coverage, self.state.shares is not None)
        after = replace(self.state, calibrated=[*without_coverage(self.state.calibrated), step])
        before = answers(self.head)
        try:
            self.changed(step, after)
        except ValueError:
            refused = pytest.raises(ValueError, match="out of reach, since the rejection")
            with refused, warnings.catch_warnings(action="ignore"):
                step(self.head)
            assert answers(self.head) == before

    @precondition(lambda self: len(self.state.words) < len(WORDS))
    @rule(rate=st.sampled_from([0.05, 0.5]))
    def fit_rejection(self, rate):
        step, own = (
            Rejected(list(self.state.words), rate, self.state.shares is not None),
            self.head.calibration,
        )
        after = replace(self.state, calibrated=[*without_coverage(self.state.calibrated), step])
        self.changed(step, after, *(["rejection"] if own and own.coverage else []))

    @rule(data=st.data(), share=st.sampled_from([None, 0.2, 0.8]))
    def set_class_shares(self, data, share):
        state, own = self.state, self.head.calibration
        word = data.draw(st.sampled_from(state.words))
        rest = (1 - (share or 0)) / (len(state.words) - 1)
        shares = share and {each: share if each == word else rest for each in state.words}
        after = replace(state, shares=shares, calibrated=without_coverage(state.calibrated))
        same = shares == state.shares
        self.changed(
            lambda head: head.set_class_shares(share and {state.label(word): share}),
            state if same else after,
            *(["coverage"] if own and own.coverage and not same else []),
        )

    @precondition(lambda self: len(self.state.words) < len(WORDS))
    @rule(
        data=st.data(),
        images=st.lists(st.sampled_from(SHOWN), unique=True),
        scale=st.sampled_from([5.0, 10.0]),
    )
    def merge(self, data, images, scale):
        state = self.state
        free = [word for word in WORDS if word not in state.words]
        words = data.draw(st.lists(st.sampled_from(free), min_size=1, max_size=2, unique=True))
        theirs = State(words, HeadConfig(metric="center", logit_scale=scale), state.scale, rate=state.rate)
        theirs.examples = self.examples_of(images, words)
        other = theirs.fitted()
        before = answers(other)
        said = {i: word for i, word in theirs.examples.items() if i not in state.examples or word}
        examples = {i: word for i, word in state.examples.items() if i not in said} | said
        after = replace(
            state, words=state.words + words, names=dict(state.names), examples=examples, shares=None
        )
        after.calibrated = []
        if any(word is not None and state.examples.get(i) is not None for i, word in said.items()):
            return
        for word in words:
            after.names.pop(word, None)
        dropped = ["shares"] if state.shares else []
        self.changed_unless_fixed(lambda head: head.merge(other), after, *dropped)
        assert answers(other) == before

    @rule(way=st.sampled_from(["save", "without examples", "deepcopy", "pickle", "state dict", "copy"]))
    def taken_elsewhere(self, way):
        old, before = self.head, answers(self.head)
        with tempfile.TemporaryDirectory() as folder:
            if way in ("save", "without examples"):
                old.save_pretrained(folder, examples=way == "save")
                self.head = SynonymousSpaceHead.from_pretrained(folder)
        if way == "without examples":
            self.state = replace(self.state, kept=self.state.kept and not self.state.examples)
        if way == "deepcopy":
            self.head = copy.deepcopy(old)
        if way == "pickle":
            self.head = pickle.loads(pickle.dumps(old))
        if way == "copy":
            self.head = copy.copy(old)
        if way == "state dict":
            file = io.BytesIO()
            torch.save(old.state_dict(), file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
            self.head = SynonymousSpaceHead().eval()
            self.head.load_state_dict(state)
            for part in state.values():
                part.zero_()
        assert self.head(image_embeds=EMBEDS[ASKED]).tolist() == before[0]
        if way != "without examples":
            assert answers(self.head) == before
        # What becomes of one is nothing to the other.
        with warnings.catch_warnings(action="ignore"):
            old.rename_class(0, "renamed").set_class_shares({0: 0.3})
        old.calibration = Calibration(activation="sigmoid")

    @rule(name=st.sampled_from(sorted(WRONG)))
    def refused(self, name):
        before = answers(self.head)
        with warnings.catch_warnings(action="error"), pytest.raises((ValueError, TypeError, RuntimeError)):
            WRONG[name](self.head)
        assert answers(self.head) == before

    @invariant()
    def as_if_fitted_directly(self):
        head, state, embeds = self.head, self.state, EMBEDS[ASKED]
        assert head.class_names == list(map(state.label, state.words))
        other = state.fitted()
        logits, expected = head(image_embeds=embeds), other(image_embeds=embeds)
        assert head.few_shot == other.few_shot
        found, calibration = head.current_calibration, other.current_calibration
        assert (found.coverage, found.activation) == (calibration.coverage, calibration.activation)
        if state.shares is None:
            assert torch.equal(logits, expected)
        else:  # divided by their sum, and so rounded, more than once
            assert head.class_shares == pytest.approx(other.class_shares)
        if state.shares is None and not any(step.rounded for step in state.calibrated):
            assert found == calibration
            assert not state.kept or head.class_space.digest() == other.class_space.digest()
        # Of probabilities: where any temperature is as good as another, rounding decides.
        both = found.probabilities(logits), calibration.probabilities(expected)
        torch.testing.assert_close(*both, rtol=0, atol=1e-3)

    @invariant()
    def every_way_to_ask_says_the_same(self):
        head, embeds = self.head, EMBEDS[ASKED]
        kept = embeds.clone()
        logits, calibration = head(image_embeds=embeds), head.current_calibration
        probabilities = head.predict_proba(image_embeds=embeds)
        torch.testing.assert_close(probabilities, calibration.probabilities(logits))
        count = len(head.classes)
        best = head.top_classes(image_embeds=embeds, k=count)
        said = [own for part in embeds.split(5) for own in head.predict(image_embeds=part, top_k=count)]
        assert [[each.class_index for each in own] for own in said] == best.class_index.tolist()
        torch.testing.assert_close(best.logits, logits.sort(1, descending=True).values)
        scores = torch.tensor([[each.score for each in own] for own in said])
        torch.testing.assert_close(scores, probabilities.gather(1, best.class_index))
        assert [[each.accepted for each in own] for own in said] == best.accepted.tolist()
        if calibration.coverage is None:
            with pytest.raises(ValueError, match="coverage: the head has none"):
                head.predict_sets(image_embeds=embeds)
        else:
            inside = scores >= calibration.least_probability
            inside &= best.accepted[:, :1]
            sets = [[each.class_index for each in own] for own in head.predict_sets(image_embeds=embeds)]
            assert sets == [row[mask].tolist() for row, mask in zip(best.class_index, inside, strict=True)]
        assert torch.equal(embeds, kept)


Sequences.TestCase.settings = settings(
    max_examples=10, stateful_step_count=10, deadline=None, derandomize=True
)
TestSequences = pytest.mark.filterwarnings("error::UserWarning")(Sequences.TestCase)
