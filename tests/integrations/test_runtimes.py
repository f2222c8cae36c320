"""Every metric through other runtimes, from embeddings to logits: those of torch to 1e-4."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from s3clip import HeadConfig, SynonymousSpaceHead
from s3clip.space.metrics import METRICS

DIM = 16
SIZES = [1] + [3] * 7 + [7] * 20 + [12] * 9
"""Texts of the classes. OpenVINO went wrong where several classes have as many texts."""

CASES = [(metric, {"k": 3} if metric == "hull" else {}) for metric in METRICS]
CASES += [("local_center", {"renormalize": True}), ("local_center", {"k": 2, "name_weight": 0.0})]


class Logits(nn.Module):
    """A head with one positional input."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, embeds):
        return self.head(image_embeds=embeds)


def unit(*shape: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return nn.functional.normalize(drawn + 0.5, dim=-1)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join([case[0], *case[1]]))
def exported(request, tmp_path_factory: pytest.TempPathFactory):
    """A file, its input, and the logits of torch."""
    pytest.importorskip("onnxscript")
    metric, options = request.param
    config = HeadConfig(metric=metric, metric_options=options, centering="class_mean", logit_scale=30.0)
    sizes = [3, 3, 7, 7, 7] if metric == "hull" else SIZES  # a loop takes seconds to export
    rows = [unit(size, DIM, seed=i) for i, size in enumerate(sizes)]
    head = SynonymousSpaceHead(config=config).fit_embeddings(rows, [str(i) for i in range(len(rows))])
    model, embeds = Logits(head).eval(), unit(5, DIM, seed=99)
    path = tmp_path_factory.mktemp("runtimes") / "head.onnx"
    batch = {0: torch.export.Dim("batch")}
    with torch.no_grad():  # as export_onnx does
        program = torch.onnx.export(model, (embeds,), dynamo=True, dynamic_shapes=(batch,), verbose=False)
        program.save(str(path))
        return path, embeds.numpy(), model(embeds).numpy()


def test_onnx_runtime(exported: tuple[Path, np.ndarray, np.ndarray]):
    onnxruntime = pytest.importorskip("onnxruntime")
    path, embeds, logits = exported
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: embeds})[0]
    np.testing.assert_allclose(found, logits, atol=1e-4, rtol=0)


def test_openvino(exported: tuple[Path, np.ndarray, np.ndarray]):
    openvino = pytest.importorskip("openvino")
    path, embeds, logits = exported
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled(embeds)[0], logits, atol=1e-4, rtol=0)
