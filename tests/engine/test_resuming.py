"""What a run starts from: a checkpoint with the same optimizer, or weights that fill the model."""

import pytest
import torch
from input_errors import input_error
from tiny import seeded_model
from tiny_lazy import run_lazy
from tiny_run import run

from fcos_d2.checkpoint import FCOSCheckpointer
from fcos_d2.engine.checkpoints import find_checkpoints
from fcos_d2.engine.resuming import load_for_evaluation, load_or_resume
from fcos_d2.engine.run_keys import LAZY_KEYS
from fcos_d2.engine.step_trainer import check_optimizer_state
from fcos_d2.modeling.backbone.timm_network import TimmBackbone


def settings_in(checkpoint):
    group = torch.load(checkpoint, weights_only=True)["trainer"]["optimizer"]["param_groups"][0]
    return group["lr"], group["momentum"]


def test_other_settings_of_the_optimizer_are_an_error_that_lists_both_values(tmp_path):
    run(tmp_path, 2)
    before = (tmp_path / "model_final.pth").read_bytes()
    both = ("SOLVER.BASE_LR: 0.01 in", "0.1 in the config", "SOLVER.MOMENTUM: 0.9 in", "0.5 in")
    file = tmp_path / "model_final.pth"
    with input_error(*both, "FCOS_TRAIN.RESUME_LR", key="SOLVER.BASE_LR", value="0.1", file=file):
        run(tmp_path, 4, resume=True, solver={"lr": 0.1, "momentum": 0.5})
    assert file.read_bytes() == before


def as_groups(model, bias_lr=0.01):
    """Return an SGD with a group for biases."""
    return [{"params": [model.weight]}, {"params": [model.bias], "lr": bias_lr}]


@pytest.mark.parametrize(
    ("make_optimizer", "words"),
    [
        (
            lambda x: torch.optim.AdamW(x.parameters()),
            ["betas", "momentum", "FCOS_TRAIN.OPTIMIZER"],
        ),
        (
            lambda x: torch.optim.SGD(as_groups(x), lr=0.01),
            ["are 1, 1 instead of 2", "SOLVER.BIAS_LR_FACTOR", "optimizer.params"],
        ),
        (
            lambda x: torch.optim.SGD([x.weight], lr=0.01),
            ["are 1 instead of 2", "FREEZE_AT"],
        ),
    ],
    ids=["kind", "groups", "frozen"],
)
def test_another_optimizer_is_an_error_that_names_the_difference(make_optimizer, words):
    model = torch.nn.Linear(2, 2)
    saved = torch.optim.SGD(model.parameters(), lr=0.01).state_dict()
    with input_error("--resume", *words):
        check_optimizer_state(saved, make_optimizer(model))


def test_resume_lr_takes_the_settings_of_the_config(tmp_path, package_log):
    run(tmp_path, 2)
    run(tmp_path, 4, resume=True, solver={"lr": 0.1, "momentum": 0.5}, resume_lr=True)
    assert settings_in(tmp_path / "model_final.pth") == (0.1, 0.5)
    assert "SOLVER.BASE_LR: 0.01 in the checkpoint, 0.1 in the config" in package_log.text


def test_the_settings_of_a_lazy_config_are_compared_too(few_shapes, tmp_path):
    run_lazy(tmp_path)
    other = ("--resume", "train.max_iter=3", "optimizer.lr=0.5")
    config = tmp_path / "config.yaml"
    before = config.read_bytes()
    with input_error("train.resume_lr=True", key="optimizer.lr", value="0.5"):
        run_lazy(tmp_path, *other)
    assert config.read_bytes() == before
    norms = ("--resume", "train.max_iter=3", "optimizer.params.weight_decay_norm=0.5")
    with input_error("0.5 in the config", key="optimizer.params.weight_decay_norm"):
        run_lazy(tmp_path, *norms)
    run_lazy(tmp_path, *other, "train.resume_lr=True")
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert saved["trainer"]["optimizer"]["param_groups"][0]["initial_lr"] == 0.5


def test_nothing_to_resume_is_a_warning(tmp_path, package_log):
    run(tmp_path, 2, resume=True)
    assert "nothing to resume in OUTPUT_DIR" in package_log.text
    assert "random weights (MODEL.WEIGHTS is '')" in package_log.text


def test_checkpoints_without_the_file_that_names_the_last_one_are_an_error(tmp_path):
    run(tmp_path, 4, checkpoint_period=2)
    (tmp_path / "last_checkpoint").unlink()
    names = ["model_0000001.pth", "model_0000003.pth", "model_final.pth"]
    expected = {"key": "OUTPUT_DIR", "value": str(tmp_path), "file": tmp_path / "last_checkpoint"}
    with input_error(*names, f"echo {names[-1]}", **expected):
        run(tmp_path, 4, resume=True)


