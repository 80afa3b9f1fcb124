"""Losses are logged as by detectron2's SimpleTrainer, but are read for many iterations at once."""

import math

import pytest
import torch
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from measuring import Work, count_host_waits
from tiny_run import Batches, TwoLosses, checkpoints_in, run
from two_processes import run_in_two_processes

from fcos_d2.engine.loss_log import LossLog, NonFiniteLossError, ReadLosses
from fcos_d2.engine.signals import Signals
from fcos_d2.engine.step_trainer import StepTrainer
from fcos_d2.errors import InputError


class Write(HookBase):
    """A hook that keeps the values that a writer would write every 20 iterations."""

    def __init__(self):
        self.written = {}

    def after_step(self):
        if (self.trainer.iter + 1) % 20 == 0:
            latest = self.trainer.storage.latest_with_smoothing_hint(20)
            self.written[self.trainer.iter] = {k: v for k, v in latest.items() if "time" not in k}


def train(kind):
    model = TwoLosses()
    trainer = kind(model, Batches(), torch.optim.SGD(model.parameters(), lr=0.01))
    write = Write()
    log = [ReadLosses(trainer.losses, (20,), Signals())] if kind is StepTrainer else []
    trainer.register_hooks([*log, write])
    trainer.train(0, 45)
    return write.written, trainer.storage.histories()


def test_logged_values_and_their_medians_are_those_of_detectron2():
    written, histories = train(StepTrainer)
    expected, expected_histories = train(SimpleTrainer)
    assert list(expected) == [19, 39]
    assert set(expected[39]) == {"total_loss", "loss_a", "loss_b"}
    assert written == expected
    assert list(histories) == list(expected_histories)
    for name, history in histories.items():
        values, expected_values = history.values(), expected_histories[name].values()
        assert [x[1] for x in values] == [x[1] for x in expected_values] == list(range(45))
        if "time" not in name:
            assert values == expected_values


def test_losses_are_copied_to_the_host_only_when_the_log_is_read_and_all_at_once(monkeypatch):
    model = TwoLosses()
    trainer = StepTrainer(model, Batches(), torch.optim.SGD(model.parameters(), lr=0.01))
    copies = []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: copies.append(x) or original(x))
    for name in ("cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_: pytest.fail("a copy to the host"))

    def steps():
        for trainer.iter in range(20):
            trainer.run_step()

    assert count_host_waits(Work(lambda _: steps())) == 0
    assert copies == []
    with EventStorage() as storage:
        trainer.losses.read()
        assert len(storage.history("loss_a").values()) == 20
    assert [x.shape for x in copies] == [(40,)]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_reported_with_its_iteration_and_images(tmp_path, loss):
    at = {7: lambda model: model.layer.bias.data[0].fill_(loss)}
    with pytest.raises(NonFiniteLossError) as caught:
        run(tmp_path, 40, at=at, checkpoint_period=5)
    record = caught.value.record
    assert record.iteration == 7
    assert list(record.image_ids) == [14, 15]
    assert not math.isfinite(record.losses["loss_a"])
    assert math.isfinite(record.losses["loss_b"])
    assert isinstance(caught.value, InputError)
    assert isinstance(caught.value, FloatingPointError)
    assert checkpoints_in(tmp_path) == ["model_0000004.pth"]


def test_batches_that_are_not_lists_and_a_single_loss_are_accepted():
    model = torch.nn.Linear(2, 1)
    loader = [torch.ones(3, 2)]
    wrapped = torch.nn.Sequential(model, Mean())
    trainer = StepTrainer(wrapped, loader, torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.iter = 0
    trainer.run_step()
    with EventStorage() as storage:
        trainer.losses.read()
        assert set(storage.latest()) == {"rank_data_time", "data_time", "total_loss"}


class Mean(torch.nn.Module):
    def forward(self, x):
        return x.mean()


def log_three_iterations(rank, _):
    """Log three iterations of losses; loss_a of the second process is NaN in iteration 2."""
    gathered = []
    original = comm.all_gather
    comm.all_gather = lambda *x: gathered.append(x) or original(*x)
    log = LossLog()
    with EventStorage() as storage:
        for i in range(3):
            value = math.nan if (rank, i) == (1, 2) else 10.0 * i + rank
            losses = {"loss_a": torch.tensor(value), "loss_b": torch.tensor(1.0)}
            log.add(i, losses, 0.5 - 0.1 * rank, [{"image_id": 100 * rank + i}])
        with pytest.raises(NonFiniteLossError) as caught:
            log.read()
        values = {name: x.values() for name, x in storage.histories().items()}
        messages = log.read(message=rank)
    return len(gathered), tuple(caught.value.record), values, messages


def test_two_processes_log_the_mean_and_raise_the_same_error(tmp_path):
    first, second = run_in_two_processes(log_three_iterations, tmp_path)
    for num_gathered, record, _, messages in (first, second):
        assert num_gathered == 2  # one for each reading
        assert (record[0], record[3]) == (2, [102])
        assert messages == [0, 1]
    # The losses are 10 i and 10 i + 1; the data times are 0.5 and 0.4 seconds, and their maximum is
    # logged.
    values = first[2]
    assert values["loss_a"] == [(0.5, 0), (10.5, 1)]
    assert values["total_loss"] == [(1.5, 0), (11.5, 1)]
    assert values["data_time"] == [(0.5, 0), (0.5, 1)]
    assert list(second[2]) == ["rank_data_time"]
