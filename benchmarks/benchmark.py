"""
Measure fcos_d2, and compare it with detectron2's and torchvision's FCOS.

    speed     times, memory and operations
    learning  what detectors learn in the same iterations and in the same time
    ablation  what each part of FCOS does: docs/ablation.md
    configs   parameters and operations of the recipes: configs/README.md
    gpu       whether a GPU computes what the CPU does; how long it waits for launches
    page      write docs/performance.md from what `speed` measured

Nothing else should run meanwhile. OMP_NUM_THREADS sets the threads of torch on a CPU.
"""

import argparse
from pathlib import Path
from typing import Any

import ablation
import count_configs
import gpu
import learning
import page
import speed
import torch

_COMMANDS: dict[str, Any] = {
    "speed": speed,
    "learning": learning,
    "ablation": ablation,
    "configs": count_configs,
    "gpu": gpu,
    "page": page,
}


def main(argv: list[str] | None = None) -> None:
    """Run the command that the arguments name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in _COMMANDS.items():
        command = commands.add_parser(name, description=module.__doc__)
        command.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
        command.add_argument("--quick", action="store_true", help="small sizes, for tests")
        command.add_argument("--output-dir", type=Path, default=Path("output/benchmark"))
        if hasattr(module, "PAGE"):
            command.add_argument("--page", type=Path, default=module.PAGE, help="to write into")
        if hasattr(module, "add_arguments"):
            module.add_arguments(command)
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here.")
    if getattr(args, "repeats", 1) < 1:
        parser.error("--repeats must be at least 1.")
    _COMMANDS[args.command].run(args)


if __name__ == "__main__":
    main()
