"""ONNX files: export from torch, int8 by ONNX Runtime's own tools, what a file says about itself, and running it.

onnx, onnxscript and onnxruntime are imported when they are first needed; if one is missing, the cure is named.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.errors import UserError
from toolkit.runs import write_bytes

if TYPE_CHECKING:
    import torch
    from onnxruntime import InferenceSession

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUT, OUTPUT = "images", "logits"
FACTS = "medmnist_experiments"  # the key of the metadata; predict_onnx.py reads it
CALIBRATIONS = {"minmax": "MinMax", "percentile": "Percentile"}  # their names in ONNX Runtime
CALIBRATION_BATCH = 64


def require(module: str) -> Any:
    """Import a module of an optional package and return it. Raises UserError with the command that installs it."""
    package = module.partition(".")[0]
    try:
        with quiet():
            return importlib.import_module(module)
    except ImportError as error:
        listed = " ".join(PACKAGES if package in PACKAGES else (package,))
        raise UserError(f"the package {package} cannot be imported ({error}); pip install {listed}") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The converters warn of their own deprecations and log what they do; neither is for who runs an experiment."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def export(model: torch.nn.Module, images: torch.Tensor, path: Path) -> None:
    """Write `model` (in evaluation mode, or a converted int8 graph) as ONNX for batches of any size.

    images: float32 (B, C, ...) with B of at least 2, as an example. Everything is in the one file.
    """
    for package in PACKAGES:  # torch's exporter needs all of them
        require(package)
    torch = require("torch")
    with quiet(), tempfile.TemporaryDirectory() as folder:
        program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        written = Path(folder) / "model.onnx"
        torch.onnx.export(
            program,
            (images,),
            str(written),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        write_bytes(path, _stripped(written))


def _stripped(path: Path) -> bytes:
    """The model without the notes that torch leaves at every node: places in source files of this machine."""
    onnx = require("onnx")
    model = onnx.load(str(path))
    model.ClearField("metadata_props")
    del model.graph.value_info[:]
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model.SerializeToString()


class Calibration:
    """Training images in batches, as onnxruntime.quantization asks for them: get_next() until it is None."""

    def __init__(self, images: np.ndarray) -> None:
        self._batches = iter([images[i : i + CALIBRATION_BATCH] for i in range(0, len(images), CALIBRATION_BATCH)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _prepared(source: Path, folder: str) -> Path:
    """A copy that ONNX Runtime has simplified, as its quantizers want it."""
    onnx = require("onnx")
    target = Path(folder) / "prepared.onnx"
    shapes = require("onnxruntime.quantization.shape_inference")
    shapes.quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
    model = onnx.load(str(target))
    del model.graph.value_info[:]  # quantize_dynamic turns weights of dense layers and would stumble over old shapes
    onnx.save(model, str(target))
    return target


def quantize_dynamic(source: Path, target: Path) -> None:
    """Post-training, dynamic range: weights int8, each channel with its own scale; activations at run time."""
    quantization = require("onnxruntime.quantization")
    with quiet(), tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "int8.onnx"
        quantization.quantize_dynamic(
            str(_prepared(source, folder)), str(written), per_channel=True, weight_type=quantization.QuantType.QInt8
        )
        write_bytes(target, written.read_bytes())


def quantize_static(
    source: Path, target: Path, images: np.ndarray, method: str = "minmax", *, reduce_range: bool = False
) -> None:
    """Post-training, full integer: weights int8 a channel, activations uint8 a tensor, in ranges seen on `images`.

    images: training images float32 (N, C, ...) as the network takes them. method: 'minmax' or 'percentile', which cuts
    off the rarest values. reduce_range: 7 bits for the weights, for x86 processors without VNNI, whose 16-bit sums
    overflow otherwise.
    """
    quantization = require("onnxruntime.quantization")
    methods = {name: getattr(quantization.CalibrationMethod, kind) for name, kind in CALIBRATIONS.items()}
    with quiet(), contextlib.redirect_stdout(None), tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            str(_prepared(source, folder)),
            str(written),
            Calibration(images),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=methods[method],
        )
        write_bytes(target, written.read_bytes())


def write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Put `facts` into the file's metadata: what predict_onnx.py needs to know about images and classes."""
    onnx = require("onnx")
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {FACTS: json.dumps(dict(facts))})
    write_bytes(path, model.SerializeToString())


def open_session(path: Path, threads: int) -> InferenceSession:
    """The file, ready to run on the CPU with this many threads."""
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_session(session: InferenceSession, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """float32 images (N, C, ...) → probabilities float32 (N, K)."""
    logits = [
        session.run([OUTPUT], {INPUT: images[start : start + batch_size]})[0]
        for start in range(0, len(images), batch_size)
    ]
    return softmax(np.concatenate(logits))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Rows (N, K) → probabilities."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def integer_layers(path: Path) -> Sequence[str]:
    """Kinds of the operators that compute with integers or stand between quantized tensors, for a file of ours."""
    onnx = require("onnx")
    integer = {"ConvInteger", "MatMulInteger", "QLinearConv", "QGemm", "QuantizeLinear", "DequantizeLinear"}
    return [node.op_type for node in onnx.load(str(path)).graph.node if node.op_type in integer]


def float_operators(path: Path) -> list[str]:
    """Kinds of the operators that ONNX Runtime computes in float32 for this file, after its own optimization; sorted.

    A file of ours has float32 at its ends, too: QuantizeLinear takes float32 images, DequantizeLinear returns float32
    logits; these two are not listed.
    """
    onnx, onnxruntime = require("onnx"), require("onnxruntime")
    ends = {"QuantizeLinear", "DequantizeLinear"}
    without_numbers = {
        "Reshape",
        "Flatten",
        "Shape",
        "Gather",
        "Concat",
        "Unsqueeze",
        "Squeeze",
        "MaxPool",
        "Transpose",
    }
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        kinds = {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}
    integer = {
        kind for kind in kinds if kind.startswith("QLinear") or kind in ("QGemm", "ConvInteger", "MatMulInteger")
    }
    return sorted(kinds - ends - without_numbers - integer)
