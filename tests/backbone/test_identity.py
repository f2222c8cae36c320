"""Keys and fingerprints: whatever changes an embedding changes the key, and nothing else does."""

import copy
import functools
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from torch import nn

from s3clip import SynonymousSpaceHead
from s3clip.backbone.backbone import Backbone
from s3clip.backbone.digests import settings_digest, tensors_digest
from s3clip.backbone.identity import check_fingerprint
from tests import tiny_models
from tests.backbone.test_backbone import OpenClip, images, letters, to_pixels

# In two runs of a law, some texts in every case and script, short enough for every tower.
TEXTS = ["ox", "Big DOG", "façade", "3 cats", "кот", "a<new>b"]
FAMILIES = st.sampled_from(tiny_models.FAMILIES)

# Changes that are drawn may leave a text tower as it is made beside an image tower that is not.
pytestmark = pytest.mark.filterwarnings("ignore:.*never trained")


@functools.cache
def built(family):
    return tiny_models.build(family)


def fresh(family):
    model, processor = built(family)
    return Backbone(copy.deepcopy(model), copy.deepcopy(processor))


def texts_of(backbone):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return backbone.encode_texts(TEXTS)


def images_of(backbone):
    with torch.no_grad():
        return backbone.encode_images(**backbone.preprocess(images()))


# Changes, each drawn with numbers of its own.


def change_a_row_of_the_table(backbone, draw):
    (table,) = (
        module
        for name, module in backbone.model.named_modules()
        if name.endswith(("token_embedding", "word_embeddings")) and "text_model" in name
    )
    row = draw(st.integers(0, len(table.weight) - 1))
    table.weight.data[row] = torch.randn(table.weight.shape[1])  # as textual inversion does


def change_one_number(backbone, draw):
    named = [name for name, p in backbone.model.named_parameters() if p.is_floating_point() and p.numel()]
    flat = backbone.model.get_parameter(draw(st.sampled_from(named))).data.view(-1)
    flat[draw(st.integers(0, len(flat) - 1))] += draw(st.sampled_from([0.5, -0.25]))


def change_the_case(backbone, draw):
    backend = backbone.tokenizer.backend_tokenizer
    chosen = draw(st.sampled_from(["lower", "upper", "accents"]))
    steps = {
        "lower": [normalizers.Lowercase()],
        "upper": [normalizers.Replace(letter, letter.upper()) for letter in "abcdefghi"],
        "accents": [normalizers.NFD(), normalizers.StripAccents()],
    }
    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([*steps[chosen], *own])


def add_a_token(backbone, draw):
    backbone.tokenizer.add_tokens([draw(st.sampled_from(["<new>", "DOG", "cats"]))])
    with torch.no_grad():
        backbone.model.text_model.resize_token_embeddings(len(backbone.tokenizer))


def change_the_dtype(backbone, draw):
    backbone.model.to(draw(st.sampled_from([torch.bfloat16, torch.float64])))


def change_the_processor(backbone, draw):
    processor = backbone.image_processor
    if draw(st.booleans()):
        processor.image_mean = [draw(st.floats(0, 1)), 0.5, 0.5]
    else:
        processor.rescale_factor = draw(st.sampled_from([1 / 255, 1 / 127.5, 1 / 100]))


def nothing(backbone, draw):
    backbone.encode_texts(["ox", "a red cat"])  # which sets how the tokenizer pads
    backbone.image_key()


def change_the_scale(backbone, draw):
    name = next(name for name in backbone.family.scales if hasattr(backbone.model, name))
    getattr(backbone.model, name).data += draw(st.floats(0.1, 1))


CHANGES = [
    change_a_row_of_the_table,
    change_one_number,
    change_the_case,
    add_a_token,
    change_the_dtype,
    change_the_processor,
    change_the_scale,
    nothing,
]


