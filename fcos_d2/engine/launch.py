"""Starting a run in all its processes, after one of them has checked it."""

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.utils import comm
from omegaconf import DictConfig

from ..data.coco import CocoDataset, register, registered_datasets
from ..errors import InputError
from .lazy_config import load_lazy_config, prepare_lazy_config
from .lazy_loading import is_lazy_config
from .processes import leave_process_group
from .signals import forward_signals
from .yaml_config import prepare_config

__all__ = ["launch_run", "prepare_run"]

Run = Callable[[CfgNode | DictConfig, argparse.Namespace], Any]


class _CheckedRun(NamedTuple):
    """A checked config and its datasets, which one process sends to the others."""

    cfg: CfgNode | None  # None for a LazyConfig, which may contain values that cannot be pickled
    datasets: Sequence[CocoDataset]

    @classmethod
    def of(cls, cfg: CfgNode | DictConfig) -> "_CheckedRun":
        """Collect what the other processes need."""
        return cls(cfg if isinstance(cfg, CfgNode) else None, registered_datasets())


def launch_run(run: Run, args: argparse.Namespace) -> Any:
    """
    Check a run in one process, and start it in all processes.

    The check runs in the only process, or in the parent of all processes, or, under torchrun, in
    the process of rank 0. The other processes take the result and read no annotation file.

    Args:
        run (Callable): Called with the config and ``args``. It must be a function at the top level
            of a module.
        args (Namespace): Arguments of detectron2's ``default_argument_parser``, and ``dataset``.

    Returns:
        The value that ``run`` returns, or None if other processes are started.

    Raises:
        InputError: If the run cannot start.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _join_torchrun()
        result = run(_prepare_in_first_process(args), args)
        leave_process_group()
        return result
    processes = args.num_gpus * args.num_machines
    cfg = prepare_run(args, processes)
    if processes == 1:
        return run(cfg, args)
    checked = _CheckedRun.of(cfg)
    for dataset in checked.datasets:
        register(dataset)  # without the annotations, which this process does not need
    with forward_signals():
        launch(
            _run,
            args.num_gpus,
            args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(run, args, checked),
        )
    return None


def prepare_run(args: argparse.Namespace, processes: int = 1) -> CfgNode | DictConfig:
    """
    Load the config of a run, and check everything that can be checked before it starts.

    Args:
        args (Namespace): See ``launch_run``.
        processes (int): Number of processes that share the images of a batch.

    Returns:
        CfgNode or DictConfig: The complete config.

    Raises:
        InputError: If the run cannot start.
    """
    is_lazy = is_lazy_config(args.config_file)
    prepare: Callable[..., CfgNode | DictConfig]
    prepare = prepare_lazy_config if is_lazy else prepare_config
    return prepare(
        args.config_file,
        args.opts,
        args.dataset,
        eval_only=args.eval_only,
        resume=args.resume,
        processes=processes,
    )


def _run(run: Run, args: argparse.Namespace, checked: _CheckedRun) -> Any:
    """Call ``run`` in a started process."""
    result = run(_restore_config(checked, args), args)
    leave_process_group()
    return result


def _restore_config(checked: _CheckedRun, args: argparse.Namespace) -> CfgNode | DictConfig:
    """Register the checked datasets in this process, and return the config."""
    for dataset in checked.datasets:
        register(dataset)
    if checked.cfg is not None:
        return checked.cfg
    return load_lazy_config(
        args.config_file, args.opts, eval_only=args.eval_only, resume=args.resume
    )


def _join_torchrun() -> None:
    """Join the process group that torchrun's environment describes, as detectron2's launch does."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo", init_method="env://")
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))


def _prepare_in_first_process(args: argparse.Namespace) -> CfgNode | DictConfig:
    """Check the run in the process of rank 0, and return the config in every process."""
    cfg: CfgNode | DictConfig | None = None
    outcome: _CheckedRun | InputError | None = None
    if comm.is_main_process():
        try:
            cfg = prepare_run(args, comm.get_world_size())
            outcome = _CheckedRun.of(cfg)
        except InputError as error:
            outcome = error
    outcome = comm.all_gather(outcome)[0]
    if isinstance(outcome, InputError):
        if comm.is_main_process():
            raise outcome
        raise SystemExit(1)  # the first process reports the error
    return _restore_config(outcome, args) if cfg is None else cfg
