"""A dataset of four small images that tests may damage, and the command that trains on it."""

import json
import sys
from pathlib import Path

import numpy as np
from commands import REPOSITORY, SHAPES_CONFIG, SMALL_NETWORK, as_arguments
from detectron2.data import DatasetCatalog, MetadataCatalog
from input_errors import check_error, command_error
from PIL import Image

from fcos_d2.engine.yaml_config import prepare_config

sys.path.insert(0, str(REPOSITORY))

import train_net

TINY = {
    **SMALL_NETWORK,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.WARMUP_ITERS": 1,
    "DATALOADER.NUM_WORKERS": 0,
    "TEST.EVAL_PERIOD": 0,
}


class OwnData:
    """
    Two annotation files and their images, which a test may damage before ``write``.

    Attributes:
        train (dict | None): The content of train.json; None means that there is no such file.
        val (dict | None): The content of val.json; None means that there is no such file.
        images (Path): The folder of the images 1.png to 4.png.
        output (Path): The output folder of the command.
    """

    NAMES = ("train", "val")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.images.mkdir()
        self.output = folder / "output"
        self.train, self.val = self._make_split([1, 2]), self._make_split([3, 4])

    def _make_split(self, ids):
        """Save an image of noise for each id, and return annotations: a cat and a dog per image."""
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

    def file(self, name: str) -> str:
        """Return the path of the annotations of "train" or "val"."""
        return str(self.folder / f"{name}.json")

    def write(self) -> None:
        """Write the annotation files."""
        for name in self.NAMES:
            content = getattr(self, name)
            if content is not None:
                Path(self.file(name)).write_text(json.dumps(content))

    def arguments(self, *extra: str) -> list[str]:
        """Return the arguments of train_net.py; ``extra`` are flags and overrides."""
        flags = [x for x in extra if x.startswith("--")]
        opts = [x for x in extra if not x.startswith("--")]
        datasets = [f"--dataset={name}={self.file(name)}:{self.images}/" for name in self.NAMES]
        names = {"DATASETS.TRAIN": ("train",), "DATASETS.TEST": ("val",)}
        overrides = as_arguments({**TINY, **names, "OUTPUT_DIR": self.output})
        return ["--config-file", SHAPES_CONFIG, *datasets, *flags, *overrides, *opts]

    def run(self, monkeypatch, arguments) -> None:
        """Run train_net.py in this process, and forget the datasets that it registers."""
        monkeypatch.setattr(sys, "argv", ["train_net.py", *arguments])
        try:
            train_net.invoke_main()
        finally:
            self.forget()

    def prepare(self, *extra: str) -> None:
        """Write the files, and make the checks of a training without training."""
        self.write()
        arguments = self.arguments(*extra)
        datasets = [x.partition("=")[2] for x in arguments if x.startswith("--dataset=")]
        opts = [x for x in arguments[2:] if not x.startswith("--")]
        try:
            prepare_config(SHAPES_CONFIG, opts, datasets)
        finally:
            self.forget()

    def forget(self) -> None:
        """Forget the datasets; other tests register others under these names."""
        for name in (*self.NAMES, "more"):
            if name in DatasetCatalog:
                DatasetCatalog.remove(name)
                MetadataCatalog.remove(name)

    def error(self, monkeypatch, *extra: str):
        """Write the files, run the command, and return the InputError that ends it."""
        self.write()
        return command_error(self.run, monkeypatch, self.arguments(*extra))

    def check_error(self, monkeypatch, *words: str, extra=(), **fields) -> None:
        """Check the error that the command ends with; see ``input_errors.check_error``."""
        check_error(self.error(monkeypatch, *extra), *words, **fields)
