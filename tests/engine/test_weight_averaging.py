"""The average of the weights: its value, its files, and its state after an interruption."""

import logging
from types import SimpleNamespace

import pytest
import torch
from tiny import seeded_model, tiny_cfg
from tiny_run import SameImages

from fcos_d2.engine.weight_averaging import AverageWeights, decay_after
from fcos_d2.errors import InputError


def averaging(model, decay, folder):
    hook = AverageWeights(model, decay, str(folder))
    hook.trainer = SimpleNamespace(start_iter=0, iter=0, max_iter=99)
    return hook


def test_the_decay_grows_up_to_its_setting():
    assert decay_after(1, 0.9) == pytest.approx(2 / 11)
    assert decay_after(70, 0.9) == pytest.approx(71 / 80)
    assert decay_after(81, 0.9) == 0.9  # 82 / 91 would be more


@pytest.mark.parametrize(
    ("decay", "expected"),
    # The weights are 1, 2 and 4. The decays of the second and third step are at most 2/11 and 3/12:
    # 1 -> 2/11 + 9/11 * 2 = 20/11 -> 1/4 * 20/11 + 3/4 * 4 = 38/11.
    [(0.999, 38 / 11), (0.1, 0.1 * (0.1 * 1 + 0.9 * 2) + 0.9 * 4)],
)
def test_weights_and_statistics_are_averaged(tmp_path, decay, expected):
    model = torch.nn.BatchNorm1d(1)
    hook = averaging(model, decay, tmp_path)
    for value in (1.0, 2.0, 4.0):
        model.weight.data.fill_(value)
        model.running_mean.fill_(10 * value)
        hook.after_step()
    averaged = hook.averaged.module
    assert averaged.weight.item() == pytest.approx(expected)
    assert averaged.running_mean.item() == pytest.approx(10 * expected)
    assert not averaged.weight.requires_grad
    assert model.weight.item() == 4


def test_the_average_of_constant_weights_is_exactly_equal_to_them(tmp_path):
    model = seeded_model("MODEL.RESNETS.NORM", "FrozenBN").to(memory_format=torch.channels_last)
    hook = averaging(model, 0.99, tmp_path)
    for _ in range(5):
        hook.after_step()
    for name, value in model.state_dict().items():
        assert torch.equal(hook.averaged.module.state_dict()[name], value), name
    weight = hook.averaged.module.head.cls_tower[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_the_file_is_written_only_after_the_last_step(tmp_path):
    model = torch.nn.Linear(1, 1)
    hook = averaging(model, 0.9, tmp_path)
    hook.after_step()
    assert not list(tmp_path.iterdir())
    hook.after_last_step()
    saved = torch.load(tmp_path / "model_final_ema.pth", weights_only=True)
    assert torch.equal(saved["model"]["weight"], hook.averaged.module.weight)


def train(folder, num_iterations, opts=None, resume=False):
    torch.manual_seed(0)
    settings = {
        "OUTPUT_DIR": str(folder),
        "SOLVER.MAX_ITER": num_iterations,
        "SOLVER.STEPS": (),
        "SOLVER.WARMUP_ITERS": 0,
        "DATASETS.TEST": (),
    }
    cfg = tiny_cfg(settings, opts or {})
    folder.mkdir(exist_ok=True)
    trainer = SameImages(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def average_warnings(caplog):
    messages = [x.getMessage() for x in caplog.records if x.levelno == logging.WARNING]
    return [x for x in messages if "averag" in x or "ema" in x]


def average_of(trainer):
    return next(x for x in trainer._hooks if isinstance(x, AverageWeights)).averaged


EMA = {"FCOS_TRAIN.EMA_DECAY": 0.9}
EMA_OF_A_MOVING_NORMALIZER = {**EMA, "MODEL.FCOS.LOSS_NORMALIZER": "moving_fg"}


def test_an_interrupted_run_ends_with_the_average_of_an_uninterrupted_run(tmp_path):
    whole = train(tmp_path / "whole", 4, EMA_OF_A_MOVING_NORMALIZER)
    train(tmp_path / "parts", 2, EMA_OF_A_MOVING_NORMALIZER)
    resumed = train(tmp_path / "parts", 4, EMA_OF_A_MOVING_NORMALIZER, resume=True)
    expected = average_of(whole).state_dict()
    assert expected["n_averaged"] == 4
    raw = whole.checkpointer.model.state_dict()
    for name, value in average_of(resumed).state_dict().items():
        assert torch.equal(value, expected[name]), name
    weight = "head.cls_logits.weight"
    assert not torch.equal(raw[weight], expected[f"module.{weight}"])
    saved = torch.load(tmp_path / "parts" / "model_final_ema.pth", weights_only=True)["model"]
    assert torch.equal(saved[weight], expected[f"module.{weight}"])


def test_resuming_a_checkpoint_without_an_average_starts_one_and_warns(tmp_path, caplog):
    train(tmp_path, 1)
    resumed = train(tmp_path, 2, EMA, resume=True)
    (warning,) = average_warnings(caplog)
    assert "iteration 1" in warning
    averaged = average_of(resumed)
    assert averaged.n_averaged == 1
    raw = resumed.checkpointer.model.head.cls_logits.weight
    assert torch.equal(averaged.module.head.cls_logits.weight, raw)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_without_an_average_renames_the_file_of_an_earlier_run(tmp_path, caplog, resume):
    def files():
        return {file.name for file in tmp_path.glob("*ema*.pth")}

    train(tmp_path, 1, EMA)
    average = (tmp_path / "model_final_ema.pth").read_bytes()
    train(tmp_path, 1, EMA, resume=True)  # The run is already complete, so the file is kept.
    assert files() == {"model_final_ema.pth"}
    assert not average_warnings(caplog)
    train(tmp_path, 2, resume=resume)
    assert files() == {"model_final_ema_of_earlier_run.pth"}
    assert (tmp_path / "model_final_ema_of_earlier_run.pth").read_bytes() == average
    warnings = average_warnings(caplog)
    assert len([x for x in warnings if "model_final_ema.pth" in x]) == 1
    # If the run resumes, another warning is about the average in the checkpoint.
    assert len(warnings) == 1 + resume


def test_a_best_metric_of_the_average_without_averaging_is_an_error(tmp_path):
    cfg = tiny_cfg("OUTPUT_DIR", str(tmp_path), "FCOS_TRAIN.BEST_METRIC", "ema/bbox/AP")
    with pytest.raises(InputError) as caught:
        SameImages(cfg)
    assert caught.value.key == "FCOS_TRAIN.BEST_METRIC"
    assert caught.value.value == "ema/bbox/AP"
