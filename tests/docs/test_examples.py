"""The examples in the docstrings of what is public run, and say what they print."""

import ast
import doctest
from importlib import import_module

import pytest

import s3clip
from s3clip import SynonymousSpaceHead
from s3clip.demo import held_out_digits, model_folder, synonym_file
from tests import ROOT

MODULES = [
    "s3clip." + ".".join(path.relative_to(ROOT / "s3clip").with_suffix("").parts)
    for path in sorted((ROOT / "s3clip").rglob("*.py"))
    if "    Examples:\n" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str):
    """With `head`, `images` and `labels` as docs/api.md makes them."""
    images, labels = held_out_digits()
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())
    module = import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner, ran = doctest.DocTestRunner(optionflags=flags), 0
    for test in doctest.DocTestFinder().find(
        module, extraglobs={"head": head, "images": images, "labels": list(labels)}
    ):
        ran += len(test.examples)
        runner.run(test)
    assert ran
    assert runner.failures == 0


def public() -> set[str]:
    """Every name in the `__all__` of the package and its rooms, read and not imported: some need extras."""
    found = set()
    for path in (ROOT / "s3clip").rglob("__init__.py"):
        module = ".".join(path.parent.relative_to(ROOT).parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                found |= {f"{module}.{name}" for name in ast.literal_eval(node.value)}
    return {name for name in found if not name.endswith(".__version__")}


@pytest.mark.parametrize("name", sorted(name for name in public() if name.count(".") == 1))
def test_what_is_public_has_an_example(name: str):
    said = getattr(s3clip, name.rpartition(".")[2]).__doc__
    assert name in WITHOUT or "Examples:" in said


WITHOUT = {"s3clip.Prediction", "s3clip.SynonymClass"}
"""What is made by others that have one."""
