"""The head: drop-in for CLIP's own logits, and a well-behaved module."""

import copy
import multiprocessing
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file, load_model, save_model
from torch import Tensor
from torch.nn.functional import normalize

from s3clip import HeadConfig, Prediction, SynonymousSpaceHead, SynonymSet
from s3clip.class_space import Calibration
from s3clip.class_space.edits import without_examples
from s3clip.images.opening import open_image
from s3clip.space.metrics import METRICS
from tests.backbone.test_backbone import built, every_family, images, own_logits
from tests.tiny_models import DIM, IMAGE_SIZE, build

PETS = {"cat": ["feline", "kitty", "house cat"], "dog": ["hound", "puppy"], "bird": []}
PLAIN = HeadConfig(metric="center", scale_rule=None, centering=None)


def pictures(count: int = 3, seed: int = 0) -> list[Image.Image]:
    generator = np.random.default_rng(seed)
    return [Image.fromarray(generator.integers(0, 256, (40, 36, 3), dtype=np.uint8)) for _ in range(count)]


def embeddings(sizes: list[int], dim: int = 24, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, dim, generator=generator) + 1 for n in sizes]


def fitted(sizes: list[int] = [4, 1, 6], **config: object) -> SynonymousSpaceHead:  # noqa: B006
    head = SynonymousSpaceHead(config=HeadConfig(**config))
    return head.fit_embeddings(embeddings(sizes), [f"class {i}" for i in range(len(sizes))], logit_scale=50.0)


# ---- the same logits as CLIP where it must be ----


@every_family
@pytest.mark.parametrize("metric", ["center", "local_center", "hull"])
def test_one_text_a_class_gives_the_models_own_logits(family: str, metric: str):
    model, processor = built(family)
    names = ["ox", "a big grey dog", "cat"]
    head = SynonymousSpaceHead(model, processor, config=PLAIN.replaced(metric=metric))
    head.fit_classes(names, templates="{}")
    with torch.no_grad():
        found = head(**head.backbone.preprocess(images()))
    expected = own_logits(family, model, processor, names)
    torch.testing.assert_close(found, expected, atol=1e-3 if family == "align" else 1e-4, rtol=0)


def test_the_golden_picture_of_openai_clip(shared: Path):
    golden = shared / "data/clip_vitb32/golden"
    image = torch.from_numpy(np.load(golden / "image_features.npy")).float().reshape(1, -1)
    text = torch.from_numpy(np.load(golden / "text_features.npy")).float()
    head = SynonymousSpaceHead(config=PLAIN)
    head.fit_embeddings([row[None] for row in text], ["a diagram", "a dog", "a cat"], logit_scale=100.0)
    probabilities = head.predict_proba(image_embeds=image)[0]
    expected = torch.tensor([0.99279, 0.00421, 0.00300])
    torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=0)


def test_templates_are_averaged_by_text_not_taken_as_points(head: SynonymousSpaceHead):
    templates = ("a photo of a {}.", "{} on a table")
    head.fit_classes({"cat": ["feline"]}, templates=templates)
    rows = []
    for name in ("cat", "feline"):
        unit = head.backbone.encode_texts([template.replace("{}", name) for template in templates])
        rows.append(normalize(unit.mean(0), dim=0))
    torch.testing.assert_close(head.space.raw, torch.stack(rows), atol=1e-6, rtol=0)


