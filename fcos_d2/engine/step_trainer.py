"""The training step, with or without autocast, on any device."""

import multiprocessing
import signal
import time
import traceback
from collections.abc import Iterable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn

from ..arguments import Arguments, one_of
from ..errors import InputError, listed
from .loss_log import LossLog
from .run_loop import RunLoop
from .signals import block_signals, handle_signals

__all__ = ["AMP_ARGUMENTS", "StepTrainer", "check_optimizer_state", "resolve_amp_dtype"]

AMP_ARGUMENTS = Arguments("FCOS_TRAIN", amp_dtype=one_of("auto", "float16", "bfloat16"))


def resolve_amp_dtype(amp_dtype: str, device: str) -> torch.dtype:
    """
    Return the data type for autocast.

    Args:
        amp_dtype (str): "auto", "float16" or "bfloat16" (FCOS_TRAIN.AMP_DTYPE).
        device (str): Name of the device, such as "cpu" or "cuda" (MODEL.DEVICE).

    Raises:
        InputError: If the name is unknown, or if it is float16 and the device is not CUDA.
    """
    AMP_ARGUMENTS.check(locals())
    on_cuda = torch.device(device).type == "cuda"
    if amp_dtype == "float16" and not on_cuda:
        raise InputError(
            f"FCOS_TRAIN.AMP_DTYPE = 'float16' needs CUDA, but MODEL.DEVICE is {device!r}. Use "
            "'bfloat16' or 'auto'.",
            key="FCOS_TRAIN.AMP_DTYPE",
            value=amp_dtype,
        )
    if amp_dtype == "auto":
        return torch.float16 if on_cuda else torch.bfloat16
    return torch.float16 if amp_dtype == "float16" else torch.bfloat16


class StepTrainer(RunLoop, SimpleTrainer):
    """
    The trainer that runs steps with or without autocast, on any device.

    It replaces detectron2's SimpleTrainer and AMPTrainer. Losses stay on the device until the hook
    ``loss_log.ReadLosses`` calls ``losses.read()``.

    Args:
        model (nn.Module): The model, which returns a dictionary of losses or a single loss.
        data_loader (Iterable): Yields batches for the model without end.
        optimizer (Optimizer): The optimizer of the model's parameters.
        amp_dtype (torch.dtype): torch.float16 or torch.bfloat16; None means no autocast.

    Attributes:
        losses (LossLog): The log of the losses.
        grad_scaler (GradScaler): The gradient scaler, which is enabled only for float16.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        amp_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.amp_dtype = amp_dtype
        self.losses = LossLog()
        self._data_loader_iter_obj: Iterator[Any] | None = None  # SimpleTrainer's attribute
        self._workers: list[BaseProcess] = []  # processes of the data loader
        self._device_type = next(model.parameters()).device.type
        # bfloat16 has the same range as float32, so its gradients need no scaling.
        self.grad_scaler = torch.amp.GradScaler(
            self._device_type, enabled=amp_dtype == torch.float16
        )

    def run_step(self) -> None:
        """Run one step, and keep its losses on the device."""
        assert self.model.training, "the model was left in eval mode"
        start = time.perf_counter()
        batch = self._next_batch()
        data_time = time.perf_counter() - start

        uses_autocast = self.amp_dtype is not None
        with torch.autocast(self._device_type, dtype=self.amp_dtype, enabled=uses_autocast):
            losses = self._compute_losses(batch)
        if isinstance(losses, Tensor):
            losses = {"total_loss": losses}
        self.optimizer.zero_grad()
        self.grad_scaler.scale(sum(losses.values())).backward()
        self.after_backward()
        self.losses.add(self.iter, losses, data_time, batch)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _compute_losses(self, batch: Any) -> Any:
        """
        Run the model on a batch.

        Raises:
            InputError: If a batch norm has no variance to compute.
        """
        try:
            return self.model(batch)
        except ValueError as error:
            norm = _find_norm_of_one_value(error)
            if norm is None:
                raise
            name = next(name for name, module in self.model.named_modules() if module is norm)
            raise InputError(
                f"The batch norm {name.removeprefix('module.')} cannot be trained: the batch of a "
                "process has one image, and the map has one cell, so there is no variance. Use "
                "at least two images per process (SOLVER.IMS_PER_BATCH; in a LazyConfig "
                "dataloader.train.total_batch_size), larger images (INPUT.MIN_SIZE_TRAIN; in a "
                "LazyConfig dataloader.train.mapper.augmentations), or GN or FrozenBN instead of a "
                "batch norm (MODEL.FCOS.NORM, MODEL.RESNETS.NORM, ...; in a LazyConfig the norm of "
                "that part of the model).",
                key="SOLVER.IMS_PER_BATCH",
            ) from error

    def _next_batch(self) -> Any:
        """Return the next batch; the first call starts the workers of the data loader."""
        if self._data_loader_iter_obj is not None:
            return next(self._data_loader_iter)
        before = multiprocessing.active_children()
        try:
            with block_signals():
                return next(self._data_loader_iter)
        finally:
            self._workers = [x for x in multiprocessing.active_children() if x not in before]

    def end_workers(self) -> None:
        """
        End the workers of the data loader; a later step would start new workers.

        The workers block SIGTERM. Python sends this signal to end them when it exits, and would
        wait for them forever.
        """
        # PyTorch's SIGCHLD handler would report killed workers as an error.
        with handle_signals({signal.SIGCHLD: signal.SIG_DFL}):
            for worker in self._workers:
                worker.kill()
                worker.join()
        self._workers = []
        self._data_loader_iter_obj = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the trainer, including that of the gradient scaler."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """
        Load the state of a resumed run.

        Raises:
            InputError: If the optimizer cannot load its state; see ``check_optimizer_state``.
        """
        check_optimizer_state(state_dict["optimizer"], self.optimizer)
        super().load_state_dict(state_dict)
        # It is absent if another trainer has saved the state, and empty without float16.
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def _find_norm_of_one_value(error: ValueError) -> nn.Module | None:
    """Return the batch norm that has raised an error because it has one value for each channel."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    code = frames[-1].f_code
    checks = "_verify_batch_size"  # PyTorch's check in torch.nn.functional.batch_norm
    if (code.co_name, code.co_filename) != (checks, torch.nn.functional.__file__):
        return None
    callers = (frame.f_locals.get("self") for frame in reversed(frames))
    return next((x for x in callers if isinstance(x, nn.modules.batchnorm._BatchNorm)), None)


