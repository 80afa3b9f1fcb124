"""Run train_net.py on a few images of shapes, for tests that start processes."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fcos_d2.data import register_shapes

register_shapes(os.environ["DETECTRON2_DATASETS"], {"train": 24, "val": 8})

if __name__ == "__main__":
    from train_net import invoke_main

    invoke_main()