def test_every_distinct_prompt_is_encoded_once(head: SynonymousSpaceHead):
    seen: list[str] = []
    encode = head.backbone.encode_texts
    head.backbone.encode_texts = lambda texts, **kwargs: (seen.extend(texts), encode(texts, **kwargs))[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "pet" stands in two classes, on purpose
        head.fit_classes({"cat": ["pet"], "dog": ["pet"]})
    assert sorted(seen) == ["a photo of a cat.", "a photo of a dog.", "a photo of a pet."]


# ---- what a pipeline does with it ----


def test_predictions_come_as_a_list_of_lists_best_first(head: SynonymousSpaceHead, tmp_path: Path):
    head.fit_classes(PETS)
    image = pictures(1)[0]
    image.save(tmp_path / "one.png")
    array = np.asarray(image)
    forms = [
        image,
        str(tmp_path / "one.png"),
        tmp_path / "one.png",
        array,
        torch.from_numpy(array.copy()).movedim(-1, 0),
    ]
    first = head.predict(image, top_k=2)
    assert [len(own) for own in first] == [2]
    assert first[0][0].score >= first[0][1].score
    for form in forms:
        assert head.predict(form, top_k=2) == first
        assert head.predict([form], top_k=2) == first
    together = head.predict(forms, top_k=2, batch_size=2)
    for own in together:
        assert [p.label for p in own] == [p.label for p in first[0]]
        assert [p.score for p in own] == pytest.approx([p.score for p in first[0]], abs=1e-5)


def test_scores_are_the_softmax_of_the_logits(head: SynonymousSpaceHead):
    head.fit_classes(PETS)
    photos = pictures()
    logits = head(**head.backbone.preprocess(photos))
    expected = logits.softmax(-1)
    torch.testing.assert_close(head.predict_proba(photos), expected.detach(), atol=1e-6, rtol=0)
    for row, own in zip(expected.tolist(), head.predict(photos, top_k=3), strict=True):
        assert {p.class_index: pytest.approx(row[p.class_index], abs=1e-6) for p in own} == {
            p.class_index: p.score for p in own
        }


def test_a_sigmoid_family_gives_independent_probabilities():
    head = SynonymousSpaceHead(*build("siglip")).fit_classes(PETS, templates="{}")
    logits = head(**head.backbone.preprocess(pictures()))
    torch.testing.assert_close(head.predict_proba(pictures()), logits.sigmoid().detach(), atol=1e-6, rtol=0)


def test_the_matched_text_is_the_nearest_of_those_kept():
    given = embeddings([5, 7, 3])
    texts = [[f"{c}-{i}" for i in range(len(own))] for c, own in enumerate(given)]
    head = SynonymousSpaceHead(config=HeadConfig(scale_rule="quantile", scale_options={"q": 0.5}))
    head.fit_embeddings(given, ["a", "b", "c"], texts=texts, logit_scale=10.0)
    images = torch.randn(20, 24)
    space, flat = head.space, [text for own in texts for text in own]
    points = space.points
    for image, own in zip(images, head.predict(image_embeds=images, top_k=3), strict=True):
        for prediction in own:
            rows = [
                i for i, owner in enumerate(space.point_owners.tolist()) if owner == prediction.class_index
            ]
            nearest = max(rows, key=lambda i: float(points[i] @ image))
            assert prediction.text == flat[int(space.kept[nearest])]


def test_ids_come_back_with_their_type(head: SynonymousSpaceHead):
    records = [{"name": "cat", "id": 281}, {"name": "dog", "id": "n02"}, {"name": "bird"}]
    head.fit_classes({"format": "s3clip-synonyms/1", "classes": records})
    found = {p.label: p.class_id for p in head.predict(pictures(1), top_k=3)[0]}
    assert found == {"cat": 281, "dog": "n02", "bird": None}


def test_class_names_may_repeat(head: SynonymousSpaceHead):
    with pytest.warns(UserWarning, match="missile"):
        head.fit_classes(
            {
                "format": "s3clip-synonyms/1",
                "classes": [
                    {"name": "missile", "synonyms": ["rocket"], "id": 657},
                    {"name": "missile", "synonyms": ["projectile"], "id": 744},
                    {"name": "cat"},
                ],
            }
        )
    assert head.class_names == ["missile", "missile", "cat"]
    with pytest.raises(ValueError, match=r"'missile' names at positions \[0, 1\]; give the position"):
        head.remove_classes(["missile"])
    head.remove_classes([0])
    assert [c.id for c in head.classes] == [744, None]


def test_a_broken_image_is_named_and_the_others_are_classified(head: SynonymousSpaceHead, tmp_path: Path):
    head.fit_classes(PETS)
    good = pictures(2)
    for i, image in enumerate(good):
        image.save(tmp_path / f"{i}.png")
    broken = tmp_path / "broken.png"
    broken.write_bytes((tmp_path / "0.png").read_bytes()[:60])
    files = [tmp_path / "0.png", broken, tmp_path / "1.png"]
    with pytest.warns(UserWarning, match=r"broken\.png: not a readable image"):
        answers = head.predict(files, top_k=1)
    assert [len(own) for own in answers] == [1, 0, 1]
    assert [answers[0], answers[2]] == head.predict([files[0], files[2]], top_k=1)
    with pytest.raises(ValueError, match=r"broken\.png"):
        head.predict_proba(files)
    with pytest.raises(FileNotFoundError):
        head.predict(tmp_path / "none.png")
    with pytest.warns(UserWarning, match="broken"):
        assert head.predict([broken]) == [[]]


# ---- edits without encoding ----


@pytest.mark.parametrize("config", [PLAIN, HeadConfig(centering="class_mean")], ids=["plain", "default"])
def test_adding_and_removing_equals_fitting_at_once(config: HeadConfig):
    def new() -> SynonymousSpaceHead:
        return SynonymousSpaceHead(*build("clip"), config=config)

    whole = new().fit_classes(PETS)
    grown = new().fit_classes({"cat": PETS["cat"], "dog": PETS["dog"]}).add_classes({"bird": []})
    shrunk = new().fit_classes({"cat": PETS["cat"], "fish": ["cod"], "dog": PETS["dog"], "bird": []})
    shrunk.backbone.encode_texts = None  # encodes nothing
    shrunk.remove_classes(["fish"])
    image = torch.randn(4, DIM)
    for head in (grown, shrunk):
        assert head.class_names == whole.class_names
        torch.testing.assert_close(head(image_embeds=image), whole(image_embeds=image), atol=1e-4, rtol=1e-5)


def test_only_the_added_texts_are_encoded(head: SynonymousSpaceHead):
    head.fit_classes(PETS)
    seen: list[str] = []
    encode = head.backbone.encode_texts
    head.backbone.encode_texts = lambda texts, **kwargs: (seen.extend(texts), encode(texts, **kwargs))[1]
    head.add_classes({"fish": ["cod"]})
    assert seen == ["a photo of a fish.", "a photo of a cod."]


@pytest.mark.parametrize(
    ("which", "message"),
    [([3], "position 3 is out of range"), (["lion"], "'lion' names no class"), ([0, 1, 2], "at least one")],
)
def test_removing_what_is_not_there(head: SynonymousSpaceHead, which: list[object], message: str):
    head.fit_classes(PETS)
    with pytest.raises(ValueError, match=message):
        head.remove_classes(which)
    assert head.class_names == list(PETS)


def test_reconfigure_equals_a_new_fit_and_a_refused_one_changes_nothing():
    head = fitted()
    image = torch.randn(5, 24)
    for settings in ({"metric": "center"}, {"scale_rule": None}, {"centering": None}, {"metric": "hull"}):
        head.reconfigure(**settings)
        fresh = SynonymousSpaceHead(config=head.config)
        fresh.fit_embeddings(embeddings([4, 1, 6]), head.class_names, logit_scale=50.0)
        torch.testing.assert_close(head(image_embeds=image), fresh(image_embeds=image))
    before = head(image_embeds=image)
    with pytest.raises(ValueError, match="unknown metric"):
        head.reconfigure(metric="best")
    torch.testing.assert_close(head(image_embeds=image), before)


def test_a_refused_fit_leaves_the_head_as_it_was():
    head = fitted(centering="class_mean")
    image = torch.randn(2, 24)
    before = head(image_embeds=image)
    same = torch.ones(1, 24)
    with pytest.raises(ValueError, match="'x', 'y'"):
        head.fit_embeddings([same, same], ["x", "y"], logit_scale=1.0)
    assert head.class_names == ["class 0", "class 1", "class 2"]
    torch.testing.assert_close(head(image_embeds=image), before)


def test_the_text_tower_can_be_dropped_and_comes_back_for_added_classes(tmp_path: Path):
    model, processor = build("clip")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    head = SynonymousSpaceHead.from_backbone(tmp_path).fit_classes(PETS)
    image = pictures(2)
    before, parameters = head.predict_proba(image), sum(p.numel() for p in head.parameters())
    head.drop_text_tower()
    assert sum(p.numel() for p in head.parameters()) < 0.7 * parameters
    torch.testing.assert_close(head.predict_proba(image), before)
    head.add_classes({"fish": ["cod"]})
    assert not head.backbone.has_text_tower
    whole = SynonymousSpaceHead.from_backbone(tmp_path).fit_classes({**PETS, "fish": ["cod"]})
    torch.testing.assert_close(head.predict_proba(image), whole.predict_proba(image))


def test_without_text_tower_or_name_the_error_says_what_to_do(head: SynonymousSpaceHead):
    head.fit_classes(PETS).drop_text_tower()
    head.backbone.name = None
    with pytest.raises(ValueError, match="no name to load one by"):
        head.add_classes({"fish": []})


# ---- a module like any other ----


@pytest.mark.parametrize("metric", METRICS)
def test_state_dict_round_trip(metric: str):
    head = fitted(metric=metric, scale_rule="quantile", centering="class_mean")
    image = torch.randn(5, 24)
    other = SynonymousSpaceHead()
    other.load_state_dict(head.state_dict())
    assert other.class_names == head.class_names
    assert other.config == head.config
    torch.testing.assert_close(other(image_embeds=image), head(image_embeds=image), atol=0, rtol=0)


def test_state_dict_on_disk_and_under_a_prefix(head: SynonymousSpaceHead, tmp_path: Path):
    pipeline = torch.nn.Sequential(torch.nn.Identity(), head.fit_classes(PETS))
    torch.save(pipeline.state_dict(), tmp_path / "all.pt")
    again = torch.nn.Sequential(torch.nn.Identity(), SynonymousSpaceHead(*build("clip", seed=9)))
    again.load_state_dict(torch.load(tmp_path / "all.pt", weights_only=True))
    image = torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE)
    torch.testing.assert_close(again(image), pipeline(image))
    assert all(
        key.split(".")[1] == "backbone" or key.split(".")[1] in ("text_embeddings", "owners", "_extra_state")
        for key in pipeline.state_dict()
    )