def check_optimizer_state(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """
    Check that a saved optimizer state fits an optimizer, group by group.

    Args:
        saved (dict): A state dict of an optimizer.
        optimizer (Optimizer): The optimizer that will load it.

    Raises:
        InputError: If the state belongs to another optimizer or to other parameters.
    """
    before = _summarize_groups(saved["param_groups"])
    now = _summarize_groups(optimizer.state_dict()["param_groups"])
    if before != now:
        raise InputError(
            "--resume continues with the optimizer in the checkpoint, but the config builds "
            f"another one: {_describe_difference(before, now)}. Use the earlier values, which are "
            "in config.yaml in the output folder, or start a new training from the weights in the "
            "checkpoint, without --resume."
        )


def _summarize_groups(groups: list[dict[str, Any]]) -> list[tuple[list[str], int]]:
    """Return the settings' names and the number of parameters of each parameter group."""
    # A scheduler adds initial_lr, but it may not have been built yet.
    return [(sorted({*group, "initial_lr"}), len(group["params"])) for group in groups]


def _describe_difference(
    before: list[tuple[list[str], int]], now: list[tuple[list[str], int]]
) -> str:
    """Describe how the optimizer of a checkpoint differs from that of a config."""
    in_checkpoint, in_config = (
        {x for names, _ in groups for x in names} for groups in (before, now)
    )
    if in_checkpoint != in_config:
        only_before, only_now = in_checkpoint - in_config, in_config - in_checkpoint
        return (
            f"only that in the checkpoint has {listed(sorted(only_before)) or 'no setting'}, and "
            f"only that of the config {listed(sorted(only_now)) or 'none'} (FCOS_TRAIN.OPTIMIZER; "
            "in a LazyConfig optimizer)"
        )
    counts, new_counts = ([count for _, count in groups] for groups in (before, now))
    keys = (
        "SOLVER.BIAS_LR_FACTOR, SOLVER.WEIGHT_DECAY_NORM, SOLVER.WEIGHT_DECAY_BIAS and "
        "FCOS_TRAIN.DCN_OFFSET_LR_FACTOR; in a LazyConfig optimizer.params"
        if sum(counts) == sum(new_counts)
        else "keys of MODEL, such as MODEL.BACKBONE.FREEZE_AT; in a LazyConfig model"
    )
    return (
        f"the numbers of parameters in its groups are {listed(list(map(str, new_counts)))} instead "
        f"of {listed(list(map(str, counts)))} ({keys})"
    )
