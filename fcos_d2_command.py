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

    By default they spin, and two processes that share the cores of a machine can slow each other
    down many times over. A process that is alone on its cores pays 3 to 6 % for waking its threads
    (ResNet-50 and the demo on two cores); GOMP_SPINCOUNT=100000 avoids that.
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
