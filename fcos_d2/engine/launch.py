"""Starting a run in all of its processes, after one of them has checked it."""

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.utils import comm

from ..data.coco import CocoDataset, register, registered_datasets
from ..errors import InputError
from .lazy_config import load_lazy_config, prepare_lazy_config
from .lazy_loading import is_lazy_config
from .signals import pass_on_signals
from .yaml_config import prepare_config

__all__ = ["launch_run", "prepare_run"]

Run = Callable[[Any, argparse.Namespace], Any]


class _Checked(NamedTuple):
    """What the process that has checked a run tells the others, which read no annotation file."""

    cfg: CfgNode | None  # of a YAML file; a LazyConfig may hold what cannot be pickled
    datasets: Sequence[CocoDataset]

    @classmethod
    def of(cls, cfg: Any) -> "_Checked":
        return cls(cfg if isinstance(cfg, CfgNode) else None, registered_datasets())


def launch_run(run: Run, args: argparse.Namespace) -> Any:
    """
    Check a run in one process, and start it in all.

    The process that checks is the only one, the parent of all, or of torchrun's the first.

    Args:
        run (Callable): called with the config and ``args``; a function of a module.
        args: of detectron2's ``default_argument_parser``, and ``dataset``.

    Returns:
        What ``run`` does, where no processes are started.

    Raises:
        InputError: the run cannot start.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _join_torchrun()
        return run(_checked_by_the_first(args), args)
    processes = args.num_gpus * args.num_machines
    cfg = prepare_run(args, processes)
    if processes == 1:
        return run(cfg, args)
    checked = _Checked.of(cfg)
    for dataset in checked.datasets:
        register(dataset)  # without its content, which this process has no use for
    where = {"machine_rank": args.machine_rank, "dist_url": args.dist_url}
    with pass_on_signals():
        launch(_run, args.num_gpus, args.num_machines, **where, args=(run, args, checked))
    return None


def prepare_run(args: argparse.Namespace, processes: int = 1) -> Any:
    """
    Load the config of a run, and check all that can be checked before it starts.

    Args:
        args: see ``launch_run``.
        processes (int): that share the images of a batch.

    Returns:
        CfgNode or DictConfig: complete.

    Raises:
        InputError: the run cannot start.
    """
    is_lazy = is_lazy_config(args.config_file)
    prepare: Callable[..., Any] = prepare_lazy_config if is_lazy else prepare_config
    return prepare(
        args.config_file,
        args.opts,
        args.dataset,
        eval_only=args.eval_only,
        resume=args.resume,
        processes=processes,
    )


def _run(run: Run, args: argparse.Namespace, checked: _Checked) -> Any:
    return run(_take_over(checked, args), args)


def _take_over(checked: _Checked, args: argparse.Namespace) -> Any:
    for dataset in checked.datasets:
        register(dataset)
    if checked.cfg is not None:
        return checked.cfg
    return load_lazy_config(
        args.config_file, args.opts, eval_only=args.eval_only, resume=args.resume
    )


def _join_torchrun() -> None:
    """What detectron2's launch does in each process that it starts, from torchrun's environment."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo", init_method="env://")
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))


def _checked_by_the_first(args: argparse.Namespace) -> Any:
    cfg: Any = None
    verdict: _Checked | InputError | None = None
    if comm.is_main_process():
        try:
            cfg = prepare_run(args, comm.get_world_size())
            verdict = _Checked.of(cfg)
        except InputError as error:
            verdict = error
    verdict = comm.all_gather(verdict)[0]
    if comm.is_main_process():
        if isinstance(verdict, InputError):
            raise verdict
        return cfg
    if isinstance(verdict, InputError):
        raise SystemExit(1)  # the first process says why
    return _take_over(verdict, args)
