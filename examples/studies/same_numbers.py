"""Does s3clip still give the same numbers? Record them with one state of the code, check another against it.

    python examples/studies/same_numbers.py record FOLDER
    python examples/studies/same_numbers.py check FOLDER

Everything is computed on one thread from fixed seeds and compared bit by bit; whatever differs is listed, and
then the exit status is 1. What `calibrate` finds is compared to 1e-4, relative for temperature and bias,
absolute for probabilities. Both runs need the same libraries and the same kind of processor; what they ran
with is recorded too. `record` also keeps a saved head in FOLDER, which `check` loads. About two minutes.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ |= {"S3CLIP_CACHE": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import numpy as np
import pyarrow.parquet as pq
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_digits

import s3clip
from s3clip import (
    HeadConfig,
    S3ZeroShotImageClassificationPipeline,
    SynonymousSpaceClassifier,
    SynonymousSpaceHead,
    TestTimeAdapter,
    build_zero_shot_classifier,
)
from s3clip.bulk import label
from s3clip.demo import model_folder
from s3clip.evaluation import compare

METRICS = ("nearest", "soft_nearest", "mean_similarity", "center",
           "local_center", "local_star", "hull", "subspace")  # fmt: skip
SCALE_RULES = ("fixed", "quantile", "largest_gap", "kept_share", "margin", None)
METHODS = ("shift", "shared_shift", "zero", "mean_views")
DENSE_METHODS = ("patch", "maskclip", "sclip", "naclip", "clearclip")
OTHER_CONFIGS = (
    {"keep_name": "always", "scale_rule": "quantile", "scale_options": {"q": 0.3}},
    {"metric_options": {"k": 3, "renormalize": True, "name_weight": 0}},
    {"metric": "hull", "metric_options": {"k": 2}, "scale_options": {"epsilon": 0.9, "share": 0.5}},
    {"metric": "subspace", "metric_options": {"r": 1}, "centering": "class_mean", "logit_scale": 20.0},
)
SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 4, 6)
RUN_ONLY = {"measured", "versions", "image_ms", "fit_ms", "seconds", "shard"}  # not the same every time
TOLERANCES = {"relative: ": {"rtol": 1e-4, "atol": 0.0}, "absolute: ": {"rtol": 0.0, "atol": 1e-4}}

Numbers = dict[str, Any]  # tensors, and what JSON holds; the tolerances are for names that begin with one


def clusters(seed: int, sizes: Sequence[int], images: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Texts around the centre of each class, some far away, some twice, one in two classes; and images."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(len(sizes), 64, generator=draw)
    spread = [0.2 + 1.5 * torch.rand(size, 1, generator=draw) ** 2 for size in sizes]
    texts = [
        centre + own * torch.randn(len(own), 64, generator=draw)
        for centre, own in zip(centres, spread, strict=True)
    ]
    texts[4][3], texts[7][2] = texts[4][1], texts[8][0]
    return texts, centres[torch.arange(images) % len(sizes)] + 4 * torch.randn(images, 64, generator=draw)


def fitted(seed: int, sizes: Sequence[int] = SIZES, **config: Any) -> SynonymousSpaceHead:
    texts, _ = clusters(seed, sizes, 0)
    names = [f"class {i} é猫" for i in range(len(texts))]
    words = [[f"text {i} {j}" for j in range(len(own))] for i, own in enumerate(texts)]
    head = SynonymousSpaceHead(config=HeadConfig(**config))
    return head.fit_embeddings(texts, names, texts=words, logit_scale=None if "logit_scale" in config else 50)


def read(each: Any, *names: str) -> list[Any]:
    return [getattr(each, name) for name in names]


def add_answers(found: Numbers, name: str, answers: Any, tolerance: str = "") -> None:
    says = ("label", "class_index", "class_id", "text", "accepted")
    found[f"{name}, answers"] = [[read(each, *says) for each in own] for own in answers]
    found[f"{tolerance}{name}, scores"] = torch.tensor([[each.score for each in own] for own in answers])


def add_head(found: Numbers, name: str, head: SynonymousSpaceHead, embeds: torch.Tensor) -> None:
    best = head.top_classes(image_embeds=embeds, k=4)
    for what in ("class_index", "logits", "probabilities", "accepted"):
        found[f"{name}, top {what}"] = getattr(best, what)
    found[f"{name}, logits"] = head(image_embeds=embeds)
    found[f"{name}, probabilities"] = head.predict_proba(image_embeds=embeds)
    add_answers(found, name, head.predict(image_embeds=embeds, top_k=3))
    try:
        found[f"{name}, linear"] = head.to_linear()
    except ValueError:
        found[f"{name}, linear"] = None


def add_saved(found: Numbers, name: str, head: SynonymousSpaceHead, folder: Path) -> None:
    (space,) = head.save_pretrained(folder).glob("space-*.safetensors")
    found[f"{name}, file"] = [space.name, hashlib.sha256(space.read_bytes()).hexdigest()]
    found[f"{name}, config.json"] = json.loads((folder / "config.json").read_text())


def spaces(found: Numbers, work: Path) -> None:
    """Heads over random embeddings: every setting, every change, and saving."""
    embeds = clusters(0, SIZES, 40)[1]
    views = embeds[:6, None] + 0.5 * torch.randn(6, 8, 64, generator=torch.Generator().manual_seed(2))
    for metric in METRICS:
        for centering in (None, "class_mean"):
            for rule in SCALE_RULES:
                head = fitted(0, metric=metric, scale_rule=rule, centering=centering)
                add_head(found, f"{metric}, {rule}, {centering}", head, embeds)
            for method in METHODS:
                for steps in (1, 3):
                    adapter = TestTimeAdapter(head, method, confidence=0.4, steps=steps)
                    found[f"{metric}, {centering}, {method} {steps}"] = adapter(views)
    for number, config in enumerate(OTHER_CONFIGS):
        add_head(found, f"config {number}", fitted(0, **config), embeds)
    add_head(found, "9,000 classes", fitted(1, SIZES * 750), embeds)  # more than one block of rows
    head = fitted(0).remove_classes([2, "class 9 é猫", 11])
    add_head(found, "removed", head, embeds)
    add_head(found, "renamed", head.rename_class(0, "Straße"), embeds)
    add_head(found, "merged", head.merge(fitted(3)), embeds)
    add_head(found, "reconfigured", head.reconfigure(metric="local_star", centering="class_mean"), embeds)
    loaded = SynonymousSpaceHead()
    loaded.load_state_dict(head.state_dict())
    add_head(found, "from its state dict", loaded, embeds)
    add_saved(found, "saved", head, work / "saved")
    add_head(found, "from its folder", SynonymousSpaceHead.from_pretrained(work / "saved"), embeds)
    texts = clusters(0, SIZES, 0)[0]
    owners = np.repeat([f"c{i}" for i in range(len(SIZES))], SIZES)
    classifier = SynonymousSpaceClassifier(centering="class_mean").fit(torch.cat(texts).numpy(), owners)
    found["estimator"] = torch.from_numpy(classifier.predict_proba(embeds.numpy()))
    found["estimator, labels"] = classifier.predict(embeds.numpy()).tolist()


def digits() -> tuple[list[Image.Image], list[int]]:
    read = load_digits()
    paper = np.rint(255 * (1 - read.images[1297:] / 16)).astype(np.uint8)
    pictures = [Image.fromarray(page).resize((32, 32), Image.Resampling.NEAREST) for page in paper]
    return pictures, read.target[1297:].tolist()


def calibrations(found: Numbers, head: SynonymousSpaceHead) -> None:
    pictures, labels = digits()
    head.fit_rejection([each.rotate(90) for each in pictures[:80]], false_accept_rate=0.1)
    for name, truth in (("labels", labels[:200]), ("table", torch.eye(10)[labels[:200]].int())):
        head.calibrate(pictures[:200], truth)
        now = head.current_calibration
        found[f"relative: calibrated by {name}"] = torch.tensor([now.temperature, now.bias]).double()
        found[f"calibrated by {name}, thresholds"] = read(now, "activation", "thresholds")
        found[f"absolute: calibrated by {name}"] = head.predict_proba(pictures[200:260])
        add_answers(found, f"calibrated by {name}", head.predict(pictures[200:260]), "absolute: ")
    head.calibration = None
    head.calibration = None


def demo(found: Numbers, folder: Path, work: Path) -> None:
    """The demo model from its texts to answers, and what is made of it."""
    pictures, labels = digits()
    words = folder / "digits.json"
    model = transformers.CLIPModel.from_pretrained(model_folder())
    processor = transformers.CLIPProcessor.from_pretrained(model_folder())
    pixels = processor(images=[each.convert("RGB") for each in pictures[:50]], return_tensors="pt")
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(words)
    own = SynonymousSpaceHead(model, processor).fit_classes(words, templates="openai_imagenet_7")
    found |= {"demo, logits": head(**pixels), "demo, seven templates": own(**pixels)}
    add_answers(found, "demo", head.predict(pictures[:100]))
    for method in METHODS:
        for steps in (1, 3):
            adapter = TestTimeAdapter(head, method, views=8, confidence=0.3, steps=steps, augmix=steps == 3)
            add_answers(found, f"demo, {method} {steps}", head.predict(pictures[:6], adapt=adapter))
    sheets = [Image.new("L", size, 255) for size in ((150, 110), (96, 96))]
    for i, (x, y) in enumerate(((0, 0), (75, 50), (40, 0))):
        for sheet in sheets:
            sheet.paste(pictures[3 * i].resize((56, 56)), (x, y))
    for method in DENSE_METHODS:
        for aggregation in ("space", "softmax_then_max"):
            threshold = 0.3 if aggregation == "space" else None
            parts = head.segment(sheets, method=method, aggregation=aggregation, threshold=threshold)
            for i, part in enumerate(parts):
                found[f"segments {i}, {method}, {aggregation}"] = part.labels
                found[f"segments {i}, {method}, {aggregation}, probabilities"] = part.probabilities()
    found["segments, masks"] = parts[0].to_coco_rle()
    calibrations(found, head)
    add_saved(found, "demo, saved", head, work / "head")
    head.add_classes({"ten": ["10", "dix"], "a cat": []}).remove_classes(["zero"])
    found["demo, classes added"] = head(**pixels)
    names = {"one": ["1", "uno", "a stroke"], "two": ["2"], "eight": ["8", "two loops"]}
    found["linear classifier"] = build_zero_shot_classifier(model, processor.tokenizer, names, ["a {}."])
    for number, with_head in enumerate(({}, {"head": own})):
        classify = transformers.pipeline(
            "zero-shot-image-classification",
            model=model,
            tokenizer=processor.tokenizer,
            image_processor=processor.image_processor,
            pipeline_class=S3ZeroShotImageClassificationPipeline,
            **with_head,
        )
        rgb = [each.convert("RGB") for each in pictures[:12]]
        found[f"pipeline {number}"] = classify(rgb, **({} if with_head else {"candidate_labels": names}))
    asked = {"images": pictures[:60], "adapt": ["shift", "zero"], "views": 4, "bootstrap": 50}
    compared = compare(words, labels[:60], backbone=model_folder(), **asked)
    found["compare"] = compared.to_dict()
    found |= {f"compare, {name}": classes for name, classes in compared.predicted.items()}


def kept_artifact(found: Numbers, folder: Path, is_new: bool) -> None:
    """A head that the recording code saved, read by the code that runs now."""
    pictures, labels = digits()
    place = folder / "artifact"
    if is_new:
        words = json.loads((folder / "digits.json").read_text())
        words["classes"].append({"name": "Zwölf 十二", "id": "zwölf", "synonyms": ["12", "douze"]})
        head = SynonymousSpaceHead.from_backbone(model_folder(), config=HeadConfig(centering="class_mean"))
        head.fit_classes(words).calibrate(pictures[:200], labels[:200])
        head.fit_rejection([each.rotate(90) for each in pictures[:80]]).save_pretrained(place)
    with_model = SynonymousSpaceHead.from_pretrained(place, backbone=model_folder())
    found["artifact, probabilities of digits"] = with_model.predict_proba(pictures[:50])
    add_answers(found, "artifact, digits", with_model.predict(pictures[:50]))
    found["artifact, classes"] = [read(each, "name", "id", "rows", "texts") for each in with_model.classes]
    head = SynonymousSpaceHead.from_pretrained(place, backbone=None)
    says = ("activation", "temperature", "bias", "thresholds")
    found["artifact, calibration"] = read(head.current_calibration, *says)
    dim = len(head.fingerprint()["image"])
    add_head(found, "artifact", head, torch.randn(40, dim, generator=torch.Generator().manual_seed(4)))


def write_set(work: Path, folder: Path) -> list[Path]:
    """Digits in folders of their classes, sheets of digits with masks, and two files that describe them."""
    pictures, labels = digits()
    names = [each["name"] for each in json.loads((folder / "digits.json").read_text())["classes"]]
    places = [*(work / "photos" / name for name in names), work / "sheets", work / "masks"]
    for place in places:
        place.mkdir(parents=True)
    for i in range(60):
        pictures[i].save(work / "photos" / names[labels[i]] / f"{i:02}.png")
    (work / "photos" / "two" / "broken.png").write_bytes(b"no picture")
    for i in range(8):
        sheet, mask = Image.new("RGB", (48, 32)), Image.new("L", (48, 32), 255)
        for cell in range(i % 3, 6):
            corner, which = (cell % 3 * 16, cell // 3 * 16), 6 * i + cell
            sheet.paste(pictures[which].resize((16, 16)), corner)
            mask.paste(labels[which], (*corner, corner[0] + 16, corner[1] + 16))
        sheet.save(work / "sheets" / f"{i}.png")
        mask.save(work / "masks" / f"{i}.png")
    layouts = {
        "some_digits": {"kind": "folders", "folder": "photos"},
        "some_masks": {"kind": "masks", "images": "sheets", "masks": "masks", "image_suffix": ".png"},
    }
    for name, layout in layouts.items():
        own = {"headline": "miou" if name == "some_masks" else "recall", "layouts": [layout]}
        row = {"name": name, "synonyms": str(folder / "digits.json"), "conventions": {"own": own}}
        (work / f"{name}.json").write_text(json.dumps(row))
    return [work / f"{name}.json" for name in layouts]


def labelled(out: Path) -> list[Any]:
    tables = [pq.read_table(path) for path in sorted(out.glob("*.parquet"))]
    rows = [row | {"key": Path(row["key"]).name} for table in tables for row in table.to_pylist()]
    return [[f"{field.name} {field.type}" for field in tables[0].schema], rows]


def jobs(found: Numbers, folder: Path, work: Path) -> None:
    """Bulk labelling, the benchmarks, and the commands."""
    sets = write_set(work, folder)
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(folder / "digits.json")
    sizes: dict[str, Any] = {"workers": 0, "batch_size": 8, "part_size": 16, "progress": False}
    done = label(work / "photos", head, work / "bulk", keep_embeddings=True, **sizes)
    found |= {"bulk": labelled(work / "bulk"), "bulk, summary": done.to_dict()}
    label(work / "bulk", head.reconfigure(metric="center"), work / "again", top_k=2, **sizes)
    found["bulk, labelled again"] = labelled(work / "again")
    np.save(work / "embeds.npy", clusters(0, SIZES, 300)[1].numpy())
    label(work / "embeds.npy", fitted(0), work / "rows", **sizes)
    found["bulk, embeddings"] = labelled(work / "rows")

    def command(*arguments: str | Path) -> str:
        line = [sys.executable, "-m", "s3clip.cli", *map(str, arguments)]
        return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True, cwd=work).stdout

    small = ("--workers", "0", "--batch-size", "16", "--bootstrap", "50")
    command("eval", *sets, "--backbone", model_folder(), "--out", folder / "run", *small)
    found["eval"] = json.loads((folder / "run" / "run.json").read_text())
    command("fit", folder / "digits.json", "--backbone", model_folder(), "--out", work / "fitted")
    found["fit"] = json.loads((work / "fitted" / "config.json").read_text())
    as_json = ("--format", "json")
    photo = work / "photos" / "two" / "02.png"
    for each in (
        ("inspect", work / "fitted", *as_json),
        ("predict", work / "photos" / "one", "--head", work / "fitted", "--top-k", "3", *as_json),
        ("predict", photo, "--head", work / "fitted", "--adapt", "shift", "--views", "4", *as_json),
        ("segment", work / "sheets" / "0.png", "--head", work / "fitted", *as_json),
        ("synonyms", "check", "cifar10", *as_json),
        ("synonyms", "show", "eurosat", *as_json),
    ):
        found[f"command {' '.join(map(str, each))}"] = json.loads(command(*each))


def plain(value: Any, places: dict[str, str]) -> Any:
    """What JSON makes of a value, without what belongs to one run, and with names for folders."""
    if isinstance(value, dict):
        return {key: plain(own, places) for key, own in value.items() if key not in RUN_ONLY}
    if isinstance(value, list | tuple):
        return [plain(own, places) for own in value]
    for place, name in places.items():
        value = value.replace(place, name) if isinstance(value, str) else value
    return value


def compute(folder: Path, is_new: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    found: Numbers = {
        "machine": [
            torch.backends.cpu.get_cpu_capability(),
            *(f"{module.__name__} {module.__version__}" for module in (np, torch, transformers)),
        ]
    }
    with tempfile.TemporaryDirectory() as name, torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="s3clip")
        work = Path(name).resolve()
        spaces(found, work)
        demo(found, folder, work)
        kept_artifact(found, folder, is_new)
        jobs(found, folder, work)
    places = {str(work): "WORK", str(folder): "FOLDER", str(model_folder()): "MODEL"}
    tensors = {name: each for name, each in found.items() if isinstance(each, torch.Tensor)}
    values = {plain(name, places): plain(found[name], places) for name in found.keys() - tensors.keys()}
    arrays = {name: each.detach().contiguous().numpy() for name, each in tensors.items()}
    return arrays, json.loads(json.dumps(values))


def differing(name: str, old: Any, new: Any) -> Iterator[str]:
    """Say what differs between two arrays, or anywhere in two values of JSON."""
    if isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
        if (old.dtype, old.shape) != (new.dtype, new.shape):
            yield f"{name}: {old.dtype} {old.shape} became {new.dtype} {new.shape}"
        elif old.tobytes() != new.tobytes():
            tolerance = next((own for start, own in TOLERANCES.items() if name.startswith(start)), None)
            if tolerance is None or not np.allclose(new, old, **tolerance):
                most = np.abs(new.astype(float) - old.astype(float)).max()
                yield f"{name}: {(old != new).sum()} of {old.size} differ, by {most:.3g} at most"
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            place = f"{name} / {key}" if name else key
            yield from differing(place, old.get(key, "nothing"), new.get(key, "nothing"))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, pair in enumerate(zip(old, new, strict=True)):
            yield from differing(f"{name} / {i}", *pair)
    elif json.dumps(old) != json.dumps(new):
        yield f"{name}: {str(old)[:200]} became {str(new)[:200]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("action", choices=("record", "check"))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    folder, is_new = given.folder.resolve(), given.action == "record"
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    if is_new:
        (folder / "digits.json").write_bytes(model_folder().with_name("digits.json").read_bytes())
    arrays, values = compute(folder, is_new)
    print(f"{len(arrays)} arrays and {len(values)} values of {s3clip.__file__}")
    if is_new:
        save_file(arrays, folder / "arrays.safetensors")
        (folder / "values.json").write_text(json.dumps(values, indent=1, sort_keys=True))
        return
    old = load_file(folder / "arrays.safetensors") | json.loads((folder / "values.json").read_text())
    found = list(differing("", old, arrays | values))
    print("\n".join(found) or "All are the same.")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
