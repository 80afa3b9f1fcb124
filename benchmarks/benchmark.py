"""
Measure fcos_d2, and compare it with detectron2's and torchvision's FCOS.

Nothing else should run at the same time. OMP_NUM_THREADS sets the threads of torch on a CPU.
"""

import argparse
from pathlib import Path
from types import ModuleType

import ablation
import beyond
import count_configs
import exported
import gpu
import learning
import page
import speed
import torch

_COMMANDS: dict[str, ModuleType] = {
    "speed": speed,
    "learning": learning,
    "ablation": ablation,
    "beyond": beyond,
    "configs": count_configs,
    "exported": exported,
    "gpu": gpu,
    "page": page,
}


def main(argv: list[str] | None = None) -> None:
    """Run the command that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in _COMMANDS.items():
        text = (module.__doc__ or "").strip()
        command = commands.add_parser(name, help=text.splitlines()[0], description=text)
        if module in (speed, gpu):
            command.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
            command.add_argument("--quick", action="store_true", help="small sizes, for tests")
        if module is gpu:
            command.add_argument("--parts", nargs="+", choices=gpu.PARTS, default=list(gpu.PARTS))
        if module in (speed, learning, ablation, beyond, exported, page):
            command.add_argument("--output-dir", type=Path, default=Path("output/benchmark"))
        if module in (learning, ablation, beyond, exported, page):
            default = module.PAGE if module in (ablation, beyond, exported) else page.PAGE
            command.add_argument("--page", type=Path, default=default, help="to write into")
        if module is speed:
            groups = list(speed.GROUPS)
            command.add_argument("--only", nargs="+", choices=groups, default=groups)
        if module in (speed, exported):
            command.add_argument("--repeats", type=int, default=7, help="rounds")
        if module in (learning, beyond):
            command.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
        if module in (learning, ablation, beyond):
            command.add_argument("opts", nargs="*", help="KEY VALUE ...: overrides of all configs")
    args = parser.parse_args(argv)
    if getattr(args, "device", "") == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here.")
    if getattr(args, "repeats", 1) < 1:
        parser.error("--repeats must be at least 1.")
    _COMMANDS[args.command].run(args)


if __name__ == "__main__":
    main()
