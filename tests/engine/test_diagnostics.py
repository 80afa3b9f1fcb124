"""The hook LogDiagnostics, which logs statistics of the last batch."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from detectron2.utils.events import EventStorage
from tiny import make_instances, random_input, seeded_model
from two_processes import run_in_two_processes

from fcos_d2.engine.diagnostics import LogDiagnostics, diagnose, quality_loss_above_floor
from fcos_d2.engine.trainer import wrap_in_ddp


def test_the_quality_loss_of_perfect_predictions_is_at_its_floor():
    quality = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    logits = torch.logit(quality, eps=1e-7)
    loss = F.binary_cross_entropy_with_logits(logits, quality, reduction="sum")
    assert loss > 1.4  # The third prediction contributes ln 2 = 0.69.
    assert quality_loss_above_floor(quality, loss).item() == pytest.approx(0, abs=1e-5)


def test_the_quality_loss_of_wrong_predictions_is_above_its_floor_by_the_kl_divergence():
    # Target 0.5, prediction 0.8: -(ln 0.8 + ln 0.2) / 2 - ln 2 = 0.9163 - 0.6931.
    loss = F.binary_cross_entropy_with_logits(torch.tensor(0.8).logit(), torch.tensor(0.5))
    assert quality_loss_above_floor(torch.tensor([0.5]), loss).item() == pytest.approx(0.2231, 1e-3)


def input_with(box):
    return {**random_input(0), "instances": make_instances([box], image_size=(96, 128))}


# Only the location (12, 12) of P3 is strictly inside the first box. The second box is 128 pixels
# wide, so every location is at least 64 pixels from its left or right side: no location of P3 is
# positive for it. The locations of P4 that are nearer than 24 pixels to the center (64, 48) are
# positive: x = 56, 72 and y = 40, 56.
INPUTS = [input_with([9.0, 9.0, 15.0, 15.0]), input_with([0.0, 4.0, 128.0, 92.0])]
POSITIVES = {"p3": 1.0, "p4": 4.0, "p5": 0.0, "p6": 0.0, "p7": 0.0}


@pytest.mark.parametrize("quality", ["centerness", "iou", "none"])
def test_the_values_are_positives_per_level_and_the_quality_loss_above_its_floor(quality):
    model = seeded_model("MODEL.FCOS.BOX_QUALITY", quality)
    assert model.losses.observed is None
    losses = model(INPUTS)
    values = diagnose(model.losses, model.losses.observed)
    positives = {key[-2:]: x for key, x in values.items() if "positives" in key}
    assert positives == POSITIVES
    name = {"centerness": "loss_fcos_ctr", "iou": "loss_fcos_iou"}.get(quality)
    if name is None:
        assert len(values) == 5
        return
    targets = model.losses.observed.quality
    floor = F.binary_cross_entropy(targets, targets, reduction="sum") / 5
    assert floor > 0
    expected = losses[name].item() - floor.item()
    assert values[f"fcos/{name}_above_floor"] == pytest.approx(expected, abs=1e-6)


def test_observed_values_are_not_losses_and_have_no_gradient():
    model = seeded_model()
    assert len(model(INPUTS)) == 3
    assert len(model.losses.observed) == 4
    assert not any(x.requires_grad for x in model.losses.observed)
    assert not any(key.startswith("losses.") for key in model.state_dict())


def test_no_values_are_observed_in_evaluation_mode():
    model = seeded_model()
    model.eval()(INPUTS)
    assert model.losses.observed is None


def log(model, num_iterations, period=3, max_iter=99):
    """Return {iteration: positives of P4} as the hook logs them."""
    hook = LogDiagnostics(model, period)
    with EventStorage() as storage:
        hook.trainer = SimpleNamespace(storage=storage, max_iter=max_iter)
        for hook.trainer.iter in range(num_iterations):
            storage.iter = hook.trainer.iter
            hook.after_step()
        history = storage.histories().get("fcos/positives_p4")
        return {} if history is None else {i: value for value, i in history.values()}


def test_the_hook_logs_every_period_and_at_the_end():
    model = seeded_model()
    model(INPUTS)
    assert log(model, 8, max_iter=8) == {2: 4.0, 5: 4.0, 7: 4.0}


def test_the_hook_logs_nothing_for_other_models_and_before_the_first_batch():
    assert log(torch.nn.Linear(1, 1), 3) == {}
    assert log(seeded_model(), 3) == {}


FROZEN = {"MODEL.RESNETS.NORM": "FrozenBN"}


def log_of_one_image(rank, _):
    model = wrap_in_ddp(seeded_model(FROZEN))
    model([INPUTS[rank]])
    losses = model.module.losses
    return log(model, 3), diagnose(losses, losses.observed)


def test_two_processes_log_the_statistics_of_the_global_batch(tmp_path):
    model = seeded_model(FROZEN)
    model(INPUTS)
    expected = diagnose(model.losses, model.losses.observed)
    (log_0, values_0), (log_1, values_1) = run_in_two_processes(log_of_one_image, tmp_path)
    assert values_0 == values_1 == pytest.approx(expected, rel=1e-5)
    assert (log_0, log_1) == ({2: 4.0}, {})