def test_a_state_dict_without_the_words_is_not_passed_over_in_silence():
    state = fitted().state_dict()
    del state["_extra_state"]
    head = SynonymousSpaceHead()
    with pytest.raises(RuntimeError, match="_extra_state"):
        head.load_state_dict(state)
    found = head.load_state_dict(state, strict=False)
    assert found.missing_keys == ["_extra_state"]
    assert found.unexpected_keys == ["text_embeddings", "owners"]


def test_a_state_dict_of_other_classes_is_refused_by_a_fitted_head():
    other = SynonymousSpaceHead().fit_embeddings(embeddings([4, 1, 6]), ["x", "y", "z"], logit_scale=50.0)
    with pytest.raises(ValueError, match="load it into an unfitted head"):
        other.load_state_dict(fitted().state_dict())
    assert other.class_names == ["x", "y", "z"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("metric", METRICS)
def test_half_precision_gives_nearly_the_same_logits(metric: str, dtype: torch.dtype):
    head = fitted(metric=metric, centering="class_mean")
    image = normalize(torch.randn(50, 24, generator=torch.Generator().manual_seed(0)) + 0.5, dim=-1)
    expected = head(image_embeds=image)
    found = copy.deepcopy(head).to(dtype)(image_embeds=image.to(dtype))
    assert found.dtype == dtype
    # A star jumps where rounding makes another text the nearest.
    worst = 0.9 if metric == "local_star" else 1.0
    # logits are 50 x cosines: 8 mantissa bits of a cosine of at most 1
    assert (found.float() - expected).abs().quantile(worst) < (0.25 if dtype == torch.float16 else 2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = head(image_embeds=image)
    assert (autocast.float() - expected).abs().quantile(worst) < 2.0


def test_half_precision_of_the_whole_head(head: SynonymousSpaceHead):
    head.fit_classes(PETS)
    pixels = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    expected = head(pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (head(pixels).float() - expected).abs().max() < 1.0
    half = head.half()
    assert half(pixels.half()).dtype == torch.float16
    assert (half(pixels.half()).float() - expected).abs().max() < 0.5


def test_float16_embeddings_keep_their_precision():
    given = [own.half() for own in embeddings([4, 3])]
    image = torch.randn(6, 24)
    half = SynonymousSpaceHead().fit_embeddings(given, ["a", "b"], logit_scale=1.0)
    wide = SynonymousSpaceHead().fit_embeddings([own.float() for own in given], ["a", "b"], logit_scale=1.0)
    torch.testing.assert_close(half(image_embeds=image), wide(image_embeds=image), atol=0, rtol=0)


@pytest.mark.parametrize("metric", METRICS)
def test_compile_without_a_graph_break(metric: str):
    torch._dynamo.reset()
    head = fitted([4, 1, 6, 4], metric=metric, centering="class_mean", scale_rule="quantile")
    image = torch.randn(5, 24)
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image_embeds=image), head(image_embeds=image))


def test_compile_with_the_default_backend():
    torch._dynamo.reset()
    head = fitted([4, 1, 6, 4])
    image = torch.randn(5, 24)
    compiled = torch.compile(head, fullgraph=True)
    torch.testing.assert_close(compiled(image_embeds=image), head(image_embeds=image))


def test_compile_from_pixels(head: SynonymousSpaceHead):
    torch._dynamo.reset()
    head.fit_classes(PETS)
    pixels = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(pixels), head(pixels))


