"""The tree of tokens against plain sets of prefixes, and its embeddings against texts that were padded."""

import json
import random

import pytest
import torch
import transformers
from torch import nn

from s3clip.backbone import backbone as backbone_module
from s3clip.backbone import prefix_tree as prefix_tree_module
from s3clip.backbone.backbone import Backbone
from s3clip.backbone.prefix_tree import find_text_tower, prefix_tree, shared_lengths
from s3clip.texts.prompts import render
from s3clip.texts.templates import TEMPLATES
from tests import SHARED, tiny_models

torch.set_num_threads(1)


CAUSAL = ["clip", "metaclip_2", "clipseg", "aimv2", "groupvit", "owlvit", "owlv2"]
FAMILIES = [family for family in CAUSAL if family in tiny_models.FAMILIES]
OTHERS = [family for family in tiny_models.FAMILIES if family not in CAUSAL]

# One text begins another, some tokenize alike, one is a single letter.
TEXTS = [
    f"{start} {name}{end}"
    for start in ("a photo of a", "Art of the", "art of the")
    for name in ("cat", "cats", "dog", "dodo")
    for end in ("", ", red", ", red hat.")
] + ["x", "a"]


def random_sequences(seed, *, count, letters, longest):
    draw = random.Random(seed)
    return sorted([draw.randrange(letters) for _ in range(draw.randint(1, longest))] for _ in range(count))


def padded(model, processor, texts):
    """What a backbone gives that was told to share nothing."""
    backbone = Backbone(model, processor)
    backbone._tree_batches = lambda *_: iter(())
    return backbone.encode_texts(texts)


@pytest.fixture
def always(monkeypatch):
    """Share whatever can be shared."""
    monkeypatch.setattr(backbone_module, "_WORTHWHILE_SAVING", 0)


# The tree.


@pytest.mark.parametrize("seed", range(20))
def test_every_distinct_prefix_is_one_node(seed):
    sequences = random_sequences(seed, count=1 + 3 * seed, letters=1 + seed % 4, longest=9)
    tree = prefix_tree(sequences)
    prefixes = {tuple(s[:n]) for s in sequences for n in range(1, len(s) + 1)}
    spelled = [
        tuple(tree.tokens[row[row >= 0]].tolist()) for row in tree.ancestors
    ]  # the path to a node, read along its ancestors
    assert len(spelled) == len(prefixes)
    assert set(spelled) == prefixes
    assert spelled == sorted(spelled)  # a depth-first walk
    assert [len(path) - 1 for path in spelled] == tree.depths.tolist()
    assert [spelled[end] for end in tree.ends] == [tuple(s) for s in sequences]
    assert sum(map(len, sequences)) - int(shared_lengths(sequences).sum()) == len(prefixes)


def test_many_sequences():
    sequences = random_sequences(0, count=20_000, letters=30, longest=12)
    nodes = sum(map(len, sequences)) - int(shared_lengths(sequences).sum())
    assert nodes == len({tuple(s[:n]) for s in sequences for n in range(1, len(s) + 1)})


def test_blocks_ask_for_ancestors_alone(monkeypatch):
    monkeypatch.setattr(prefix_tree_module, "_BLOCK", 5)
    tree = prefix_tree(random_sequences(3, count=60, letters=3, longest=8))
    blocks = prefix_tree_module._blocks(tree, torch.float32)
    asked = [set() for _ in tree.tokens]
    for queries, keys, mask in zip(blocks.queries, blocks.keys, blocks.mask[:, 0], strict=True):
        for query, row in zip(queries, mask, strict=True):
            found = keys[row == 0].tolist()
            assert len(found) == len(set(found))
            asked[query] |= set(found)
    assert asked == [set(row[row >= 0].tolist()) for row in tree.ancestors]
    assert sorted({*blocks.queries.flatten().tolist()}) == list(range(len(tree.tokens)))


@pytest.mark.skipif(not SHARED.exists(), reason="the shared files are not here")
def test_prompts_of_imagenet_hold_few_prefixes():
    tokenizer = transformers.AutoTokenizer.from_pretrained(SHARED / "models" / "clip_tokenizer")
    names = json.loads((SHARED / "data" / "synonyms" / "clip_benchmark" / "en_classnames.json").read_text())
    texts = {
        render(template, name) for name in names["imagenet1k"] for template in TEMPLATES["openai_imagenet_7"]
    }
    sequences = sorted(tokenizer(list(texts))["input_ids"])
    nodes = sum(map(len, sequences)) - int(shared_lengths(sequences).sum())
    assert 16.5 < 77 * len(texts) / nodes < 17


