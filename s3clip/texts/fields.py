"""What the fields of a synonym file may hold: types for pydantic, with the checks of our own."""

from typing import Annotated, Any
from unicodedata import normalize

from pydantic import AfterValidator, BeforeValidator, Field

from s3clip.texts.groups import problem_of_language
from s3clip.texts.labels import composed, problem_of_name, problem_of_text
from s3clip.texts.prompts import resolve_templates


def _label(text: str) -> str:
    text = composed(text)
    if problem := problem_of_name(text):
        raise ValueError(problem)
    return text


def _sentence(text: str) -> str:
    text = normalize("NFC", text.strip())  # is encoded, and nothing is told apart by it
    if problem := problem_of_text(text):
        raise ValueError(problem)
    return text


def _language(code: str) -> str:
    if problem := problem_of_language(code):
        raise ValueError(problem)
    return code


def as_tuple(texts: Any) -> Any:
    """Take lists for tuples, which are hashable; pydantic checks the rest."""
    return tuple(texts) if isinstance(texts, list) else texts


def _as_names(names: Any) -> Any:
    return (names,) if isinstance(names, str) else as_tuple(names)


def _as_levels(groups: Any) -> Any:
    if isinstance(groups, (list, tuple)):
        return {str(i): name for i, name in enumerate(groups)}
    if isinstance(groups, dict):
        levels = [composed(level) for level in groups if isinstance(level, str)]
        if twice := [level for level in levels if levels.count(level) > 1]:
            raise ValueError(f"has the level {twice[0]!r} twice, but for spaces or the form of letters")
    return groups


Label = Annotated[str, AfterValidator(_label)]
Sentence = Annotated[str, AfterValidator(_sentence)]
Labels = Annotated[tuple[Label, ...], BeforeValidator(as_tuple)]
Sentences = Annotated[tuple[Sentence, ...], BeforeValidator(as_tuple)]
Names = Annotated[tuple[Label, ...], BeforeValidator(_as_names), Field(min_length=1)]
Language = Annotated[str, AfterValidator(_language)]
Groups = Annotated[dict[Label, Label], BeforeValidator(_as_levels)]
Number = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # as tables of any kind can hold it
Templates = Annotated[tuple[Label, ...], BeforeValidator(as_tuple), AfterValidator(resolve_templates)]
