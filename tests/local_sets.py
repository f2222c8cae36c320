"""A set of digits in shards of plain files, for the runner, and a command that evaluates it.

python -m tests.local_sets FOLDER OUT [LOG]     # also under torchrun; LOG counts what is written
"""

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from s3clip import Backbone, SynonymSet
from s3clip.demo import held_out_digits, model_folder, synonym_file
from s3clip.evaluation.benchmarks.sets import ClassificationSet
from s3clip.evaluation.runs import encoding
from s3clip.images.sources import Sample
from s3clip.texts.labels import NameIndex
from tests import ROOT

SHARDS, IMAGES = 5, 150
BROKEN = "2/broken.png"


@dataclass(frozen=True)
class Folder:
    """A shard: the files of a folder; what stands before the first dash of a name is the label."""

    path: Path

    @property
    def name(self):
        return self.path.name

    def samples(self, start=0):
        for file in sorted(self.path.iterdir())[start:]:
            yield Sample(f"{self.name}/{file.name}", file.name.partition("-")[0], file)


def write_digits(folder):
    """Write 150 digits in five shards, and one file that is no picture."""
    names = SynonymSet.read(synonym_file()).class_names
    pictures, labels = held_out_digits()
    for i in range(IMAGES):
        place = folder / str(i % SHARDS)
        place.mkdir(parents=True, exist_ok=True)
        pictures[i].save(place / f"{names[labels[i]]}-{i:03}.png")
    (folder / BROKEN).write_bytes(b"no picture")
    return folder


def digit_jpegs(which):
    """Return some of the held-out digits, by their positions, as the bytes of JPEG files."""
    pictures, contents = held_out_digits()[0], []
    for i in which:
        sink = io.BytesIO()
        pictures[i].convert("RGB").save(sink, "JPEG", quality=95)
        contents.append(sink.getvalue())
    return contents


def open_digits(folder, expected=IMAGES + 1, name="digits"):
    synonyms = SynonymSet.read(synonym_file())
    return ClassificationSet(
        name=name,
        split="test",
        convention="own",
        synonyms=synonyms,
        templates=("{}",),
        headline="top1",
        shards=tuple(Folder(path) for path in sorted(folder.iterdir())),
        expected_images=expected,
        lookup=NameIndex([(name, position) for position, name in enumerate(synonyms.class_names)]),
    )


ADD_IMAGES = encoding.add_images


def logged(log):
    """The writing of a batch; once it is done, the ids of its images are noted in a file."""

    def add_images(writer, ids, *made):
        ADD_IMAGES(writer, ids, *made)
        with Path(log).open("a") as file:
            file.write("".join(f"{each.hex()}\n" for each in ids))

    return add_images


def evaluate_one(which, out, **asked):
    """Evaluate a set in this process, which may be one of several, and write what was found."""
    from s3clip.evaluation.runs.processes import join_processes
    from s3clip.evaluation.runs.run import evaluate

    torch.set_num_threads(1)
    processes = join_processes("cpu")
    run = evaluate(
        [which],
        backbone=Backbone.from_pretrained(str(model_folder())),
        cache=Path(out) / "embeddings",
        processes=processes,
        bootstrap=50,
        batch_size=4,
        **asked,
    )
    if run is not None:
        run.save(out)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def launched(command, made):
    """Run a launcher; anew if a process was aborted, as gloo's threads at times do at its end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for _ in range(4):
        for path in made:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        ended = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180
        )
        if "SIGABRT" not in ended.stderr:
            break
    return ended


def results(out):
    """What a run wrote, but for what differs from run to run."""
    read = json.loads((out / "run.json").read_text())
    del read["measured"]
    return read


def main(folder, out, log=None):
    encoding.add_images = ADD_IMAGES if log is None else logged(log)
    evaluate_one(open_digits(Path(folder)), out, methods=["name", "default"])


if __name__ == "__main__":
    os.environ["S3CLIP_CACHE"] = ""
    main(*sys.argv[1:])