# Embeddings.


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 5, 256])
@pytest.mark.usefixtures("always")
def test_embeddings_are_those_of_padded_texts(family, batch_size):
    model, processor = tiny_models.build(family)
    backbone = Backbone(model, processor)
    texts = [*TEXTS, *TEXTS[::-1]]
    rows = backbone.encode_texts(texts, batch_size=batch_size)
    assert backbone.unshared_because is None
    torch.testing.assert_close(rows, padded(model, processor, texts), atol=1e-5, rtol=0)
    assert not rows.requires_grad


@pytest.mark.parametrize("texts", [["ox"], ["ox", "Ox"], ["a"], TEXTS[:2]])
@pytest.mark.usefixtures("always")
def test_few_texts(texts):
    model, processor = tiny_models.build("clip")
    backbone = Backbone(model, processor)
    torch.testing.assert_close(
        backbone.encode_texts(texts), padded(model, processor, texts), atol=1e-5, rtol=0
    )
    assert backbone.unshared_because is None


@pytest.mark.parametrize("block", [1, 3, 32, 1000])
@pytest.mark.usefixtures("always")
def test_blocks_of_any_size_in_a_deeper_model(block, monkeypatch):
    monkeypatch.setattr(prefix_tree_module, "_BLOCK", block)
    torch.manual_seed(1)
    text = {**tiny_models.CLIP_TEXT, "num_hidden_layers": 7, "num_attention_heads": 8, "hidden_size": 64}
    config = transformers.CLIPConfig(
        text_config=text,
        vision_config={**tiny_models.SMALL, **tiny_models.PIXELS},
        projection_dim=tiny_models.DIM,
        initializer_factor=4.0,
    )
    model, processor = transformers.CLIPModel(config).eval(), tiny_models.build("clip")[1]
    backbone = Backbone(model, processor)
    draw = random.Random(0)
    texts = ["".join(draw.choices("ab ", k=draw.randint(1, 70))) + "c" for _ in range(60)]
    rows = backbone.encode_texts(texts)
    assert backbone.unshared_because is None
    torch.testing.assert_close(rows, padded(model, processor, texts), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["clip", "owlvit"])
@pytest.mark.usefixtures("always")
def test_truncated_texts(family):
    model, processor = tiny_models.build(family)
    backbone = Backbone(model, processor)
    texts = ["ab" * 50, "ab" * 50 + "c", "ab" * 20, "ab", "b"]
    with pytest.warns(UserWarning, match="are truncated"):
        rows = backbone.encode_texts(texts)
    assert backbone.unshared_because is None
    with pytest.warns(UserWarning, match="are truncated"):
        torch.testing.assert_close(rows, padded(model, processor, texts), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["clip", "owlvit"])
@pytest.mark.usefixtures("always")
def test_texts_that_name_special_tokens_are_read_where_the_model_reads_them(family):
    model, processor = tiny_models.build(family)
    processor.tokenizer.add_tokens(["<cat>"])  # with a larger number than the end token
    table = model.text_model.embeddings.token_embedding
    bigger = nn.Embedding(515, table.embedding_dim)
    bigger.weight.data = torch.cat([table.weight.data, torch.randn(1, table.embedding_dim)])
    model.text_model.embeddings.token_embedding = bigger
    texts = [*TEXTS[:8], "a dog<|endoftext|> or not", "a <cat> there", "<|endoftext|>"]
    backbone = Backbone(model, processor)
    rows = backbone.encode_texts(texts)
    assert backbone.unshared_because is None
    torch.testing.assert_close(rows, padded(model, processor, texts), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.usefixtures("always")
def test_half_precision(dtype):
    model, processor = tiny_models.build("clip")
    exact = padded(model, processor, TEXTS)
    model = model.to(dtype)
    backbone = Backbone(model, processor)
    rows = backbone.encode_texts(TEXTS, batch_size=8)
    assert backbone.unshared_because is None
    assert rows.dtype == torch.float32
    # As near to single precision as the padded texts come.
    gap = (padded(model, processor, TEXTS) - exact).norm(dim=1).max()
    assert 0 < (rows - exact).norm(dim=1).max() < 2 * gap


@pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) < 5,
    reason="transformers 4 passes CLIP token types, and fails",
)
@pytest.mark.usefixtures("always")
def test_a_text_tower_of_clip_beside_another_image_tower():
    torch.manual_seed(0)
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        transformers.ViTConfig(**tiny_models.SMALL, **tiny_models.PIXELS),
        transformers.CLIPTextConfig(**tiny_models.CLIP_TEXT),
        projection_dim=tiny_models.DIM,
    )
    model = transformers.VisionTextDualEncoderModel(config).eval()
    processor = (tiny_models.clip_tokenizer(), tiny_models.clip_image_processor())
    backbone = Backbone(model, processor)
    rows = backbone.encode_texts(TEXTS)
    assert backbone.unshared_because is None
    torch.testing.assert_close(rows, padded(model, processor, TEXTS), atol=1e-5, rtol=0)