@pytest.mark.parametrize("metric", METRICS)
def test_export_with_an_open_batch_size(metric: str):
    head = fitted([4, 1, 6, 4], metric=metric, centering="class_mean", scale_rule="quantile")
    batch = torch.export.Dim("batch", min=1, max=1024)
    exported = torch.export.export(
        head, (), {"image_embeds": torch.randn(5, 24)}, dynamic_shapes={"image_embeds": {0: batch}}
    )
    image = torch.randn(9, 24)
    torch.testing.assert_close(exported.module()(image_embeds=image), head(image_embeds=image))


def test_export_from_pixels(head: SynonymousSpaceHead):
    head.fit_classes(PETS)
    pixels = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    exported = torch.export.export(head, (pixels,))
    torch.testing.assert_close(exported.module()(pixels), head(pixels))


def test_wrapped_for_distributed_training(head: SynonymousSpaceHead, tmp_path: Path):
    head.fit_classes(PETS)
    pixels = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(head, find_unused_parameters=True)
        torch.testing.assert_close(wrapped(pixels), head(pixels))
        wrapped(pixels).sum().backward()
    finally:
        torch.distributed.destroy_process_group()


def _logits_of(head: SynonymousSpaceHead, image: Tensor) -> list[list[float]]:
    torch.set_num_threads(1)
    return head(image_embeds=image).tolist()


