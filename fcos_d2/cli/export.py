"""The subcommand ``export``: write a model to a file that runs without detectron2."""

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from PIL import Image

from ..data.coco import parse_dataset
from ..data.image_search import find_images
from ..data.shapes.scene import draw_scene
from ..engine import load_prediction_config
from ..errors import InputError, count_words
from ..export import (
    FORMATS,
    ExportSettings,
    ProgramInfo,
    check_machine,
    export_model,
    find_format,
)
from ..image_preparation import AnyImage
from ..modeling import resolve_num_classes
from ..output_files import check_new_file, check_writable
from ..prediction import Predictor, class_names
from .flags import add_opts_flag, add_weights_flags, config_for_weights

__all__ = ["add_arguments", "run"]

_NUM_IMAGES = 3  # for the comparison with the model
_MOST_IMAGES = 20  # of those that are given


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    add_weights_flags(parser, required=True)
    output_help = "the file to write, .onnx or .pt2"
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="FILE", help=output_help
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    formats = "; ".join(f"{name}: {x.text}" for name, x in FORMATS.items())
    format_help = f"{formats} (default: onnx for .onnx, pt2 for .pt2)"
    parser.add_argument("--format", choices=list(FORMATS), help=format_help)
    batch_help = "fix the number of images of a batch (default: any number)"
    parser.add_argument("--batch-size", type=int, metavar="N", help=batch_help)
    size_help = "fix the size of the images (default: any size from 33 x 33 on)"
    parser.add_argument(
        "--image-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=size_help
    )
    dtype_help = "type of the images; the values are from 0 to 255 (default: %(default)s)"
    parser.add_argument(
        "--input-dtype", choices=["uint8", "float32"], default="uint8", help=dtype_help
    )
    raw_help = "write the outputs of the head, without decoding and NMS"
    parser.add_argument("--raw", action="store_true", help=raw_help)
    images_help = (
        f"images or folders for the comparison of the file with the model, of which at most "
        f"{_MOST_IMAGES} images are used (default: images of the test set of the config, or drawn "
        "shapes if there are none)"
    )
    parser.add_argument("--images", nargs="+", type=Path, metavar="PATH", help=images_help)
    add_opts_flag(parser)


def run(args: argparse.Namespace) -> None:
    """
    Export a model, and print what the file contains.

    Raises:
        InputError: If the model cannot be exported. Then nothing is written.
    """
    settings = ExportSettings(
        find_format(args.output, args.format),
        args.batch_size,
        args.image_size and tuple(args.image_size),
        args.input_dtype,
        args.raw,
    )
    check_new_file(args.output, overwrite=args.overwrite)
    check_writable(args.output.parent, f"--output {args.output}")
    check_machine(settings)
    config_file = config_for_weights(args.weights, args.config_file)
    cfg = load_prediction_config(config_file, ["MODEL.WEIGHTS", args.weights, *args.opts])
    _leave_out(cfg)
    images = _find_images(cfg, args.images)
    predictor = Predictor(cfg)
    names = class_names(cfg, resolve_num_classes(cfg))
    print(f"Exporting ({'minutes' if settings.format == 'aoti' else 'up to a minute'}) ...")
    result = export_model(
        predictor.model, args.output, settings, predictor.preparation, names, images
    )
    print(f"Compared with the model: {result.agreement}")
    if not settings.raw and not result.agreement.num_detections:
        print("No object was detected in these images. Name images with objects with --images.")
    print(_describe_inputs(result.info))
    print(f"{args.output}: {result.description}, {result.num_bytes / 1e6:.1f} MB")


def _leave_out(cfg: CfgNode) -> None:
    """Print which settings the file does not have, and switch test-time augmentation off."""
    if cfg.TEST.AUG.ENABLED:
        print("TEST.AUG.ENABLED: the file contains no test-time augmentation.")
    if cfg.MODEL.FCOS.INFERENCE_DTYPE != "float32":
        print(
            f"MODEL.FCOS.INFERENCE_DTYPE = {cfg.MODEL.FCOS.INFERENCE_DTYPE!r}: the file "
            "computes in float32."
        )
    cfg.TEST.AUG.ENABLED = False  # the predictor then prepares images as usual


def _find_images(cfg: CfgNode, paths: Sequence[Path] | None) -> Sequence[AnyImage]:
    """Return images for the comparison, see the help of --images."""
    if paths:
        return find_images(paths).images[:_MOST_IMAGES]
    descriptions = map(parse_dataset, cfg.FCOS_TRAIN.DATASETS)
    folders = {name: folder for name, _, folder in descriptions}
    for name in cfg.DATASETS.TEST:
        folder = folders.get(name) or MetadataCatalog.get(name).get("image_root")
        if folder and Path(folder).is_dir():
            with suppress(InputError):  # there is no image
                return find_images([Path(folder)], recursive=True).images[:_NUM_IMAGES]
    return [Image.fromarray(draw_scene("val", i).image) for i in range(_NUM_IMAGES)]


def _describe_inputs(info: ProgramInfo) -> str:
    """Return a line about the inputs and outputs of a file."""
    number, channels, height, width = info.input_shape
    shape = f"({number or 'N'}, {channels}, {height or 'H'}, {width or 'W'})"
    names = info.outputs
    outputs = ", ".join(names) if not info.is_raw else count_words(len(names), "{map|maps}")
    return f"Input: images {shape} of {info.input_dtype}, {info.input_format}. Outputs: {outputs}."
