#!/usr/bin/env python3
"""
Train or evaluate a detector, with the flags of detectron2's tools/train_net.py.

    python train_net.py --config-file configs/fcos_R_50_FPN_1x.yaml --num-gpus 8
    python train_net.py --config-file configs/fcos_R_50_FPN_1x.yaml --num-gpus 8 --resume
    python train_net.py --config-file configs/fcos_R_50_FPN_1x.yaml --eval-only MODEL.WEIGHTS x.pth
    python train_net.py --config-file configs/shapes/fcos_shapes_demo.yaml SOLVER.MAX_ITER 100

``fcos-d2 train`` and ``fcos-d2 evaluate`` do the same without a checkout of the repository. A .py
file is a LazyConfig, whose code is run. On machines without a GPU, --num-gpus is the number of
processes.
"""

if __name__ == "__main__":  # before torch is imported
    from fcos_d2_command import set_thread_defaults

    set_thread_defaults()

from fcos_d2.cli.train import build_parser, invoke_main, main

__all__ = ["build_parser", "invoke_main", "main"]

if __name__ == "__main__":
    invoke_main()
