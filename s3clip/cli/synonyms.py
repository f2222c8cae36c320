"""`s3clip synonyms`: make, show, check and clean sets of synonyms, your own and those of s3clip."""

import json
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from s3clip.cli.common import (
    Classes,
    ClassName,
    Format,
    OptionalBackbone,
    Output,
    Values,
    class_source,
    keep_inputs,
    named,
    print_rows,
)
from s3clip.cli.options import take_options
from s3clip.cli.stopping import keeps
from s3clip.cli.wording import Verb
from s3clip.printing import counted, say
from s3clip.texts.formats import KINDS, TextKind
from s3clip.texts.sources import BUILTIN, HUB

if TYPE_CHECKING:
    from s3clip.texts.check import Finding, Reference
    from s3clip.texts.synonyms import SynonymClass, SynonymSet

app = typer.Typer(help="Make, show, check and clean sets of synonyms.", no_args_is_help=True)


@app.callback()
def _options(context: typer.Context) -> None:
    if context.default_map:  # what --options says of a verb that is one of these
        take_options(context, context.default_map)


Out = Annotated[Path, typer.Option(help="The file to write, .json.")]


@app.command(name="list", cls=Verb)
def list_sets(output: Output = Format.TABLE) -> None:
    """List the sets that come with s3clip; `texts` counts names and synonyms."""
    from s3clip.texts.sets import set_names

    rows = []
    for name in set_names():
        own = _read(BUILTIN + name)
        classes, counts = len(own.classes), own.counts()
        rows.append([name, classes, classes + counts["synonyms"], counts["descriptors"], own.description])
    print_rows(["name", "classes", "texts", "descriptors", "description"], rows, output)


@app.command(cls=Verb)
def show(
    source: Classes,
    name: ClassName = None,
    output: Output = Format.TABLE,
) -> None:
    """Show the classes of a set with their synonyms and descriptors."""
    own = _read(source)
    chosen = range(len(own.classes)) if name is None else named(name, own.class_names, source)
    classes = {index: own.classes[index] for index in chosen}
    if output is Format.JSON:
        listed = [{"class_index": index, **each.model_dump()} for index, each in classes.items()]
        say(json.dumps(listed, indent=1, ensure_ascii=False))
        return
    if output is Format.CSV:
        rows = [
            [index, each.name, kind, text]
            for index, each in classes.items()
            for kind, texts in (("name", [each.name]), *_fields(each).items())
            for text in texts
        ]
        print_rows(["class_index", "class", "kind", "text"], rows, output)
        return
    for index, each in classes.items():
        say(f"{index} {each.name}" + ("" if each.id is None else f" ({each.id})"))
        for kind, texts in _fields(each).items():
            if texts:
                say(f"  {kind}: {'; '.join(texts)}")


def _fields(own: "SynonymClass") -> dict[str, Sequence[str]]:
    """Return what is said of a class beside its name, by what a column of a table is called."""
    return {
        **{kind: getattr(own, kind) for kind in KINDS},
        "negatives": own.negatives,
        **{f"group:{level}": [group] for level, group in own.groups.items()},
        **{f"name:{code}": list(names) for code, names in own.names.items()},
    }


@app.command(cls=Verb)
def check(
    source: Classes,
    names_of: Annotated[
        str | None, typer.Option(help="Builtin set whose names, in order, the file must have.")
    ] = None,
    dictionary: Annotated[
        Path | None, typer.Option(help="List of words, one a line, such as /usr/share/dict/words.")
    ] = None,
    backbone: OptionalBackbone = None,
    output: Output = Format.TABLE,
) -> None:
    """Look for mistakes in a set: shared names, hypernyms, repetitions, typos, odd letters.

    An error is certain, and the exit status is 1; a warning is to be read by somebody. What is found in a
    builtin set and stays all the same is listed with its reason. Tokens are counted by the tokenizer of
    --backbone, else estimated.
    """
    from s3clip.texts.check import Finding, check_synonyms, split_excepted
    from s3clip.texts.sets import read_exceptions, set_names

    plain = source.removeprefix(BUILTIN)
    builtin = plain if plain in set_names() else None
    try:
        own = _read(source, quiet=True)  # the rules find what it would warn of, and say where
    except ValueError as error:
        if not os.path.isfile(source):  # unlike `Path.is_file`, also of JSON as long as no name is
            raise
        findings = [Finding("error", "schema", None, None, "", str(error))]
    else:
        findings = check_synonyms(own, _reference(builtin, names_of, dictionary, backbone))
    left, excepted = split_excepted(findings, [] if builtin is None else read_exceptions(builtin))
    _print_findings(left, excepted, output)
    if any(finding.severity == "error" for finding in left):
        raise typer.Exit(1)


