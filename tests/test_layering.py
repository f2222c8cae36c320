"""The rooms of the package: which may import which, read from the sources, wherever an import stands."""

import ast
from pathlib import Path

import pytest

import s3clip

PACKAGE = Path(s3clip.__file__).parent

# A room imports those of earlier rows alone: not those beside it, not those below.
ROWS = (
    {"_version", "arguments"},
    {"files", "html_page", "printing"},
    {"texts", "space"},
    {"config"},
    {"images"},
    {"backbone"},
    {"class_space"},
    {"artifact", "prediction", "segmentation"},
    {"head"},
    {"integrations", "inspection", "bulk", "serve", "evaluation", "bench"},
    {"demo"},
    {"app"},
    {"cli", "__main__"},
)
BESIDE = {
    ("bench", "integrations"),  # times the pipeline
    ("bench", "bulk"),  # times label
    ("bench", "inspection"),  # times inspect
    ("__main__", "cli"),  # is the command
}
LARGEST_MODULE, LARGEST_TOP = 450, 8

# Mathematics: tensors in, tensors out. `config` checks settings with pydantic on top.
PURE = {
    *("arguments", "config", "files.problems", "space", "texts.prompts", "texts.templates", "texts.wording"),
    "texts.labels",
    *("backbone.prefix_tree", "images.augmix", "evaluation.scores"),
    *("segmentation.windows", "segmentation.scores", "segmentation.rle"),
}
THIRD_PARTY = {"torch", "numpy"}  # numpy: its sort, see s3clip/space/metrics.py
OF_ONE = {
    "config": {"pydantic"},
    "files.problems": {"pydantic", "pydantic_core"},
    "space.kernels": {"triton"},
}  # imported by that module alone
STANDARD = {
    *(
        "collections",
        "contextlib",
        "difflib",
        "dataclasses",
        "enum",
        "functools",
        "heapq",
        "html",
        "itertools",
        "math",
        "numbers",
        "operator",
        "re",
        "reprlib",
    ),
    *("typing", "unicodedata"),
}
# What knows the libraries of models: the room of the backbone, and what is measured against transformers.
TRANSFORMERS = ("backbone.", "integrations.pipeline", "integrations.auto_classes", "bench.")


def modules():
    """Every module of the package by its name below `s3clip`, "" for the package itself."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


def imported(path, root=PACKAGE):
    """The full names that a module imports anywhere: at its top, in functions, for types, relatively."""
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


def own_imports(name):
    """The modules of this package that a module imports, itself left out."""
    return {own for target in imported(MODULES[name]) if (own := own_module(target)) is not None} - {name}


def room(name):
    return name.split(".")[0]


def row(name):
    return next(i for i, rooms in enumerate(ROWS) if room(name) in rooms)


def is_pure(name):
    return name in PURE or any(name.startswith(f"{each}.") for each in PURE)


def test_imports_are_read_wherever_they_stand(tmp_path):
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "scores.py").write_text(
        "import os.path\nfrom . import report\nfrom ..head import SynonymousSpaceHead as Head\n"
        "def late():\n    from transformers import AutoModel\n"
    )
    assert set(imported(folder / "scores.py", tmp_path)) == {
        "os.path",
        "s3clip.evaluation.report",
        "s3clip.head.SynonymousSpaceHead",
        "transformers.AutoModel",
    }
    assert own_module("s3clip.head.SynonymousSpaceHead") == "head"
    assert own_module("torch.nn") is None


def test_every_module_stands_in_a_room():
    assert {room(name) for name in MODULES} - {""} == set().union(*ROWS)


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {""}))
def test_rooms_import_earlier_rooms_alone(name):
    for target in own_imports(name):
        # The package's own names come from every room: who stands above them all may take them from there.
        allowed = row(name) == len(ROWS) - 1 if target == "" else row(target) < row(name)
        beside = (room(name), room(target)) in BESIDE
        assert allowed or beside or room(target) == room(name), f"{name} imports {target or 's3clip'}"


def test_no_modules_import_each_other_in_a_circle():
    below = {name: own_imports(name) for name in MODULES if name}
    while below:  # take out what imports nothing that is left
        done = {name for name, targets in below.items() if not targets & below.keys()}
        assert done, f"in circles: {sorted(below)}"
        below = {name: targets for name, targets in below.items() if name not in done}


def test_nobody_but_the_package_reads_its_table_of_names():
    # `from s3clip import x` inside a room would run through every other room.
    users = {name for name in MODULES if name and "" in own_imports(name)}
    assert {room(name) for name in users} <= {"cli"}


def test_modules_hold_one_job():
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert not {name: count for name, count in lines.items() if count > LARGEST_MODULE}
    assert len(list(PACKAGE.glob("*.py"))) <= LARGEST_TOP


@pytest.mark.parametrize("name", sorted(filter(is_pure, MODULES)))
def test_pure_modules_import_torch_and_each_other_only(name):
    allowed = STANDARD | THIRD_PARTY | OF_ONE.get(name, set())
    for target in imported(MODULES[name]):
        own = own_module(target)
        if own is None:
            assert target.split(".")[0] in allowed, f"{name} imports {target}"
        else:
            assert is_pure(own), f"{name} imports {target}"


@pytest.mark.parametrize("name", sorted(filter(is_pure, MODULES)))
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
    given = {"rand"} if name == "images.augmix" else set()  # with a generator that it is given
    assert not called & ({"open", "print", "save", "load", "cuda"} | random) - given


def test_only_the_room_of_the_backbone_knows_transformers():
    for name, path in MODULES.items():
        if any(target.split(".")[0] == "transformers" for target in imported(path)):
            assert name.startswith(TRANSFORMERS), f"{name} imports transformers"
