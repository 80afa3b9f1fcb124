"""
Measure the latency of exported models against that of the model, and write docs/export.md.

The weights are random. All formats run in one process, in turn. Files are kept in the output
directory, because compiling takes minutes; delete them to measure a changed model.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from measuring import Work, describe_machine, time_interleaved
from numpy.typing import NDArray
from page import format_fraction, format_table, replace_marked

from fcos_d2 import get_config_file, new_cfg
from fcos_d2.data.images import WHITE_POINT
from fcos_d2.export import ExportSettings, export_model, load_exported
from fcos_d2.image_preparation import ImagePreparation
from fcos_d2.modeling import FCOS, build_model

PAGE = Path(__file__).resolve().parent.parent / "docs" / "export.md"
# Title, config, height and width.
_MODELS = (
    ("demo, 256 x 256", "shapes/fcos_shapes_demo.yaml", (256, 256)),
    ("R-50-FPN, 512 x 704", "fcos_R_50_FPN_1x.yaml", (512, 704)),
)
_FILES = {
    "ONNX Runtime": ("onnx", ".onnx", False),
    "`.pt2`": ("pt2", ".pt2", False),
    "AOTInductor": ("aoti", "_aoti.pt2", False),
    "ONNX Runtime, fixed size": ("onnx", "_fixed.onnx", True),
    "`.pt2`, fixed size": ("pt2", "_fixed.pt2", True),
    "AOTInductor, fixed size": ("aoti", "_aoti_fixed.pt2", True),
}
_NUM_CANDIDATES = 500
_EAGER = "model in PyTorch"


def build_detector(config: str, pixels: NDArray[np.uint8]) -> FCOS:
    """Build a random model that selects as many candidates in an image as a trained one does."""
    cfg = new_cfg()
    cfg.merge_from_file(get_config_file(config))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    if cfg.MODEL.FCOS.NUM_CLASSES < 0:
        cfg.MODEL.FCOS.NUM_CLASSES = 80
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    assert isinstance(model, FCOS), type(model)
    images = model.preprocess_image([{"image": to_image(pixels)}])
    with torch.no_grad():
        model.head.cls_logits.weight.mul_(10)
        maps = model.backbone(images.tensor)
        logits = model.head([maps[name] for name in model.head_in_features]).cls_logits
        lowest = torch.cat([x.flatten() for x in logits]).topk(_NUM_CANDIDATES).values[-1]
        threshold = torch.tensor(model.postprocessor.score_thresh_test).logit()
        model.head.cls_logits.bias += threshold - lowest
    return model


def to_image(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Convert an array (H, W, 3) to an image (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def make_works(model: FCOS, pixels: NDArray[np.uint8], stem: Path) -> Iterator[tuple[str, Work]]:
    """Yield the calls to measure by name, after exporting what is missing."""
    height, width = size = pixels.shape[0], pixels.shape[1]
    image = to_image(pixels)
    inputs = [{"image": image, "height": height, "width": width}]

    def run_model(_: Any) -> None:
        """Run the model."""
        with torch.no_grad():
            model(inputs)

    yield _EAGER, Work(run_model)
    preparation = ImagePreparation("BGR", 3, WHITE_POINT, 0, 0)
    names = [f"class {i}" for i in range(model.num_classes)]
    for name, (file_format, suffix, is_fixed) in _FILES.items():
        file = stem.with_name(stem.name + suffix)
        settings = ExportSettings(file_format, image_size=size if is_fixed else None)
        if not file.exists():
            export_model(model, file, settings, preparation, names, [pixels])
        run, _ = load_exported(file)
        yield name, Work(partial(_call, run, image[None]))


def _call(run: Any, images: torch.Tensor, _: Any) -> None:
    """Run a file."""
    run(images)


def run(args: argparse.Namespace) -> None:
    """Measure, print and write the table."""
    args.output_dir.mkdir(parents=True, exist_ok=True)
    columns: list[dict[str, float]] = []
    for title, config, size in _MODELS:
        pixels = np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8)
        model = build_detector(config, pixels)
        works = dict(make_works(model, pixels, args.output_dir / Path(config).stem))
        times = time_interleaved(works, args.repeats, "cpu")
        columns.append({name: median(values) for name, values in times.items()})
        print(title, {name: round(value, 1) for name, value in columns[-1].items()})
    rows = []
    for name in (_EAGER, *_FILES):
        cells = [f"{x[name]:.1f} ms ({format_fraction(x[name] / x[_EAGER])})" for x in columns]
        rows.append([name, *cells])
    table = format_table(["", *(title for title, *_ in _MODELS)], rows)
    text = (
        f"{describe_machine('cpu')}; median of {args.repeats} or more rounds, one image "
        f"with {_NUM_CANDIDATES} candidates."
    )
    replace_marked(args.page, "latency", f"{text}\n\n{table}")