def test_copied_and_sent_to_a_worker(head: SynonymousSpaceHead):
    head.fit_classes(PETS)
    image = torch.randn(3, DIM)
    expected = head(image_embeds=image)
    torch.testing.assert_close(copy.deepcopy(head)(image_embeds=image), expected)
    head.requires_grad_(False)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(_logits_of, (head, image))
    torch.testing.assert_close(torch.tensor(found), expected.detach(), atol=1e-5, rtol=1e-5)


def test_gradients_flow_to_the_image_embeddings():
    head = fitted(metric="local_center", centering="class_mean").double()
    image = torch.randn(3, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: head(image_embeds=x), (image,))


# ---- scale ----


def test_which_logit_scale_counts(head: SynonymousSpaceHead):
    model_scale = head.backbone.model.logit_scale.exp().item()
    head.fit_classes(PETS)
    assert head.logit_scale.item() == pytest.approx(model_scale)
    head.reconfigure(logit_scale=7.0)
    assert head.logit_scale.item() == 7.0
    head.fit_embeddings([torch.randn(1, DIM), torch.randn(1, DIM)], ["a", "b"], logit_scale=3.0)
    assert head.logit_scale.item() == 3.0


def test_one_class_is_allowed_and_said(head: SynonymousSpaceHead):
    head.fit_classes({"cat": ["feline", "kitty"]})
    assert not head.space.centered
    assert head(image_embeds=torch.randn(2, DIM)).shape == (2, 1)
    assert "centered=False" in repr(head)


# ---- bad input ----


def test_unfitted():
    for call in (
        lambda head: head(image_embeds=torch.randn(1, 4)),
        lambda head: head.space,
        lambda head: head.predict(image_embeds=torch.randn(1, 4)),
        lambda head: head.save_pretrained("nowhere"),
        lambda head: head.remove_classes([0]),
    ):
        with pytest.raises(ValueError, match="not fitted"):
            call(SynonymousSpaceHead())
    assert not os.path.exists("nowhere")


def test_both_or_neither_input(head: SynonymousSpaceHead):
    head.fit_classes(PETS)
    pixels, embeds = torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE), torch.randn(1, DIM)
    with pytest.raises(ValueError, match="exactly one of the two, got both"):
        head(pixels, image_embeds=embeds)
    with pytest.raises(ValueError, match="exactly one of the two, got neither"):
        head()
    with pytest.raises(ValueError, match="got neither"):
        head.predict()
    with pytest.raises(TypeError, match="spatial_shapes"):
        head(image_embeds=embeds, spatial_shapes=pixels)


@pytest.mark.parametrize(
    ("given", "names", "more", "message"),
    [
        ([torch.randn(2, 4)], ["a", "b"], {}, "1 tensors and 2 names"),
        ([], [], {}, "one or more classes"),
        ([torch.randn(2, 4), torch.randn(0, 4)], ["a", "b"], {}, "class 'b'"),
        ([torch.randn(2, 4), torch.randn(2, 5)], ["a", "b"], {}, "class 'b' has dimension 5, 'a' has 4"),
        ([torch.randn(4)], ["a"], {}, "class 'a'"),
        ([torch.ones(1, 4, dtype=torch.int64)], ["a"], {}, "torch.int64"),
        ([torch.full((1, 4), torch.nan)], ["a"], {}, "class 'a': a text embedding holds NaN or Inf"),
        ([torch.full((1, 4), torch.inf)], ["a"], {}, "class 'a': a text embedding holds NaN or Inf"),
        ([torch.zeros(1, 4)], ["a"], {}, "class 'a': a text embedding has length zero"),
        ([torch.randn(2, 4)], ["a"], {"texts": [["one"]]}, "texts"),
        ([torch.randn(2, 4)], ["a"], {"logit_scale": -1.0}, "logit_scale"),
        ([torch.randn(2, 4)], ["a"], {"logit_scale": None}, "logit_scale"),
    ],
)
def test_bad_embeddings(given: list[Tensor], names: list[str], more: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        SynonymousSpaceHead().fit_embeddings(given, names, **{"logit_scale": 1.0, **more})


def test_a_wrong_embedding_size(head: SynonymousSpaceHead):
    head.fit_classes(PETS)
    with pytest.raises(ValueError, match=rf"expected shape \(batch, {DIM}\), got \(2, 5\)"):
        head(image_embeds=torch.randn(2, 5))
    with pytest.raises(ValueError, match=f"the backbone's dimension {DIM}, got 5"):
        head.fit_embeddings([torch.randn(2, 5)], ["a"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fitted()(image_embeds=np.zeros((1, 24))), "expected a torch.Tensor, got ndarray"),
        (lambda: SynonymousSpaceHead(config={"metric": "center"}), "expected a HeadConfig, got dict"),
        (lambda: SynonymousSpaceHead().fit_embeddings(embeddings([1, 1]), "ab", logit_scale=1.0), "'ab'"),
        (lambda: SynonymousSpaceHead().fit_embeddings(embeddings([1]), [None], logit_scale=1.0), "None"),
        (
            lambda: SynonymousSpaceHead().fit_embeddings(
                embeddings([1]), ["a"], texts=[[3]], logit_scale=1.0
            ),
            "texts: expected a list of strings",
        ),
    ],
)
def test_wrong_types(call, message: str):
    with pytest.raises(TypeError, match=message):
        call()


