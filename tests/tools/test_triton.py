"""The model repository of docs/tools.md, read by Triton's own schema and compared with ONNX Runtime."""

from pathlib import Path

import numpy as np
import pytest
import torch

from s3clip import SynonymousSpaceHead
from tests import ROOT
from tests.docs.pages import run_page


def test_the_configuration_says_what_the_graph_is(tmp_path: Path):
    reason = "pip install 'tritonclient[grpc]', which has the schema"
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason=reason)
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 's3clip[onnx]'")
    from google.protobuf import text_format

    list(run_page(ROOT / "docs" / "tools.md", tmp_path))
    folder = tmp_path / "triton" / "digits"
    config = text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
    types = {"tensor(float)": schema.TYPE_FP32}
    for declared, found in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [(each.name, each.data_type, list(each.dims)) for each in declared] == [
            (each.name, types[each.type], each.shape[1:]) for each in found
        ]
        assert all(isinstance(each.shape[0], str) for each in found)  # open: Triton's batch
    assert config.backend == "onnxruntime"
    head = SynonymousSpaceHead.from_pretrained(tmp_path / "digits-space")
    assert (folder / config.output[0].label_filename).read_text().splitlines() == head.class_names
    pixels = np.random.default_rng(0).normal(size=(3, *config.input[0].dims)).astype(np.float32)
    (logits,) = session.run(["logits"], {"pixel_values": pixels})
    assert logits.shape == (3, *config.output[0].dims)
    with torch.inference_mode():
        np.testing.assert_allclose(logits, head(torch.from_numpy(pixels)), atol=2e-3)
