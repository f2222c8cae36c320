"""What CI asks of a wheel: that it holds every file of the package, and that what is promised is there.

python try_wheel.py files s3clip a.whl b.whl     # the folder of the package, and wheels
python try_wheel.py names                        # in an environment that the wheel is installed in
"""

import subprocess
import sys
import tempfile
import zipfile
from importlib import import_module
from pathlib import Path

# Promised beside `s3clip.__all__`.
PROMISED = {
    "s3clip.bulk": ("label",),
    "s3clip.demo": ("model_folder",),
    "s3clip.evaluation": ("compare",),
    "s3clip.space": ("METRICS", "SCALE_RULES", "chordal_distances", "death_times"),
    "s3clip.texts": ("TEMPLATES", "SynonymSet"),
}


def files(package: Path, wheels: list[Path]) -> None:
    """Check that each wheel holds the files of the package, all of them and no others."""
    wanted = {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    for wheel in wheels:
        held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith(f"{package.name}/")}
        if held != wanted:
            sys.exit(f"{wheel}: missing {sorted(wanted - held)}, too much {sorted(held - wanted)}")
    data = sum(not name.endswith(".py") for name in wanted)
    print(f"{len(wheels)} wheels hold the {len(wanted)} files of the package, {data} of them data")


def names() -> None:
    """Check that what is installed has every promised name, and finds its data files."""
    s3clip = import_module("s3clip")
    if "site-packages" not in Path(s3clip.__file__).parts:
        sys.exit(f"s3clip was found at {s3clip.__file__}, not where a wheel is installed")
    for module, promised in {"s3clip": s3clip.__all__, **PROMISED}.items():
        for name in promised:
            getattr(import_module(module), name)
    demo = import_module("s3clip.demo")
    table = import_module("s3clip.evaluation.benchmarks.table").benchmarks()
    sets = import_module("s3clip.texts.sets").SETS
    for name in sets:
        s3clip.SynonymSet.builtin(name)
    head = s3clip.SynonymousSpaceHead.from_backbone(demo.model_folder()).fit_classes(demo.synonym_file())
    card = import_module("s3clip.artifact.card").model_card(head.class_space, "user/digits")
    with tempfile.TemporaryDirectory() as folder:
        saved, page = head.save_pretrained(Path(folder) / "space"), Path(folder) / "page.html"
        command = [Path(sys.executable).with_name("s3clip"), "inspect", saved, "--page", page]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        size = page.stat().st_size
    print(
        f"every promised name is there; {len(sets)} synonym sets and {len(table)} benchmarks are read, "
        f"a model card of {len(str(card))} characters and a page of {size} bytes written"
    )


if __name__ == "__main__":
    if sys.argv[1] == "files":
        files(Path(sys.argv[2]), [Path(each) for each in sys.argv[3:]])
    else:
        names()
