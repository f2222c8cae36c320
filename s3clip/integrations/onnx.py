"""The image tower and the head as one ONNX graph."""

import copy
import json
import os
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from s3clip.head import SynonymousSpaceHead
from s3clip.texts.groups import group_owners

_LARGEST_FILE = 2_000_000_000
"""Bytes of weights in one file: protobuf ends at 2 GiB. Larger ones lie beside it, in `<name>.data`."""

_TOLERANCE = 1e-3
"""Of logits, which are tens; between the kernels of torch and of other runtimes in float32."""


class _Pictures(nn.Module):
    """The head with one positional input, as exporters want it."""

    def __init__(self, head: SynonymousSpaceHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.head(pixel_values)
        return logits


def export_onnx(head: SynonymousSpaceHead, path: str | os.PathLike[str]) -> Path:
    """Write an ONNX graph from pixels to logits, in float32, and compare it with torch first.

    Its input is `pixel_values` (batch, 3, height, width), as the backbone's image processor makes it, at the
    size that the model is configured for and with an open batch size; its output is `logits` (batch,
    classes). The metadata hold `class_names`, a JSON list, and `activation`, `temperature` and `bias`, by
    which logits become probabilities: activation(logits / temperature + bias); `thresholds`, where the head
    rejects, a JSON list of the least logits that are accepted, one for all classes or one for each; `groups`,
    where classes are in some, a JSON object {level: {"names": of the groups, "owners": the position of each
    class's group}}: a group's probability is the sum over its classes of a softmax, 1 - product of (1 - p) of
    sigmoids; and `checked`, the runtimes that gave torch's logits: ONNX Runtime and, where the extra
    `s3clip[openvino]` is here, OpenVINO. Needs the extra `s3clip[onnx]`.

    Args:
        head: fitted, with a backbone. It is copied: neither its device nor its dtype change.
        path: the file; one that is there is replaced once the new one is whole and checked.

    Returns:
        The path.

    Raises:
        ImportError: the extra is missing.
        ValueError: the head is not fitted or has no backbone, or torch cannot express the model or the metric
            in ONNX.
        RuntimeError: a runtime gives other logits than torch.

    Examples:
        >>> export_onnx(head, "head.onnx")  # doctest: +SKIP
        PosixPath('head.onnx')
    """
    try:
        import onnxruntime  # noqa: F401  # what it is checked with
        import onnxscript  # noqa: F401  # torch.onnx imports it, and fails late without
    except ImportError as error:
        raise ImportError(
            "export_onnx needs onnxscript and onnxruntime: pip install 's3clip[onnx]'"
        ) from error
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"path: expected a file in a folder that exists, got {path}")
    if path.suffix.lower() != ".onnx":  # torch writes .json and others in forms that runtimes do not read
        raise ValueError(f"path: expected a name that ends in .onnx, got {path}")
    if head.backbone is None:
        raise ValueError("export_onnx: this head has no backbone, and no pixels to begin with")
    if head.folded is None:
        raise ValueError("the head is not fitted: call fit_classes() or fit_embeddings() first")
    graph = _Pictures(_for_export(head)).eval()
    pixels = graph.head.backbone.example_pixels()  # type: ignore[union-attr]  # it has one, as seen above
    program = _program(graph, pixels)
    for name, value in {**_metadata(head), "checked": ", ".join(checked_runtimes())}.items():
        program.model.metadata_props[name] = value
    weights = sum(tensor.numel() * 4 for tensor in graph.state_dict().values() if isinstance(tensor, Tensor))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        written = Path(folder) / path.name
        program.save(str(written), external_data=weights > _LARGEST_FILE)
        _compare(str(written), graph, torch.cat([pixels, pixels.flip(-1), -pixels]))
        # The graph goes last: it is what names the other.
        for file in sorted(Path(folder).iterdir(), key=lambda each: each == written):
            os.replace(file, path.parent / file.name)
    return path


def _for_export(head: SynonymousSpaceHead) -> SynonymousSpaceHead:
    copied = copy.deepcopy(head)
    copied.drop_text_tower()
    return copied.to("cpu", torch.float32)


@torch.no_grad()  # a loop, as that of `hull`, is not recorded otherwise
def _program(graph: nn.Module, pixels: Tensor) -> Any:
    try:
        return torch.onnx.export(
            graph,
            (torch.cat([pixels, pixels]),),
            dynamo=True,
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise ValueError(
            f"export_onnx: torch cannot express this model, or the metric {graph.head.config.metric!r}, in "  # type: ignore[union-attr]
            "ONNX"
        ) from error


def _metadata(head: SynonymousSpaceHead) -> dict[str, str]:
    calibration = head.current_calibration
    groups = {level: group_owners(head.classes, level) for level in head.levels}
    owners = {level: {"names": names, "owners": own} for level, (own, names) in groups.items()}
    least = calibration.thresholds
    return {
        **({"thresholds": json.dumps(least)} if least is not None else {}),
        **({"groups": json.dumps(owners, ensure_ascii=False)} if owners else {}),
        "class_names": json.dumps(head.class_names, ensure_ascii=False),
        "activation": calibration.activation,
        "temperature": repr(calibration.temperature),
        "bias": repr(calibration.bias),
    }


def checked_runtimes() -> list[str]:
    """Return the runtimes that are here to compare a graph with torch, each with its version."""
    return [f"{package} {version(package)}" for package in _RUNTIMES if find_spec(package) is not None]


def _onnxruntime_logits(path: str, pixels: np.ndarray) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"pixel_values": pixels})[0]


def _openvino_logits(path: str, pixels: np.ndarray) -> Any:
    import openvino

    core = openvino.Core()
    # Else it computes in bfloat16 where the processor can.
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(pixels)["logits"].copy()  # else it is the memory of a model that goes


_RUNTIMES = {"onnxruntime": _onnxruntime_logits, "openvino": _openvino_logits}


def _compare(path: str, graph: nn.Module, pixels: Tensor) -> None:
    with torch.inference_mode():
        expected = graph(pixels)
    for runtime in checked_runtimes():
        logits = _RUNTIMES[runtime.split()[0]]
        difference = (torch.from_numpy(logits(path, pixels.numpy())) - expected).abs().max().item()
        if not difference <= _TOLERANCE * max(1.0, expected.abs().max().item()):
            raise RuntimeError(
                f"export_onnx: the logits of {runtime} differ from torch's by {difference:.2e}, and nothing "
                f"was written; try another version of it or of torch"
            )
