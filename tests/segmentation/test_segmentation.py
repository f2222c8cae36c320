"""Segmentation, against plain implementations of the published formulas, plain loops and exact identities."""

import copy
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate, normalize

from s3clip import Backbone, Calibration, HeadConfig, SynonymousSpaceHead
from s3clip.segmentation.dense import PATCH_FEATURES, DenseTower, neighbourhood
from s3clip.segmentation.palette import palette_image, voc_palette
from s3clip.segmentation.pictures import heat_map, overlay
from s3clip.segmentation.result import row_parts
from s3clip.segmentation.rle import encode_rle
from s3clip.segmentation.scores import best_class, softmax_then_max
from s3clip.segmentation.segmenter import encode_patches, segment_patches
from s3clip.segmentation.windows import PatchLogits, resized_rows, tile, working_size
from tests.processes import memory_grown
from tests.tiny_models import FAMILIES, build

CLIP_LIKE = ["clip", "metaclip_2", "altclip", "chinese_clip", "clipseg", "owlvit", "owlv2"]
SERVED = [family for family in [*CLIP_LIKE, "siglip"] if family in FAMILIES]
REFUSED = [family for family in FAMILIES if family not in SERVED]
CLASSES = {"cat": ["feline", "kitty"], "dog": ["hound"], "background": ["wall", "sky", "grass"]}


@pytest.fixture(scope="module")
def fitted():
    model, processor = build("clip")
    return SynonymousSpaceHead(model, processor).fit_classes(CLASSES)


@pytest.fixture(scope="module")
def picture():
    draw = np.random.default_rng(0)
    return Image.fromarray(draw.integers(0, 256, (45, 70, 3), dtype=np.uint8))


