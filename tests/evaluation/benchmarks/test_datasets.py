"""Every layout of the benchmarks, written small by the tests as it lies on disk, and opened."""

import csv
import json
import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from s3clip import SynonymSet
from s3clip.evaluation.benchmarks.classes import position_of
from s3clip.evaluation.benchmarks.opening import open_benchmark
from s3clip.evaluation.benchmarks.sets import ClassificationSet
from s3clip.evaluation.benchmarks.table import benchmarks, find_benchmark
from s3clip.evaluation.inputs import labelled_images
from s3clip.images.opening import BrokenImageError
from s3clip.images.sources import read
from s3clip.texts.sets import SUBSETS
from tests.hub_server import Repository
from tests.images.test_sources import png, samples_of, shade, write_parquet, write_tar

WORDNET_IDS = [each.id for each in SynonymSet.builtin("imagenet1k").classes]


def opened(name: str, root: Path | str, convention: str | None = None, **options) -> ClassificationSet:
    row = find_benchmark(name)
    found = open_benchmark(row, root, convention=convention, **options)
    assert (found.name, found.convention) == (row.name, row.convention(convention)[0])
    assert pickle.loads(pickle.dumps(found)).class_names == found.class_names
    return found


def pictures(found: ClassificationSet) -> list[tuple[str, int, int]]:
    """(key, class, shade) of all pictures, each opened."""
    samples = [sample for shard in found.shards for sample in shard.samples()]
    assert len({sample.key for sample in samples}) == len(samples)
    return [(sample.key, found.label_of(sample), shade(sample.open())) for sample in samples]


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


# CoOp


COOP_LAYOUTS = {  # from CoOp's DATASETS.md and its classes of data sets: split file, pictures, one of them
    "oxford_pets": ("oxford_pets/split_zhou_OxfordPets.json", "images", "Abyssinian_1.jpg"),
    "caltech101": ("caltech-101/split_zhou_Caltech101.json", "101_ObjectCategories", "ant/image_0001.jpg"),
    "stanford_cars": ("stanford_cars/split_zhou_StanfordCars.json", ".", "cars_test/00001.jpg"),
    "flowers102": ("oxford_flowers/split_zhou_OxfordFlowers.json", "jpg", "image_00001.jpg"),
    "food101": ("food-101/split_zhou_Food101.json", "images", "apple_pie/1005649.jpg"),
    "sun397": ("sun397/split_zhou_SUN397.json", "SUN397", "a/abbey/sun_aaa.jpg"),
    "dtd": ("dtd/split_zhou_DescribableTextures.json", "images", "banded/banded_0001.jpg"),
    "eurosat": ("eurosat/split_zhou_EuroSAT.json", "2750", "Forest/Forest_1.jpg"),
    "ucf101": ("ucf101/split_zhou_UCF101.json", "UCF-101-midframes", "Archery/v_Archery_g01_c01.jpg"),
}


def write_split(root: Path, name: str, class_names: list[str], test: int) -> list[str]:
    """CoOp's layout with one training picture a class, and test pictures of the classes in turn."""
    split, images, example = COOP_LAYOUTS[name]
    stem, suffix = example.rsplit(".", 1)
    rows = {"train": [], "val": [], "test": []}
    for i, each in enumerate(class_names):
        rows["train"].append([f"train_{i}.{suffix}", i, each])
    for i in range(test):
        path = f"{stem}_{i}.{suffix}"
        label = i * 7 % len(class_names)
        rows["test"].append([path, label, class_names[label]])
        write(root / Path(split).parent / images / path, png(i))
    write(root / split, json.dumps(rows))
    return [path for path, *_ in rows["test"]]