@given(family=FAMILIES, change=st.sampled_from(CHANGES), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_change_is_seen_by_the_keys_or_changes_nothing(family, change, data):
    backbone = fresh(family)
    keys, texts, pixels = (backbone.text_key(), backbone.image_key()), texts_of(backbone), images_of(backbone)
    try:
        change(backbone, data.draw)
    except (NotImplementedError, AttributeError):  # towers that cannot be given another table
        return
    if not torch.equal(texts_of(backbone), texts):
        assert backbone.text_key() != keys[0]
    if not torch.equal(images_of(backbone), pixels):
        assert backbone.image_key() != keys[1]
    if change in (nothing, change_the_scale):
        assert (backbone.text_key(), backbone.image_key()) == keys
    if change in (change_a_row_of_the_table, change_the_case, add_a_token):
        assert backbone.text_key() != keys[0]
        assert backbone.image_key() == keys[1]
    if change is change_the_processor:
        assert backbone.text_key() == keys[0]


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_equal_models_have_equal_keys_however_they_came(family, tmp_path):
    model, processor = built(family)
    keys = Backbone(model, processor).text_key(), Backbone(model, processor).image_key()
    assert (fresh(family).text_key(), fresh(family).image_key()) == keys
    if isinstance(processor, tuple):
        pytest.skip("its processor cannot be saved here")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    once, again = (Backbone.from_pretrained(tmp_path) for _ in range(2))
    assert once.text_key() == again.text_key()
    assert once.image_key() == again.image_key() == keys[1]
    assert Backbone.from_pretrained(tmp_path, text_tower=False).image_key() == keys[1]
    once.drop_text_tower()
    assert once.image_key() == keys[1]


# ---- functions of open_clip -------------------------------------------------------------------------------


def scaled(factor):
    return lambda image: to_pixels(image) * factor


def offset(image):
    return to_pixels(image) + OFFSET


OFFSET = 0.5


class Resize:
    """A transform with settings, whose repr is its address."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, image):
        return to_pixels(image) * self.factor


def test_a_function_of_images_is_known_by_what_it_does(monkeypatch):
    torch.manual_seed(0)
    model = OpenClip().eval()

    def key(preprocess):
        return Backbone(model, (letters, preprocess)).image_key()

    same = [(to_pixels, to_pixels), (scaled(2.0), scaled(2.0)), (Resize(2.0), Resize(2.0)), (offset, offset)]
    for one, other in same:
        assert key(one) == key(other)
    made = [to_pixels, scaled(2.0), scaled(3.0), Resize(2.5), Resize(3.5), offset]
    assert len({key(each) for each in made}) == len(made)
    before = key(offset)
    monkeypatch.setattr(sys.modules[__name__], "OFFSET", 0.25)
    assert key(offset) != before


def test_a_function_of_texts_is_known_by_what_it_does():
    torch.manual_seed(0)
    model = OpenClip().eval()

    def lower(texts, context_length=16):
        return letters([text.lower() for text in texts], context_length)

    keys = [Backbone(model, (each, to_pixels)).text_key() for each in (letters, letters, lower)]
    assert keys[0] == keys[1] != keys[2]
    with torch.no_grad():
        model.token_embedding.weight[20] += 1
    assert Backbone(model, (letters, to_pixels)).text_key() != keys[0]


def test_keys_of_functions_are_the_same_in_another_process():
    code = """
import torch
from tests.backbone.test_identity import keys_of_functions
torch.set_num_threads(1)
print(*keys_of_functions())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == keys_of_functions()


def keys_of_functions() -> list[str]:
    torch.manual_seed(0)
    model = OpenClip().eval()
    return [Backbone(model, (letters, each)).image_key() for each in (scaled(2.0), Resize(3.0))]


# ---- digests ----------------------------------------------------------------------------------------------


@given(
    size=st.sampled_from([1, 7, 511, 512, 513, 5000]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64]),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_a_change_of_bits_changes_the_digest_of_a_tensor(size, dtype, data):
    tensor = torch.arange(size).to(dtype)
    changed = tensor.clone()
    bits = changed.view(torch.uint8)
    for _ in range(data.draw(st.integers(1, 4))):
        bits[data.draw(st.integers(0, len(bits) - 1))] ^= data.draw(st.integers(1, 255))
    same = torch.equal(bits, tensor.view(torch.uint8))
    assert (tensors_digest([("a", tensor)]) == tensors_digest([("a", changed)])) == same


def test_signs_rows_columns_names_and_shapes_are_in_the_digest():
    tensor = torch.randn(64, 512)
    flipped = tensor.clone()
    flipped[:, 1::2] *= -1  # the top bits of an even number of 64-bit numbers
    others = [tensor, -tensor, flipped, tensor.flip(0), tensor.flip(1), tensor.T, tensor.reshape(512, 64)]
    assert len({tensors_digest([("a", each)]) for each in others} | {tensors_digest([("b", tensor)])}) == 8
    assert tensors_digest([("a", tensor.T)]) == tensors_digest([("a", tensor.T.contiguous())])


def test_settings_hold_no_address_and_end():
    loop = {"a": [1]}
    loop["b"] = loop
    values = [
        None,
        1,
        1.0,
        "1",
        (1,),
        {"a": 1},
        {"a": 2},
        np.ones(3),
        torch.ones(3),
        nn.Linear(2, 2),
        loop,
        object(),
    ]
    digests = [settings_digest(value) for value in values]
    assert len(set(digests)) == len(values)
    assert settings_digest(object()) == settings_digest(object())
    assert settings_digest({"b": 1, "a": 2}) == settings_digest({"a": 2, "b": 1})
    assert settings_digest({"b", "a"}) == settings_digest({"a", "b"})


# ---- fingerprint ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "change"), [("metaclip_2", "lower"), ("clip", "accents")])
def test_a_tokenizer_that_reads_capitals_or_accents_otherwise_is_another_backbone(family, change):
    plain, changed = fresh(family).fingerprint(), fresh(family)
    change_the_case(changed, lambda _: change)
    found = changed.fingerprint()
    assert torch.equal(found["image"], plain["image"])
    assert torch.equal(found["texts"], plain["texts"])
    with pytest.raises(ValueError, match="pets: made with another backbone: the more_texts fingerprints"):
        check_fingerprint(plain, found, "pets")


def test_an_added_token_is_a_warning_and_old_fingerprints_are_taken():
    plain, more = fresh("clip"), fresh("clip")
    add_a_token(more, lambda _: "<new>")
    with pytest.warns(UserWarning, match="pets: made with a tokenizer that reads some texts otherwise"):
        check_fingerprint(plain.fingerprint(), more.fingerprint(), "pets")
    old = {part: plain.fingerprint()[part] for part in ("image", "texts")}
    check_fingerprint(old, more.fingerprint(), "pets")
    check_fingerprint(plain.fingerprint(), fresh("clip").fingerprint(), "pets")


# ---- the cache --------------------------------------------------------------------------------------------


@given(change=st.sampled_from(CHANGES), data=st.data())
@settings(max_examples=25, deadline=None)
def test_cached_is_uncached_under_any_change(change, data):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("S3CLIP_CACHE", folder)
        backbone = fresh(data.draw(st.sampled_from(["clip", "metaclip_2", "siglip", "chinese_clip"])))
        classes = {"Big DOG": ["façade"], "3 cats": ["a<new>b", "ox"]}
        SynonymousSpaceHead(backbone).fit_classes(classes, templates=["{}"])
        change(backbone, data.draw)
        cached, anew = (
            SynonymousSpaceHead(backbone).fit_classes(classes, templates=["{}"], cache=cache).text_embeddings
            for cache in (True, False)
        )
        torch.testing.assert_close(cached, anew, atol=1e-6, rtol=0)
