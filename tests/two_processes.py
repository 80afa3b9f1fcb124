"""Run one function in two processes on CPUs, for the tests of distributed training."""

import multiprocessing

import torch
from process_group import one_of_two


def run_in_two_processes(function, folder):
    """
    Run a function in two processes that form a process group.

    The processes are forked from a server that has imported PyTorch and detectron2 once, so that
    they start in a fraction of a second.

    Args:
        function (Callable): Called with the rank and the folder. It must be a function of a module,
            so that it can be sent to the processes.
        folder (Path): An empty folder, where the processes meet and leave their results.

    Returns:
        list: What the function returned for rank 0 and for rank 1.
    """
    multiprocessing.set_forkserver_preload(["detectron2.engine", "detectron2.modeling"])
    torch.multiprocessing.start_processes(
        _run, (function, folder), nprocs=2, start_method="forkserver"
    )
    return [torch.load(folder / f"result_{rank}.pth", weights_only=False) for rank in (0, 1)]


def _run(rank, function, folder):
    with one_of_two(rank, folder):
        result = function(rank, folder)
    torch.save(result, folder / f"result_{rank}.pth")
