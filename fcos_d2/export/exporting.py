"""Export of a model: trace, convert, compare with the model, and only then keep the file."""

import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ..arguments import Arguments, Rule, is_integer, one_of
from ..atomic_write import replacing
from ..errors import InputError, count_words
from ..image_preparation import AnyImage, ImagePreparation
from ..modeling import FCOS
from ..version import __version__
from .checking import Agreement, compare_with_model
from .loading import load_exported
from .onnx_file import check_packages, find_kept_onnx, save_onnx
from .program_info import FORMATS, ProgramInfo, find_format
from .simplification import simplify
from .suppression import find_kept
from .tensor_model import TensorDetector, TensorHead, check_exportable
from .torch_files import check_compiler, save_aoti, save_pt2
from .tracing import SMALLEST_SIZE, trace

__all__ = ["ExportResult", "ExportSettings", "check_machine", "export_model"]

_SAVE = {"onnx": save_onnx, "pt2": save_pt2, "aoti": save_aoti}
_OLDEST_TORCH = (2, 11)  # torch.export of 2.6, 2.8 and 2.9 cannot trace images of any size

_EXPORT_ARGUMENTS = Arguments(
    "",
    format=one_of(*FORMATS),
    batch_size=Rule("a positive integer", lambda x: x is None or (is_integer(x) and x >= 1)),
    image_size=Rule(
        f"a height and a width of at least {SMALLEST_SIZE}",
        lambda x: (
            x is None or (len(x) == 2 and all(is_integer(y) and y >= SMALLEST_SIZE for y in x))
        ),
    ),
    input_dtype=one_of("uint8", "float32"),
)


class ExportSettings(NamedTuple):
    """
    How a model is exported.

    Attributes:
        format (str): A key of ``program_info.FORMATS``.
        batch_size (int | None): Number of images; None accepts any number.
        image_size (tuple[int, int] | None): Height and width of the images; None accepts any size
            from 64 x 64 on.
        input_dtype (str): Type of the images, "uint8" or "float32".
        raw (bool): Export the outputs of the head, without decoding and NMS.
    """

    format: str
    batch_size: int | None = None
    image_size: tuple[int, int] | None = None
    input_dtype: str = "uint8"
    raw: bool = False


class ExportResult(NamedTuple):
    """
    What was exported.

    Attributes:
        info (ProgramInfo): The metadata of the file.
        description (str): The version of the file's format.
        agreement (Agreement): How well the file agrees with the model.
        num_bytes (int): Size of the file.
    """

    info: ProgramInfo
    description: str
    agreement: Agreement
    num_bytes: int


def check_machine(settings: ExportSettings) -> None:
    """
    Check that this machine can export, before a model is built.

    Raises:
        InputError: If settings are invalid, or a package or the compiler is missing.
    """
    _EXPORT_ARGUMENTS.check(settings._asdict())
    installed = torch.__version__
    if tuple(map(int, installed.split(".")[:2])) < _OLDEST_TORCH:
        oldest = ".".join(map(str, _OLDEST_TORCH))
        raise InputError(f"Exporting needs PyTorch {oldest} or newer; {installed} is installed.")
    if settings.format == "onnx":
        check_packages("onnx", "onnxscript", "onnxruntime")
    if settings.format == "aoti":
        check_compiler()


def export_model(
    model: nn.Module,
    output: str | Path,
    settings: ExportSettings,
    preparation: ImagePreparation,
    class_names: Sequence[str],
    images: Sequence[AnyImage],
) -> ExportResult:
    """
    Export a model to a file, which is only kept if it gives the results of the model.

    The model is not changed. The file computes in float32, and contains no test-time augmentation.

    Args:
        model (nn.Module): A model of the meta-architecture FCOS.
        output (str | Path): The file, which is replaced if it exists.
        settings (ExportSettings): The format, and the sizes of the images.
        preparation (ImagePreparation): How images become inputs of the model.
        class_names (list[str]): The name of each class.
        images (list[AnyImage]): At least one image for the comparison.

    Raises:
        InputError: If the model cannot be exported, or the file gives other results.
    """
    check_machine(settings)
    find_format(Path(output), settings.format)
    original = _copy(model, settings)
    _check_arguments(original, class_names, images)
    module = _build_module(original, settings)
    preparation = replace(preparation, fit_size=settings.image_size)
    prepared = [preparation(image)["image"] for image in images]
    info = _describe(module, settings, preparation, class_names)
    program = trace(
        module,
        info.input_shape,
        getattr(torch, settings.input_dtype),
        original.device,
        original.levels.strides[-1],
        module.square_size or None,
    )
    with replacing(output) as temporary:
        description = _SAVE[settings.format](program, info, temporary)
        run, _ = load_exported(temporary)
        agreement = compare_with_model(run, info, original, prepared)
        agreement.check(str(output))
        num_bytes = os.path.getsize(temporary)
    return ExportResult(info, description, agreement, num_bytes)