@pytest.mark.parametrize("name", COOP_LAYOUTS)
def test_a_split_of_coop(tmp_path, name):
    expected = benchmarks()[name].conventions["coop"].classes
    ours = SynonymSet.builtin(name).class_names
    names = [each.lower().replace(" ", "_") for each in reversed(ours[-expected:])]  # in another order
    paths = write_split(tmp_path, name, names, 9)
    found = opened(name, tmp_path)
    assert found.class_names == tuple(each.replace("_", " ") for each in names)
    assert pictures(found) == [(path, i * 7 % len(names), i) for i, path in enumerate(paths)]
    for i in (0, len(names) // 2, -1):  # the words are those of the class, wherever that is in our file
        own = next(
            each for each in SynonymSet.builtin(name).classes if each.name.lower() == found.class_names[i]
        )
        assert [each for each in found.synonyms.classes[i].synonyms if each != own.name] == list(own.synonyms)
    assert found.headline == "top1"
    assert found.templates == benchmarks()[name].conventions["coop"].templates
    assert found.expected_images == benchmarks()[name].conventions["coop"].images
    assert found.problems[0] == f"9 pictures listed, {found.expected_images:,} expected"


def test_a_split_of_coop_with_pictures_that_are_gone_or_broken(tmp_path):
    names = SynonymSet.builtin("oxford_pets").class_names
    paths = write_split(tmp_path, "oxford_pets", names, 8)
    images = tmp_path / "oxford_pets" / "images"
    (images / paths[2]).unlink()
    (images / paths[5]).write_bytes(b"")
    records = [record for batch in read(opened("oxford_pets", tmp_path).shards) for record in batch.records]
    assert [record.key for record in records] == paths
    assert {record.key: record.error.split(": ")[1] for record in records if record.error} == {
        paths[2]: "no such file",
        paths[5]: "not a readable image (empty, or no format that is known)",
    }


def test_the_whole_test_set_has_no_problem(tmp_path):
    write_split(tmp_path, "oxford_pets", SynonymSet.builtin("oxford_pets").class_names, 0)
    split = tmp_path / "oxford_pets/split_zhou_OxfordPets.json"
    rows = json.loads(split.read_text())
    rows["test"] = [[f"{i}.jpg", i % 37, rows["train"][i % 37][2]] for i in range(3669)]
    split.write_text(json.dumps(rows))
    found = opened("oxford_pets", tmp_path)
    assert not found.problems
    assert [shard.name for shard in found.shards] == [f"files-{first:07d}" for first in range(0, 3669, 1024)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows["test"].append(["x.jpg", 0, "another"]), "label 0 is 'Abyssinian', and 'another'"),
        (lambda rows: rows["test"].append(["x.jpg", 40, "another"]), "labels 0 to 37 without a gap"),
        (lambda rows: rows["train"].pop(), "expected 37 classes, got 36"),
        (lambda rows: rows.pop("test"), "with 'test'"),
        (lambda rows: rows["test"].append(["x.jpg", 0]), "expected {split: "),
        (lambda rows: rows["test"].append(["x.jpg", "?", "another"]), "expected {split: "),
        (lambda rows: rows["test"].append(["x.jpg", 1.5, "another"]), "expected {split: "),
        (lambda rows: rows["test"].extend([["x.jpg", 0, "Abyssinian"]] * 2), "x.jpg is listed 2 times"),
    ],
)
def test_a_split_that_contradicts_itself_or_the_table_is_refused(tmp_path, change, message):
    write_split(tmp_path, "oxford_pets", SynonymSet.builtin("oxford_pets").class_names, 1)
    split = tmp_path / "oxford_pets/split_zhou_OxfordPets.json"
    rows = json.loads(split.read_text())
    change(rows)
    split.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=re.escape(message)):
        opened("oxford_pets", tmp_path)


def test_the_lists_of_fgvc_aircraft(tmp_path):
    names = SynonymSet.builtin("fgvc_aircraft").class_names
    write(tmp_path / "fgvc_aircraft/variants.txt", "".join(f"{name}\n" for name in names))
    rows = [("1514522", names[3]), ("0747566", names[99]), ("1008575", names[3])]
    write(tmp_path / "fgvc_aircraft/images_variant_test.txt", "".join(f"{a} {b}\n" for a, b in rows))
    for i, (image, _) in enumerate(rows):
        write(tmp_path / f"fgvc_aircraft/images/{image}.jpg", png(i))
    found = opened("fgvc_aircraft", tmp_path)
    assert pictures(found) == [("1514522.jpg", 3, 0), ("0747566.jpg", 99, 1), ("1008575.jpg", 3, 2)]
    assert list(found.class_names) == names
    write(tmp_path / "fgvc_aircraft/images_variant_test.txt", "1514522 Concorde\n")
    with pytest.raises(ValueError, match=r"line 1: 'Concorde' is not in variants.txt"):
        opened("fgvc_aircraft", tmp_path)


