"""Early stopping: when a training run ends before its last iteration."""

import pytest
import torch
from tiny import read_metrics
from tiny_run import checkpoints_in, run
from two_processes import run_in_two_processes

from fcos_d2.errors import InputError

# There is an evaluation every 2 iterations. The run ends after two evaluations without a better
# value.
EARLY = {"eval_period": 2, "early_stopping_patience": 2, "checkpoint_period": 100}


def test_training_ends_after_evaluations_without_a_new_best(tmp_path):
    trainer = run(tmp_path, 20, values=[1.0, 3.0, 3.0, 2.0, 9.0], **EARLY)
    # The best value 3.0 comes after iteration 3; another 3.0 is not better.
    assert trainer.evaluated == [1, 3, 5, 7]
    assert checkpoints_in(tmp_path) == ["model_best.pth", "model_final.pth"]
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 7
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["bbox/AP"] == 3.0
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert [x["iteration"] for x in read_metrics(tmp_path) if "bbox/AP" in x] == [7]


def test_the_count_starts_again_with_a_new_best(tmp_path):
    trainer = run(tmp_path, 20, values=[3.0, 2.0, 4.0, 1.0, 1.0], **EARLY)
    assert trainer.evaluated == [1, 3, 5, 7, 9]


def test_one_evaluation_is_in_the_singular(tmp_path, package_log):
    run(tmp_path, 20, values=[3.0, 2.0], **{**EARLY, "early_stopping_patience": 1})
    assert "because the last evaluation found no better bbox/AP than 3.0" in package_log.text


def test_evaluations_whose_metric_is_nan_are_not_counted(tmp_path):
    nan = float("nan")
    trainer = run(tmp_path, 12, values=[nan, nan, nan, 3.0, 2.0, nan], **EARLY)
    assert trainer.iter == 12
    assert trainer.evaluated == [1, 3, 5, 7, 9, 12]


def test_a_run_that_ended_early_ends_at_once_when_resumed(tmp_path):
    run(tmp_path, 20, values=[3.0, 2.0, 1.0], **EARLY)
    before = (tmp_path / "model_final.pth").read_bytes()
    resumed = run(tmp_path, 20, values=[1.0], resume=True, **EARLY)
    assert resumed.evaluated == [6]  # only the evaluation of the final weights
    assert (tmp_path / "model_final.pth").read_bytes() == before
    more = run(tmp_path, 10, values=[1.0], resume=True, **{**EARLY, "early_stopping_patience": 3})
    assert more.evaluated == [7]


def test_a_resumed_run_continues_the_count(tmp_path):
    run(tmp_path, 4, values=[3.0, 2.0], **{**EARLY, "checkpoint_period": 4})
    # The last evaluation of a complete run is not counted: it comes after the checkpoint.
    resumed = run(tmp_path, 20, values=[0.0], resume=True, **EARLY)
    assert resumed.evaluated == [5, 7]


def test_a_run_that_is_resumed_with_another_metric_starts_the_count_again(tmp_path):
    run(tmp_path, 20, values=[3.0, 2.0, 1.0], **EARLY)
    resumed = run(tmp_path, 8, values=[1.0], resume=True, **{**EARLY, "best_metric": "bbox/AP50"})
    assert resumed.iter == 8  # The evaluations have no such value, so nothing is counted.


def test_early_stopping_without_an_evaluation_is_an_error(tmp_path):
    with pytest.raises(InputError) as caught:
        run(tmp_path, 20, **EARLY)
    assert caught.value.key == "early_stopping_patience"


def train_until_it_ends_early(rank, folder):
    values = [3.0, 2.0, 1.0] if rank == 0 else [0.0, 1.0, 2.0]  # Only the values of rank 0 count.
    return run(folder, 20, values=values, checkpoint_at_signal=False, **EARLY).iter


def test_all_processes_end_early_after_the_same_iteration(tmp_path):
    assert run_in_two_processes(train_until_it_ends_early, tmp_path) == [6, 6]
