"""The losses of training, read from the device many iterations at a time."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor

from ..errors import InputError
from .signals import Signals

__all__ = ["LossLog", "NonFiniteLossError", "ReadLosses", "StepRecord"]


class StepRecord(NamedTuple):
    """One iteration of one process; ``image_ids`` names the images of its batch."""

    iteration: int
    losses: Mapping[str, float]
    data_time: float  # seconds
    image_ids: Sequence[Any]


class NonFiniteLossError(InputError, FloatingPointError):
    """
    A loss is NaN or infinite.

    Attributes:
        record (StepRecord): the first iteration in which it is.
    """

    def __init__(self, record: StepRecord) -> None:
        losses = ", ".join(f"{name} = {value:.6g}" for name, value in record.losses.items())
        images = ", ".join(map(str, record.image_ids)) or "unknown"
        super().__init__(
            f"The loss is not finite at iteration {record.iteration}: {losses}. The images of the "
            f"batch: {images}. A lower learning rate, a longer warm-up or gradient clipping often "
            "prevents it; otherwise check the annotations of these images."
        )
        self.record = record


class LossLog:
    """
    Keeps the losses of iterations on the device until they are read together, with one transfer and
    one gathering from all processes: a step waits for nothing.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[StepRecord, Tensor]] = []

    def add(
        self, iteration: int, losses: Mapping[str, Tensor], data_time: float, batch: Any
    ) -> None:
        """
        Keep the losses of one iteration.

        Args:
            iteration (int): of training.
            losses (dict[str, Tensor]): scalars by name.
            data_time (float): seconds that the batch was waited for.
            batch (list[dict]): with "image_id" or "file_name"; other batches have unknown images.
        """
        # NaN until it is read.
        record = StepRecord(
            iteration, dict.fromkeys(losses, math.nan), data_time, _image_ids(batch)
        )
        values = [x.detach().reshape(()) for x in losses.values()]
        self._pending.append((record, torch.stack(values)))

    def read(self, message: Any = None) -> list[Any]:
        """
        Put what is kept into the event storage, each value under its iteration.

        As by detectron2's SimpleTrainer losses are the means over processes and "data_time" is the
        largest. Every process must call it, at the same iteration.

        Args:
            message: something small, that is gathered as well.

        Returns:
            list: the messages of all processes.

        Raises:
            NonFiniteLossError: in every process, of the first such iteration.
        """
        own = self._take()
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

    def _take(self) -> list[StepRecord]:
        if not self._pending:
            return []
        values = iter(torch.cat([x for _, x in self._pending]).tolist())  # the one transfer
        records = [record for record, _ in self._pending]
        self._pending = []
        return [x._replace(losses={name: next(values) for name in x.losses}) for x in records]


def _image_ids(batch: Any) -> list[Any]:
    if not isinstance(batch, list) or not all(isinstance(x, Mapping) for x in batch):
        return []
    ids = [x.get("image_id", x.get("file_name")) for x in batch]
    return [x for x in ids if x is not None]


def _store(records: Sequence[StepRecord], storage: EventStorage) -> None:
    """Put one iteration of all processes into the storage, in the order of SimpleTrainer."""
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
    Reads the losses whenever another hook needs them: at multiples of the periods, at the last
    iteration, and when a signal has come. Must be the first hook: no checkpoint is saved after a
    loss that was not finite.

    A signal to one of several processes is known to all of them after the next reading.
    """

    def __init__(self, log: LossLog, periods: Sequence[int], signals: Signals) -> None:
        """
        Args:
            log (LossLog): that the steps add to.
            periods (list[int]): iterations; 0 never.
            signals (Signals): whose ``agreed`` is set.
        """
        self._log = log
        self._periods = [period for period in periods if period > 0]
        self._signals = signals

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        is_due = next_iter >= self.trainer.max_iter or any(
            next_iter % period == 0 for period in self._periods
        )
        is_alone = comm.get_world_size() == 1
        if is_due or (is_alone and self._signals.received is not None):
            received = self._log.read(self._signals.received)
            self._signals.agreed = next((x for x in received if x is not None), None)
