"""From nothing in memory to the first logits: a saved head against the whole CLIP and its prompts.

    python examples/cold_start.py       # 1,000 classes x 20 texts x 7 templates, ViT-B/32-sized

Each way runs in a process of its own, which imports everything first: counted are the seconds after that, and
by how much the memory of the process grew at its peak (Linux). The weights are random.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOKENIZER = Path(__file__).parents[1].parent / "shared" / "models" / "clip_tokenizer"
TEMPLATES = "openai_imagenet_7"

ENCODED = 4
"""Classes whose prompts the whole CLIP encodes; the time of the others is what that of these says."""


def classes(count: int, synonyms: int) -> dict[str, list[str]]:
    colours = "red blue green black white brown grey yellow purple golden".split()
    stuffs = "wooden plastic metal glass paper leather cotton stone rubber woollen".split()
    things = "chair boat house shoe bottle lamp clock bridge drum kettle".split()
    names = [f"{colour} {stuff} {thing}" for colour in colours for stuff in stuffs for thing in things]
    return {name: [f"{name} of kind {i}" for i in range(synonyms)] for name in names[:count]}


def resident(peak: bool = False) -> int:
    """Return the bytes of this process in memory, or the most since the peak was last forgotten."""
    key = "VmHWM" if peak else "VmRSS"
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def measure(way: str, folder: Path) -> None:
    """Load one way and print what it took, as JSON."""
    import torch
    import transformers
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast  # noqa: F401

    from s3clip import SynonymousSpaceHead, SynonymSet
    from s3clip.prompts import class_texts

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    pixels = torch.zeros(1, 3, 224, 224)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before, start = resident(), time.perf_counter()
    with torch.inference_mode():
        if way == "saved head":
            head = SynonymousSpaceHead.from_pretrained(folder / "head")
            logits = head(pixels)
        else:
            model = CLIPModel.from_pretrained(folder / "clip").eval()
            tokenizer = CLIPTokenizerFast.from_pretrained(folder / "clip")
            synonyms = SynonymSet.read(folder / "classes.json")
            loaded, weights = time.perf_counter(), []
            for each in synonyms.classes:
                texts = class_texts(each.name, each.synonyms, templates=TEMPLATES)
                prompts = [prompt for text in texts for prompt in text.prompts]
                tokens = tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt")
                rows = model.get_text_features(**tokens)
                rows = rows if torch.is_tensor(rows) else rows.pooler_output
                weights.append(torch.nn.functional.normalize(rows, dim=-1).mean(0))
                if len(weights) == ENCODED:
                    break
            # The prompts of one class are like those of any other.
            start -= (time.perf_counter() - loaded) * (len(synonyms.classes) / ENCODED - 1)
            image = model.get_image_features(pixel_values=pixels)
            image = image if torch.is_tensor(image) else image.pooler_output
            logits = torch.nn.functional.normalize(image, dim=-1) @ torch.stack(weights).T
    seconds, grown = time.perf_counter() - start, resident(peak=True) - before
    assert logits.isfinite().all()
    print(json.dumps({"seconds": seconds, "MiB": grown / 2**20}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--synonyms", type=int, default=19, help="of each class, besides its name")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        return measure(given.measure[0], Path(given.measure[1]))
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

    from s3clip import SynonymousSpaceHead, SynonymSet
    from s3clip.artifact import load_artifact, save_artifact

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        CLIPModel(CLIPConfig()).save_pretrained(folder / "clip")
        CLIPImageProcessor().save_pretrained(folder / "clip")
        CLIPTokenizerFast.from_pretrained(given.tokenizer).save_pretrained(folder / "clip")
        synonyms = SynonymSet.read(classes(given.classes, given.synonyms))
        synonyms.write(folder / "classes.json")
        # Random embeddings in the place of the 140,000 prompts, which cost minutes and change nothing here.
        head = SynonymousSpaceHead.from_backbone(folder / "clip")
        head.fit_classes(["cat", "dog"], templates=TEMPLATES).save_pretrained(folder / "two")
        two = load_artifact(folder / "two")
        fitted = [
            two.classes[0].model_copy(
                update={"name": each.name, "texts": [each.name, *each.synonyms], "rows": 1 + given.synonyms}
            )
            for each in synonyms.classes
        ]
        raw = torch.nn.functional.normalize(
            torch.randn(len(fitted), 1, 512) + 0.5 * torch.randn(len(fitted), 1 + given.synonyms, 512), dim=-1
        ).flatten(0, 1)
        save_artifact(folder / "head", type(two)(**{**vars(two), "raw": raw, "classes": fitted}))
        found = {}
        for way in ("whole CLIP", "saved head"):
            command = [sys.executable, __file__, "--measure", way, str(folder)]
            found[way] = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout
            )
    whole, saved = found["whole CLIP"], found["saved head"]
    print(f"{given.classes} classes x {1 + given.synonyms} texts, {TEMPLATES}, torch {torch.__version__}")
    for way, result in found.items():
        print(f"{way:<12} {result['seconds']:8.2f} s, {result['MiB']:6.0f} MiB at the peak above the imports")
    print(f"saved head: {whole['seconds'] / saved['seconds']:.0f} x less time", end=", ")
    print(f"{saved['MiB'] / whole['MiB']:.0%} of the memory")
    print(
        f"(of the prompts of the whole CLIP, those of {ENCODED} classes were encoded, and the time scaled up)"
    )


if __name__ == "__main__":
    main()