@app.command(cls=Verb)
@keeps(lambda *, out, **_: f"the answers are kept in {out}.partial.jsonl; to go on")
def generate(
    names: Classes,
    out: Out,
    model: Annotated[str, typer.Option(help="Chat model, as the server or the Hub calls it.")],
    base_url: Annotated[
        str | None,
        typer.Option(help="Server with OpenAI's chat completions, http://localhost:8000/v1; else the Hub."),
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Inference provider of the Hub.")] = None,
    domain: Annotated[str | None, typer.Option(help='What the classes are: "a kind of bird".')] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(help="Environment variable with the server's key. HF_TOKEN goes to the Hub alone."),
    ] = None,
    max_requests: Annotated[int | None, typer.Option(help="Requests to send at most.")] = None,
    concurrency: Annotated[int, typer.Option(help="Requests at once.")] = 4,
    classes_per_request: Annotated[int, typer.Option(help="Classes in one question.")] = 10,
    max_tokens: Annotated[int, typer.Option(help="Tokens of one answer at most.")] = 4096,
    timeout: Annotated[float, typer.Option(help="Seconds that a server may be silent.")] = 120.0,
    allow_failed: Annotated[
        bool,
        typer.Option("--allow-failed", help="Write classes without a usable answer with their names alone."),
    ] = False,
) -> None:
    """Ask a chat model for synonyms and descriptors. After a kill, the same command goes on where it was."""
    from s3clip.texts.generation import Progress, generate_synonyms

    key = None
    if api_key_env is not None and not (key := os.environ.get(api_key_env, "").strip()):
        raise ValueError(f"--api-key-env: the environment variable {api_key_env} is not set, or is empty")
    last: list[Progress] = []

    def progress(now: Progress) -> None:
        last[:] = [now]
        say(f"{now.answered} of {counted(now.classes, 'class')}", error=True)

    try:
        own = generate_synonyms(
            class_source(names),
            model=model,
            base_url=base_url,
            provider=provider,
            domain=domain,
            out=out,
            api_key=key,
            classes_per_request=classes_per_request,
            concurrency=concurrency,
            max_requests=max_requests,
            max_tokens=max_tokens,
            timeout=timeout,
            allow_failed=allow_failed,
            progress=progress,
        )
    finally:
        for now in last:
            say(f"{now.requests} requests, {now.prompt_tokens} tokens read, {now.completion_tokens} written")
    for position, each in enumerate(own.classes):
        if not each.synonyms and not each.descriptors:
            say(f"class {position} ({each.name}) has its name alone")


