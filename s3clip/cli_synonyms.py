"""`s3clip synonyms`: list, show and check sets of synonyms, those that come with s3clip and your own."""

import difflib
import json
import warnings
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s3clip.cli_output import Format, Output, print_rows

if TYPE_CHECKING:
    from s3clip.synonym_check import Finding, Reference
    from s3clip.synonyms import SynonymSet

app = typer.Typer(help="List, show and check sets of synonyms.", no_args_is_help=True)

_KINDS = ("synonyms", "descriptors", "prompts")

Source = Annotated[
    str, typer.Argument(help="Name of a builtin set (food101), or a synonym file as for `s3clip fit`.")
]


@app.command(name="list")
def list_sets(output: Output = Format.TABLE) -> None:
    """List the sets that come with s3clip; `texts` counts names and synonyms."""
    from s3clip.synonym_sets import load_set, set_names

    header = ["name", "classes", "texts", "descriptors", "description"]
    rows = []
    for name in set_names():
        own = load_set(name)
        texts = sum(1 + len(each.synonyms) for each in own.classes)
        descriptors = sum(len(each.descriptors) for each in own.classes)
        rows.append([name, len(own.classes), texts, descriptors, own.description])
    if output is Format.JSON:
        typer.echo(json.dumps([dict(zip(header, row, strict=True)) for row in rows], indent=1))
    else:
        print_rows(header, rows, output)


@app.command()
def show(
    source: Source,
    name: Annotated[str | None, typer.Option("--class", help="Only the classes of this name.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show the classes of a set with their synonyms and descriptors."""
    own = _read(source)
    wanted = None if name is None else name.casefold()
    classes = {
        index: each
        for index, each in enumerate(own.classes)
        if wanted is None or each.name.casefold() == wanted
    }
    if not classes:
        near = difflib.get_close_matches(str(name), own.class_names) or own.class_names[:10]
        raise ValueError(f"--class: {source} has no class {name!r}; it has: {', '.join(near)}")
    if output is Format.JSON:
        listed = [{"class_index": index, **each.model_dump()} for index, each in classes.items()]
        typer.echo(json.dumps(listed, indent=1, ensure_ascii=False))
        return
    if output is Format.CSV:
        rows = [
            [index, each.name, kind, text]
            for index, each in classes.items()
            for kind, texts in (("name", [each.name]), *((kind, getattr(each, kind)) for kind in _KINDS))
            for text in texts
        ]
        print_rows(["class_index", "class", "kind", "text"], rows, output)
        return
    for index, each in classes.items():
        typer.echo(f"{index} {each.name}" + ("" if each.id is None else f" ({each.id})"))
        for kind in _KINDS:
            if texts := getattr(each, kind):
                typer.echo(f"  {kind}: {'; '.join(texts)}")


@app.command()
def check(
    source: Source,
    names_of: Annotated[
        str | None, typer.Option(help="Builtin set whose names, in order, the file must have.")
    ] = None,
    words: Annotated[
        Path | None, typer.Option(help="List of words, one a line, such as /usr/share/dict/words.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Model whose tokenizer counts; else the tokens are estimated.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Look for mistakes in a set: shared names, hypernyms, repetitions, typos, odd letters.

    An error is certain, and the exit status is 1; a warning is to be read by somebody. What is found in a
    builtin set and stays is listed with its reason.
    """
    from s3clip.synonym_check import builtin_reference, check_synonyms, split_excepted
    from s3clip.synonym_sets import load_exceptions, load_set, set_names

    builtin = source.removeprefix("builtin:")
    builtin_name = builtin if builtin in set_names() else None
    reference = builtin_reference(builtin_name)
    if names_of is not None:
        reference = replace(reference, names=load_set(names_of).class_names)
    if words is not None:
        listed = words.read_text(encoding="utf-8").split()
        reference = replace(reference, dictionary=frozenset(word.casefold() for word in listed))
    if backbone is not None:
        reference = _with_tokens_of(backbone, reference)
    read = _schema_findings(source)
    findings = read if isinstance(read, list) else check_synonyms(read, reference)
    exceptions = [] if builtin_name is None else load_exceptions(builtin_name)
    findings, excepted = split_excepted(findings, exceptions)
    stays = [replace(finding, message=f"stays: {reason}") for finding, reason in excepted]
    _print_findings(findings, stays, output)
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


def _read(source: str) -> "SynonymSet":
    from s3clip import SynonymSet

    is_file = source.startswith(("builtin:", "hf://")) or Path(source).suffix.lower() in (".json", ".txt")
    return SynonymSet.read(source) if is_file else SynonymSet.builtin(source)


def _schema_findings(source: str) -> "SynonymSet | list[Finding]":
    """Read a set; what makes a file unreadable is a finding too."""
    from s3clip.synonym_check import Finding

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the rules find the same, and say where
        try:
            return _read(source)
        except ValueError as error:
            if not Path(source).is_file():
                raise
            return [Finding("error", "schema", None, None, "", str(error))]


def _with_tokens_of(backbone: str, reference: "Reference") -> "Reference":
    from s3clip import Backbone

    model = Backbone.from_pretrained(backbone)
    return replace(reference, count_tokens=model.count_tokens, most_tokens=model.text_length)


def _print_findings(findings: "list[Finding]", stays: "list[Finding]", output: Format) -> None:
    if output is Format.JSON:
        rows = [{**asdict(each), "stays": each in stays} for each in [*findings, *stays]]
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    header = ["severity", "rule", "class_index", "class", "text", "message"]
    every = [
        [each.severity, each.rule, *_place(each), each.text, each.message] for each in [*findings, *stays]
    ]
    if every or output is Format.CSV:
        print_rows(header, every, output)
    if output is Format.TABLE:
        counts = Counter(each.severity for each in findings)
        typer.echo(f"{counts['error']} errors, {counts['warning']} warnings, {len(stays)} exceptions")


def _place(finding: "Finding") -> tuple[object, object]:
    return ("-", "-") if finding.position is None else (finding.position, finding.name)
