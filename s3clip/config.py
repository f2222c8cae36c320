"""Every setting of a head, checked when it is given."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from s3clip.arguments import LARGEST_SCALE, Option, is_scale, plain, resolve_options
from s3clip.files.problems import first_problem
from s3clip.space.metrics import METRICS
from s3clip.space.scale_rules import SCALE_RULES
from s3clip.texts.prompts import Points


class _FrozenDict(dict[str, Any]):
    """A dict that stays as it is: settings change by `replaced` alone, which checks them."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("the options of a HeadConfig are frozen; use head.reconfigure(...)")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> Any:
        return type(self), (dict(self),)


class HeadConfig(BaseModel):
    """The settings of a `SynonymousSpaceHead`. Frozen; unknown keys are refused.

    Options are stored with their defaults filled in, so that a saved artifact does not change its meaning
    when a default does.

    Attributes:
        points: what a point of a space is: "concepts", a name or synonym together with its descriptors, or
            "texts", each by itself. Read when texts are encoded, and fixed from then on.
        metric: how near an image lies to a space, a key of `s3clip.space.metrics.METRICS`.
        metric_options: the options of the metric.
        scale_rule: how the ε of each class is chosen, a key of `s3clip.space.SCALE_RULES`; None keeps every
            distinct text.
        scale_options: the options of the rule.
        keep_name: which component holds: "tie", the largest, the own name's among equals; "always", the own
            name's, however small.
        centering: "class_mean" subtracts the mean of the class centres from every text; None does not.
        logit_scale: multiplies the scores instead of the backbone's own scale.

    Examples:
        >>> HeadConfig(metric="center", scale_rule=None).changes()
        {'metric': 'center', 'scale_rule': None}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    points: Points = "concepts"
    metric: str = "local_center"
    metric_options: dict[str, Any] = Field(default_factory=dict, validate_default=True)
    scale_rule: str | None = "margin"
    scale_options: dict[str, Any] = Field(default_factory=dict, validate_default=True)
    keep_name: Literal["tie", "always"] = "tie"
    centering: Literal["class_mean"] | None = None
    logit_scale: float | None = None

    if not TYPE_CHECKING:  # type checkers know the fields

        def __init__(self, /, **settings: Any) -> None:
            """Take settings by name; ValueError names the first that is not known or not allowed."""
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise ValueError(first_problem(error, HeadConfig)) from None

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, metric: str) -> str:
        if metric not in METRICS:
            raise ValueError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
        return metric

    @field_validator("scale_rule")
    @classmethod
    def _known_rule(cls, rule: str | None) -> str | None:
        if rule is not None and rule not in SCALE_RULES:
            raise ValueError(f"unknown scale_rule {rule!r}; known: {', '.join(SCALE_RULES)}, or None")
        return rule

    @field_validator("logit_scale", mode="before")
    @classmethod
    def _positive(cls, scale: Any) -> Any:
        if scale is not None and not is_scale(scale):
            raise ValueError(f"expected a number > 0, at most {LARGEST_SCALE:g}, got {scale}")
        return plain(scale)

    @model_validator(mode="after")
    def _fill_options(self) -> "HeadConfig":
        metric_options = resolve_options(self.metric, METRICS[self.metric].options, self.metric_options)
        rule = {} if self.scale_rule is None else SCALE_RULES[self.scale_rule].options
        scale_options = resolve_options(self.scale_rule or "scale_rule=None", rule, self.scale_options)
        object.__setattr__(self, "metric_options", _FrozenDict(metric_options))
        object.__setattr__(self, "scale_options", _FrozenDict(scale_options))
        return self

    def changes(self) -> dict[str, Any]:
        """Return what differs from the defaults, ready for JSON: `HeadConfig(**changes)` is this one."""
        defaults = HeadConfig().model_dump()
        own_options = HeadConfig(metric=self.metric, scale_rule=self.scale_rule).model_dump()
        found: dict[str, Any] = {}
        for name, value in self.model_dump().items():
            if isinstance(value, dict):
                value = {option: own for option, own in value.items() if own_options[name][option] != own}
            if value != ({} if isinstance(value, dict) else defaults[name]):
                found[name] = value
        return found

    def replaced(self, **changes: Any) -> "HeadConfig":
        """Return a copy with some settings changed; a new metric or rule comes with its default options."""
        kept = self.model_dump()
        if changes.get("metric", self.metric) != self.metric:
            del kept["metric_options"]
        if changes.get("scale_rule", self.scale_rule) != self.scale_rule:
            del kept["scale_options"]
        return HeadConfig(**{**kept, **changes})


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the settings, with the options of each metric and rule."""
    schema = HeadConfig.model_json_schema()
    schema |= {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "description": "Settings of a head, as `s3clip fit --config` takes them.",
        "allOf": [
            *_options_schema("metric", "metric_options", {n: m.options for n, m in METRICS.items()}),
            *_options_schema(
                "scale_rule", "scale_options", {None: {}, **{n: r.options for n, r in SCALE_RULES.items()}}
            ),
        ],
    }
    fields = schema["properties"]
    for name, known in (("metric", list(METRICS)), ("scale_rule", [*SCALE_RULES, None])):
        fields[name] = {"enum": known, "default": fields[name]["default"], "title": fields[name]["title"]}
    fields["logit_scale"] = {
        "anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": LARGEST_SCALE}, {"type": "null"}],
        "default": None,
        "title": "Logit Scale",
    }
    return schema


def _options_schema(
    field: str, options: str, owners: Mapping[str | None, Mapping[str, Option]]
) -> Iterator[dict[str, Any]]:
    """Yield, for each value of a field, which options there are: what each must be stands in its words."""
    default = HeadConfig.model_fields[field].default
    for name, own in owners.items():
        known = {
            option: {"default": each.default, "description": f"Expected: {each.expected}."}
            for option, each in own.items()
        }
        condition: dict[str, Any] = {"properties": {field: {"const": name}}}
        if name != default:  # where nothing is said, the default is meant
            condition["required"] = [field]
        yield {
            "if": condition,
            "then": {"properties": {options: {"properties": known, "additionalProperties": False}}},
        }


def _as_saved(settings: Any) -> Any:
    return {"points": "texts", **settings} if isinstance(settings, dict) else settings


SavedConfig = Annotated[HeadConfig, BeforeValidator(_as_saved)]
"""Settings that were saved: by an s3clip that did not know `points`, those of texts."""
