"""Time the encoding of texts: padded to 77 tokens, sorted by length, and with shared beginnings encoded once.

    OMP_NUM_THREADS=2 python examples/bench_text.py --tokenizer clip_tokenizer --synonyms synonyms --share 0.1

`--tokenizer` is a folder with a CLIP tokenizer and config, from which a model with random weights is made;
`--synonyms` one with the published lists that `texts_of_*` name. Padding to 77 tokens takes minutes, so
`--share` takes every n-th class. The floor is the matrix products of the tree's tokens alone.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from s3clip.backbone import Backbone
from s3clip.prefix_tree import find_text_tower, shared_lengths
from s3clip.prompts import TEMPLATES, join_descriptor, render


def texts_of_imagenet(synonyms: Path, share: float) -> list[str]:
    """Return the prompts of the 1,000 names of ImageNet in 7 templates."""
    names = json.loads((synonyms / "clip_benchmark" / "en_classnames.json").read_text())["imagenet1k"]
    return [render(t, name) for name in names[:: round(1 / share)] for t in TEMPLATES["openai_imagenet_7"]]


def texts_of_food(synonyms: Path, share: float) -> list[str]:
    """Return the prompts of 100 classes of Food-101: 5 synonyms, each joined with 20 sentences.

    Classes with fewer published synonyms get made-up ones.
    """
    listed = json.loads((synonyms / "neglected_tails" / "food101-LAION400M.json").read_text()).values()
    sentences = json.loads((synonyms / "awt" / "food101.json").read_text())
    texts = []
    for entry in list(listed)[: 100 : round(1 / share)]:
        name = entry["name"]
        made_up = [f"plate of {name}", f"homemade {name}", f"traditional {name} dish", f"serving of {name}"]
        names = list(dict.fromkeys([name, *entry["alternates"], *made_up]))[:5]
        own = [text.strip() for text in sentences[name.replace(" ", "_")] if text.strip(" .")][:20]
        texts += [join_descriptor(f"a photo of a {n}.", sentence) for n in names for sentence in own]
    return texts


def padded_to_longest(model: Any, tokenizer: Any, texts: list[str], batch_size: int) -> Tensor:
    """Return unit embeddings as most scripts take them: every text padded to 77 tokens."""
    rows = []
    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size]
        tokens = tokenizer(batch, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        with torch.no_grad():
            out = model.get_text_features(**tokens)
        rows.append(nn.functional.normalize(out if torch.is_tensor(out) else out.pooler_output))
    return torch.cat(rows)


def products(model: nn.Module, nodes: int, batch: int) -> Callable[[], None]:
    """Return a function that does the matrix products of the layers for so many tokens, and nothing else."""
    tower = find_text_tower(model)
    assert tower is not None
    linear = [module for layer in tower.layers for module in _linear(layer)]
    inputs = {module.in_features: torch.randn(batch, module.in_features) for module in linear}

    def run() -> None:
        with torch.no_grad():
            for start in range(0, nodes, batch):
                for module in linear:
                    module(inputs[module.in_features][: nodes - start])

    return run


def _linear(layer: Any) -> list[Any]:
    parts = (layer.attention, layer.feed_forward)
    return [module for part in parts for module in part.modules() if isinstance(module, nn.Linear)]


def measure(model: Any, tokenizer: Any, texts: list[str], batch_size: int, repeats: int) -> dict[str, Any]:
    """Return token counts, median seconds of every way, and ratios to padding to 77 tokens."""
    texts = list(dict.fromkeys(texts))
    sequences = sorted(tokenizer(texts, truncation=True, max_length=77)["input_ids"])
    tokens = sum(map(len, sequences))
    nodes = tokens - int(shared_lengths(sequences).sum())
    tree = Backbone(model, (tokenizer, None))
    sorted_only = Backbone(model, (tokenizer, None))
    sorted_only._tree_batches = lambda *_: iter(())  # type: ignore[method-assign]
    ways: dict[str, Callable[[], Any]] = {
        "tree": lambda: tree.encode_texts(texts, batch_size=batch_size, progress=False),
        "length-sorted": lambda: sorted_only.encode_texts(texts, batch_size=batch_size, progress=False),
        "padded": lambda: padded_to_longest(model, tokenizer, texts, batch_size),
        "floor": products(model, nodes, max(1, nodes * batch_size // len(texts))),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    rows: dict[str, Tensor] = {}
    for _ in range(repeats):
        for way, run in ways.items():
            start = time.perf_counter()
            rows[way] = run()
            seconds[way].append(time.perf_counter() - start)
    medians = {way: median(times) for way, times in seconds.items()}
    return {
        "texts": len(texts),
        "tokens": {"padded": 77 * len(texts), "length-sorted": tokens, "tree": nodes},
        "seconds": seconds,
        "ratio": {
            way: median(a / b for a, b in zip(seconds["padded"], seconds[way], strict=True))
            for way in medians
        },
        "largest difference": (rows["tree"] - rows["padded"]).abs().max().item(),
        "shared": tree._unshared_because is None,
    }


def main() -> None:
    """Print both rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--synonyms", type=Path, required=True)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write everything measured")
    given = parser.parse_args()
    torch.manual_seed(0)
    config = transformers.CLIPConfig.from_pretrained(given.tokenizer)
    config.vision_config.num_hidden_layers = 1  # images are not encoded
    model = transformers.CLIPModel(config).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(given.tokenizer)
    settings = {
        "threads": torch.get_num_threads(),
        "dtype": str(model.dtype),
        "device": str(model.device),
        "batch_size": given.batch_size,
        "share": given.share,
        "repeats": given.repeats,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(", ".join(f"{key} {value}" for key, value in settings.items()))
    found = {}
    for title, texts_of in (
        ("ImageNet x 7 templates", texts_of_imagenet),
        ("Food-101 x 5 x 20", texts_of_food),
    ):
        texts = texts_of(given.synonyms, given.share)
        row = found[title] = measure(model, tokenizer, texts, given.batch_size, given.repeats)
        print(f"{title}: {row['texts']} texts, largest difference {row['largest difference']:.1e}")
        for way, times in row["seconds"].items():
            tokens = row["tokens"].get(way, row["tokens"]["tree"])
            print(f"  {way:14} {tokens:8} tokens {median(times):8.2f} s  {row['ratio'][way]:6.1f} x faster")
    if given.json:
        given.json.write_text(json.dumps({"settings": settings, "rows": found}, indent=1))


if __name__ == "__main__":
    main()
