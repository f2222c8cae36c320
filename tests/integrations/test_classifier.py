"""The matrix of open_clip's function, against a plain loop."""

import pytest
import torch
from torch.nn import functional

from s3clip import HeadConfig, SynonymousSpaceHead, SynonymSet, build_zero_shot_classifier
from tests.backbone.test_backbone import OpenClip, letters
from tests.tiny_models import build

NAMES = ["ox", "cat", "big dog", "bee"]
TEMPLATES = [lambda name: f"a bad {name}.", lambda name: f"the {name}"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return OpenClip().eval()


def plain(model, names):
    """What open_clip computes, class by class."""
    columns = []
    for name in names:
        rows = functional.normalize(model.encode_text(letters([each(name) for each in TEMPLATES])), dim=-1)
        columns.append(functional.normalize(rows.mean(0), dim=0))
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("at_once", [1, 10, None])
def test_names_alone_give_what_open_clip_gives(model, at_once):
    found = build_zero_shot_classifier(model, letters, NAMES, TEMPLATES, at_once)
    torch.testing.assert_close(found, plain(model, NAMES).detach())
    same = build_zero_shot_classifier(model, letters, NAMES, ["a bad {}.", "the {c}"])
    torch.testing.assert_close(same, found)


def test_functions_are_called_with_every_name(model):
    """As in open_clip: what a function does to a name (its case, its article) is seen."""
    functions = [lambda name: f"a {name.upper()[::-1]}.", "a bad {}."]
    found = build_zero_shot_classifier(model, letters, NAMES, functions)
    rows = []
    for name in NAMES:
        prompts = [functions[0](name), f"a bad {name}."]
        units = functional.normalize(model.encode_text(letters(prompts)), dim=-1)
        rows.append(functional.normalize(units.mean(0), dim=-1))
    torch.testing.assert_close(found, torch.stack(rows, 1).detach())


def test_synonyms_give_the_center_of_the_space():
    model, processor = build("clip")
    classes = {"ox": ["bull", "steer"], "cat": ["feline", "tabby", "tom"], "bee": []}
    found = build_zero_shot_classifier(model, processor.tokenizer, classes, "a {}")
    head = SynonymousSpaceHead(model, processor, config=HeadConfig(metric="center"))
    head.fit_classes(classes, templates="a {}")
    features = functional.normalize(torch.randn(5, found.shape[0]), dim=1)
    torch.testing.assert_close(
        head.logit_scale.detach() * features @ found, head(image_embeds=features).detach()
    )
    again = build_zero_shot_classifier(model, processor.tokenizer, SynonymSet.read(classes), ["a {}"])
    assert torch.equal(again, found)


@pytest.mark.parametrize(
    ("classnames", "templates", "said"),
    [([], TEMPLATES, "classes"), (NAMES, [], "template"), (NAMES, [lambda name: "thing"], "the same text")],
)
def test_what_is_refused(model, classnames, templates, said):
    with pytest.raises(ValueError, match=said):
        build_zero_shot_classifier(model, letters, classnames, templates)