def last_block(model, pixels):
    """The input of the last block, as it comes in, and the output of the tower."""
    kept = []
    hook = model.vision_model.encoder.layers[-1].register_forward_pre_hook(
        lambda _, args, kwargs: kept.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    last = model.vision_model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
    hook.remove()
    return kept[0], last


def plain_weights(method, q, k, i, first, columns):
    """The weights of all tokens in the new state of token i, in one head, by the published formulas."""
    tokens, size = q.shape
    qq = torch.stack([q[i] @ q[j] / math.sqrt(size) for j in range(tokens)])
    kk = torch.stack([k[i] @ k[j] / math.sqrt(size) for j in range(tokens)])
    if method == "maskclip":
        return torch.eye(tokens, dtype=q.dtype)[i]
    if method == "sclip":
        return qq.softmax(0) + kk.softmax(0)
    if method == "clearclip":
        return qq.softmax(0)
    for j in range(first, tokens if i >= first else 0):
        dy = (i - first) // columns - (j - first) // columns
        dx = (i - first) % columns - (j - first) % columns
        kk[j] += math.exp(-(dy * dy + dx * dx) / (2 * 5.0**2))
    return kk.softmax(0)


def plain_states(model, states, method, first, columns):
    """The states of one picture's tokens after the last block in its published form, layer norm included."""
    block = model.vision_model.encoder.layers[-1]
    attention = block.self_attn
    inner = block.layer_norm1(states)
    q, k, v = attention.q_proj(inner), attention.k_proj(inner), attention.v_proj(inner)
    mixed = torch.zeros_like(v)
    for part in torch.arange(v.shape[1]).chunk(attention.num_heads):
        for i in range(len(v)):
            weights = plain_weights(method, q[:, part], k[:, part], i, first, columns)
            mixed[i, part] = sum(weights[j] * v[j, part] for j in range(len(v)))
    mixed = attention.out_proj(mixed)
    if method == "sclip":
        mixed = states + mixed
        mixed = mixed + block.mlp(block.layer_norm2(mixed))
    return model.vision_model.post_layernorm(mixed)


def plain_features(model, pixels, method):
    """The published formulas, one picture, head and token after the other: (batch, patches, dim)."""
    first = int(hasattr(model, "visual_projection"))
    columns = pixels.shape[-1] // model.vision_model.config.patch_size
    embedded = []
    for states, last in zip(*last_block(model, pixels), strict=True):
        if method != "patch":
            own = plain_states(model, states, method, first, columns)
        else:
            own = model.vision_model.post_layernorm(last) if first else last
        if first:
            embedded.append(model.visual_projection(own[1:]))
        else:
            embedded.append(torch.cat([model.vision_model.head(token[None, None]) for token in own]))
    found = torch.stack(embedded)
    return found / found.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("method", PATCH_FEATURES)
@pytest.mark.parametrize("family", SERVED)
def test_patches_are_those_of_the_published_formulas(family, method):
    model, _ = build(family)
    model = model.double()
    # Wider than high, and not of the model's own size: positions are interpolated.
    pixels = torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        found = DenseTower(model).features(pixels, method)
        expected = plain_features(model, pixels, method)
    assert found.shape[:3] == (2, 3, 5)
    torch.testing.assert_close(found.flatten(1, 2), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", [family for family in SERVED if family != "siglip"])
def test_the_class_token_of_plain_patches_is_the_image_embedding(family):
    model, processor = build(family)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens = DenseTower(model).tokens(pixels, PATCH_FEATURES["patch"], (4, 4))
        expected = Backbone(model, processor).encode_images(pixels)
    torch.testing.assert_close(normalize(tokens[:, 0], dim=-1), expected)


def test_the_only_patch_of_siglip_is_the_image_embedding():
    model, processor = build("siglip")
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = DenseTower(model).features(pixels, "patch")
        expected = Backbone(model, processor).encode_images(pixels, interpolate_pos_encoding=True)
    torch.testing.assert_close(found[:, 0, 0], expected)


@pytest.mark.parametrize("family", REFUSED)
def test_other_families_are_refused_by_name(family):
    model, _ = build(family)
    with pytest.raises(TypeError, match="MetaCLIP 2, AltCLIP"):
        DenseTower(model)


def test_the_gaussian_is_that_of_the_distance():
    found = neighbourhood(3, 4, 2.0)
    for i in range(12):
        for j in range(12):
            squared = (i // 4 - j // 4) ** 2 + (i % 4 - j % 4) ** 2
            assert found[i, j].item() == pytest.approx(math.exp(-squared / 8))


# ---- windows -------------------------------------------------------------------------------------------


def test_sizes_are_those_of_mmseg():
    assert working_size(375, 500, 336) == (336, 448)
    assert working_size(100, 5000, 336) == (41, 2048)
    assert working_size(1, 5000, 336) == (1, 2048)


@pytest.mark.parametrize("size", [(1, 1), (5, 30), (32, 32), (33, 47), (90, 31)])
@pytest.mark.parametrize(("window", "stride"), [(32, 16), (32, 32), (32, 5), (17, 3), (1, 1)])
def test_windows_cover_every_pixel_and_lie_inside(size, window, stride):
    tiling = tile(*size, window, stride)
    seen = np.zeros(size, int)
    for top, left in tiling.corners:
        assert top >= 0 <= left
        assert top + tiling.window[0] <= size[0]
        assert left + tiling.window[1] <= size[1]
        seen[top : top + tiling.window[0], left : left + tiling.window[1]] += 1
    assert seen.min() >= 1
    assert len(set(tiling.corners)) == len(tiling.corners)


@pytest.mark.parametrize("size", [(20, 30), (41, 30), (9, 70)])
@pytest.mark.parametrize("original", [(20, 30), (64, 49), (7, 8)])
def test_pixels_are_the_mean_of_their_windows_resized(size, original):
    patch, tiling = 8, tile(*size, 17, 6)
    grids = torch.randn(len(tiling.corners), 3, -(-tiling.window[0] // 8), -(-tiling.window[1] // 8))
    total, count = torch.zeros(3, *size), torch.zeros(size)
    for grid, (top, left) in zip(grids, tiling.corners, strict=True):
        whole = (grid.shape[1] * patch, grid.shape[2] * patch)
        pixels = interpolate(grid[None], whole, mode="bilinear")[0][:, : tiling.window[0], : tiling.window[1]]
        total[:, top : top + pixels.shape[1], left : left + pixels.shape[2]] += pixels
        count[top : top + pixels.shape[1], left : left + pixels.shape[2]] += 1
    expected = interpolate((total / count)[None], original, mode="bilinear")[0]
    patches = PatchLogits(grids, tiling, patch, original)
    torch.testing.assert_close(patches.working_rows(0, size[0]), total / count, rtol=0, atol=1e-5)
    for step in (1, 3, 1000):
        rows = [patches.rows(i, min(i + step, original[0])) for i in range(0, original[0], step)]
        torch.testing.assert_close(torch.cat(rows, 1), expected, rtol=0, atol=1e-5)


def test_rows_of_a_resized_map_are_torchs():
    source = torch.randn(2, 7, 5)
    for size in ((7, 5), (20, 3), (3, 11), (1, 1)):
        expected = interpolate(source[None], size, mode="bilinear")[0]
        torch.testing.assert_close(resized_rows(source, 0, 7, size, 0, size[0]), expected)


def test_one_window_is_the_direct_computation(fitted, picture):
    features = encode_patches(fitted.backbone, picture, window=64, stride=64, short_side=40, method="naclip")
    height, width = 40, 62
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    pixels = fitted.backbone.preprocess([resized], resize=False)["pixel_values"]
    padded = torch.nn.functional.pad(pixels, (0, 2, 0, 0), mode="replicate")
    with torch.no_grad():
        direct = DenseTower(fitted.backbone.model).features(padded, "naclip")
        logits = fitted(image_embeds=direct.flatten(0, 2)).T.reshape(1, 3, 5, 8)
    expected = interpolate(logits, (40, 64), mode="bilinear")[..., :62]
    found = segment_patches(fitted, features)
    torch.testing.assert_close(found.logits, expected[0], rtol=0, atol=1e-4)
    original = interpolate(expected, (45, 70), mode="bilinear")[0]
    assert (found.labels != original.argmax(0)).float().mean() < 0.01  # ties alone


def test_batch_size_and_memory_change_nothing(fitted, picture):
    first = fitted.segment(picture, batch_size=1)[0]
    for batch_size, max_bytes in ((2, 1), (7, 5000), (100, 10**9)):
        other = fitted.segment(picture, batch_size=batch_size, max_bytes=max_bytes)[0]
        torch.testing.assert_close(other.logits, first.logits, rtol=0, atol=1e-4)
        assert (other.labels != first.labels).float().mean() < 0.005
    assert first.labels.shape == (45, 70)


def test_the_memory_of_pixels_is_bounded():
    # 171 classes at 700 x 700 pixels are 320 MiB at once.
    code = """
import torch
from s3clip.segmentation.windows import PatchLogits, tile
from tests.processes import peak_memory
torch.set_num_threads(1)
tiling = tile(336, 336, 224, 112)
patches = PatchLogits(torch.randn(4, 171, 14, 14), tiling, 16, (700, 700))
patches.rows(0, 1).softmax(0).argmax(0)
print(peak_memory())
step = patches.rows_at_once(32 * 2**20)
for start in range(0, 700, step):
    patches.rows(start, min(start + step, 700)).softmax(0).argmax(0)
print(step)
print(peak_memory())
"""
    grown, (step,) = memory_grown(code)
    assert int(step) > 1
    assert grown < (32 + 16) << 20, "and some for the allocator"


# ---- labels --------------------------------------------------------------------------------------------


def test_softmax_then_max_is_a_plain_loop():
    logits = torch.randn(6, 4, 5)
    owners = torch.tensor([0, 0, 1, 2, 2, 2])
    found = softmax_then_max(logits, owners, 3)
    for y in range(4):
        for x in range(5):
            exps = [math.exp(v) for v in logits[:, y, x].tolist()]
            shares = [e / sum(exps) for e in exps]
            expected = [
                max(s for s, o in zip(shares, owners.tolist(), strict=True) if o == c) for c in range(3)
            ]
            assert found[:, y, x].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_threshold_leaves_pixels_to_the_background():
    probabilities = torch.tensor([[0.6, 0.2, 0.5], [0.4, 0.4, 0.5]])
    assert best_class(probabilities, None, None).tolist() == [0, 1, 0]
    assert best_class(probabilities, 0.5, None).tolist() == [0, -1, 0]
    assert best_class(probabilities, 0.55, 1).tolist() == [0, 1, 1]


def test_a_class_with_one_text_each_is_the_same_in_both_ways(picture):
    model, processor = build("clip")
    head = SynonymousSpaceHead(model, processor).fit_classes(["cat", "dog", "sea"])
    ours, usual = (head.segment(picture, aggregation=way)[0] for way in ("space", "softmax_then_max"))
    assert torch.equal(ours.labels, usual.labels)
    torch.testing.assert_close(ours.probabilities("dog"), usual.probabilities("dog"), rtol=0, atol=1e-5)


def test_repeating_a_synonym_moves_the_baseline_and_not_the_head(picture):
    model, processor = build("clip")
    head = SynonymousSpaceHead(model, processor, config=HeadConfig(logit_scale=20.0)).fit_classes(CLASSES)
    features = encode_patches(head.backbone, picture)
    texts, names = list(head.space.raw.split([3, 2, 4])), head.class_names
    more = [torch.cat([texts[0], *[texts[0][1:2]] * 10]), *texts[1:]]
    other = SynonymousSpaceHead(model, processor).fit_embeddings(more, names, logit_scale=20.0)

    def nothing(which, way, threshold):
        labels = segment_patches(which, features, aggregation=way, threshold=threshold).labels
        return (labels < 0).float().mean().item()

    for way in ("space", "softmax_then_max"):
        # Half of the pixels reach it, whatever the random weights are.
        threshold = segment_patches(head, features, aggregation=way).probabilities().median().item()
        before, after = nothing(head, way, threshold), nothing(other, way, threshold)
        assert after == before if way == "space" else after > before + 0.05


def test_areas_masks_and_the_pipelines_records_agree(fitted, picture):
    found = fitted.segment(picture, threshold=0.34)[0]
    areas = found.areas()
    assert sum(area["pixels"] for area in areas) + int((found.labels < 0).sum()) == 45 * 70
    for area, record, coco in zip(areas, found.to_pipeline(), found.to_coco_rle(), strict=True):
        mask = np.asarray(record["mask"])
        assert record["mask"].mode == "L"
        assert record["label"] == area["label"] == coco["label"]
        assert (mask == 255).sum() == area["pixels"] == (mask > 0).sum()
        probability = found.probabilities(area["class_index"]).numpy()
        assert record["score"] == pytest.approx(probability[mask == 255].mean(), rel=1e-4)
        assert decoded(coco["segmentation"]).tolist() == (mask == 255).tolist()
    total = sum(found.probabilities(i) for i in range(3))
    torch.testing.assert_close(total, torch.ones(45, 70))
    surest = torch.stack([found.probabilities(i) for i in range(3)]).amax(0)
    assert torch.equal(found.probabilities(), surest)


def decoded(rle):
    """COCO's counts, read back by the description of the format."""
    numbers, at, text = [], 0, rle["counts"]
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            c = ord(text[at]) - 48
            value |= (c & 31) << shift
            more, at, shift = bool(c & 32), at + 1, shift + 5
            if not more and c & 16:
                value |= -1 << shift
        numbers.append(value + numbers[-2] if len(numbers) > 2 else value)
    flat = [bit for i, run in enumerate(numbers) for bit in [bool(i % 2)] * run]
    return np.array(flat, bool).reshape(rle["size"], order="F")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (13, 200), (70, 3)])
def test_run_lengths_are_cocos(size, share):
    mask = np.random.default_rng(0).random(size) < share
    found = encode_rle(torch.from_numpy(mask))
    assert (decoded(found) == mask).all()
    coco = pytest.importorskip("pycocotools.mask")
    assert found["counts"] == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


# ---- pictures ------------------------------------------------------------------------------------------


def test_the_palette_is_vocs(shared):
    file = shared / "data" / "voc_sample" / "SegmentationClass" / "2011_000003.png"
    palette = np.array(Image.open(file).getpalette()).reshape(-1, 3)
    assert (voc_palette()[: len(palette)] == palette).all()


def test_the_palette_picture_holds_the_labels():
    labels = torch.tensor([[0, 1, -1], [2, 2, 0]], dtype=torch.int16)
    found = palette_image(labels, ["background", "cat", "dog"])
    assert found.mode == "P"
    assert np.asarray(found).tolist() == [[0, 1, 255], [2, 2, 0]]
    rgb = np.asarray(found.convert("RGB"))
    assert rgb[0].tolist() == [[0, 0, 0], [128, 0, 0], [224, 224, 192]]
    with pytest.raises(ValueError, match="255 classes, got 256"):
        palette_image(labels, ["x"] * 256)


def test_pictures_show_what_they_say(fitted, picture):
    found = fitted.segment(picture, threshold=0.35)[0]
    drawn = np.asarray(overlay(picture, found, opacity=1.0))
    colours = voc_palette()[1:]  # the first class is no background
    labels = found.labels.numpy()
    assert (drawn[:45, :70][labels >= 0] == colours[labels[labels >= 0]]).all()
    assert (drawn[:45, :70][labels < 0] == np.asarray(picture)[labels < 0]).all()
    assert heat_map(picture, found, "cat").size[0] > 70
    heat = 0.7 * found.probabilities("cat").numpy()[..., None]
    expected = np.asarray(picture) * (1 - heat) + np.array([215, 48, 31]) * heat  # the colours show through
    assert np.abs(np.asarray(heat_map(picture, found, "cat"))[:45, :70] - expected).max() <= 0.51
    with pytest.raises(ValueError, match="70 x 45, got 10 x 10"):
        overlay(Image.new("RGB", (10, 10)), found)


# ---- bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "gem"}, "method: expected one of patch, maskclip"),
        ({"window": 0}, "window: expected a whole number"),
        ({"window": 2.5}, "window: expected a whole number"),
        ({"window": 16, "stride": 17}, "stride: expected no more than the window, 16"),
        ({"short_side": -3}, "short_side: expected"),
        ({"batch_size": 0}, "batch_size: expected"),
        ({"max_bytes": 0}, "max_bytes: expected"),
        ({"aggregation": "max"}, "aggregation: expected one of space"),
        ({"threshold": 1.5}, "threshold: expected a probability"),
        ({"background": "background"}, "give threshold= too"),
        ({"threshold": 0.1, "background": "sky"}, "background: 'sky' names no class"),
        ({"threshold": 0.1, "background": 3}, "background: position 3 is out of range for 3 classes"),
    ],
)
def test_wrong_settings_are_named(fitted, picture, settings, message):
    with pytest.raises(ValueError, match=message):
        fitted.segment(picture, **settings)


def test_heads_that_cannot_are_named(head, picture, tmp_path):
    with pytest.raises(ValueError, match="not fitted"):
        head.segment(picture)
    alone = SynonymousSpaceHead().fit_embeddings([torch.ones(1, 4)], ["a"], logit_scale=1.0)
    with pytest.raises(ValueError, match="no backbone"):
        alone.segment(picture)
    with pytest.raises(FileNotFoundError):
        head.fit_classes(["a"]).segment(tmp_path / "none.jpg")


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_pixels_have_the_probabilities_of_the_head(fitted, picture, activation):
    """A threshold means the same for a pixel as for an image: the calibration counts."""
    head = copy.deepcopy(fitted)
    head.calibration = Calibration(activation=activation, temperature=0.3, bias=-0.7)
    found = head.segment(picture)[0]
    logits = torch.cat(list(row_parts(found._patches, 2**20)), dim=1)
    expected = head.probabilities(logits.movedim(0, -1))
    for position, name in enumerate(head.class_names):
        torch.testing.assert_close(found.probabilities(name), expected[..., position], rtol=0, atol=1e-6)
    least = expected.amax(-1).median().item()
    labels = head.segment(picture, threshold=least)[0].labels
    assert torch.equal(labels >= 0, expected.amax(-1) >= least)


def test_positions_of_many_classes_fit_into_the_labels(picture):
    model, processor = build("clip")
    head = SynonymousSpaceHead(model, processor, config=HeadConfig(scale_rule=None))
    sizes = {"window": 8, "short_side": 8}
    features = encode_patches(head.backbone, picture, **sizes)
    rows = torch.randn(40_000, 1, head.backbone.dim)
    rows[35_000] = features.patches.flatten(0, 2).mean(0)  # beyond what int16 holds, and the nearest
    head.fit_embeddings(rows.unbind(0), [str(i) for i in range(len(rows))])
    assert head.segment(picture, **sizes)[0].areas()[0]["class_index"] == 35_000
