"""A dataset of four small pictures, and the command that trains on it: for tests of bad input."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
CONFIG = str(REPOSITORY / "configs" / "shapes" / "fcos_shapes_demo.yaml")
TINY = [
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    "8",
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    "16",
    "MODEL.FCOS.NUM_CLS_CONVS",
    "1",
    "MODEL.FCOS.NUM_BOX_CONVS",
    "1",
    "SOLVER.MAX_ITER",
    "2",
    "SOLVER.IMS_PER_BATCH",
    "2",
    "SOLVER.WARMUP_ITERS",
    "1",
    "DATALOADER.NUM_WORKERS",
    "0",
    "TEST.EVAL_PERIOD",
    "0",
]


class OwnData:
    """Two annotation files and their images, to be damaged by a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.images.mkdir()
        self.output = folder / "output"
        self.train, self.val = self._split([1, 2]), self._split([3, 4])

    def _split(self, ids):
        for i in ids:
            pixels = np.random.default_rng(i).integers(0, 255, (64, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.images / f"{i}.png")
        return {
            "images": [{"id": i, "file_name": f"{i}.png", "height": 64, "width": 96} for i in ids],
            "annotations": [
                {
                    "id": 10 * i + k,
                    "image_id": i,
                    "category_id": k + 1,
                    "area": 600,
                    "iscrowd": 0,
                    "bbox": [10 + 20 * k, 12, 20, 30],
                }
                for i in ids
                for k in range(2)
            ],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        }

    def write(self) -> None:
        for name in ("train", "val"):
            content = getattr(self, name)
            if content is not None:
                (self.folder / f"{name}.json").write_text(json.dumps(content))

    def arguments(self, *extra: str) -> list[str]:
        """The command line behind train_net.py."""
        flags = [x for x in extra if x.startswith("--")]
        opts = [x for x in extra if not x.startswith("--")]
        return [
            "--config-file",
            CONFIG,
            *(
                f"--dataset={name}={self.folder}/{name}.json:{self.images}/"
                for name in ("train", "val")
            ),
            *flags,
            *TINY,
            "DATASETS.TRAIN",
            "('train',)",
            "DATASETS.TEST",
            "('val',)",
            "OUTPUT_DIR",
            str(self.output),
            *opts,
        ]

    def run(self, monkeypatch, arguments) -> None:
        import train_net

        monkeypatch.setattr(sys, "argv", ["train_net.py", *arguments])
        try:
            train_net.invoke_main()
        finally:  # the next test has others of these names
            for name in ("train", "val", "more"):
                if name in DatasetCatalog:
                    DatasetCatalog.remove(name)
                    MetadataCatalog.remove(name)

    def error(self, monkeypatch, *extra: str) -> str:
        """What the command says when it refuses."""
        self.write()
        with pytest.raises(SystemExit) as stop:
            self.run(monkeypatch, self.arguments(*extra))
        assert isinstance(stop.value.code, str), stop.value.code  # Python's exit code is then 1
        assert stop.value.code.startswith("error: ")
        return stop.value.code

    def check_error(self, monkeypatch, message: str, *extra: str) -> None:
        text = self.error(monkeypatch, *extra)
        assert re.search(message, text, re.DOTALL), text
