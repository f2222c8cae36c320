"""`s3clip demo`: what it measures, says and draws, and the pictures that it writes."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from s3clip import SynonymousSpaceHead, SynonymSet
from s3clip.demo import held_out_digits, model_folder, synonym_file, write_photos
from s3clip.demo.run import DRAWS, DemoResult, run_demo, with_wrong_words


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return run_demo(tmp_path_factory.mktemp("demo"))


def test_it_says_what_the_choice_of_names_does(result: DemoResult):
    assert len(result.single) == 8
    accuracies = [each.accuracy for each in result.single]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[-1] < 0.5 < result.ensemble.accuracy
    assert len(result.space.wrong_words) == len(result.ensemble.wrong_words) == DRAWS
    assert result.ensemble.mean < result.space.mean
    lines = str(result).splitlines()
    assert len(lines) == 6
    for method, line in ((result.ensemble, lines[-2]), (result.space, lines[-1])):
        assert f"{method.accuracy:.1%}" in line
        assert f"{min(method.wrong_words):.1%}" in line


def test_one_name_each_is_what_transformers_says(result: DemoResult):
    model = CLIPModel.from_pretrained(model_folder()).eval()
    processor = CLIPProcessor.from_pretrained(model_folder())
    images, labels = held_out_digits()
    templates = SynonymSet.read(synonym_file()).templates
    for each in (result.single[0], result.single[-1]):
        texts = []
        for form in templates:
            inputs = processor(
                text=[form.format(word) for word in each.words], return_tensors="pt", padding=True
            )
            with torch.no_grad():
                own = model.get_text_features(**inputs)
            own = getattr(own, "pooler_output", own)
            texts.append(own / own.norm(dim=1, keepdim=True))
        with torch.no_grad():
            pixels = model.get_image_features(**processor(images=images, return_tensors="pt"))
        pixels = getattr(pixels, "pooler_output", pixels)
        mean = torch.stack(texts).mean(0)
        expected = (pixels @ (mean / mean.norm(dim=1, keepdim=True)).T).argmax(1).numpy()
        assert each.accuracy == pytest.approx((expected == labels).mean(), abs=0.003)


def test_the_head_and_the_picture_are_there(result: DemoResult):
    names = SynonymSet.read(synonym_file()).class_names
    loaded = SynonymousSpaceHead.from_pretrained(result.head_folder)
    assert loaded.class_names == names
    images, labels = held_out_digits()
    answers = [best.class_index for best, *_ in loaded.predict(images, top_k=1)]
    assert (np.array(answers) == labels).mean() == pytest.approx(result.space.accuracy)
    with Image.open(result.picture) as picture:
        assert picture.size[0] > 600
        colours = Counter(dict((colour, count) for count, colour in picture.getcolors(1 << 20)))
    for colour in ("#0969da", "#1a7f37", "#cf222e"):  # the bar of the space, what is right, what is wrong
        assert colours[tuple(bytes.fromhex(colour[1:]))] > 100


@pytest.mark.parametrize("seed", range(5))
def test_wrong_words_stand_in_other_classes_and_none_is_lost(seed: int):
    words = [tuple(f"{c}.{i}" for i in range(n)) for c, n in enumerate((8, 8, 5, 1, 8, 9, 8, 8))]
    moved = with_wrong_words(words, seed)
    assert [len(own) for own in moved] == [len(own) for own in words]
    assert [own[0] for own in moved] == [own[0] for own in words]
    assert sorted(word for own in moved for word in own) == sorted(word for own in words for word in own)
    wrong = [word for c, own in enumerate(moved) for word in own if not word.startswith(f"{c}.")]
    assert len(wrong) == round(0.2 * 47)
    assert with_wrong_words(words, seed) == moved
    assert with_wrong_words(words, seed, share=0) == words


def test_photos_are_held_out_digits_in_folders_of_their_class(tmp_path: Path):
    written = write_photos(tmp_path / "photos")
    assert len(written) == 100
    images, labels = held_out_digits()
    names = SynonymSet.read(synonym_file()).class_names
    known = {image.tobytes(): names[label] for image, label in zip(images, labels, strict=True)}
    for path in written:
        with Image.open(path) as picture:
            assert known[picture.tobytes()] == path.parent.name
    assert write_photos(tmp_path / "photos") == written
    Image.new("L", (32, 32)).save(written[3])
    with pytest.raises(FileExistsError, match="another picture"):
        write_photos(tmp_path / "photos")
