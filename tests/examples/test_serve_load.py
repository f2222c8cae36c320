"""The load study of `s3clip serve`, on a tiny model for a moment."""

import os

import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install 's3clip[serve]'")
pytest.importorskip(
    "prometheus_client", reason="prometheus_client is not installed: pip install 's3clip[serve]'"
)

import serve_load as study

from s3clip import SynonymousSpaceHead
from s3clip.demo import model_folder, synonym_file
from s3clip.images.opening import open_image
from s3clip.serve import Bounds, create_app
from tests.serve.client import serving


def test_load_counts_answers_and_the_soak_compares_them(capsys):
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())
    contents = study.jpegs(6)
    bodies = study.forms(contents)
    with serving(create_app(head, bounds=Bounds(pictures=1, waiting=2))) as address:
        server = (int(address.rpartition(":")[2]), os.getpid())
        found = study.load(server, bodies, clients=4, seconds=0.5)
        assert found.statuses[200] == len(found.seconds)
        assert set(found.statuses) <= {200, 503}
        assert found.rate > 0
        wanted = head.predict([open_image(each) for each in contents])
        study.soak(server, bodies, wanted, seconds=0.6, clients=2)
        assert "all equal to predict's" in capsys.readouterr().out
        with pytest.raises(AssertionError):
            study.soak(server, bodies, wanted[::-1], seconds=0.6, clients=2)
