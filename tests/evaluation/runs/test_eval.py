"""The runner of benchmarks: what is on disk, one process and two, kills, and scores against scikit-learn."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score

from s3clip import Backbone
from s3clip.demo import model_folder
from s3clip.evaluation import compare, compare_embeddings
from s3clip.evaluation.runs.cache import Cache, content_id
from s3clip.evaluation.runs.embeddings import ImageJob, StoredRows, stored_rows
from s3clip.evaluation.runs.encoding import encode, images_of
from s3clip.evaluation.runs.run import evaluate
from s3clip.evaluation.runs.store import Store
from s3clip.texts.labels import NameIndex
from tests import local_sets
from tests.local_sets import BROKEN, IMAGES, TORCHRUN, launched, open_digits, results, write_digits

FEW = {"methods": ["name", "default"], "bootstrap": 20, "batch_size": 4}


@pytest.fixture(scope="module")
def backbone():
    return Backbone.from_pretrained(str(model_folder()))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """The results of one process that ran through."""
    out = tmp_path_factory.mktemp("whole")
    local_sets.main(digits, out)
    return results(out)


# ---- what is on disk ------------------------------------------------------------------------------------


def written(folder, entries=3, size=80):
    """A log of some entries, each with bytes."""
    store, draw = Store(folder), random.Random(0)
    made = [({"number": i, "name": f"{i}/\udcff"}, draw.randbytes(size)) for i in range(entries)]
    with store.writer("log") as writer:
        for content, data in made:
            writer.append(content, data)
    return folder / "log.jsonl", folder / "log.bin", made


def entries_of(folder):
    found = []
    for entry in Store(folder).new_entries():
        assert entry.content.pop("bytes") == entry.size
        del entry.content["crc32"]
        found.append((entry.content, entry.read()))
    return found


def test_a_log_cut_off_anywhere_reads_as_whole_entries(tmp_path):
    lines, data, made = written(tmp_path)
    assert entries_of(tmp_path) == made
    for path in (lines, data):
        content = path.read_bytes()
        for length in range(0, len(content), 7):
            path.write_bytes(content[:length])
            whole = length // 80 if path == data else content[:length].count(b"\n")
            assert entries_of(tmp_path) == made[:whole]
        path.write_bytes(content)


@given(place=st.integers(0, 10**4), flipped=st.integers(1, 255), in_lines=st.booleans())
def test_a_flipped_byte_ends_what_is_there(tmp_path_factory, place, flipped, in_lines):
    lines, data, made = written(tmp_path_factory.mktemp("log"))
    path = lines if in_lines else data
    content = bytearray(path.read_bytes())
    place %= len(content)
    content[place] ^= flipped
    path.write_bytes(content)
    # A line that is split in two, or joined to the next, ends it too.
    whole = lines.read_bytes()[:place].count(b"\n") if in_lines else place // 80
    assert entries_of(lines.parent) == made[:whole]


def test_rows_of_zeros_after_a_power_cut_are_not_taken_for_embeddings(tmp_path):
    _, data, made = written(tmp_path)
    content = bytearray(data.read_bytes())
    content[80:160] = bytes(80)
    data.write_bytes(content)
    assert entries_of(tmp_path) == made[:1]


@pytest.mark.parametrize(
    "line", [b"5", b"[]", b"{}", b'{"ids":5}', b'{"a":1,"bytes":0,"crc32":1}', b"\xff", b""]
)
def test_a_line_that_is_something_else_ends_what_is_there(tmp_path, line):
    path, _, made = written(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + line + b"\n" + lines[2])
    assert entries_of(tmp_path) == made[:1]


def test_writing_goes_on_after_what_is_whole_and_readers_go_on_with_it(tmp_path):
    path, _, made = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    store = Store(tmp_path)
    assert len(list(store.new_entries())) == 2
    with store.writer("log") as writer, Store(tmp_path).writer("other") as other:
        writer.append({"number": 7}, b"new")
        other.append({"number": 8})
    assert [entry.read() for entry in store.new_entries()] == [b"new", b""]
    assert not list(store.new_entries())
    assert entries_of(tmp_path) == [*made[:2], ({"number": 7}, b"new"), ({"number": 8}, b"")]


def test_two_processes_do_not_write_one_log(tmp_path):
    *_, made = written(tmp_path)
    with (
        Store(tmp_path).writer("log"),
        pytest.raises(ValueError, match="another process is writing"),
        Store(tmp_path).writer("log"),
    ):
        pass
    assert entries_of(tmp_path) == made  # and the one that came second took nothing away


def test_rows_of_several_files_are_read_as_of_one(tmp_path):
    draw = np.random.default_rng(0)
    files, whole = [], []
    for number, count in enumerate((3, 0, 5, 4)):
        rows = draw.normal(size=(count + 2, 6)).astype("<f4")  # two more than are taken
        (tmp_path / f"{number}.bin").write_bytes(rows.tobytes())
        files.append((tmp_path / f"{number}.bin", count))
        whole.append(torch.from_numpy(rows[:count]))
    stored, expected = StoredRows.of(files, 6), torch.cat(whole)
    chosen = torch.tensor([0, 2, 3, 7, 8, 11])
    for size in (1, 4, 100):
        for ours, theirs in ((stored, expected), (stored[chosen], expected[chosen])):
            assert len(ours) == len(theirs)
            for found, plain in zip(ours.split(size), theirs.split(size), strict=True):
                assert torch.equal(found, plain)


# ---- encoding -------------------------------------------------------------------------------------------


def encoded(opened, backbone, folder, **asked):
    """Encode a set, and return how many images were, what became of all, and the embeddings."""
    cache = Cache(folder)
    done = encode(ImageJob(opened, backbone), cache, **asked)
    cache.refresh()
    images = images_of([done])
    return done.images, [record for record, _ in images], stored_rows(cache, images, backbone.dim)


def test_embeddings_are_those_of_the_model(backbone, digits, tmp_path):
    opened = open_digits(digits)
    images, found, rows = encoded(opened, backbone, tmp_path, batch_size=7)
    assert images == len(rows) == IMAGES
    assert [r.key for r in found if r.error] == [BROKEN]
    assert [r.key for r in found] == [s.key for shard in opened.shards for s in shard.samples()]
    pictures = [s.open() for shard in opened.shards for s in shard.samples() if s.key != BROKEN]
    with torch.no_grad():
        expected = backbone.encode_images(**backbone.preprocess(pictures))
    torch.testing.assert_close(torch.cat(list(rows.split(64))), expected, atol=1e-5, rtol=0)
    again, as_before, same = encoded(opened, backbone, tmp_path, batch_size=7)
    assert (again, as_before) == (0, found)
    assert torch.equal(torch.cat(list(same.split(64))), torch.cat(list(rows.split(64))))


def test_what_changed_is_encoded_again(backbone, digits, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(digits, copy)
    opened, cache = open_digits(copy), tmp_path / "cache"

    def images():
        return encoded(opened, backbone, cache, batch_size=4)[0]

    assert images() == IMAGES
    files = sorted((copy / "3").iterdir())
    new = Image.effect_noise((8, 8), 60)
    new.save(copy / "2" / "broken.png")
    assert images() == 1
    shutil.copyfile(copy / "2" / "broken.png", copy / "3" / "zzz-1.png")  # the same under another name
    files[-1].rename(copy / "3" / "zzz-2.png")
    later = time.time() + 5
    os.utime(files[5], (later, later))
    assert images() == 0
    new.rotate(90).save(files[5])
    os.utime(files[5], (0, 0))
    assert images() == 1
    assert images() == 0
    _, found, rows = encoded(opened, backbone, cache)
    assert len(found) == len(rows) == IMAGES + 2


def test_what_a_machine_that_shares_no_cache_encoded_is_named(backbone, digits, tmp_path):
    opened = open_digits(digits)
    job, here = ImageJob(opened, backbone), Cache(tmp_path / "here")
    first = encode(job, here, process=0, processes=2)
    other = encode(job, Cache(tmp_path / "there"), process=1, processes=2)
    assert first.images + other.images == IMAGES
    here.refresh()
    missing = other.seen[1][0].record.key
    with pytest.raises(FileNotFoundError, match=f"what was made of {missing} is not here"):
        stored_rows(here, images_of([first, other]), backbone.dim)


def test_the_key_of_a_model_tells_weights_and_preprocessing_apart(backbone):
    key = backbone.image_key()
    other = Backbone.from_pretrained(str(model_folder()))
    assert other.image_key() == key
    with torch.no_grad():
        other.model.text_projection.weight.add_(1e-6)
        other.model.logit_scale.add_(1e-6)
    assert other.image_key() == key
    with torch.no_grad():
        next(other.model.vision_model.parameters()).add_(1e-6)
    assert other.image_key() != key
    third = Backbone.from_pretrained(str(model_folder()))
    third.image_processor.image_mean = [0.1, 0.2, 0.3]
    assert third.image_key() != key
    assert Backbone.from_pretrained(str(model_folder()), dtype=torch.float16).image_key() != key


# ---- scores ---------------------------------------------------------------------------------------------


def test_scores_are_those_of_scikit_learn():
    draw = torch.Generator().manual_seed(0)
    classes, images, dim = 9, 400, 16
    texts = [torch.randn(1, dim, generator=draw) for _ in range(classes)]
    embeds = torch.randn(images, dim, generator=draw)
    labels = torch.randint(classes - 2, (images,), generator=draw)  # two classes have no image
    found = compare_embeddings(
        texts,
        [str(i) for i in range(classes)],
        embeds,
        labels,
        logit_scale=5.0,
        methods=["name"],
        bootstrap=5,
    )
    unit = torch.nn.functional.normalize
    logits = (unit(embeds, dim=1) @ unit(torch.cat(texts), dim=1).T).numpy()
    assert np.array_equal(found.predicted["name"].numpy(), logits.argmax(1))
    assert found["name"].top1 == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    top5 = top_k_accuracy_score(labels, logits, k=5, labels=np.arange(classes))
    assert found["name"].top5 == pytest.approx(top5)
    with warnings.catch_warnings():  # that classes are predicted which have no image
        warnings.simplefilter("ignore")
        recall = balanced_accuracy_score(labels, logits.argmax(1))
    assert found["name"].recall == pytest.approx(recall)


def test_equal_logits_go_to_the_class_that_comes_first():
    texts = [torch.ones(1, 4)] * 7
    found = compare_embeddings(
        texts, list("abcdefg"), torch.ones(7, 4), range(7), logit_scale=1.0, methods=["name"], bootstrap=5
    )
    assert found["name"].top1 == pytest.approx(1 / 7)
    assert found["name"].top5 == pytest.approx(5 / 7)


def test_counts_and_warnings(backbone, digits, tmp_path):
    cache = tmp_path / "cache"
    run = evaluate([open_digits(digits, expected=200)], backbone=backbone, cache=cache, **FEW)
    only = run.to_dict()["benchmarks"][0]
    assert only["counts"] == {
        "scored": 150, "of": 200, "found": 151, "expected": 200, "broken": 1, "left_out": 0
    }  # fmt: skip
    assert any("151 images found where the table says 200" in warning for warning in only["warnings"])
    assert only["broken"][0]["key"] == BROKEN
    assert "150 of 200" in run.markdown()
    right = {score["name"]: score["acc1"] for score in only["scores"]}
    assert set(right) == {"name", "default", "center"}

    with pytest.raises(ValueError, match="expected one or more, each once, got digits, digits"):
        evaluate([open_digits(digits)] * 2, backbone=backbone, cache=cache, **FEW)


def test_images_of_no_class_are_left_out_counted_and_named(backbone, digits, tmp_path):
    opened = open_digits(digits, expected=None)
    known = [(name, i) for i, name in enumerate(opened.class_names) if name not in ("zero", "seven")]
    run = evaluate([replace(opened, lookup=NameIndex(known))], backbone=backbone, cache=tmp_path, **FEW)
    gone = {name: sum(name in path.name for path in digits.rglob("*.png")) for name in ("zero", "seven")}
    only = run.to_dict()["benchmarks"][0]
    left_out = sum(gone.values())
    assert only["counts"] == {
        "scored": 150 - left_out, "of": 151, "found": 151, "expected": None, "broken": 1, "left_out": left_out
    }  # fmt: skip
    assert dict(only["left_out_labels"]) == gone
    assert (
        f"left out: {left_out} images with a label that is none of the classes, of 2 kinds: "
        in only["warnings"][1]
    )
    assert f"{150 - left_out} of 151 images" in run.markdown()
    assert f"{left_out} images of no class left out" in run.markdown()
    # The scores are those of the others alone.
    images, records, rows = encoded(opened, backbone, next(tmp_path.glob("*/embeddings-*")))
    assert not images
    labels = [opened.class_names.index(r.label) for r in records if not r.error]
    kept = [i for i, label in enumerate(labels) if opened.class_names[label] not in gone]
    alone = compare(
        opened.synonyms,
        [labels[i] for i in kept],
        backbone=backbone,
        image_embeds=torch.cat(list(rows.split(64)))[kept],
        templates="{}",
        methods=["name", "default"],
        bootstrap=20,
    )
    for score in only["scores"]:
        assert score["acc1"] == alone[score["name"]].top1
        assert score["differences"]["recall"]["low"] == alone[score["name"]].recall_difference.low
    with pytest.raises(
        ValueError, match=r"no image to score: 151 found, 1 cannot be read.*their labels: eight; "
    ):
        evaluate([replace(opened, lookup=NameIndex())], backbone=backbone, cache=tmp_path, **FEW)


def test_worst_classes_are_counted(backbone, digits, tmp_path):
    run = evaluate(
        [open_digits(digits)], backbone=backbone, cache=tmp_path / "c", methods=["nearest"], bootstrap=5
    )
    worst = run.to_dict()["benchmarks"][0]["worst_classes"]
    assert worst["method"] == "center"
    wrong = [each for each in worst["classes"] if each["recall"] < 1]
    for each in wrong:
        mistakes = sum(count for _, count in each["taken_for"])
        assert mistakes == round((1 - each["recall"]) * each["images"])
        for example in each["examples"]:
            assert run.thumbnails[example["thumbnail"]][:2] == b"\xff\xd8"
    recalls = [each["recall"] for each in wrong]
    assert recalls
    assert recalls == sorted(recalls)


# ---- several processes, and kills -----------------------------------------------------------------------


def test_two_processes_give_the_results_of_one(whole, digits, tmp_path):
    pytest.importorskip("accelerate")
    log = tmp_path / "log"
    command = [*TORCHRUN, "-m", "tests.local_sets", str(digits), str(tmp_path / "out"), str(log)]
    ended = launched(command, [tmp_path / "out", log])
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert results(tmp_path / "out") == whole
    counted = Counter(log.read_text().splitlines())
    assert len(counted) == IMAGES
    assert set(counted.values()) == {1}
    assert json.loads((tmp_path / "out" / "run.json").read_text())["measured"]["processes"] == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("seed", range(6))
def test_a_killed_run_goes_on_and_encodes_each_image_once(seed, whole, digits, tmp_path):
    draw = random.Random(seed)
    out, logs = tmp_path / "out", [tmp_path / "first", tmp_path / "second"]
    running = multiprocessing.get_context("fork").Process(target=local_sets.main, args=(digits, out, logs[0]))
    running.start()
    at_least = draw.randrange(1, 120)  # images written when the signal is sent
    while running.is_alive() and not (logs[0].exists() and logs[0].read_text().count("\n") >= at_least):
        time.sleep(0.0005)
    time.sleep(draw.random() * 0.002)
    os.kill(running.pid, signal.SIGKILL)
    running.join()
    assert not (out / "run.json").exists()

    folders = {path.parent for path in out.rglob("*.jsonl")}
    entries = [entry for folder in folders for entry in Store(folder).new_entries()]
    on_disk = [each for entry in entries for each in entry.content.get("ids", [])]
    assert set(logs[0].read_text().splitlines()) <= set(on_disk)  # what was said to be written is there
    local_sets.main(digits, out, logs[1])
    assert results(out) == whole
    every = [content_id([path.read_bytes()]).hex() for path in digits.rglob("*-*.png")]
    # What was in flight at the kill was not on disk: the tower saw it twice, but it is kept once.
    assert sorted(on_disk + logs[1].read_text().splitlines()) == sorted(every)
    assert 0 < len(on_disk) < len(every)