# ImageNet and its kin


def write_folders(root: Path, names: list[str]) -> None:
    for i, name in enumerate(names):
        write(root / name / f"{name}_{i % 5}.JPEG", png(i % 251))


@pytest.mark.parametrize("place", ["imagenet/images/val", "imagenet/val"])
def test_imagenet_in_folders(tmp_path, place):
    write_folders(tmp_path / place, WORDNET_IDS)
    for convention in ("coop", "clip_benchmark"):
        found = opened("imagenet", tmp_path, convention)
        assert [label for _, label, _ in pictures(found)] == list(range(1000))  # in the order of the ids
        assert list(found.class_names) == SynonymSet.builtin("imagenet1k").class_names
        assert found.problems == ("1,000 pictures listed, 50,000 expected",)
        assert len(found.templates) == (80 if convention == "clip_benchmark" else 1)


@pytest.mark.parametrize(
    ("name", "place", "subset"),
    [
        ("imagenet_a", "imagenet-adversarial/imagenet-a", "imagenet_a"),
        ("imagenet_r", "imagenet-rendition/imagenet-r", "imagenet_r"),
        ("imagenet_sketch", "imagenet-sketch/images", None),
    ],
)
def test_the_kin_of_imagenet_in_folders(tmp_path, name, place, subset):
    positions = SUBSETS[subset].positions if subset else range(1000)
    write_folders(tmp_path / place, [WORDNET_IDS[position] for position in positions])
    write(tmp_path / place / "README.txt", "of the archive")
    with pytest.warns(UserWarning, match=r"passed over: 1 \.txt$"):
        found = opened(name, tmp_path)
    # Labels count within the subset.
    assert [label for _, label, _ in pictures(found)] == list(range(len(positions)))
    names = SynonymSet.builtin("imagenet1k").class_names
    assert list(found.class_names) == [names[i] for i in positions]
    if subset:
        stranger = next(i for i in range(1000) if i not in positions)
        write(tmp_path / place / WORDNET_IDS[stranger] / "x.jpg", png(1))
        (tmp_path / place / "README.txt").unlink()
        more = opened(name, tmp_path)  # a run leaves it out, and names its label
        samples = [sample for shard in more.shards for sample in shard.samples()]
        assert len(samples) == len(positions) + 1
        (strange,) = [sample for sample in samples if sample.label == WORDNET_IDS[stranger]]
        with pytest.raises(ValueError, match=f"{WORDNET_IDS[stranger]}' is none of the classes"):
            more.label_of(strange)


def test_imagenet_v2_is_in_folders_of_numbers(tmp_path):
    place = tmp_path / "imagenetv2/imagenetv2-matched-frequency-format-val"
    for label in (10, 9, 999, 0):
        write(place / str(label) / "a.jpeg", png(label % 251))
    found = opened("imagenet_v2", tmp_path)
    assert {key: label for key, label, _ in pictures(found)} == {
        f"{label}/a.jpeg": label for label in (0, 9, 10, 999)
    }
    assert found.problems[1].startswith("no picture of 996 classes: goldfish, ")
    write(place / "1000" / "a.jpeg", png(1))
    strange = [
        sample for sample in opened("imagenet_v2", tmp_path).shards[0].samples() if sample.label == 1000
    ]
    with pytest.raises(ValueError, match=r"1000/a.jpeg: label 1000: expected 0 to 999"):
        found.label_of(*strange)
    write(place / "n01440764" / "a.jpeg", png(1))
    with pytest.raises(ValueError, match="folders with numbers for names, got 'n01440764'"):
        opened("imagenet_v2", tmp_path)


FLAT = {3: 7, 1: 999, 4: 0, 2: 7}  # the class of each validation picture, by its number


