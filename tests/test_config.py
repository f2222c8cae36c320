"""Every setting of a head: checked when it is given, complete when it is stored."""

import json
import math

import pytest
from pydantic import BaseModel, ValidationError

from s3clip import HeadConfig
from s3clip.arguments import resolve_options
from s3clip.files.json import checked
from s3clip.space.metrics import METRICS
from s3clip.space.scale_rules import SCALE_RULES

FULL = {
    "points": "texts",
    "metric": "soft_nearest",
    "metric_options": {"beta": 7.0},
    "scale_rule": "kept_share",
    "scale_options": {"share": 0.6},
    "keep_name": "always",
    "centering": None,
    "logit_scale": 17.5,
}
PLAIN = {"metric": "center", "scale_rule": None, "keep_name": "tie", "centering": None}


def test_settings_are_what_was_given():
    assert HeadConfig(**FULL).model_dump() == FULL


def test_a_config_is_frozen():
    config = HeadConfig(**FULL)
    with pytest.raises(ValidationError, match="frozen"):
        config.metric = "center"
    assert config.model_dump() == FULL


def test_a_config_does_not_keep_the_dicts_of_its_caller():
    options = {"k": 3}
    config = HeadConfig(**{**PLAIN, "metric": "local_center", "metric_options": options})
    options["k"] = 0
    assert config.metric_options["k"] == 3


class Outer(BaseModel):
    """What holds a config, as the config.json of an artifact does."""

    head: HeadConfig


def test_unknown_keys_are_refused():
    for given, message in (
        ({"metrik": "center"}, r"metrik: is not known; did you mean 'metric'\?"),
        ({"scale": 3}, r"scale: is not known; did you mean 'scale_rule' or "),
        ({"zzz": 3}, "zzz: is not known; expected points, metric, metric_options, "),
    ):
        for way in (
            lambda given: HeadConfig(**FULL, **given),
            lambda given: HeadConfig(**FULL).replaced(**given),
            lambda given: HeadConfig.model_validate(FULL | given),
            lambda given: HeadConfig.model_validate_json(json.dumps(FULL | given)),
            lambda given: checked(FULL | given, HeadConfig, "--config"),
            lambda given: checked({"head": FULL | given}, Outer, "file"),
        ):
            with pytest.raises(ValueError, match=message):
                way(given)


def test_an_unknown_metric_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown metric 'centre'; known: ") as raised:
        HeadConfig(**{**PLAIN, "metric": "centre"})
    assert all(name in str(raised.value) for name in METRICS)