# What is run.


def test_every_prefix_passes_the_tower_once():
    model, processor = tiny_models.build("clip")
    layers = find_text_tower(model).layers
    tokens = [[], []]
    for count, layer in zip(tokens, layers, strict=True):
        layer.feed_forward.register_forward_hook(
            lambda module, args, out, count=count: count.append(out.shape[:-1].numel())
        )
    texts = [text.lower() for text in TEXTS]
    backbone = Backbone(model, processor)
    backbone.encode_texts([*texts, *texts], batch_size=256)
    sequences = backbone.tokenizer(texts)["input_ids"]
    nodes = len({tuple(s[:n]) for s in sequences for n in range(1, len(s) + 1)})
    distinct = len(set(texts))
    # The last layer goes on for the texts alone. Before come the probes: padded, then as a tree.
    assert [count[-1] for count in tokens] == [nodes, distinct]
    assert [len(count) for count in tokens] == [3, 3]


def test_few_texts_are_not_worth_a_probe():
    model, processor = tiny_models.build("clip")
    rows = []
    find_text_tower(model).layers[0].feed_forward.register_forward_hook(
        lambda module, args, out: rows.append(len(out))
    )
    backbone = Backbone(model, processor)
    backbone.fingerprint()
    assert rows == [3, 6]
    assert "tokens in common" in backbone.unshared_because


# Towers that cannot share.


@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.usefixtures("always")
def test_other_families_are_padded(family):
    model, processor = tiny_models.build(family)
    assert find_text_tower(model) is None
    backbone = Backbone(model, processor)
    assert torch.equal(backbone.encode_texts(TEXTS[:9]), padded(model, processor, TEXTS[:9]))
    assert backbone.unshared_because.endswith("is not built like CLIP")


def sees_ahead(model):
    """Add what comes later to every token."""
    model.text_model.embeddings.register_forward_hook(
        lambda module, args, out: out + out.mean(1, keepdim=True)
    )


def attends_ahead(model):
    """Leave the causal mask out of every layer."""

    def without_mask(module, args, kwargs):
        hidden = kwargs["hidden_states"]
        causal = kwargs.get("causal_attention_mask")
        open_mask = hidden.new_zeros(len(hidden), 1, hidden.shape[1], hidden.shape[1])
        kwargs["attention_mask"] = open_mask
        if causal is not None:
            kwargs["causal_attention_mask"] = torch.zeros_like(causal)
        return args, kwargs

    for layer in find_text_tower(model).layers:
        layer.attention.register_forward_pre_hook(without_mask, with_kwargs=True)


def scales_otherwise(model):
    for layer in find_text_tower(model).layers:
        layer.attention.scale *= 2


def reads_off_the_middle(model):
    """Average the states of a text instead of taking its last."""

    def features(input_ids, attention_mask):
        states = model.text_model(input_ids=input_ids, attention_mask=attention_mask)[0]
        return model.text_projection(states.mean(1))

    model.get_text_features = features


def takes_no_positions(model):
    embeddings = model.text_model.embeddings
    forward = embeddings.forward
    embeddings.forward = lambda input_ids, **_: forward(input_ids=input_ids)


def fails_on_single_tokens(model):
    def refuse(module, args, kwargs):
        if kwargs["input_ids"].shape[1] == 1:
            raise RuntimeError("one token is no text")

    model.text_model.embeddings.register_forward_pre_hook(refuse, with_kwargs=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (sees_ahead, "off by"),
        (attends_ahead, "off by"),
        (scales_otherwise, "off by"),
        (reads_off_the_middle, "off by"),
        (takes_no_positions, "off by"),
        (fails_on_single_tokens, "RuntimeError: one token is no text"),
    ],
)
@pytest.mark.usefixtures("always")
def test_a_tower_that_works_otherwise_is_found_out(change, reason):
    model, processor = tiny_models.build("clip")
    change(model)
    backbone = Backbone(model, processor)
    rows = backbone.encode_texts(TEXTS)
    assert reason in backbone.unshared_because
    assert torch.equal(rows, padded(model, processor, TEXTS))


@pytest.mark.parametrize("text_model", [None, nn.Module()])
def test_models_without_layers_have_no_tower(text_model):
    model = nn.Module()
    model.text_model = text_model
    assert find_text_tower(model) is None
