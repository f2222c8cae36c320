"""What does not fit a model is said in our own words, whatever pydantic found."""

import re
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from s3clip.files.json import checked


class Square(BaseModel):
    """A shape."""

    kind: Literal["square"]


class Circle(BaseModel):
    """Another."""

    kind: Literal["circle"]


class Record(BaseModel):
    """A field of every type."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    count: Annotated[int, Field(ge=1, lt=9)] = 1
    share: float = 0.5
    on: bool = True
    texts: list[str] = Field(default=[], max_length=2)
    pair: tuple[int, ...] = ()
    table: dict[str, int] = {}
    kind: Literal["a", "b"] = "a"
    shape: Annotated[Square | Circle, Field(discriminator="kind")] = Square(kind="square")

    @field_validator("name")
    @classmethod
    def _not_empty(cls, name: str) -> str:
        if not name:
            raise ValueError("is empty; give one")
        return name


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": 3}, "name: must be a text, not 3 (int)"),
        ({"name": ""}, "name: is empty; give one"),
        ({"nam": "x"}, "nam: is not known; did you mean 'name'?"),
        ({"other": "x"}, "other: is not known; expected name, count, share"),
        ({"count": "two"}, "count: must be a whole number, not 'two' (str)"),
        ({"count": 0}, "count: must be 1 or more, not 0 (int)"),
        ({"count": 9}, "count: must be below 9, not 9 (int)"),
        ({"share": None}, "share: must be a number, not nothing"),
        ({"on": "yes"}, "on: must be true or false, not 'yes' (str)"),
        ({"texts": "x"}, "texts: must be a list, not 'x' (str)"),
        ({"texts": ["x", 3]}, "texts.1: must be a text, not 3 (int)"),
        ({"texts": ["x", "y", "z"]}, "texts: must be a list of 2 or less, not ['x', 'y', 'z'] (list)"),
        ({"pair": 3}, "pair: must be a list, not 3 (int)"),
        ({"table": []}, "table: must be a record, not [] (list)"),
        ({"kind": "c"}, "kind: must be one of 'a' or 'b', not 'c' (str)"),
        (
            {"shape": {"kind": "line"}},
            "shape: must be a record whose 'kind' is one of 'square', 'circle', not {",
        ),
        ({"shape": {}}, "shape: must be a record with 'kind', not {} (dict)"),
    ],
)
def test_the_field_what_came_and_what_was_expected(wrong: dict, said: str):
    with pytest.raises(ValueError, match=re.escape(f"own.json: {said}")) as caught:
        checked({"name": "x", **wrong}, Record, "own.json")
    assert not re.search("Input|Value error|permitted|required", str(caught.value))


@pytest.mark.parametrize("content", [3, None, []])
def test_what_is_no_record(content: object):
    with pytest.raises(ValueError, match=r"own\.json: must be a record, not"):
        checked(content, Record, "own.json")