def test_no_images_give_no_answers(head: SynonymousSpaceHead):
    head.fit_classes(PETS)
    assert head.predict([]) == []
    assert head.predict_proba([]).shape == (0, 3)
    assert head.predict(image_embeds=torch.zeros(0, DIM)) == []


def test_bad_predictions(head: SynonymousSpaceHead):
    head.fit_classes(PETS)
    with pytest.raises(ValueError, match="top_k: expected a whole number >= 1, got 0"):
        head.predict(pictures(1), top_k=0)
    with pytest.raises(ValueError, match="batch_size"):
        head.predict(pictures(1), batch_size=0)
    for bad in (torch.nan, torch.inf, 0.0):
        with pytest.raises(ValueError, match="image 1: its embedding is zero, NaN or Inf"):
            head.predict(image_embeds=torch.stack([torch.ones(DIM), torch.full((DIM,), bad)]))
    with pytest.raises(TypeError, match="uint8"):
        head.predict(np.zeros((8, 8, 3)))
    with pytest.raises(TypeError, match="PIL images, paths, arrays or tensors, got int"):
        head.predict([3])


def test_a_head_of_embeddings_takes_neither_texts_nor_pixels():
    head = fitted()
    for call in (
        lambda: head.fit_classes(PETS),
        lambda: head.add_classes(PETS),
        lambda: head.predict("a.png"),
        lambda: head(torch.randn(1, 3, 8, 8)),
        head.drop_text_tower,
    ):
        with pytest.raises(ValueError, match=r"no backbone|from embeddings"):
            call()


def test_two_classes_with_the_same_single_text(head: SynonymousSpaceHead):
    head.reconfigure(centering="class_mean")
    with (
        pytest.warns(UserWarning, match="two classes"),
        pytest.raises(ValueError, match=r"'missile', 'missile'"),
    ):
        head.fit_classes(["missile", "missile"])
    with pytest.warns(UserWarning, match="two classes"):
        head.reconfigure(centering=None).fit_classes(["missile", "missile"])


def test_a_synonym_set_is_taken_as_it_is(head: SynonymousSpaceHead):
    assert head.fit_classes(SynonymSet.read(PETS)).class_names == list(PETS)


def test_predictions_are_ranked_by_logits_where_probabilities_saturate():
    head = SynonymousSpaceHead(config=PLAIN)
    head.fit_embeddings(embeddings([1] * 6), [str(i) for i in range(6)], logit_scale=torch.tensor(5000.0))
    image = torch.randn(20, 24)
    order = head(image_embeds=image).argsort(1, descending=True)
    for dtype in (torch.float32, torch.float64):
        found = head.predict(image_embeds=image.to(dtype), top_k=6)
        assert [[p.class_index for p in own] for own in found] == order.tolist()


def test_a_later_logit_scale_counts():
    head = fitted()
    image = torch.randn(2, 24)
    before = head(image_embeds=image)
    torch.testing.assert_close(head.reconfigure(logit_scale=5.0)(image_embeds=image), before / 10)


def test_forward_mode_gradients_equal_reverse_mode():
    head = fitted([6, 5]).double()
    image, direction = torch.randn(2, 2, 24, dtype=torch.float64)
    expected = torch.func.jvp(lambda x: head(image_embeds=x), (image,), (direction,))[1]
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(image, direction)
        found = torch.autograd.forward_ad.unpack_dual(head(image_embeds=dual)).tangent
    torch.testing.assert_close(found, expected)
    shifted = (
        head(image_embeds=image + 1e-6 * direction) - head(image_embeds=image - 1e-6 * direction)
    ) / 2e-6
    torch.testing.assert_close(found, shifted, atol=1e-5, rtol=1e-5)