def test_an_unknown_scale_rule_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown scale_rule 'gap'; known: ") as raised:
        HeadConfig(**{**PLAIN, "scale_rule": "gap"})
    assert all(name in str(raised.value) for name in [*SCALE_RULES, "None"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep_name": "never"}, "'tie' or 'always'"),
        ({"centering": "mean"}, "'class_mean'"),
        ({"metric_options": {"k": 3}}, "center takes no option 'k'; it takes: none"),
        ({"metric": "hull", "metric_options": {"k": 0}}, "option 'k' of hull: expected a whole number >= 1"),
        ({"metric": "local_center", "metric_options": {"k": "3"}}, "option 'k' of local_center: .*got '3'"),
        ({"scale_options": {"q": 0.5}}, "scale_rule=None takes no option 'q'; it takes: none"),
        ({"scale_rule": "quantile", "scale_options": {"q": 2}}, "option 'q' of quantile: expected .*got 2"),
        ({"scale_rule": "fixed", "scale_options": {"q": 2}}, "fixed takes no option 'q'; it takes: epsilon"),
        ({"logit_scale": 0.0}, "logit_scale: expected a number > 0, at most 1e.12, got 0.0"),
        ({"logit_scale": -1}, "logit_scale: expected a number > 0"),
        ({"logit_scale": math.inf}, "logit_scale: expected a number > 0, at most 1e.12, got inf"),
        ({"logit_scale": 1e13}, "logit_scale: expected a number > 0, at most 1e.12, got"),
        ({"logit_scale": math.nan}, "logit_scale: expected a number > 0, at most 1e.12, got nan"),
        ({"logit_scale": "hot"}, "logit_scale"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        HeadConfig(**{**PLAIN, **changes})


@pytest.mark.parametrize("metric", METRICS)
def test_options_of_a_metric_are_stored_complete(metric):
    defaults = {name: option.default for name, option in METRICS[metric].options.items()}
    assert HeadConfig(**{**PLAIN, "metric": metric}).metric_options == defaults
    for name, option in METRICS[metric].options.items():
        assert option.valid(option.default), name


@pytest.mark.parametrize("rule", SCALE_RULES)
def test_options_of_a_scale_rule_are_stored_complete(rule):
    defaults = {name: option.default for name, option in SCALE_RULES[rule].options.items()}
    assert HeadConfig(**{**PLAIN, "scale_rule": rule}).scale_options == defaults
    for name, option in SCALE_RULES[rule].options.items():
        assert option.valid(option.default), name


def test_a_given_option_leaves_the_default_of_the_others():
    config = HeadConfig(**{**PLAIN, "metric": "local_center", "metric_options": {"k": 7}})
    defaults = {name: option.default for name, option in METRICS["local_center"].options.items()}
    assert config.metric_options == {**defaults, "k": 7}


def test_the_defaults_are_valid():
    assert HeadConfig.model_validate(HeadConfig().model_dump()) == HeadConfig()


@pytest.mark.parametrize(
    "settings",
    [
        FULL,
        PLAIN,
        {**PLAIN, "metric": "local_center", "metric_options": {"k": None}},
        {**PLAIN, "metric": "soft_nearest", "metric_options": {"beta": 1e-3}},
        {**PLAIN, "scale_rule": "quantile", "scale_options": {"q": 1}},
    ],
)
def test_a_config_survives_json(settings):
    config = HeadConfig(**settings)
    assert HeadConfig.model_validate_json(config.model_dump_json()) == config
    assert HeadConfig(**json.loads(json.dumps(config.model_dump(), allow_nan=False))) == config


def test_no_scale_is_accepted_that_json_cannot_say():
    try:
        config = HeadConfig(**{**PLAIN, "scale_rule": "fixed", "scale_options": {"epsilon": math.inf}})
    except ValueError:
        return
    assert HeadConfig.model_validate_json(config.model_dump_json()) == config


def test_replaced_changes_what_it_is_told_and_nothing_else():
    config = HeadConfig(**FULL)
    changed = config.replaced(keep_name="tie", logit_scale=None)
    assert changed.model_dump() == {**FULL, "keep_name": "tie", "logit_scale": None}
    assert config.model_dump() == FULL
    assert config.replaced() == config


def test_a_new_metric_or_rule_comes_with_its_default_options():
    changed = HeadConfig(**FULL).replaced(metric="hull", scale_rule="quantile")
    assert changed.metric_options == HeadConfig(**{**PLAIN, "metric": "hull"}).metric_options
    assert changed.scale_options == HeadConfig(**{**PLAIN, "scale_rule": "quantile"}).scale_options
    assert HeadConfig(**FULL).replaced(scale_rule=None).scale_options == {}
    assert HeadConfig(**FULL).replaced(metric="hull", metric_options={"k": 2}).metric_options == {"k": 2}


def test_the_same_metric_or_rule_keeps_its_options():
    changed = HeadConfig(**FULL).replaced(metric="soft_nearest", scale_rule="kept_share", keep_name="tie")
    assert changed.metric_options == FULL["metric_options"]
    assert changed.scale_options == FULL["scale_options"]


def test_replaced_refuses_what_a_config_refuses():
    config = HeadConfig(**FULL)
    for changes, message in [
        ({"metric": "centre"}, "unknown metric 'centre'"),
        ({"metrics": "center"}, "metrics"),
        ({"metric_options": {"k": 1}}, "soft_nearest takes no option 'k'; it takes: beta"),
    ]:
        with pytest.raises(ValueError, match=message):
            config.replaced(**changes)


def test_resolving_options_fills_in_defaults_and_changes_nothing_that_was_given():
    options = METRICS["local_center"].options
    given = {"k": 2}
    expected = {name: option.default for name, option in options.items()} | {"k": 2}
    assert resolve_options("local_center", options, given) == expected
    assert given == {"k": 2}
