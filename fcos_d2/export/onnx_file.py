"""
Writing and running of ONNX files.

N = images, T = candidates of an image, K = classes.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ..errors import InputError
from .program_info import ProgramInfo
from .running import RunFunction
from .suppression import find_kept, without_nms_warning
from .tracing import AXES

__all__ = ["check_packages", "find_kept_onnx", "load_onnx", "open_session", "save_onnx"]

_INSTALL = "Install them with: pip install onnx onnxscript onnxruntime"


@torch.library.custom_op("fcos_d2::find_kept", mutates_args=())
def find_kept_onnx(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    num_classes: int,
    nms_thresh: float,
    max_detections: int,
) -> Tensor:
    """
    Compute ``suppression.find_kept`` as one operator, which ``save_onnx`` translates.

    In ONNX, at most ``max_detections`` boxes of each class are kept.
    """
    return find_kept(boxes, scores, classes, num_classes, nms_thresh)


@find_kept_onnx.register_fake
def _(boxes, scores, classes, num_classes, nms_thresh, max_detections):  # type: ignore[no-untyped-def]
    return torch.empty_like(scores, dtype=torch.bool)


def check_packages(*names: str) -> None:
    """Check that packages are installed."""
    for name in names:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:  # the package is installed, but broken
                raise
            raise InputError(f"ONNX files need the package {name}. {_INSTALL}") from None


def save_onnx(program: ExportedProgram, info: ProgramInfo, file: Path) -> str:
    """
    Convert a program to ONNX, and write it to a file.

    Args:
        program (ExportedProgram): A program of ``tracing.trace``, with ``find_kept_onnx``.
        info (ProgramInfo): The metadata of the file.
        file (Path): The file.

    Returns:
        str: A description of the file.

    Raises:
        InputError: If an operator of the model has no translation.
    """
    with without_nms_warning():
        try:
            converted = torch.onnx.export(
                program,
                input_names=["images"],
                output_names=info.outputs,
                dynamo=True,
                external_data=False,
                verbose=False,
                custom_translation_table={
                    torch.ops.fcos_d2.find_kept.default: _translate_find_kept
                },
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise InputError(f"The model cannot be converted to ONNX: {error}") from error
    assert converted is not None
    model = converted.model
    axes: Any = model.graph.inputs[0].shape
    converted.rename_axes(
        {axes[i]: name for i, name in AXES.items() if info.input_shape[i] is None}
    )
    _clean(model, info)
    converted.save(str(file), external_data=False)
    return f"opset {model.opset_imports['']}"


def _clean(model: Any, info: ProgramInfo) -> None:
    """Replace the exporter's metadata, which has stack traces with paths of this machine."""
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for output in node.outputs:
                output.metadata_props.clear()
        for value in (*graph.inputs, *graph.outputs):
            value.metadata_props.clear()
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.doc_string = model.doc_string = None
    model.graph.name = "fcos"
    model.metadata_props.clear()
    model.metadata_props.update(info.to_strings())
    model.producer_name, model.producer_version = "fcos_d2", info.version


def _translate_find_kept(
    boxes: Any, scores: Any, classes: Any, num_classes: int, nms_thresh: float, max_detections: int
) -> Any:
    """
    Translate ``find_kept_onnx`` to the operator NonMaxSuppression.

    It separates images and classes by axes of its own, so no box is moved and rounded. Of a class,
    it returns at most ``max_detections`` boxes of each image: more are never among the best.
    """
    from onnxscript import opset18

    op: Any = opset18

    def ints(*values: int) -> Any:
        """Return a constant of one dimension."""
        return op.Constant(value_ints=list(values))

    class_ids = op.Range(  # (K,)
        op.Constant(value_int=0), op.Constant(value_int=num_classes), op.Constant(value_int=1)
    )
    is_class = op.Equal(  # (N, K, T)
        op.Unsqueeze(classes, ints(1)), op.Unsqueeze(class_ids, ints(0, 2))
    )
    padding = op.Constant(value_float=-1.0)
    class_scores = op.Where(is_class, op.Unsqueeze(scores, ints(1)), padding)  # (N, K, T)
    # Boxes whose score is not above -1 are left out. The rows are (image, class, box).
    kept = op.NonMaxSuppression(  # (kept, 3)
        boxes,
        class_scores,
        ints(max_detections),
        op.Constant(value_floats=[nms_thresh]),
        op.Constant(value_floats=[-1.0]),
    )
    idxs = op.Gather(kept, ints(0, 2), axis=1)  # (kept, 2)
    num_kept = op.Slice(op.Shape(kept), ints(0), ints(1))  # (1,)
    zeros = op.Expand(op.Constant(value_int=0), op.Shape(scores))  # (N, T)
    ones = op.Expand(op.Constant(value_int=1), num_kept)  # (kept,)
    return op.Equal(op.ScatterND(zeros, idxs, ones), op.Constant(value_int=1))  # (N, T)


def open_session(file: Path) -> Any:
    """
    Open a file with ONNX Runtime, on a GPU if the installed package supports it.

    Args:
        file (Path): The file.

    Raises:
        InputError: If it is not an ONNX file that ONNX Runtime can run.
    """
    check_packages("onnxruntime")
    import onnxruntime

    known = {"CUDAExecutionProvider": {"use_tf32": "0"}, "CPUExecutionProvider": {}}
    available = onnxruntime.get_available_providers()
    providers = [x for x in known.items() if x[0] in available]
    try:
        return onnxruntime.InferenceSession(str(file), providers=providers)
    except Exception as error:  # its exceptions have no common class
        reason = str(error).strip().splitlines()[0][:300]
        raise InputError(
            f"{file} cannot be opened by ONNX Runtime: {reason}", file=str(file)
        ) from error


def load_onnx(file: Path) -> tuple[RunFunction, ProgramInfo]:
    """Load a file that ``save_onnx`` wrote, see ``loading.load_exported``."""
    session = open_session(file)
    info = ProgramInfo.from_strings(session.get_modelmeta().custom_metadata_map, str(file))

    def run(images: Tensor) -> Sequence[Tensor]:
        """Run the program."""
        outputs = session.run(None, {"images": images.cpu().numpy()})
        return [torch.from_numpy(x) for x in outputs]

    return run, info
