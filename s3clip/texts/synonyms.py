"""The synonym set: classes with their names, synonyms, descriptors and sentences, read, checked and written.

Our own format is JSON:

    {"format": "s3clip-synonyms/1",
     "description": "Cats and fish", "license": "Apache-2.0",
     "templates": ["a photo of a {}."],
     "generated": {"model": "org/chat-model", "prompt_version": 1, "date": "2026-11-25"},
     "language": "en",
     "classes": [{"name": "tabby cat", "synonyms": ["tabby"], "descriptors": ["striped coat"], "id": 281,
                  "groups": {"kingdom": "animal", "family": "cat"},
                  "names": {"de": ["Tigerkatze", "Getigerte"]},
                  "negatives": ["an empty sofa"]}]}

All but "format" and "classes" may be left out, and so may all but the name of a class. `"groups": ["animal",
"cat"]` has levels without names: 0, 1, ... `s3clip.texts.formats` lists the others that are read.
"""

import json
import os
import reprlib
import tempfile
import warnings
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from s3clip.files.problems import problem_in_words, shown
from s3clip.files.writing import write_atomically
from s3clip.printing import counted
from s3clip.texts.fields import Groups, Label, Labels, Language, Names, Number, Sentences, Templates, as_tuple
from s3clip.texts.formats import FORMAT, KINDS, TextKind, interpret
from s3clip.texts.groups import levels_of
from s3clip.texts.prompts import Points, Text, class_texts, concepts
from s3clip.texts.sources import BUILTIN, Source, read_source
from s3clip.texts.templates import TEMPLATES_IN


class SynonymClass(BaseModel):
    """One class.

    Attributes:
        name: the class's own name; it is always the first text of the class.
        synonyms: other names.
        descriptors: what it looks like ("striped coat"); joined with every name by `s3clip.texts.prompts`.
        prompts: whole sentences, used as they are, without a template.
        id: what the class is called elsewhere (a WordNet id, an index); handed through to predictions.
        groups: the group that it is in at each level, the widest level first; see `s3clip.texts.groups`.
        names: what it is called in other languages, by their codes; of several names the first is shown.
        negatives: texts of what is seen where the class is not there, used as they are, without a template.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Label
    synonyms: Labels = ()
    descriptors: Sentences = ()
    prompts: Sentences = ()
    id: Number | Label | None = None
    groups: Groups = {}
    names: dict[Language, Names] = {}
    negatives: Sentences = ()

    @field_validator("negatives")
    @classmethod
    def _no_text_of_the_class(cls, negatives: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = info.data  # what was refused before is not there
        named = (known.get("name", ""), *known.get("synonyms", ()), *known.get("prompts", ()))
        own = {text.casefold() for text in named}
        if both := [text for text in negatives if text.casefold() in own]:
            raise ValueError(f"has {both[0]!r}, a text of the class itself; take it out of one of the two")
        return negatives

    def __hash__(self) -> int:
        """Hash by what is hashed quickly; equal classes have equal ones."""
        return hash((self.name, self.synonyms, self.descriptors, self.prompts, self.id))


class Generated(BaseModel):
    """How a set was generated.

    Attributes:
        model: the chat model that was asked.
        prompt_version: of `s3clip.texts.generation`.
        date: of the day when the file was written, "2026-11-25".
        domain: what the question said that the classes are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: Label
    prompt_version: int
    date: Label
    domain: Label | None = None


