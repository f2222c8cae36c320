"""Who may import whom, read from the sources."""

import ast
from pathlib import Path

import pytest

import s3clip

PACKAGE = Path(s3clip.__file__).parent

# Mathematics: tensors in, tensors out. `config` checks settings with pydantic on top.
PURE = {
    "rips",
    "space",
    "metrics",
    "local_points",
    "prompts",
    "prefix_tree",
    "options",
    "folding",
    "kernels",
    "config",
    "evaluation.scores",
    "segmentation.windows",
    "segmentation.scores",
    "segmentation.rle",
}
THIRD_PARTY = {"torch", "numpy"}  # numpy: its sort, see s3clip/space/metrics.py
OF_ONE = {"config": {"pydantic"}, "kernels": {"triton"}}  # imported by that module alone
STANDARD = {
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "itertools",
    "math",
    "re",
    "typing",
    "unicodedata",
}


def modules():
    """Every module of the package by its name below `s3clip`, "" for the package itself."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


def imported(path, root=PACKAGE):
    """The full names that a module imports anywhere: at its top, in functions, relatively."""
    package = ["s3clip", *path.relative_to(root).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def own_module(name):
    """The module of this package that an imported name lies in, below `s3clip`; None for other packages."""
    parts = name.split(".")
    if parts[0] != "s3clip":
        return None
    below = parts[1:]
    while below and ".".join(below) not in MODULES:
        below.pop()
    return ".".join(below)


def test_imports_are_read_wherever_they_stand(tmp_path):
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "scores.py").write_text(
        "import os.path\nfrom . import report\nfrom ..head import SynonymousSpaceHead as Head\n"
        "def late():\n    from transformers import AutoModel\n"
    )
    assert set(imported(folder / "scores.py", tmp_path)) == {
        "os.path",
        "s3clip.evaluation.report.comparison",
        "s3clip.head.SynonymousSpaceHead",
        "transformers.AutoModel",
    }
    assert own_module("s3clip.head.SynonymousSpaceHead") == "head"
    assert own_module("torch.nn") is None


@pytest.mark.parametrize("name", sorted(PURE & MODULES.keys()))
def test_pure_modules_import_torch_and_each_other_only(name):
    allowed = STANDARD | THIRD_PARTY | OF_ONE.get(name, set())
    for target in imported(MODULES[name]):
        own = own_module(target)
        if own is None:
            assert target.split(".")[0] in allowed, f"{name} imports {target}"
        else:
            assert own in PURE, f"{name} imports {target}"


@pytest.mark.parametrize("name", sorted(PURE & MODULES.keys()))
def test_pure_modules_open_no_file_print_nothing_and_draw_nothing(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    called = {
        node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name | ast.Attribute)
        and not ast.unparse(node.func).startswith("tl.")  # Triton's, which loads from tensors
    }
    random = {"rand", "randn", "randint", "randperm", "rand_like", "randn_like", "manual_seed", "multinomial"}
    assert not called & ({"open", "print", "save", "load", "cuda"} | random)


def test_the_pure_modules_are_there():
    assert PURE - {"evaluation.scores"} <= MODULES.keys()


# The benchmark compares with transformers' own ways.
TRANSFORMERS = {"backbone", "pipeline", "evaluation.speed.models", "evaluation.speed.cold_start"}


def test_only_the_backbone_and_the_pipeline_know_transformers():
    users = {
        name
        for name, path in MODULES.items()
        if any(target.split(".")[0] == "transformers" for target in imported(path))
    }
    assert "backbone" in users
    assert users <= TRANSFORMERS


def test_nothing_in_the_core_imports_the_evaluation():
    # The command line is the outermost layer: it may.
    for name, path in MODULES.items():
        if name.split(".")[0] not in ("cli", "evaluation"):
            found = [target for target in imported(path) if target.startswith("s3clip.evaluation")]
            assert not found, f"{name or 's3clip'} imports {found}"


def test_the_command_line_is_imported_by_nothing():
    for name, path in MODULES.items():
        if name.split(".")[0] != "cli":
            assert all((own_module(target) or "").split(".")[0] != "cli" for target in imported(path)), name
