"""The prompts whose encoding is timed: of s3clip's own synonym sets, or of published lists."""

from pathlib import Path
from typing import Any

from s3clip.files.json import read_json
from s3clip.texts.prompts import join_descriptor, render
from s3clip.texts.synonyms import SynonymSet
from s3clip.texts.templates import TEMPLATES

_DESCRIPTORS = 20
_SYNONYMS = 5


def imagenet_prompts(lists: Path | None, classes: int) -> list[str]:
    """Return the prompts of the first names of ImageNet in 7 templates.

    Args:
        lists: Folder with `clip_benchmark/en_classnames.json`; None takes the names of `builtin:imagenet1k`.
        classes: How many names.
    """
    if lists is None:
        names = SynonymSet.builtin("imagenet1k").class_names
    else:
        names = _read(lists, "clip_benchmark/en_classnames.json")["imagenet1k"]
    return [render(template, name) for name in names[:classes] for template in TEMPLATES["openai_imagenet_7"]]


def food_prompts(lists: Path | None, classes: int) -> list[str]:
    """Return prompts of the first classes of Food-101: 5 synonyms, each joined with up to 20 descriptions.

    Classes with fewer synonyms get made-up ones.

    Args:
        lists: Folder with the synonyms of `neglected_tails/food101-LAION400M.json` and the sentences of
            `awt/food101.json`; None takes `builtin:food101`, whose descriptors are few and short.
        classes: How many classes.
    """
    if lists is None:
        own = [
            (each.name, list(each.synonyms), list(each.descriptors))
            for each in SynonymSet.builtin("food101").classes
        ]
    else:
        listed = _read(lists, "neglected_tails/food101-LAION400M.json")
        sentences = _read(lists, "awt/food101.json")
        own = [
            (each["name"], list(each["alternates"]), sentences[each["name"].replace(" ", "_")])
            for each in listed.values()
        ]
    prompts = []
    for name, synonyms, descriptors in own[:classes]:
        made_up = [f"plate of {name}", f"homemade {name}", f"traditional {name} dish", f"serving of {name}"]
        names = list(dict.fromkeys([name, *synonyms, *made_up]))[:_SYNONYMS]
        own_sentences = [text.strip() for text in descriptors if text.strip(" .")][:_DESCRIPTORS]
        prompts += [join_descriptor(f"a photo of a {n}.", text) for n in names for text in own_sentences]
    return prompts


def _read(lists: Path, name: str) -> Any:
    try:
        return read_json(lists / name)
    except OSError as error:
        raise FileNotFoundError(
            f"--lists: expected a folder with {name}, and {lists / name} cannot be read: {error.strerror}; "
            f"leave it out for the texts of s3clip"
        ) from error


def label_names(count: int) -> list[str]:
    """Return made-up names of things, all different, 1,000 at most."""
    colours = "red blue green black white brown grey yellow purple golden".split()
    stuffs = "wooden plastic metal glass paper leather cotton stone rubber woollen".split()
    things = "chair boat house shoe bottle lamp clock bridge drum kettle".split()
    names = [f"{colour} {stuff} {thing}" for colour in colours for stuff in stuffs for thing in things]
    return names[:count]