class SynonymSet(BaseModel):
    """The classes of a task, in the order of their logits. Names may repeat: classes are positions.

    Attributes:
        description: what the classes are of, for people.
        license: of the words, by its SPDX name ("Apache-2.0"): files are passed on without their package.
        templates: the prompt templates the file asks for; None leaves the choice to the caller.
        generated: how, where a language model wrote the words.
        language: the code of that of the names and all other texts; None where nobody said.
        classes: at least one.

    Examples:
        >>> words = SynonymSet.read({"cat": ["feline", "kitty"], "dog": []})
        >>> words.class_names, words.classes[0].synonyms
        (['cat', 'dog'], ('feline', 'kitty'))
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    description: Label | None = None
    license: Label | None = None
    templates: Templates | None = None
    generated: Generated | None = None
    language: Language | None = None
    classes: Annotated[tuple[SynonymClass, ...], BeforeValidator(as_tuple), Field(min_length=1)]

    @model_validator(mode="after")
    def _levels_are_ordered(self) -> "SynonymSet":
        levels_of(each.groups for each in self.classes)
        return self

    @property
    def class_names(self) -> list[str]:
        """The names, in order."""
        return [each.name for each in self.classes]

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels of groups, the widest first; none where no class is in a group."""
        return levels_of(each.groups for each in self.classes)

    def texts(
        self, templates: str | Sequence[str | Callable[[str], str]], points: Points = "texts"
    ) -> list[list[Text]]:
        """Return the texts of every class, or its concepts, as `s3clip.texts.prompts` makes them."""
        found = [
            class_texts(each.name, each.synonyms, each.descriptors, each.prompts, templates=templates)
            for each in self.classes
        ]
        return found if points == "texts" else [concepts(own) for own in found]

    def in_language(self, language: str) -> "SynonymSet":
        """Return the set with the names in a language, and a template in it: what is encoded is in it alone.

        The names that it has now are kept among `names`, by the language of the set; descriptors, sentences
        and negatives, which are in that, are left out.

        Args:
            language: the code of the language, "de".

        Warns:
            UserWarning: where some classes have no name in it; they keep the ones they have.

        Raises:
            ValueError: no class has a name in it.
        """
        if language == self.language:
            return self
        without = sum(language not in each.names for each in self.classes)
        if without == len(self.classes):
            known = sorted({code for each in self.classes for code in each.names})
            raise ValueError(
                f"language: no class has a name in {language!r}; there are names in "
                f"{', '.join(known) or 'no language'}"
            )
        if without:
            warnings.warn(
                f"{without} of {len(self.classes)} classes have no name in {language!r} and keep their own",
                stacklevel=2,
            )
        classes = tuple(_named_in(each, language, self.language) for each in self.classes)
        changed = {
            "classes": classes,
            "language": language,
            "templates": TEMPLATES_IN.get(language.partition("-")[0], ("{}",)),
        }
        return self.model_copy(update=changed)

    def negative_texts(self) -> list[list[Text]]:
        """Return the negatives of every class as texts, which no template is put around."""
        return [[Text(text, (text,)) for text in dict.fromkeys(each.negatives)] for each in self.classes]

    def counts(self) -> dict[TextKind, int]:
        """Return how many texts of each kind there are."""
        return {kind: sum(len(getattr(each, kind)) for each in self.classes) for kind in KINDS}

    @classmethod
    def builtin(cls, name: str) -> "SynonymSet":
        """Return a set that comes with s3clip, such as "food101"; `s3clip synonyms list` lists them.

        "food101/de" is the same in German: see `in_language`.

        Raises:
            ValueError: for a name or a language that is not there, with those that are.
        """
        return cls.read(BUILTIN + name)

    @classmethod
    def read(cls, source: "Source | SynonymSet", *, values: TextKind = "synonyms") -> "SynonymSet":
        """Read classes from a file, from the Hub, from Python objects or from the sets that come with s3clip.

        Args:
            source: the path of a .json, .txt, .csv or .yaml file, or of a folder with a sub-folder a class;
                "builtin:food101" or "builtin:food101/de" (see `builtin`);
                "hf://datasets/user/name@revision/file.json"; a dict or list as such a file would hold; a
                list of names; or a SynonymSet, which is returned.
            values: what the texts of a `{class: [text]}` file are. Other formats say it themselves and take
                only the default.

        Warns:
            UserWarning: once each, with a count, for texts found in two classes, for texts given twice in a
                class, and for empty texts left out of a published sentence file; not for a builtin set.

        Raises:
            ValueError: naming the source, the class and the reason.
            FileNotFoundError: if there is no such file. Errors of the Hub pass through with a note.
            TypeError: if `source` is none of the above.
        """
        if isinstance(source, SynonymSet):
            return source
        if values not in KINDS:
            raise ValueError(f"values: expected one of {', '.join(KINDS)}, got {values!r}")
        if isinstance(source, str) and source.startswith(BUILTIN):
            from s3clip.texts.sets import set_names  # the sets are opened when one is asked for

            name, _, language = source.partition("/")
            if language and name.removeprefix(BUILTIN) in set_names():
                return cls.read(name, values=values).in_language(language)
        where, content = read_source(source)
        try:
            found = interpret(content, values)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        try:
            synonyms = cls.model_validate({**found.fields, "classes": found.classes})
        except ValidationError as error:
            raise ValueError(f"{where}: {_reason(error.errors()[0], found.classes)}") from None
        if not where.startswith(BUILTIN):  # the exceptions of those say why such texts stay
            for message in (*found.slips, *slips(synonyms)):
                warnings.warn(f"{where}: {message}", UserWarning, stacklevel=2)
        return synonyms

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the set as a .json file, which `read` gives back equal; an older file is replaced whole.

        A class stands on one line, so that a diff shows the classes that changed.

        Raises:
            ValueError: if the path does not end in .json.
        """
        if Path(path).suffix.lower() != ".json":
            raise ValueError(f"path: expected a name that ends in .json, got {os.fspath(path)!r}")
        content = {"format": FORMAT, **self.model_dump(exclude_defaults=True)}
        # Through a link to the file it names, which a rename would replace.
        target = Path(os.path.realpath(path))
        write_atomically(target, _item_a_line(content).encode())

    def push_to_hub(
        self,
        repo_id: str,
        path_in_repo: str = "synonyms.json",
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Write the set to a dataset repository of the Hub; an older file of that name is replaced.

        Args:
            repo_id: "user/name"; made if need be.
            path_in_repo: the name of the file there, which ends in .json.
            private: who may see a repository that is made; None: the account's default.
            token: of the Hub; None: the one of `hf auth login`.
            commit_message: of the commit.

        Returns:
            What `read` and `fit_classes` take: "hf://datasets/user/name/synonyms.json".

        Raises:
            ValueError: if the path does not end in .json.
            OSError: the Hub's own errors, and no connection to it.
        """
        from huggingface_hub import HfApi

        from s3clip.files.hub import hub_connection

        if not path_in_repo.endswith(".json"):
            raise ValueError(f"path_in_repo: expected a name that ends in .json, got {path_in_repo!r}")
        api = HfApi(token=token, library_name="s3clip")
        with hub_connection(), tempfile.TemporaryDirectory() as folder:
            repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
            path = Path(folder) / "synonyms.json"
            self.write(path)
            api.upload_file(
                path_or_fileobj=path,
                path_in_repo=path_in_repo,
                repo_id=repo_id,
                repo_type="dataset",
                commit_message=commit_message or f"Synonyms of {counted(len(self.classes), 'class')}",
            )
        return f"hf://datasets/{repo_id}/{path_in_repo}"