@pytest.mark.parametrize("name", ["model_best.pth", "model_final_ema.pth"])
def test_weights_without_a_checkpoint_cannot_be_resumed(tmp_path, name):
    (tmp_path / name).touch()
    with input_error(name, "leave --resume out", key="OUTPUT_DIR", value=str(tmp_path)):
        run(tmp_path, 2, resume=True)


@pytest.mark.parametrize("named", ["model_0000009.pth", ""])
def test_a_file_that_names_no_checkpoint_is_an_error_with_the_remedy(tmp_path, named):
    file = tmp_path / "last_checkpoint"
    file.write_text(named)
    expected = {"key": "OUTPUT_DIR", "value": str(tmp_path), "file": file}
    with input_error(repr(named), "leave --resume out", **expected):
        run(tmp_path, 2, resume=True)
    (tmp_path / "model_0000001.pth").touch()
    with input_error(f"echo model_0000001.pth > {file}", **expected):
        run(tmp_path, 2, resume=True)


def test_weights_that_cannot_be_resumed_are_not_checkpoints(tmp_path):
    for name in ("model_best", "model_final_ema", "model_best_of_earlier_run", "other"):
        (tmp_path / f"{name}.pth").touch()
    assert find_checkpoints(tmp_path) == []
    assert find_checkpoints(tmp_path / "missing") == []
    (tmp_path / "model_interrupted.pth").touch()
    assert find_checkpoints(tmp_path) == ["model_interrupted.pth"]


def test_weights_beside_a_resume_and_a_complete_run_are_logged(tmp_path, package_log):
    run(tmp_path, 2)
    run(tmp_path, 2, resume=True)
    assert "This run is complete" in package_log.text
    model, folder = seeded_model(), tmp_path / "fcos"
    folder.mkdir()
    FCOSCheckpointer(model, str(folder)).save("model_final")
    checkpointer = FCOSCheckpointer(model, str(folder), complete=True)
    load_for_evaluation(checkpointer, "other.pth", resume=True, keys=LAZY_KEYS)
    assert "train.init_checkpoint = other.pth is not read" in package_log.text


FROZEN_STEM = {"MODEL.BACKBONE.FREEZE_AT": 1}


def load(model, weights):
    """Load weights as a new training does."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    load_or_resume(FCOSCheckpointer(model), optimizer, weights, resume=False)


def saved_weights(folder, *opts, without=()):
    """Save the weights of a model, and return the path."""
    state = seeded_model(*opts, seed=1).state_dict()
    path = folder / "x.pth"
    torch.save({"model": {k: x for k, x in state.items() if k not in without}}, path)
    return str(path)


STEM = "backbone.bottom_up.stem.conv1"


@pytest.mark.parametrize(
    ("opts", "without", "warns"),
    [
        (FROZEN_STEM, [f"{STEM}.weight"], True),
        (FROZEN_STEM, ["head.cls_logits.weight"], False),
        ({}, [f"{STEM}.weight"], False),
        # Files of detectron2's model zoo have no statistics.
        (FROZEN_STEM, [f"{STEM}.norm.running_mean", f"{STEM}.norm.running_var"], False),
        (FROZEN_STEM, [f"{STEM}.norm.weight"], True),
    ],
)
def test_a_frozen_weight_that_the_file_lacks_causes_a_warning(
    tmp_path, package_log, opts, without, warns
):
    path = saved_weights(tmp_path, opts, without=without)
    load(seeded_model(opts), path)
    assert ("RANDOM WEIGHTS ARE FROZEN" in package_log.text) == warns
    text = f"1 of 3 weights that training does not change is random, because {path} lacks it or"
    assert not warns or text in package_log.text


def test_a_frozen_weight_of_another_shape_causes_a_warning(tmp_path, package_log):
    path = saved_weights(tmp_path, "MODEL.RESNETS.STEM_OUT_CHANNELS", 16)
    load(seeded_model(FROZEN_STEM), path)
    assert "another shape of 6 weights of the model" in package_log.text
    assert f"{STEM}.norm.bias (16,) instead of (8,)" in package_log.text
    assert len([x for x in package_log.records if "stem" in x.getMessage()]) == 2
    assert "RANDOM WEIGHTS ARE FROZEN: 3 of 3 weights" in package_log.text
    assert f"{STEM}.weight, {STEM}.norm.weight" in package_log.text


def test_weights_that_timm_has_loaded_are_not_random(package_log):
    class Pretrained(TimmBackbone):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.pretrained = True
            self.net = torch.nn.Linear(1, 1).requires_grad_(False)

    model = seeded_model()
    model.backbone.bottom_up = Pretrained()
    load(model, "")
    assert "RANDOM WEIGHTS" not in package_log.text
