"""A log of the training losses, which reads those of many iterations from the device at once."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor

from ..errors import InputError
from .signals import Signals

__all__ = ["LossLog", "NonFiniteLossError", "ReadLosses", "StepRecord"]


class StepRecord(NamedTuple):
    """
    One iteration of one process.

    Attributes:
        iteration (int): The iteration.
        losses (Mapping[str, float]): Losses by name.
        data_time (float): Seconds spent waiting for the batch.
        image_ids (Sequence): Identifiers or file names of the images in the batch.
    """

    iteration: int
    losses: Mapping[str, float]
    data_time: float
    image_ids: Sequence[int | str]


class NonFiniteLossError(InputError, FloatingPointError):
    """
    The error for a loss that is NaN or infinite.

    Attributes:
        record (StepRecord): The first iteration with such a loss.
    """

    def __init__(self, record: StepRecord) -> None:
        losses = ", ".join(f"{name} = {value:.6g}" for name, value in record.losses.items())
        images = ", ".join(map(str, record.image_ids)) or "unknown"
        super().__init__(
            f"The loss is not finite at iteration {record.iteration}: {losses}. The images of the "
            f"batch are: {images}. A lower learning rate, a longer warm-up or gradient clipping "
            "often prevents this. If it does not help, check the annotations of these images."
        )
        self.record = record


class LossLog:
    """
    The losses of several iterations, kept on the device until they are read together.

    One reading takes one transfer from the device and one gather over all processes. The training
    steps between two readings wait for neither.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[StepRecord, Tensor]] = []

    def add(
        self, iteration: int, losses: Mapping[str, Tensor], data_time: float, batch: object
    ) -> None:
        """
        Keep the losses of one iteration.

        Args:
            iteration (int): The training iteration.
            losses (Mapping[str, Tensor]): Scalars by name.
            data_time (float): Seconds spent waiting for the batch.
            batch (object): The batch. If it is a list of dictionaries, the "image_id" or
                "file_name" of each is kept for error messages.
        """
        # Losses are NaN until they are read.
        record = StepRecord(
            iteration, dict.fromkeys(losses, math.nan), data_time, _image_ids(batch)
        )
        values = [x.detach().reshape(()) for x in losses.values()]
        self._pending.append((record, torch.stack(values)))

    def read(self, message: int | None = None) -> list[int | None]:
        """
        Move the kept losses to the event storage, each value under its iteration.

        As in detectron2's SimpleTrainer, losses are averaged over the processes, and "data_time" is
        the largest of all processes. Every process must call this method at the same iteration.

        Args:
            message (int): A number that is gathered together with the losses.

        Returns:
            list[int]: The messages of all processes.

        Raises:
            NonFiniteLossError: If a loss is NaN or infinite. The error is raised in every process,
                for the first iteration with such a loss.
        """
        own = self._take_records()
        gathered = comm.all_gather((own, message))
        storage = get_event_storage()
        for record in own:
            storage.put_scalar("rank_data_time", record.data_time, cur_iter=record.iteration)
        for records in zip(*(records for records, _ in gathered), strict=True):
            for record in records:
                if not math.isfinite(sum(record.losses.values())):
                    raise NonFiniteLossError(record)
            if comm.is_main_process():
                _store(records, storage)
        return [message for _, message in gathered]

    def _take_records(self) -> list[StepRecord]:
        """Read the kept losses from the device, and forget them."""
        if not self._pending:
            return []
        values = iter(torch.cat([x for _, x in self._pending]).tolist())  # the only transfer
        records = [record for record, _ in self._pending]
        self._pending = []
        return [x._replace(losses={name: next(values) for name in x.losses}) for x in records]


def _image_ids(batch: object) -> list[int | str]:
    """Return identifiers or file names of the images in a batch, as far as they are known."""
    if not isinstance(batch, list) or not all(isinstance(x, Mapping) for x in batch):
        return []
    ids = [x.get("image_id", x.get("file_name")) for x in batch]
    return [x for x in ids if x is not None]


def _store(records: Sequence[StepRecord], storage: EventStorage) -> None:
    """Store the records of all processes for one iteration, as SimpleTrainer does."""
    iteration = records[0].iteration
    means = {
        name: sum(x.losses[name] for x in records) / len(records) for name in records[0].losses
    }
    storage.put_scalar("data_time", max(x.data_time for x in records), cur_iter=iteration)
    storage.put_scalar("total_loss", sum(means.values()), cur_iter=iteration)
    if len(means) > 1:
        storage.put_scalars(cur_iter=iteration, **means)


class ReadLosses(HookBase):
    """
    The hook that reads the losses whenever another hook needs them.

    It reads them at multiples of the periods and at the last iteration. A single process also reads
    them when a signal has arrived. With several processes, a signal that one of them receives
    becomes known to all of them at the next reading.

    It must be the first hook, so that no checkpoint is saved after a loss that is not finite.

    Args:
        log (LossLog): The log of the training steps.
        periods (Sequence[int]): Numbers of iterations between two readings; 0 is ignored.
        signals (Signals): The signals that the hooks share. This hook sets ``agreed``.
    """

    def __init__(self, log: LossLog, periods: Sequence[int], signals: Signals) -> None:
        self._log = log
        self._periods = [period for period in periods if period > 0]
        self._signals = signals

    def after_step(self) -> None:
        """Read the losses if they are due."""
        next_iter = self.trainer.iter + 1
        is_due = next_iter >= self.trainer.max_iter or any(
            next_iter % period == 0 for period in self._periods
        )
        is_only_process = comm.get_world_size() == 1
        if is_due or (is_only_process and self._signals.received is not None):
            received = self._log.read(self._signals.received)
            self._signals.agreed = next((x for x in received if x is not None), None)