def test_a_row_is_named_by_its_place_among_all(head: SynonymousSpaceHead):
    head.fit_classes(PETS)
    images = torch.ones(40, DIM)
    images[37, 2] = torch.nan
    with pytest.raises(ValueError, match="image 37: its embedding is zero, NaN or Inf"):
        head.predict(image_embeds=images)


def test_16_bit_pictures_are_scaled_and_cut_ones_named(head: SynonymousSpaceHead, tmp_path: Path):
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(grey * 257).save(tmp_path / "deep.png")
    found = np.asarray(open_image(tmp_path / "deep.png"))
    np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, axis=2))
    pictures(1)[0].save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:300])
    with pytest.warns(UserWarning, match="the PIL image given: not a readable image"):
        answers = head.fit_classes(PETS).predict([Image.open(tmp_path / "cut.png"), tmp_path / "whole.png"])
    assert [len(own) for own in answers] == [0, 3]


@pytest.mark.parametrize("calibration", [None, "temperature", "thresholds", "sigmoid"])
@pytest.mark.parametrize("k", [1, 3, 100])
def test_the_top_classes_in_one_pass_are_those_of_all_logits(monkeypatch, calibration, k):
    monkeypatch.setattr("s3clip.space.folding.BLOCK_ROWS", 7)
    torch.manual_seed(0)
    texts = [torch.randn(n, 12) for n in (3, 1, 9, 3, 2, 6, 1, 3, 4, 2)]
    head = SynonymousSpaceHead().fit_embeddings(texts, [str(i) for i in range(10)], logit_scale=20.0)
    assert len(head.folded.blocks) > 3
    settings = {
        "temperature": {"activation": "softmax", "temperature": 2.5, "thresholds": (1.5,)},
        "thresholds": {"activation": "softmax", "thresholds": tuple(i / 3 - 1 for i in range(10))},
        "sigmoid": {"activation": "sigmoid", "temperature": 3.0, "bias": -0.5},
    }
    if calibration is not None:
        head.calibration = Calibration(**settings[calibration])
    images = torch.randn(5, 12)
    logits = head(image_embeds=images)
    expected = logits.topk(min(k, 10), dim=1)
    found = head.top_classes(image_embeds=images, k=k)
    torch.testing.assert_close(found.logits, expected.values)
    assert found.class_index.tolist() == expected.indices.tolist()
    for values, of_all in (
        (found.probabilities, head.probabilities(logits)),
        (found.accepted, head.current_calibration.accepts(logits)),
    ):
        torch.testing.assert_close(values, of_all.gather(1, expected.indices))
    assert [len(each) for each in head.top_classes(image_embeds=images[:0], k=k)] == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="k: expected a whole number >= 1, got 0"):
        head.top_classes(image_embeds=images, k=0)


def test_prediction_is_a_plain_record():
    assert Prediction("cat", 0.5, 0) == Prediction("cat", 0.5, 0, None, None)


def test_a_linear_head_is_one_matrix():
    for config in (
        HeadConfig(metric="center"),
        HeadConfig(metric="mean_similarity", centering="class_mean"),
        HeadConfig(metric="center", centering="class_mean", scale_rule=None),
    ):
        torch.manual_seed(1)
        embeddings = [torch.randn(n, 8) for n in (3, 1, 4, 3, 2)]
        head = SynonymousSpaceHead(config=config).fit_embeddings(embeddings, list("abcde"), logit_scale=7.0)
        features = torch.nn.functional.normalize(torch.randn(6, 8), dim=1)
        weights = head.to_linear()
        assert weights.shape == (8, 5)
        torch.testing.assert_close(7 * features @ weights, head(image_embeds=features))
    embeddings = [torch.randn(n, 8) for n in (3, 1)]
    head = SynonymousSpaceHead().fit_embeddings(embeddings, ["a", "b"], logit_scale=7.0)
    with pytest.raises(ValueError, match="is not one vector a class"):
        head.to_linear()
    usual = [torch.nn.functional.normalize(own, dim=1).mean(0) for own in embeddings]
    usual = torch.stack([own / own.norm() for own in usual], dim=1)
    torch.testing.assert_close(head.reconfigure(metric="center", scale_rule=None).to_linear(), usual)


