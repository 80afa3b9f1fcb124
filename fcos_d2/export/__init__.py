"""
Export of trained models to files that run without detectron2.

- ``tensor_model``: FCOS with tensors as inputs and outputs.
- ``suppression``: NMS as a mask over all candidates.
- ``tracing``: torch.export for images of any size.
- ``onnx_file``, ``torch_files``: writing and running the files.
- ``program_info``: the metadata of a file.
- ``checking``: the comparison of a file with its model.
- ``exporting``: all of this in one function.
- ``running``, ``loading``, ``predictor``: detection with an exported file.
"""

from .exporting import ExportResult, ExportSettings, check_machine, export_model
from .loading import is_exported_name, load_exported
from .predictor import ExportedPredictor
from .program_info import FORMATS, ProgramInfo, find_format

__all__ = [
    "FORMATS",
    "ExportResult",
    "ExportSettings",
    "ExportedPredictor",
    "ProgramInfo",
    "check_machine",
    "export_model",
    "find_format",
    "is_exported_name",
    "load_exported",
]
