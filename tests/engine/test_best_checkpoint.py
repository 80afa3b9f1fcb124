"""The best checkpoint: when it is written, and which of two values is better."""

from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage

from fcos_d2.engine.best_checkpoint import KeepBest, is_better


def run_keep_best(folder, values, start_iter=0, metric="bbox/AP"):
    """
    Simulate a training run whose evaluations return these values.

    The model's only weight is the iteration.

    Returns:
        tuple[float, float]: The weight and the value in model_best.pth.
    """
    model = torch.nn.Linear(1, 1)
    hook = KeepBest(1, model, str(folder), metric)
    with EventStorage(start_iter) as storage:
        hook.trainer = SimpleNamespace(
            storage=storage, start_iter=start_iter, max_iter=start_iter + len(values) + 1
        )
        hook.before_train()
        for hook.trainer.iter, value in enumerate(values, start=start_iter):
            storage.iter = hook.trainer.iter
            storage.put_scalar(metric, value)
            model.weight.data.fill_(hook.trainer.iter)
            hook.after_step()
        storage.iter = hook.trainer.iter = hook.trainer.max_iter
        hook.after_train()  # after an evaluation that has failed
    saved = torch.load(folder / "model_best.pth", weights_only=True)
    return saved["model"]["weight"].item(), saved[metric]


def test_the_best_weights_are_kept_even_after_resuming(tmp_path):
    assert run_keep_best(tmp_path, [10.0, 30.0, float("nan"), 20.0]) == (1.0, 30.0)
    assert run_keep_best(tmp_path, [25.0], start_iter=4) == (1.0, 30.0)  # worse: the file is kept
    assert run_keep_best(tmp_path, [35.0], start_iter=5) == (5.0, 35.0)
    assert [file.name for file in tmp_path.iterdir()] == ["model_best.pth"]
    # A new run in the same folder starts without the old value.
    assert run_keep_best(tmp_path, [5.0]) == (0.0, 5.0)


def test_a_best_metric_that_is_nan_or_missing_causes_a_warning(tmp_path, package_log):
    run_keep_best(tmp_path, [10.0, float("nan")])
    assert [x.levelname for x in package_log.records if "is NaN" in x.getMessage()] == ["WARNING"]
    hook = KeepBest(1, torch.nn.Linear(1, 1), str(tmp_path), "bbox/AP")
    with EventStorage() as storage:
        hook.trainer = SimpleNamespace(storage=storage, iter=0, max_iter=2)
        storage.put_scalars(**{"va/bbox/AP": 1.0, "loss": 2.0, "fcos/positives_p3": 3.0})
        hook.after_step()
    assert "They have: va/bbox/AP.\n" in package_log.text


def test_an_evaluation_without_results_causes_no_warning(tmp_path, package_log):
    hook = KeepBest(1, torch.nn.Linear(1, 1), str(tmp_path), "bbox/AP")
    with EventStorage() as storage:
        hook.trainer = SimpleNamespace(storage=storage, iter=0, max_iter=1)
        storage.put_scalars(**{"loss": 2.0, "fcos/positives_p3": 3.0, "bbox/AP": float("nan")})
        storage.iter = hook.trainer.iter = 1
        hook.after_train()  # after an evaluation that has failed
    assert package_log.text == ""


def test_the_lowest_loss_is_best(tmp_path):
    assert run_keep_best(tmp_path, [3.0, 1.0, 2.0], metric="val_loss/total_loss") == (1.0, 1.0)
    again = run_keep_best(tmp_path, [2.0, 0.5], start_iter=4, metric="val_loss/total_loss")
    assert again == (5.0, 0.5)


def test_a_new_run_does_not_take_over_the_best_of_an_older_run(tmp_path):
    run_keep_best(tmp_path, [99.0])
    # The new run is interrupted before its first evaluation, and then resumed.
    hook = KeepBest(9, torch.nn.Linear(1, 1), str(tmp_path), "bbox/AP")
    hook.trainer = SimpleNamespace(start_iter=0)
    hook.before_train()
    assert [file.name for file in tmp_path.iterdir()] == ["model_best_of_earlier_run.pth"]
    assert run_keep_best(tmp_path, [5.0], start_iter=3) == (3.0, 5.0)


@pytest.mark.parametrize(
    ("value", "best", "lower_is_better", "expected"),
    [
        (2.0, 1.0, False, True),
        (1.0, 1.0, False, False),
        (0.0, None, False, True),
        (float("nan"), None, False, False),
        (float("nan"), 1.0, False, False),
        (2.0, 1.0, True, False),
        (0.5, 1.0, True, True),
        (float("nan"), 1.0, True, False),
    ],
)
def test_higher_is_better_except_for_losses(value, best, lower_is_better, expected):
    assert is_better(value, best, lower_is_better=lower_is_better) == expected
