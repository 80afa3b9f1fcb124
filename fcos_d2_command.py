"""
Entry point of the command ``fcos-d2``.

It is not in the package, because it sets an environment variable that OpenMP reads when torch is
imported, and to import anything of the package is to import torch.
"""

import os

__all__ = ["main", "set_thread_defaults"]


def set_thread_defaults() -> None:
    """
    Let waiting OpenMP threads of torch sleep soon, unless the user has said how they wait.

    By default they spin, and two processes that share the cores of a machine slow each other down
    many times over: with ResNet-50, detection took 4 to 5 times as long on two busy cores. A
    process that is alone on its cores pays 7 to 14 % for waking its threads; GOMP_SPINCOUNT=100000
    spares that.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"


def main() -> None:
    """Run the command line."""
    set_thread_defaults()
    try:
        from fcos_d2.cli import main as run_command
    except KeyboardInterrupt:  # the import takes seconds
        raise SystemExit(130) from None
    run_command()
