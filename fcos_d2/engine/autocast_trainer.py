"""One training step under autocast, on CPU as well as on CUDA."""

import time
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import nn

from ..arguments import Arguments, one_of
from ..errors import InputError

__all__ = ["AMP_ARGUMENTS", "AutocastTrainer", "resolve_amp_dtype"]

AMP_ARGUMENTS = Arguments("FCOS_TRAIN", amp_dtype=one_of("auto", "float16", "bfloat16"))


def resolve_amp_dtype(name: str, device: str) -> torch.dtype:
    """
    The type that autocast shall compute in.

    Args:
        name (str): "auto", "float16" or "bfloat16" (FCOS_TRAIN.AMP_DTYPE).
        device (str): "cpu", "cuda", ... (MODEL.DEVICE).

    Raises:
        InputError: unknown name, or float16 on a CPU.
    """
    AMP_ARGUMENTS.check(amp_dtype=name)
    on_cuda = torch.device(device).type == "cuda"
    dtypes = {
        "auto": torch.float16 if on_cuda else torch.bfloat16,
        "float16": torch.float16,
        "bfloat16": torch.bfloat16,
    }
    if name == "float16" and not on_cuda:
        raise InputError(
            f"FCOS_TRAIN.AMP_DTYPE = 'float16' needs CUDA, MODEL.DEVICE is {device!r}: choose "
            "'bfloat16' or 'auto'."
        )
    return dtypes[name]


class AutocastTrainer(SimpleTrainer):
    """
    detectron2's AMPTrainer for any device and type (that one asserts CUDA).

    The gradient scaler works for float16 only; bfloat16 has float32's range and needs none.
    """

    def __init__(
        self, model: nn.Module, data_loader: Any, optimizer: Any, device: str, dtype: torch.dtype
    ) -> None:
        """
        Args:
            model, data_loader, optimizer: see detectron2's SimpleTrainer.
            device (str): where the model is.
            dtype (torch.dtype): torch.float16 or torch.bfloat16.
        """
        super().__init__(model, data_loader, optimizer)
        self.device_type = torch.device(device).type
        self.dtype = dtype
        self.grad_scaler = torch.amp.GradScaler(self.device_type, enabled=dtype == torch.float16)

    def run_step(self) -> None:
        assert self.model.training, "the model was left in eval mode"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        with torch.autocast(self.device_type, dtype=self.dtype):
            loss_dict = self.model(data)
        self.optimizer.zero_grad()
        self.grad_scaler.scale(sum(loss_dict.values())).backward()
        self.after_backward()
        self._write_metrics(loss_dict, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        # Absent when the run was started without autocast, empty when it was with bfloat16.
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
