"""
Measure fcos_d2, and compare it with detectron2's and torchvision's FCOS.

    speed     times, memory, operations, stages, growth, and the data loader
    learning  what detectors learn in the same iterations and in the same time
    ablation  what each part of FCOS does: docs/ablation.md
    configs   parameters and operations of the recipes: configs/README.md
    gpu       whether a GPU computes what the CPU does; how long it waits for launches
    page      write docs/performance.md from what `speed` measured

Nothing else should run meanwhile. `python benchmarks/benchmark.py speed --help` has the flags.
"""

import argparse
import logging
from pathlib import Path

import ablation
import count_configs
import gpu
import learning
import page
import speed
import torch

__all__ = ["main"]

_COMMANDS = {
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
        command.add_argument("--threads", type=int, help="of torch; default: its own choice")
        command.add_argument("--quick", action="store_true", help="small sizes, for tests")
        command.add_argument("--output-dir", type=Path, default=Path("output/benchmark"))
        module.add_arguments(command)
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here.")
    for name in ("threads", "repeats"):
        if (getattr(args, name, None) or 1) < 1:
            parser.error(f"--{name} must be at least 1.")
    if args.threads:
        torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)  # such as that random weights are frozen
    _COMMANDS[args.command].run(args)


if __name__ == "__main__":
    main()
