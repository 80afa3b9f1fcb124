"""One step of training: autocast, gradient scaling and clipping."""

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage
from input_errors import input_error
from tiny import random_input, seeded_model, tiny_cfg

from fcos_d2.engine.optimizer import build_optimizer
from fcos_d2.engine.step_trainer import StepTrainer, resolve_amp_dtype
from fcos_d2.errors import InputError


@pytest.mark.parametrize(
    ("name", "device", "dtype"),
    [
        ("auto", "cpu", torch.bfloat16),
        ("auto", "cuda:0", torch.float16),
        ("bfloat16", "cuda", torch.bfloat16),
        ("float16", "cuda", torch.float16),
    ],
)
def test_the_autocast_type_depends_on_name_and_device(name, device, dtype):
    assert resolve_amp_dtype(name, device) == dtype


def test_an_unknown_autocast_type_is_an_error():
    with pytest.raises(InputError) as caught:
        resolve_amp_dtype("float8", "cpu")
    assert (caught.value.key, caught.value.value) == ("amp_dtype", "float8")


class Regression(torch.nn.Module):
    """A linear layer with a loss and the interface of detectron2's models."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(16, 1)
        self.dtypes = set()

    def forward(self, batch):
        out = self.layer(batch)
        self.dtypes.add(out.dtype)
        return {"loss": (out.float() - 1).square().mean()}


class OneBatch:
    """An endless data loader of one batch."""

    def __iter__(self):
        while True:
            yield torch.linspace(-1, 1, 64).reshape(4, 16)


def test_steps_with_autocast_are_close_to_those_of_simple_trainer():
    weights = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = Regression()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        trainer = (
            SimpleTrainer(model, OneBatch(), optimizer)
            if dtype == torch.float32
            else StepTrainer(model, OneBatch(), optimizer, amp_dtype=dtype)
        )
        with EventStorage():
            for trainer.iter in range(3):  # more than once: gradients must not accumulate
                trainer.run_step()
        assert model.dtypes == {dtype}
        weights[dtype] = model.layer.weight.detach()
    step = weights[torch.float32] - Regression().layer.weight.detach()
    assert (weights[torch.bfloat16] - weights[torch.float32]).norm() < 0.05 * step.norm()


def test_a_gradient_scaler_is_restored_and_an_empty_state_changes_nothing():
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def make(dtype):
        trainer = StepTrainer(model, OneBatch(), optimizer, amp_dtype=dtype)
        trainer.iter = 0
        return trainer

    saved, restored = make(torch.float16), make(torch.float16)
    state = saved.state_dict()
    state["grad_scaler"]["scale"] = 512.0
    restored.load_state_dict(state)
    assert restored.grad_scaler.get_scale() == 512.0
    # The state of a trainer without gradient scaling is empty.
    restored.load_state_dict(make(torch.bfloat16).state_dict())
    assert restored.grad_scaler.get_scale() == 512.0


class Line(torch.nn.Module):
    """A model with the loss w * x / 10, so that the gradient of w is x / 10."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1, bias=False)

    def forward(self, batch):
        return {"loss": 0.1 * self.layer(batch).float().mean()}


def train_step(name, clip_type, clip_value, dtype):
    """Train one step, and return the gradient that was used and the change of the weights."""
    cfg = tiny_cfg(
        {
            "FCOS_TRAIN.OPTIMIZER": name,
            "SOLVER.BASE_LR": 1.0,
            "SOLVER.WEIGHT_DECAY": 0.0,
            "SOLVER.CLIP_GRADIENTS.ENABLED": clip_type != "",
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": clip_value,
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": clip_type or "norm",
        }
    )
    model = Line()
    before = model.layer.weight.detach().clone()
    loader = [torch.tensor([[1.0, 2.0, 2.0, 0.0]])]
    trainer = StepTrainer(model, loader, build_optimizer(cfg, model), amp_dtype=dtype)
    scale = trainer.grad_scaler.get_scale()
    assert scale == (65536 if dtype == torch.float16 else 1)
    with EventStorage():
        trainer.iter = 0
        trainer.run_step()
    return model.layer.weight.grad[0], (before - model.layer.weight.detach())[0]


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("clip_type", "clip_value", "expected"),
    # The gradient is (0.1, 0.2, 0.2, 0) and its norm is 0.3: a larger limit changes nothing. After
    # scaling by 65536, every gradient would be above the limits.
    [
        ("norm", 0.15, [0.05, 0.1, 0.1, 0.0]),
        ("norm", 0.5, [0.1, 0.2, 0.2, 0.0]),
        ("value", 0.15, [0.1, 0.15, 0.15, 0.0]),
    ],
)
def test_clipping_is_applied_to_unscaled_gradients(name, dtype, clip_type, clip_value, expected):
    gradient, step_taken = train_step(name, clip_type, clip_value, dtype)
    assert gradient.tolist() == pytest.approx(expected, rel=1e-2)
    if name == "SGD":
        assert step_taken.tolist() == pytest.approx(expected, rel=1e-2)


def test_without_clipping_gradients_are_unchanged():
    _, step_taken = train_step("SGD", "", 0.15, torch.float16)
    assert step_taken.tolist() == pytest.approx([0.1, 0.2, 0.2, 0.0], rel=1e-2)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_step_with_overflowing_gradients_is_skipped(name):
    cfg = tiny_cfg("FCOS_TRAIN.OPTIMIZER", name, "SOLVER.WEIGHT_DECAY", 0.0)
    results = []
    for rows in ([[1.0, 2.0, 2.0, 0.0]], [[20.0] * 4, [1.0, 2.0, 2.0, 0.0]]):
        torch.manual_seed(0)
        model = Line()
        before = model.layer.weight.detach().clone()
        loader = [torch.tensor([row]) for row in rows]
        trainer = StepTrainer(model, loader, build_optimizer(cfg, model), amp_dtype=torch.float16)
        with EventStorage():
            for trainer.iter in range(len(rows)):
                assert torch.equal(model.layer.weight, before)  # 65536 times 2 overflows float16
                trainer.run_step()
        results.append(model.layer.weight.detach())
    assert trainer.grad_scaler.get_scale() == 65536 / 2
    assert not torch.equal(results[0], before)
    torch.testing.assert_close(*results, rtol=1e-3, atol=0)


class OneCell(torch.nn.Module):
    """A model with a batch norm, whose map has one cell."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(4)

    def forward(self, batch):
        return self.norm(torch.stack(batch)[:, :, None, None]).sum()


def run_step_of(model, batch):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = StepTrainer(model, [batch], optimizer)
    trainer.iter = 0
    trainer.run_step()


def test_a_batch_norm_without_variance_is_an_error_that_names_it():
    with input_error("norm cannot", "MODEL.FCOS.NORM", key="SOLVER.IMS_PER_BATCH"):
        run_step_of(OneCell(), [torch.ones(4)])
    run_step_of(OneCell(), [torch.ones(4), torch.zeros(4)])
    model = seeded_model({"MODEL.FCOS.NORM": "BN", "MODEL.RESNETS.NORM": "FrozenBN"})
    # P7 of an image of 96 x 128 pixels has one cell.
    with input_error("head.cls_tower.1.4", key="SOLVER.IMS_PER_BATCH"):
        run_step_of(model, [random_input(3)])


def test_another_error_of_a_model_is_not_changed():
    model = OneCell()
    model.norm.register_forward_pre_hook(lambda _, args: args[0][0])
    with pytest.raises(ValueError, match="expected 4D input") as caught:
        run_step_of(model, [torch.ones(4), torch.ones(4)])
    assert type(caught.value) is ValueError
