"""One step of training, with or without autocast, on any device."""

import multiprocessing
import signal
import time
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn

from ..arguments import Arguments, one_of
from ..errors import InputError
from .loss_log import LossLog
from .run_loop import RunLoop
from .signals import handled, signals_held_back

__all__ = ["AMP_ARGUMENTS", "StepTrainer", "check_optimizer_state", "resolve_amp_dtype"]

AMP_ARGUMENTS = Arguments("FCOS_TRAIN", amp_dtype=one_of("auto", "float16", "bfloat16"))


def resolve_amp_dtype(amp_dtype: str, device: str) -> torch.dtype:
    """
    Choose the type that autocast computes in.

    Args:
        amp_dtype (str): "auto", "float16" or "bfloat16" (FCOS_TRAIN.AMP_DTYPE).
        device (str): "cpu", "cuda", ... (MODEL.DEVICE).

    Raises:
        InputError: unknown name, or float16 on a CPU.
    """
    AMP_ARGUMENTS.check(locals())
    on_cuda = torch.device(device).type == "cuda"
    if amp_dtype == "float16" and not on_cuda:
        raise InputError(
            f"FCOS_TRAIN.AMP_DTYPE = 'float16' needs CUDA, MODEL.DEVICE is {device!r}: choose "
            "'bfloat16' or 'auto'.",
            key="FCOS_TRAIN.AMP_DTYPE",
            value=amp_dtype,
        )
    if amp_dtype == "auto":
        return torch.float16 if on_cuda else torch.bfloat16
    return torch.float16 if amp_dtype == "float16" else torch.bfloat16


class StepTrainer(RunLoop, SimpleTrainer):
    """
    detectron2's SimpleTrainer and AMPTrainer in one, for any device and type.

    Losses stay on the device until ``losses.read()``, which the hook
    ``loss_log.ReadLosses`` calls.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        *,
        amp_dtype: torch.dtype | None = None,
    ) -> None:
        """
        Args:
            model, data_loader, optimizer: see detectron2's SimpleTrainer.
            amp_dtype (torch.dtype): torch.float16 or torch.bfloat16; None: no autocast.
        """
        super().__init__(model, data_loader, optimizer)
        self.amp_dtype = amp_dtype
        self.losses = LossLog()
        self._data_loader_iter_obj: Any = None
        self._workers: list[Any] = []  # processes of the data loader
        self._device_type = next(model.parameters()).device.type
        # bfloat16 has float32's range and needs no scaling.
        self.grad_scaler = torch.amp.GradScaler(
            self._device_type, enabled=amp_dtype == torch.float16
        )

    def run_step(self) -> None:
        assert self.model.training, "the model was left in eval mode"
        start = time.perf_counter()
        batch = self._next_batch()
        data_time = time.perf_counter() - start

        uses_autocast = self.amp_dtype is not None
        with torch.autocast(self._device_type, dtype=self.amp_dtype, enabled=uses_autocast):
            losses = self.model(batch)
        if isinstance(losses, Tensor):
            losses = {"total_loss": losses}
        self.optimizer.zero_grad()
        self.grad_scaler.scale(sum(losses.values())).backward()
        self.after_backward()
        self.losses.add(self.iter, losses, data_time, batch)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _next_batch(self) -> Any:
        if self._data_loader_iter_obj is not None:
            return next(self._data_loader_iter)
        before = multiprocessing.active_children()
        try:
            with signals_held_back():  # the first batch starts the workers
                return next(self._data_loader_iter)
        finally:
            self._workers = [x for x in multiprocessing.active_children() if x not in before]

    def end_workers(self) -> None:
        """
        End the workers of the data loader; another step starts others.

        SIGTERM never reaches them, so that Python, which sends it, would wait for them for ever.
        """
        # PyTorch's handler would report workers that are killed.
        with handled({signal.SIGCHLD: signal.SIG_DFL}):
            for worker in self._workers:
                worker.kill()
                worker.join()
        self._workers = []
        self._data_loader_iter_obj = None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """
        Load the state of a run that is resumed.

        Raises:
            InputError: see ``check_optimizer_state``.
        """
        check_optimizer_state(state_dict["optimizer"], self.optimizer)
        super().load_state_dict(state_dict)
        # Absent when another trainer has saved it, empty unless that was with float16.
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def check_optimizer_state(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """
    Check that an optimizer can take over a state, weight by weight.

    Args:
        saved (dict): an optimizer's state dict.
        optimizer (Optimizer): that is to take it over.

    Raises:
        InputError: the state is that of another optimizer or of other weights.
    """

    def shapes(groups: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        # A scheduler adds initial_lr, and may not have been there yet.
        return [(sorted({*group, "initial_lr"}), len(group["params"])) for group in groups]

    if shapes(saved["param_groups"]) != shapes(optimizer.state_dict()["param_groups"]):
        raise InputError(
            "--resume continues with the optimizer that the training was started with, but the "
            "checkpoint has the state of another one. Leave the settings of optimizer and model as "
            "they were (FCOS_TRAIN.OPTIMIZER, SOLVER and MODEL; in a LazyConfig optimizer and "
            "model), or start again from its weights, without --resume."
        )
