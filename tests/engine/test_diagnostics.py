"""What the hook logs of the last batch, and that the forward pass does not wait for it."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from process_group import one_of_two
from tiny import random_input, tiny_cfg

from fcos_d2.engine.diagnostics import LogDiagnostics, diagnose, quality_loss_above_floor
from fcos_d2.engine.trainer import wrap_in_ddp


def test_perfect_predictions_are_at_the_floor():
    quality = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    logits = torch.logit(quality, eps=1e-7)
    loss = F.binary_cross_entropy_with_logits(logits, quality, reduction="sum")
    assert loss > 1.4  # ln 2 of the third alone is 0.69
    assert quality_loss_above_floor(quality, loss).item() == pytest.approx(0, abs=1e-5)


def test_others_are_above_it_by_their_divergence():
    # Target 0.5, prediction 0.8: -(ln 0.8 + ln 0.2) / 2 - ln 2 = 0.9163 - 0.6931.
    loss = F.binary_cross_entropy_with_logits(torch.tensor(0.8).logit(), torch.tensor(0.5))
    assert quality_loss_above_floor(torch.tensor([0.5]), loss).item() == pytest.approx(0.2231, 1e-3)


def input_with(boxes):
    x = random_input(0)
    x["instances"] = Instances((96, 128))
    x["instances"].gt_boxes = Boxes(torch.tensor(boxes))
    x["instances"].gt_classes = torch.zeros(len(boxes), dtype=torch.int64)
    return x


# Strictly inside 9 to 15 lies the location (12, 12) of P3 alone. The other box is 128 pixels wide,
# so every location has a side farther than 64 away: none is of P3. Of P4 those nearer than 24 to
# the centre (64, 48) have x = 56, 72 and y = 40, 56.
INPUTS = [input_with([[9.0, 9.0, 15.0, 15.0]]), input_with([[0.0, 4.0, 128.0, 92.0]])]
POSITIVES = {"p3": 1.0, "p4": 4.0, "p5": 0.0, "p6": 0.0, "p7": 0.0}


@pytest.mark.parametrize("quality", ["centerness", "iou", "none"])
def test_positives_by_level_and_the_quality_loss_above_its_floor(quality):
    torch.manual_seed(0)
    model = build_model(tiny_cfg("MODEL.FCOS.BOX_QUALITY", quality))
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


def test_they_are_no_losses_and_have_no_gradient():
    model = build_model(tiny_cfg())
    assert len(model(INPUTS)) == 3
    assert len(model.losses.observed) == 4
    assert not any(x.requires_grad for x in model.losses.observed)
    assert not any(key.startswith("losses.") for key in model.state_dict())


def test_an_evaluation_keeps_nothing():
    model = build_model(tiny_cfg())
    model.eval()(INPUTS)
    assert model.losses.observed is None


def log(model, num_iterations, period=3, max_iter=99):
    """{iteration: positives of P4} as a hook logs them."""
    hook = LogDiagnostics(model, period)
    with EventStorage() as storage:
        hook.trainer = SimpleNamespace(storage=storage, max_iter=max_iter)
        for hook.trainer.iter in range(num_iterations):
            storage.iter = hook.trainer.iter
            hook.after_step()
        history = storage.histories().get("fcos/positives_p4")
        return {} if history is None else {i: value for value, i in history.values()}


def test_the_hook_logs_every_period_and_at_the_end():
    model = build_model(tiny_cfg())
    model(INPUTS)
    assert log(model, 8, max_iter=8) == {2: 4.0, 5: 4.0, 7: 4.0}


def test_the_hook_says_nothing_of_other_models_and_before_the_first_batch():
    assert log(torch.nn.Linear(1, 1), 3) == {}
    assert log(build_model(tiny_cfg()), 3) == {}


def work(rank, folder):
    """One of two processes, with one of the two images."""
    with one_of_two(rank, folder):
        torch.manual_seed(0)
        model = wrap_in_ddp(build_model(tiny_cfg("MODEL.RESNETS.NORM", "FrozenBN")))
        model([INPUTS[rank]])
        losses = model.module.losses
        torch.save((log(model, 3), diagnose(losses, losses.observed)), folder / f"{rank}.pth")


def test_two_processes_log_the_batch_of_both(tmp_path):
    torch.multiprocessing.spawn(work, (tmp_path,), nprocs=2)
    torch.manual_seed(0)
    model = build_model(tiny_cfg("MODEL.RESNETS.NORM", "FrozenBN"))
    model(INPUTS)
    expected = diagnose(model.losses, model.losses.observed)
    (first, values), (second, others) = (torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1))
    assert values == others == pytest.approx(expected, rel=1e-5)
    assert (first, second) == ({2: 4.0}, {})