def test_a_class_is_renamed_and_nothing_else(head: SynonymousSpaceHead):
    head.fit_classes({"cat": ["feline"], "dog": ["hound"]})
    image = torch.randn(2, head.space.raw.shape[1])
    before, texts = head(image_embeds=image), head.classes[0].texts
    head.rename_class("cat", "house cat").rename_class(1, "house cat")
    assert head.class_names == ["house cat", "house cat"]
    assert torch.equal(head(image_embeds=image), before)
    assert head.classes[0].texts == texts
    for which, name, error in (("house cat", "x", ValueError), (2, "x", ValueError), (0, " ", ValueError)):
        with pytest.raises(error):
            head.rename_class(which, name)
    with pytest.raises(TypeError):
        head.rename_class(0, 3)
    for wrong in (True, 1.0, None):
        with pytest.raises(TypeError, match="positions or names"):
            head.remove_classes([wrong])


def test_merged_heads_are_one_fit_of_all_classes():
    classes = [{"name": name, "synonyms": [f"{name} {i}" for i in range(3)]} for name in ("ox", "cat", "bee")]
    whole = SynonymousSpaceHead(*build("clip")).fit_classes(classes)
    one = SynonymousSpaceHead(*build("clip")).fit_classes(classes[:2])
    other = SynonymousSpaceHead(*build("clip")).fit_classes(classes[2:])
    one.merge(other)
    image = torch.randn(3, whole.space.raw.shape[1])
    assert one.class_names == whole.class_names
    torch.testing.assert_close(one(image_embeds=image), whole(image_embeds=image))
    foreign = SynonymousSpaceHead(*build("clip", seed=5)).fit_classes(classes[2:])
    unlike = SynonymousSpaceHead(*build("clip")).fit_classes(classes[2:], templates="a {}")
    unknown = SynonymousSpaceHead().fit_embeddings([torch.randn(2, image.shape[1])], ["a"], logit_scale=1.0)
    for wrong in (foreign, unlike, unknown, SynonymousSpaceHead()):
        with pytest.raises(ValueError, match=r"backbone|templates|not fitted"):
            one.merge(wrong)
    assert one.class_names == whole.class_names


def test_what_a_merge_drops_is_said_whichever_head_had_it():
    def parts() -> list[SynonymousSpaceHead]:
        classes = ["ox", "cat"], ["bee", "fox"]
        return [SynonymousSpaceHead(*build("clip")).fit_classes(own) for own in classes]

    for had in (0, 1):
        heads = parts()
        heads[had].set_class_shares({0: 0.7})
        heads[had].calibration = Calibration(activation="softmax", temperature=2.0)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            heads[0].merge(heads[1])
        assert sorted(str(each.message).partition(" were")[0].partition(" was")[0] for each in said) == [
            "the calibration",
            "the class shares",
        ]
    for private in (0, 1):
        heads = parts()
        images = torch.randn(6, DIM)
        heads[private].fit_few_shot(image_embeds=images, labels=[0, 1] * 3)
        space = without_examples(heads[private].class_space, None)
        heads[private]._take(space)
        with pytest.raises(ValueError, match=r"^merge: what labelled images added was saved without them"):
            heads[0].merge(heads[1])


def test_embeddings_that_are_no_numbers_are_named(head: SynonymousSpaceHead):
    head.fit_classes(["cat", "dog"])
    for useless in ("photo.jpg", [[1.0, 2.0], [3.0]], [None]):
        with pytest.raises(TypeError, match="image_embeds: expected a tensor"):
            head.predict(image_embeds=useless)


def test_the_files_of_other_libraries_hold_the_head(tmp_path: Path):
    """Safetensors' `save_model` and accelerate's take tensors alone, the extra state among them."""
    head = fitted()
    images = torch.randn(3, head.space.raw.shape[1])
    save_model(head, str(tmp_path / "head.safetensors"))
    again = SynonymousSpaceHead()
    load_model(again, str(tmp_path / "head.safetensors"))
    assert again.class_names == head.class_names
    assert torch.equal(again(image_embeds=images), head(image_embeds=images))
    Accelerator(cpu=True).save_model(head, str(tmp_path / "accelerate"))
    once_more = SynonymousSpaceHead()
    once_more.load_state_dict(load_file(tmp_path / "accelerate" / "model.safetensors"))
    assert torch.equal(once_more(image_embeds=images), head(image_embeds=images))


def test_a_mapping_of_embeddings_has_the_names():
    rows = {"cat": torch.eye(3)[:1], "dog": torch.eye(3)[1:]}
    head = SynonymousSpaceHead().fit_embeddings(rows, logit_scale=5.0)
    listed = SynonymousSpaceHead().fit_embeddings(list(rows.values()), list(rows), logit_scale=5.0)
    assert head.class_names == ["cat", "dog"]
    assert torch.equal(head(image_embeds=torch.eye(3)), listed(image_embeds=torch.eye(3)))
    with pytest.raises(ValueError, match="class_names: a mapping of embeddings has the names"):
        SynonymousSpaceHead().fit_embeddings(rows, ["a", "b"], logit_scale=5.0)