def _copy(model: nn.Module, settings: ExportSettings) -> FCOS:
    """Return a copy of a model in evaluation mode, in float32, on the device of the format."""
    copied = copy.deepcopy(check_exportable(model)).eval()
    if settings.format == "onnx" or copied.device.type == "mps":  # MPS does not support float64
        copied.to("cpu")
    copied.inference_dtype = torch.float32
    return copied


def _check_arguments(model: FCOS, class_names: Sequence[str], images: Sequence[AnyImage]) -> None:
    """Check the arguments of ``export_model``."""
    if len(class_names) != model.num_classes:
        raise InputError(
            f"class_names has {count_words(len(class_names), '{name|names}')}, but the model has "
            f"{count_words(model.num_classes, '{class|classes}')}.",
            key="class_names",
            value=class_names,
        )
    if not images:
        raise InputError("images is empty, but the file is compared with the model.", key="images")


def _build_module(model: FCOS, settings: ExportSettings) -> TensorDetector | TensorHead:
    """Build what is exported."""
    size = settings.image_size
    simple = simplify(model, any_size=size is None)
    _check_outputs(simple, settings.raw)
    suppress = find_kept_onnx if settings.format == "onnx" else find_kept
    module = TensorHead(simple) if settings.raw else TensorDetector(simple, suppress)
    if size is not None:
        module.memory_format = torch.channels_last  # faster on a CPU
        if module.square_size and max(size) > module.square_size:
            raise InputError(
                f"image_size = {size}: this model pads images to {module.square_size} x "
                f"{module.square_size} pixels, so they cannot be larger.",
                key="image_size",
                value=size,
            )
    return module.eval()


def _check_outputs(model: FCOS, raw: bool) -> None:
    """Check that the head has no outputs that would be lost."""
    names = TensorHead(model).output_names()
    known = ("cls_logits_", "raw_ltrb_", "quality_logits_")
    extra = [name for name in names if not name.startswith(known)]
    if extra and not raw:
        raise InputError(
            f"The head has more outputs than boxes and classes ({', '.join(extra)}), which "
            "detections in exported files don't have. Export its outputs with --raw."
        )


def _describe(
    module: TensorDetector | TensorHead,
    settings: ExportSettings,
    preparation: ImagePreparation,
    class_names: Sequence[str],
) -> ProgramInfo:
    """Collect the metadata of a file."""
    model = module.model
    post, levels = model.postprocessor, model.levels
    height, width = settings.image_size or (None, None)
    return ProgramInfo(
        format=settings.format,
        outputs=(
            module.output_names()
            if isinstance(module, TensorHead)
            else ["boxes", "scores", "classes", "counts"]
        ),
        class_names=list(class_names),
        input_format=preparation.format,
        input_dtype=settings.input_dtype,
        input_shape=[settings.batch_size, preparation.num_channels, height, width],
        size_divisibility=module.divisibility,
        min_size_test=preparation.min_size,
        max_size_test=preparation.max_size,
        white_point_16_bit=preparation.white_point,
        pixel_mean=model.pixel_mean.flatten().tolist(),
        score_thresh=post.score_thresh_test,
        nms_thresh=post.nms_thresh_test,
        max_detections=post.detections_per_image,
        levels=list(model.head_in_features),
        strides=list(levels.strides),
        location_offset=levels.location_offset,
        box_activation=levels.box_activation,
        device="cpu" if settings.format == "onnx" else model.device.type,
        version=__version__,
    )
