"""Exported graphs in ONNX Runtime on the processor: a second opinion on the runtime that serves."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx


class OnnxRuntimeGraph:
    """An exported graph; a `GraphRuntime`. Raises ValueError where the file is none."""

    #: A call takes all cores.
    concurrency = 1

    max_batch_size = 16

    def __init__(self, graph_path: Path, *, outputs: tuple[str, ...] | None = None) -> None:
        """`outputs` names tensors of the graph to be given instead of its own outputs.

        Raises ModuleNotFoundError where ONNX Runtime is not installed.
        """
        import onnx
        import onnxruntime

        try:
            model = onnx.load(graph_path)
            if outputs is not None:
                _open(model, outputs)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = len(os.sched_getaffinity(0))
            options.log_severity_level = 3
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except ValueError:
            raise
        except Exception as error:
            # Its errors, and those of the file's format, have no common ground.
            raise ValueError(f"{graph_path}: cannot be loaded: {error}") from error
        self.output_names = tuple(each.name for each in self._session.get_outputs())
        self.description = f"ONNX Runtime {onnxruntime.__version__} CPU float32"
        (self._input,) = (each.name for each in self._session.get_inputs())

    def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """uint8 BGR [n, h, w, 3] -> outputs by name."""
        outputs = self._session.run(list(self.output_names), {self._input: images})
        return dict(zip(self.output_names, outputs, strict=True))  # type: ignore[arg-type]

    def close(self) -> None:
        """Nothing to do: the session ends with the object."""


def _open(model: "onnx.ModelProto", names: tuple[str, ...]) -> None:
    """Let the graph give these of its tensors, and nothing else."""
    import onnx

    known = {name for node in model.graph.node for name in node.output}
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"the graph has no tensor named {', '.join(missing)}")
    del model.graph.output[:]
    for name in names:
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        model.graph.output.append(value)