def _named_in(own: SynonymClass, language: str, before: str | None) -> SynonymClass:
    """Return a class with its names in a language, and no texts in others."""
    name, *synonyms = own.names.get(language, (own.name, *own.synonyms))
    names = {} if before is None else {before: (own.name, *own.synonyms)}
    names |= {code: each for code, each in own.names.items() if code != language}
    return SynonymClass(name=name, synonyms=tuple(synonyms), id=own.id, groups=own.groups, names=names)


def collisions(synonyms: SynonymSet) -> dict[str, list[int]]:
    """Return the texts that stand for more than one class: casefolded text -> ascending class positions.

    Names, synonyms and prompts count. Descriptors do not, since each is joined with its class's names.
    """
    positions: dict[str, list[int]] = {}
    for position, each in enumerate(synonyms.classes):
        for text in dict.fromkeys(text.casefold() for text in (each.name, *each.synonyms, *each.prompts)):
            positions.setdefault(text, []).append(position)
    return {text: where for text, where in positions.items() if len(where) > 1}


def _item_a_line(record: dict[str, Any]) -> str:
    """Write a record as JSON, with each item of its lists on a line of its own."""
    fields = []
    for key, value in record.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, (list, tuple)):
            items = ",\n    ".join(json.dumps(item, ensure_ascii=False) for item in value)
            text = f"[\n    {items}\n  ]"
        fields.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _reason(error: ErrorDetails, records: list[Any]) -> str:
    """Return in one line what pydantic found wrong, and in which class."""
    location, kind, value = error["loc"], error["type"], error["input"]
    if location in ((), ("classes",)):
        return "there are no classes" if kind == "too_short" else problem_in_words(error)
    where = ""
    if location[:1] == ("classes",) and len(location) > 1:
        position = int(location[1])
        record = records[position]
        name = record.get("name") if isinstance(record, dict) else None
        where = f"class {position}: " if name is None else f"class {position} ({reprlib.repr(name)}): "
        location = location[2:]
    if location[:1] == ("id",):  # what follows names a member of the union, not a place in the file
        return f"{where}id must be a whole number, a text or null, not {shown(value)}"
    known = f"; a class has {', '.join(SynonymClass.model_fields)}"
    if not where:
        known = f"; a file has format, {', '.join(SynonymSet.model_fields)}" if len(location) == 1 else ""
    location = tuple(part for part in location if part != "[key]")  # pydantic's word for a level or language
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if kind == "value_error":
        reason = str(error["ctx"]["error"])
        if field == "templates":
            return reason
        return f"{where}{field} {reason}" + (f": {reprlib.repr(value)}" if str(value).strip() else "")
    if location == ("groups",):
        return f'{where}groups must be {{"level": "group"}} or a list of groups, not {shown(value)}'
    reason = {
        "tuple_type": f"must be a list of texts, not {shown(value)}",
        "extra_forbidden": f"is not known{known}",
        "model_type": f"must be a name or a record, not {shown(value)}",
    }.get(kind) or problem_in_words(error)
    if kind == "string_type" and isinstance(value, (bool, int, float, date)):
        reason += "; it is one in quotes"
    return f"{where}{field} {reason}" if field else f"{where}{reason}"


def slips(synonyms: SynonymSet) -> list[str]:
    """Word what is legal but seldom meant, one message a kind."""
    messages = []
    repeated = sum(
        len(texts) - len(set(texts))
        for each in synonyms.classes
        for texts in ((each.name, *each.synonyms), each.descriptors, each.prompts, each.negatives)
    )
    if repeated:
        messages.append(f"texts given twice in a class (used once): {repeated}")
    if shared := collisions(synonyms):
        names = synonyms.class_names
        examples = "; ".join(
            f"{reprlib.repr(text)} in classes "
            + ", ".join(f"{position} ({names[position]!r})" for position in positions[:3])
            for text, positions in list(shared.items())[:3]
        )
        messages.append(f"texts found in two classes or more: {len(shared)}, such as {examples}")
    return messages
