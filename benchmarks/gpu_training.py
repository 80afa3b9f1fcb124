"""Measure the images per second of train_net.py on image files, with several numbers of workers."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

_TRAIN_NET = Path(__file__).resolve().parent.parent / "train_net.py"
_RECIPE = "fcos_R_50_FPN_1x.yaml"
_WARM_UP = 0.25  # share of the iterations that are not counted


def write_dataset(folder: Path, count: int, width: int = 640, height: int = 480) -> str:
    """Draw JPEG files and their annotations; return the value for --dataset."""
    rng = np.random.default_rng(0)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    (folder / "images").mkdir()
    for index in range(1, count + 1):
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        name = f"{index}.jpg"
        Image.fromarray(coarse).resize((width, height)).save(folder / "images" / name)
        images.append({"id": index, "file_name": name, "width": width, "height": height})
        for box in range(7):
            bbox = [40 * box + 10, 30 * box + 10, 60 + 20 * box, 50 + 20 * box]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": 1,
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 1, "name": "object"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "train.json").write_text(json.dumps(content))
    return f"drawn={folder / 'train.json'}:{folder / 'images'}/"


def measure(folder: Path, dataset: str, device: str, iterations: int, *opts: object) -> str:
    """Train for some iterations; return images per second and the share of waiting for data."""
    base = {
        "MODEL.WEIGHTS": "",
        "MODEL.DEVICE": device,
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.NORM": "BN",  # frozen BN on random weights would explode
        "DATASETS.TRAIN": "('drawn',)",
        "DATASETS.TEST": "()",
        "SOLVER.BASE_LR": 1e-5,
        "SOLVER.REFERENCE_WORLD_SIZE": 0,
        "SOLVER.AMP.ENABLED": True,
        "FCOS_TRAIN.AMP_DTYPE": "bfloat16",
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.STEPS": "()",
        "OUTPUT_DIR": folder,
    }
    flat = [str(x) for pair in base.items() for x in pair]
    command = [sys.executable, str(_TRAIN_NET), "--config-file", _RECIPE, "--dataset", dataset]
    done = subprocess.run([*command, *flat, *map(str, opts)], capture_output=True, text=True)
    if done.returncode:
        return f"failed: {done.stderr.strip().splitlines()[-1:]}"
    lines = [json.loads(x) for x in (folder / "metrics.json").read_text().splitlines()]
    counted = [x for x in lines if x["iteration"] >= _WARM_UP * iterations and "time" in x]
    seconds = median(x["time"] for x in counted)
    waiting = median(x["data_time"] for x in counted)
    batch = int(opts[opts.index("SOLVER.IMS_PER_BATCH") + 1])  # type: ignore[call-overload]
    return f"{batch / seconds:.0f} images/s, {waiting / seconds:.0%} of the time waiting for data"


def run_training(args: argparse.Namespace) -> None:
    """Print the rates of several batch sizes and numbers of workers."""
    runs = [(2, 4, "none"), (2, 4, "all"), (16, 4, "all"), (16, 8, "all"), (16, 14, "all")]
    with tempfile.TemporaryDirectory() as temporary:
        dataset = write_dataset(Path(temporary), 40 if args.quick else 400)
        for images, workers, graphs in [(2, 0, "all")] if args.quick else runs:
            folder = Path(temporary) / f"{images}-{workers}-{graphs}"
            opts: list[object] = ["SOLVER.IMS_PER_BATCH", images]
            opts += ["DATALOADER.NUM_WORKERS", workers, "MODEL.FCOS.CUDA_GRAPHS", graphs]
            if args.quick:
                opts += ["INPUT.MIN_SIZE_TRAIN", "(96,)", "MODEL.RESNETS.DEPTH", 18]
                opts += ["MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.FCOS.NUM_CLS_CONVS", 1]
            iterations = 20 if args.quick else 200
            text = measure(folder, dataset, args.device, iterations, *opts)
            print(f"{images} images, {workers} workers, graphs {graphs}: {text}", flush=True)
