"""
The entry point of the command ``fcos-d2``.

It is not in the package because it sets an environment variable that OpenMP reads when torch is
imported, and importing any module of the package imports torch.
"""

import os

__all__ = ["main", "set_thread_defaults"]


def set_thread_defaults() -> None:
    """
    Let waiting OpenMP threads of torch sleep soon, unless the user has set how they wait.

    By default, waiting threads spin, and two processes that share the cores of a machine can slow
    each other down many times over. A process that has its cores for itself becomes 3 to 6 % slower
    because it has to wake its threads (measured with ResNet-50 and the demo on two cores). Setting
    GOMP_SPINCOUNT=100000 avoids this.
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
