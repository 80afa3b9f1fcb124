"""Export of a model: trace, convert, compare with the model, and only then keep the file."""

import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ..arguments import FLAG, Arguments, Rule, integer, is_list, one_of
from ..atomic_write import replacing
from ..errors import InputError, count_words
from ..image_preparation import AnyImage, ImagePreparation
from ..modeling import FCOS
from ..output_files import check_new_file
from ..version import __version__
from .checking import Agreement, compare_with_model
from .loading import load_exported
from .onnx_file import check_packages, find_kept_onnx, save_onnx
from .program_info import FORMATS, ProgramInfo, find_format
from .running import SMALLEST_SIZE
from .simplification import simplify
from .suppression import find_kept
from .tensor_model import TensorDetector, TensorHead, check_exportable
from .torch_files import check_compiler, save_aoti, save_pt2
from .tracing import make_example, trace

__all__ = ["ExportResult", "ExportSettings", "check_machine", "export_model"]

_SAVE = {"onnx": save_onnx, "pt2": save_pt2, "aoti": save_aoti}
_OLDEST_TORCH = "2.11"  # torch.export of 2.6, 2.8 and 2.9 cannot trace images of any size
_COUNT, _SIDE = integer(at_least=1), integer(at_least=SMALLEST_SIZE)
_EXPORT_ARGUMENTS = Arguments(
    "",
    format=one_of(*FORMATS),
    batch_size=Rule("a positive integer", lambda x: x is None or _COUNT.holds(x)),
    image_size=Rule(
        f"a height and a width of at least {SMALLEST_SIZE}",
        lambda x: x is None or (is_list(x) and len(x) == 2 and all(map(_SIDE.holds, x))),
    ),
    input_dtype=one_of("uint8", "float32"),
    raw=FLAG,
)


class ExportSettings(NamedTuple):
    """
    How a model is exported.

    Attributes:
        format (str): A key of ``program_info.FORMATS``.
        batch_size (int | None): Number of images; None accepts any number.
        image_size (tuple[int, int] | None): Height and width of the images; None accepts any size
            from 33 x 33 on.
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
    if torch.__version__ < _OLDEST_TORCH:
        raise InputError(
            f"Exporting needs PyTorch {_OLDEST_TORCH} or newer; {torch.__version__} is installed."
        )
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
    check_new_file(Path(output), overwrite=True)
    original = _copy(model, settings)
    _check_arguments(original, class_names, images)
    module = _build_module(original, settings)
    preparation = replace(preparation, fit_size=settings.image_size)
    prepared = [preparation(image)["image"] for image in images]
    height, width = settings.image_size or (None, None)
    input_shape = [settings.batch_size, preparation.num_channels, height, width]
    largest_size = module.square_size or None
    example = make_example(
        input_shape,
        getattr(torch, settings.input_dtype),
        original.device,
        original.levels.strides[-1],
        largest_size,
    )
    names = module.output_names(example)
    info = _describe(module, names, input_shape, settings, preparation, class_names)
    program = trace(module, example, input_shape, largest_size)
    with replacing(output) as temporary:
        description = _SAVE[settings.format](program, info, temporary)
        run, _ = load_exported(temporary)
        agreement = compare_with_model(run, info, original, prepared)
        agreement.check(str(output))
        num_bytes = os.path.getsize(temporary)
    return ExportResult(info, description, agreement, num_bytes)


def _copy(model: nn.Module, settings: ExportSettings) -> FCOS:
    """Return a copy of a model in evaluation mode, in float32, on the device of the format."""
    copied = copy.deepcopy(check_exportable(model, settings.raw)).eval().float()
    device = copied.device.type  # without an index, because that may be another GPU elsewhere
    if settings.format == "onnx" or device == "mps":  # MPS does not support float64
        device = "cpu"
    copied.inference_dtype = torch.float32
    return copied.to(device)


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
    suppress = find_kept
    if settings.format == "onnx" and not settings.raw:
        most = model.postprocessor.detections_per_image
        suppress = partial(find_kept_onnx, max_detections=most)
    module = TensorHead(simple) if settings.raw else TensorDetector(simple, suppress)
    if size is not None:
        if simple.device.type == "cpu":
            module.memory_format = torch.channels_last  # faster
        if module.square_size and max(size) > module.square_size:
            raise InputError(
                f"image_size = {size}: this model pads images to {module.square_size} x "
                f"{module.square_size} pixels, so they cannot be larger.",
                key="image_size",
                value=size,
            )
    return module.eval()


def _describe(
    module: TensorDetector | TensorHead,
    names: list[str],
    input_shape: list[int | None],
    settings: ExportSettings,
    preparation: ImagePreparation,
    class_names: Sequence[str],
) -> ProgramInfo:
    """Collect the metadata of a file."""
    model = module.model
    post, levels = model.postprocessor, model.levels  # raw outputs can have another post-processor
    return ProgramInfo(
        format=settings.format,
        outputs=names,
        class_names=list(class_names),
        input_format=preparation.format,
        input_dtype=settings.input_dtype,
        input_shape=input_shape,
        size_divisibility=module.divisibility,
        min_size_test=preparation.min_size,
        max_size_test=preparation.max_size,
        white_point_16_bit=preparation.white_point,
        pixel_mean=model.pixel_mean.flatten().tolist(),
        score_thresh=getattr(post, "score_thresh_test", None),
        nms_thresh=getattr(post, "nms_thresh_test", None),
        max_detections=getattr(post, "detections_per_image", None),
        levels=list(model.head_in_features),
        strides=list(levels.strides),
        location_offset=levels.location_offset,
        box_activation=levels.box_activation,
        device=model.device.type,
        version=__version__,
    )