def devkit(folder: Path) -> None:
    # The kit numbers the classes in an order of its own, and has inner nodes behind them.
    own_number = {position: (position * 331 + 5) % 1000 + 1 for position in range(1000)}
    rows = [(own_number[position], WORDNET_IDS[position], 0) for position in range(1000)]
    rows += [(1001, "n00001740", 2)]
    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)]
    folder.mkdir(parents=True)
    savemat(folder / "meta.mat", {"synsets": np.array(sorted(rows), dtype=fields).reshape(-1, 1)})
    numbers = [own_number[FLAT[number]] for number in sorted(FLAT)]
    write(folder / "ILSVRC2012_validation_ground_truth.txt", "".join(f"{each}\n" for each in numbers))


def kaggle(folder: Path) -> None:
    rows = [
        (f"ILSVRC2012_val_{number:08d}", f"{WORDNET_IDS[label]} 1 2 3 4") for number, label in FLAT.items()
    ]
    folder.mkdir(exist_ok=True)
    with (folder / "LOC_val_solution.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("ImageId", "PredictionString"), *rows])


def synset_labels(folder: Path) -> None:
    lines = [WORDNET_IDS[FLAT[number]] for number in sorted(FLAT)]
    write(folder / "imagenet_2012_validation_synset_labels.txt", "\n".join(lines))


@pytest.mark.parametrize("place", ["imagenet/images/val", "imagenet/val"])
@pytest.mark.parametrize("truth", [devkit, kaggle, synset_labels])
def test_imagenet_in_one_folder_with_a_file_of_labels(tmp_path, truth, place):
    for number in FLAT:
        write(tmp_path / place / f"ILSVRC2012_val_{number:08d}.JPEG", png(number))
    with pytest.raises(FileNotFoundError, match=r"LOC_val_solution\.csv.*validation_ground_truth\.txt"):
        opened("imagenet", tmp_path)
    truth(tmp_path / "imagenet" / ("ILSVRC2012_devkit_t12/data" if truth is devkit else ""))
    found = opened("imagenet", tmp_path)
    assert pictures(found) == [
        (f"ILSVRC2012_val_{number:08d}.JPEG", FLAT[number], number) for number in sorted(FLAT)
    ]
    (tmp_path / place / "ILSVRC2012_val_00000002.JPEG").unlink()  # it has a label, and is missed
    records = [record for batch in read(opened("imagenet", tmp_path).shards) for record in batch.records]
    assert [record.error is not None for record in records] == [False, True, False, False]
    write(tmp_path / place / "ILSVRC2012_val_00000009.JPEG", png(9))
    with pytest.raises(ValueError, match=r"no label for ILSVRC2012_val_00000009.JPEG"):
        opened("imagenet", tmp_path)


def test_the_numbers_of_the_devkit_mean_nothing_without_its_table(tmp_path):
    write(tmp_path / "imagenet/val/ILSVRC2012_val_00000001.JPEG", png(1))
    devkit(tmp_path / "imagenet/ILSVRC2012_devkit_t12/data")
    (tmp_path / "imagenet/ILSVRC2012_devkit_t12/data/meta.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"meta.mat: not found; the development kit's numbers"):
        opened("imagenet", tmp_path)


@pytest.mark.parametrize("content", ["", "ImageId,Wrong\nx,y\n", b"\xff\xfe\x00"])
def test_a_broken_file_of_labels_is_named(tmp_path, content):
    write(tmp_path / "imagenet/val/ILSVRC2012_val_00000001.JPEG", png(1))
    write(tmp_path / "imagenet/LOC_val_solution.csv", content)
    with pytest.raises(ValueError, match=r"LOC_val_solution.csv: (line 2: )?expected "):
        opened("imagenet", tmp_path)
    (tmp_path / "imagenet/LOC_val_solution.csv").unlink()
    kit = tmp_path / "imagenet/ILSVRC2012_devkit_t12/data"
    write(kit / "ILSVRC2012_validation_ground_truth.txt", "490\n")
    write(kit / "meta.mat", "an error page")
    with pytest.raises(ValueError, match=r"meta.mat: not the table of the development kit"):
        opened("imagenet", tmp_path)


# CLIP_benchmark


def write_web_dataset(folder: Path, counts: list[int], class_names: list[str]) -> None:
    for number, count in enumerate(counts):
        write_tar(folder / f"test/{number}.tar", samples_of(20 * number, count))
    write(folder / "test/nshards.txt", f"{len(counts)}\n")
    write(folder / "classnames.txt", "".join(f"{name}\n" for name in class_names))


PETS = SynonymSet.builtin("oxford_pets").class_names


def test_a_web_dataset(tmp_path):
    write_web_dataset(tmp_path / "wds_vtab-pets", [3] * 11, PETS)
    found = opened("oxford_pets", tmp_path, "clip_benchmark")
    assert [shard.name for shard in found.shards] == [f"test/{number}.tar" for number in range(11)]
    listed = pictures(found)
    assert [s for *_, s in listed] == [20 * number + i for number in range(11) for i in range(3)]
    assert all(label == s % 7 for _, label, s in listed)
    assert (found.headline, found.expected_images, list(found.class_names)) == ("recall", 3669, PETS)
    assert not found.problems


def test_shards_of_a_web_dataset_that_are_gone_empty_or_cut_are_named(tmp_path):
    folder = tmp_path / "wds_vtab-pets"
    write_web_dataset(folder, [3, 3, 3, 3], PETS)
    (folder / "test/0.tar").unlink()
    (folder / "test/1.tar").write_bytes(b"")
    (folder / "test/2.tar").write_bytes((folder / "test/2.tar").read_bytes()[:3000])
    found = opened("oxford_pets", tmp_path, "clip_benchmark")
    records = [record for batch in read(found.shards) for record in batch.records]
    errors = [record for record in records if record.error]
    assert len(records) - len(errors) == 1 + 3
    assert [record.key for record in errors] == ["test/0.tar", "test/1.tar", "test/2.tar"]


def test_the_classes_of_a_web_dataset_are_those_that_it_lists(tmp_path):
    folder = tmp_path / "wds_vtab-pets"
    write_web_dataset(folder, [3], PETS[::-1])
    found = opened("oxford_pets", tmp_path, "clip_benchmark")
    assert found.class_names == tuple(PETS[::-1])
    assert found.synonyms.classes[0] == SynonymSet.builtin("oxford_pets").classes[-1]
    write(folder / "classnames.txt", "cat\ndog\n")
    with pytest.raises(ValueError, match=r"oxford_pets: expected 37 classes, got 2 \(from its files\)"):
        opened("oxford_pets", tmp_path, "clip_benchmark")
    (folder / "classnames.txt").unlink()
    found = opened("oxford_pets", tmp_path, "clip_benchmark")
    assert found.problems == ("there is no classnames.txt: the order of classes was not checked",)
    write(folder / "test/nshards.txt", "many")
    with pytest.raises(ValueError, match=r"nshards.txt: expected a number, got 'many'"):
        opened("oxford_pets", tmp_path, "clip_benchmark")
    (folder / "test/nshards.txt").unlink()
    assert [shard.name for shard in opened("oxford_pets", tmp_path, "clip_benchmark").shards] == [
        "test/0.tar"
    ]


def test_a_label_that_is_no_class_is_refused_with_the_picture(tmp_path):
    folder = tmp_path / "wds_vtab-pets"
    write_web_dataset(folder, [1], PETS)
    members = [("a.cls", b"37"), ("a.png", png(1)), ("b.cls", b"wolf"), ("b.png", png(1)), ("c.png", png(1))]
    write_tar(folder / "test/0.tar", members)
    found = opened("oxford_pets", tmp_path, "clip_benchmark")
    for sample, message in zip(
        found.shards[0].samples(),
        ["a: label 37: expected 0 to 36", "b: label 'wolf'", "c: label None"],
        strict=True,
    ):
        with pytest.raises(ValueError, match=f"oxford_pets: test/0.tar/{message}"):
            found.label_of(sample)


def folder_as_repository(folder: Path) -> Repository:
    repository = Repository()
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    repository.add(files)
    return repository


def test_a_web_dataset_on_the_hub_is_the_same_as_here(hub, tmp_path):
    write_web_dataset(tmp_path / "wds_vtab-pets", [3, 2], PETS[::-1])
    here = opened("oxford_pets", tmp_path, "clip_benchmark")
    repository = folder_as_repository(tmp_path / "wds_vtab-pets")
    hub.repositories["clip-benchmark/wds_vtab-pets"] = repository
    there = opened("oxford_pets", "hf://datasets", "clip_benchmark")
    repository.add({})  # a later commit changes nothing of what was opened
    assert [shard.name for shard in there.shards] == [shard.name for shard in here.shards]
    assert pictures(there) == pictures(here)
    assert there.class_names == here.class_names
    assert not list((tmp_path / "cache").rglob("*.tar"))


def test_what_is_not_on_the_hub(hub):
    with pytest.raises(
        FileNotFoundError, match=r"dtd: not found; .*the data set clip-benchmark/wds_vtab-dtd"
    ):
        opened("dtd", "hf://datasets", "clip_benchmark")
    with pytest.raises(ValueError, match=r"ucf101: these pictures are not on the Hub; give the folder"):
        opened("ucf101", "hf://datasets")


# Sets of one's own


def own(tmp_path: Path, layout: dict, classes: dict | list, **convention) -> ClassificationSet:
    write(tmp_path / "words.json", json.dumps(classes))
    row = {
        "name": "my_set",
        "synonyms": "words.json",
        "conventions": {"own": {**convention, "layouts": [layout]}},
    }
    write(tmp_path / "row.json", json.dumps(row))
    return opened(tmp_path / "row.json", "elsewhere")


def test_ones_own_folders(tmp_path):
    for i, path in enumerate(["tabby_cat/2.png", "tabby_cat/deep/1.png", "Goldfish/3.jpg"]):
        write(tmp_path / "photos" / path, png(i))
    write(tmp_path / "photos/stray.png", png(9))
    write(tmp_path / "photos/.hidden/x.png", b"")
    (tmp_path / "photos/Goldfish/dangling.png").symlink_to(tmp_path / "gone.png")
    words = {"goldfish": [], "tabby cat": ["tabby"], "koi": []}
    with pytest.warns(UserWarning, match=r"passed over: 1 \.hidden/$"):
        found = own(tmp_path, {"kind": "folders", "folder": "photos"}, words, images=4)
    assert found.class_names == ("goldfish", "tabby cat", "koi")
    samples = [sample for shard in found.shards for sample in shard.samples()]
    assert [(sample.key, found.label_of(sample)) for sample in samples] == [
        ("Goldfish/3.jpg", 0),
        ("Goldfish/dangling.png", 0),
        ("tabby_cat/2.png", 1),
        ("tabby_cat/deep/1.png", 1),
    ]
    assert found.problems == (
        "left out: 1 picture outside of class folders",
        "no picture of 1 class: koi",
    )
    with pytest.raises(BrokenImageError, match=r"dangling.png: not a readable image \(a link to nothing\)"):
        samples[1].open()


def test_folders_of_folders_have_the_label_that_calibrate_and_compare_read(tmp_path):
    classes = ["cat", "dog", "koi"]
    names = [*classes, "animal", "fish", "train"]
    draw = np.random.default_rng(0)
    paths = {f"{'/'.join(draw.choice(names, draw.integers(1, 5)))}/{i}.png": i for i in range(60)}
    for path, i in paths.items():
        write(tmp_path / "photos" / path, png(i))
    wanted = {}
    for path in paths:
        *folders, _ = path.split("/")
        inside = [each for each in folders if each in classes]
        wanted[path] = classes.index(inside[-1]) if inside else None
    found = own(tmp_path, {"kind": "folders", "folder": "photos"}, classes)
    samples = [sample for shard in found.shards for sample in shard.samples()]
    read = {each.key: None if each.label in names[3:] else found.label_of(each) for each in samples}
    assert read == wanted
    assert len(set(wanted.values())) == 4
    files, labels = labelled_images(tmp_path / "photos", None, is_class=classes.__contains__)
    given = [position_of(label, found.lookup) for label in labels]
    keys = [each.relative_to(tmp_path / "photos").as_posix() for each in files]
    assert dict(zip(keys, given, strict=True)) == wanted


def test_ones_own_csv(tmp_path):
    write(tmp_path / "photos/a.png", png(1))
    write(tmp_path / "b.png", png(2))
    write(tmp_path / "labels.csv", f"name,what\na.png,cat\n{tmp_path}/b.png,dog\n")
    columns = {"file_column": "name", "label_column": "what"}
    layout = {"kind": "csv", "file": "labels.csv", "folder": "photos", **columns}
    found = own(tmp_path, layout, ["dog", "cat"])
    assert [(label, s) for _, label, s in pictures(found)] == [(1, 1), (0, 2)]
    assert own(tmp_path, layout, ["dog", "wolf"]).problems == ("no picture of 1 class: wolf",)
    with pytest.raises(
        ValueError,
        match=r"my_set: none of the labels \(cat, dog\) is the id or name of a class \(wolf, fox\)",
    ):
        own(tmp_path, layout, ["wolf", "fox"])
    with pytest.raises(ValueError, match=r"labels.csv: no column 'file'"):
        own(tmp_path, {"kind": "csv", "file": "labels.csv"}, ["dog", "cat"])
    with pytest.raises(FileNotFoundError, match=r"my_set: not found; looked for .*gone.csv"):
        own(tmp_path, {"kind": "csv", "file": "gone.csv"}, ["dog"])


def test_ones_own_tars_with_names_for_labels(tmp_path):
    members = [("1.cls", b"cat"), ("1.png", png(1)), ("2.cls", b"Tabby_cat"), ("2.png", png(2))]
    write_tar(tmp_path / "tars/val/000.tar", members)
    found = own(tmp_path, {"kind": "webdataset", "folder": "tars"}, ["tabby cat", "cat"], split="val")
    assert pictures(found) == [("val/000.tar/1", 1, 1), ("val/000.tar/2", 0, 2)]


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_ones_own_set_on_the_hub(hub, tmp_path, kind):
    if kind == "webdataset":
        write_web_dataset(tmp_path / "set", [2, 1], ["dog", "cat", *"abcde"])
    else:
        for number in range(2):
            rows = [{"image": {"bytes": png(number), "path": None}, "label": number}]
            write_parquet(tmp_path / f"set/data/test-0000{number}-of-00002.parquet", rows, ["dog", "cat"])
    hub.repositories["me/photos"] = folder_as_repository(tmp_path / "set")
    words = ["cat", "dog"]
    there = own(tmp_path, {"kind": kind, "hub": "me/photos"}, words)
    assert pictures(there) == pictures(own(tmp_path, {"kind": kind, "folder": "set"}, words))
    assert there.class_names[:2] == ("dog", "cat")


@pytest.mark.parametrize("pattern", ["test-{:05d}-of-00011.parquet", "data/test-{:05d}-of-00011.parquet"])
def test_ones_own_parquet(tmp_path, pattern):
    for number in range(11):
        rows = [{"image": {"bytes": png(number), "path": None}, "label": number % 2}]
        write_parquet(tmp_path / "set" / pattern.format(number), rows, ["dog", "cat"])
    found = own(tmp_path, {"kind": "parquet", "folder": "set"}, ["cat", "dog"])
    assert found.class_names == ("dog", "cat")  # what the numbers in the files mean
    assert [(label, s) for _, label, s in pictures(found)] == [(number % 2, number) for number in range(11)]


def test_other_words_for_the_same_classes(tmp_path):
    write_split(tmp_path, "oxford_pets", [each.lower() for each in PETS[::-1]], 2)
    mine = SynonymSet.read({name: [f"my {name}"] for name in PETS})
    found = opened("oxford_pets", tmp_path, synonyms=mine)
    assert found.synonyms.classes[0].synonyms == (f"my {PETS[-1]}",)
    write(tmp_path / "imagenetv2-matched-frequency-format-val/0/a.png", png(1))
    with pytest.raises(ValueError, match=r"imagenet_v2: expected 1000 classes, got 37 \(in its synonyms\)"):
        opened("imagenet_v2", tmp_path, synonyms=mine)


# What is not there


@pytest.mark.parametrize(
    ("name", "convention"),
    [
        (row.name, each)
        for row in benchmarks().values()
        if not row.is_segmentation
        for each in row.conventions
    ],
)
def test_a_set_that_is_not_there_says_what_was_looked_for(tmp_path, name, convention):
    with pytest.raises(FileNotFoundError, match=f"{name}: not found; looked for ") as caught:
        opened(name, tmp_path, convention)
    folders = Counter(layout.folder for layout in benchmarks()[name].conventions[convention].layouts)
    assert all(folder in str(caught.value) for folder in folders)