@app.command(cls=Verb)
def wordnet(
    names: Classes,
    out: Out,
    domain: Annotated[str | None, typer.Option(help="What the classes are: a noun of WordNet, bird.")] = None,
    groups: Annotated[
        list[str] | None,
        typer.Option(
            help="A level of groups and its nouns: kind=animal,plant,artifact; a class is in the group of "
            "the first noun that it is a kind of. Again for a narrower level."
        ),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a first set from WordNet, without a network; says which sense each name was taken in."""
    from s3clip.texts.synonyms import SynonymSet
    from s3clip.texts.wordnet import wordnet_synonyms

    pairs = [each.partition("=") for each in groups or ()]
    nouns = {level: [noun.strip() for noun in listed.split(",")] for level, _, listed in pairs}
    if len(nouns) < len(pairs) or not all(level and all(own) for level, own in nouns.items()):
        raise ValueError("--groups: expected levels, each once, such as kind=animal,plant,artifact")
    try:
        own, choices = wordnet_synonyms(SynonymSet.read(class_source(names)), domain=domain, groups=nouns)
    except (ImportError, LookupError) as error:
        raise OSError(str(error)) from error
    own.write(out)
    header = ["class_index", "class", "how", "sense", "definition"]
    rows = [[e.class_index, e.class_name, e.how, e.sense or None, e.definition or None] for e in choices]
    print_rows(header, rows, output)
    if output is Format.TABLE:
        found = sum(bool(each.sense) for each in choices)
        guessed = sum(each.how not in ("id", "domain", "not found") for each in choices)
        said = f"{found} of {counted(len(choices), 'class')} found in WordNet"
        say(f"{said}; {guessed} by the order of their senses")


@app.command(cls=Verb)
def clean(
    source: Classes,
    out: Out,
    removed: Annotated[Path | None, typer.Option(help="List of removals, to write for `restore`.")] = None,
    rule: Annotated[list[str] | None, typer.Option(help="Only this rule; may be given again.")] = None,
    script: Annotated[
        list[str] | None, typer.Option(help="Writing system wanted (latin); else those of the names.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Take out what language models leave: repetitions, shared and long names, hypernyms, chatter, markup."""
    from s3clip.texts.cleaning import REMOVING, clean_synonyms, write_removals

    keep_inputs([], {"--out": [out], "--removed": [removed]})
    own = _read(source, quiet=True)  # what it would warn of is listed
    cleaned, removals = clean_synonyms(own, rules=rule or REMOVING, scripts=script or ())
    if out.suffix.lower() != ".json":
        raise ValueError(f"--out: expected a name that ends in .json, got {str(out)!r}")
    if removed is not None:  # first: without the list, what is gone from the file is lost
        if removed.exists():
            raise FileExistsError(
                f"--removed: {removed} lists the removals of an earlier run; name another file"
            )
        write_removals(removed, removals)
    cleaned.write(out)
    header = ["rule", "class_index", "class", "field", "text", "instead", "message"]
    rows = [[e.rule, e.class_index, e.class_name, e.field, e.text, e.instead, e.message] for e in removals]
    if rows or output is not Format.TABLE:
        print_rows(header, rows, output)
    if output is Format.TABLE:
        counts = Counter(each.rule for each in removals)
        by_rule = ", ".join(f"{rule} {counts[rule]}" for rule in REMOVING if counts[rule])
        say(f"{counted(len(removals), 'text')} removed or mended" + (f": {by_rule}" if by_rule else ""))


@app.command(cls=Verb)
def restore(
    source: Classes,
    removed: Annotated[Path, typer.Option(help="List of removals, that `clean` wrote.")],
    out: Out,
    rule: Annotated[list[str] | None, typer.Option(help="Only this rule; may be given again.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="Only this text.")] = None,
) -> None:
    """Put back what `clean` removed: all of it, or the rules and texts that are named."""
    from s3clip.texts.cleaning import read_removals, restore_synonyms

    keep_inputs([removed], {"--out": [out]})
    removals = read_removals(removed)
    for option, wanted, known in (
        ("--rule", rule or [], {each.rule for each in removals}),
        ("--text", text or [], {each.text for each in removals}),
    ):
        if unknown := sorted(set(wanted) - known):
            raise ValueError(f"{option}: {removed} has no removal of {unknown[0]!r}")
    chosen = [e for e in removals if (not rule or e.rule in rule) and (not text or e.text in text)]
    restore_synonyms(_read(source, quiet=True), chosen).write(out)
    say(f"{len(chosen)} of {counted(len(removals), 'removal')} undone")


@app.command(cls=Verb)
def convert(
    source: Classes,
    out: Out,
    values: Values = "synonyms",
) -> None:
    """Write a CuPL, DCLIP, AWT, NeglectedTails, fc-clip, NACLIP or LVIS file in our own format."""
    own = _read(source, values)
    own.write(out)
    counts = ", ".join(f"{count} {kind}" for kind, count in own.counts().items())
    say(f"{counted(len(own.classes), 'class')}, {counts}")


def _read(source: str, values: str = "synonyms", *, quiet: bool = False) -> "SynonymSet":
    from s3clip import SynonymSet

    given = class_source(source)
    if given == source and not source.startswith((BUILTIN, HUB)) and not Path(source).suffix:
        given = BUILTIN + source  # which no set is called: the error names those that there are
    with warnings.catch_warnings():
        if quiet:
            warnings.simplefilter("ignore", UserWarning)
        return SynonymSet.read(given, values=cast(TextKind, values))


def _reference(
    builtin: str | None, names_of: str | None, dictionary: Path | None, backbone: str | None
) -> "Reference":
    """Gather what the options of `check` say to compare with."""
    from s3clip.files.text import read_text
    from s3clip.texts.check import builtin_reference

    reference = builtin_reference(builtin)
    if names_of is not None:
        reference = replace(reference, names=_read(BUILTIN + names_of.removeprefix(BUILTIN)).class_names)
    if dictionary is not None:
        listed = read_text(dictionary).split()
        reference = replace(reference, dictionary=frozenset(word.casefold() for word in listed))
    if backbone is not None:
        from s3clip import Backbone

        model = Backbone.from_pretrained(backbone)
        reference = replace(reference, count_tokens=model.count_tokens, most_tokens=model.text_length)
    return reference


def _print_findings(findings: "list[Finding]", excepted: "list[tuple[Finding, str]]", output: Format) -> None:
    header = ["severity", "rule", "class_index", "class", "text", "message"]
    listed = [(f, f.severity, f.message) for f in findings] + [(f, "stays", reason) for f, reason in excepted]
    rows = [[severity, f.rule, f.position, f.name, f.text, message] for f, severity, message in listed]
    if rows or output is not Format.TABLE:
        print_rows(header, rows, output)
    if output is Format.TABLE:
        counts = Counter(each.severity for each in findings)
        found = [(counts["error"], "error"), (counts["warning"], "warning"), (len(excepted), "exception")]
        say(", ".join(counted(count, noun) for count, noun in found))
