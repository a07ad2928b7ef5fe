"""ONNX in 8-bit integers, by onnxruntime's static quantisation after training."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from st.core.registry import targets
from st.deploy.targets import INPUT
from st.deploy.targets.onnx import as_onnx, finished, onnx

if TYPE_CHECKING:
    from st.deploy.model import Model

AT_ONCE = 64  # images of a batch of the calibration


@targets.register
def int8(model: "Model", path: Path, raw: bool, calibration: np.ndarray | None = None) -> None:
    """Weights as int8 with a scale for each output channel, activations as int8 with the range that
    they have on the calibration's images; biases as int32. In the format QDQ: standard operators
    around which quantisation is noted.

    onnxruntime, because the file is checked and run with it anyway. torchao's quantisation for
    torch.export classified the digits as well (within half a point), but its quantisers are made
    for one compiler each, and its files need more operations between the quantised ones.
    """
    import contextlib
    import io
    import logging
    import tempfile

    import onnx as library
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    assert calibration is not None
    if raw:
        values = calibration
    else:
        import torch

        values = model.normalise(torch.from_numpy(calibration)).numpy()
    quiet = logging.getLogger()
    level, handlers = quiet.level, list(quiet.handlers)  # it adds one that prints all messages
    quiet.setLevel(logging.ERROR)  # it advises what is done here
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            prepared, done = Path(folder, "prepared.onnx"), Path(folder, "int8.onnx")
            source = library.load_from_string(as_onnx(model, raw))
            quant_pre_process(source, prepared)
            quantize_static(
                prepared, done, _Batches(INPUT[raw], values), quant_format=QuantFormat.QDQ,
                per_channel=True, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
            found = library.load(done)
    finally:
        quiet.setLevel(level)
        quiet.handlers = handlers
    path.write_bytes(finished(found, model, raw))


class _Batches:
    """onnxruntime's CalibrationDataReader."""

    def __init__(self, name: str, images: np.ndarray):
        self._name = name
        self._batches = iter([
            images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE)
        ])  # fmt: skip

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


int8.runtime, int8.tag, int8.packages = onnx.runtime, onnx.tag, onnx.packages
int8.suffix, int8.run, int8.call = ".onnx", onnx.run, onnx.call
int8.calibrated, int8.exact = True, False
