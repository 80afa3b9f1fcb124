"""train_net.py from end to end: training, evaluating, resuming, processes, and autocast."""

import math
import os
import socket
import subprocess
import sys
from contextlib import nullcontext, suppress
from urllib.parse import urlparse

import pytest
import torch
import yaml
from commands import REPOSITORY, SHAPES_CONFIG, SMALL_NETWORK, as_arguments, run_python
from detectron2.engine import default_argument_parser
from input_errors import check_error, input_error
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import read_detections, read_metrics

import train_net
from fcos_d2 import cli
from fcos_d2.engine import load_config
from fcos_d2.errors import InputError
from fcos_d2.prediction import Predictor

TINY = {
    **SMALL_NETWORK,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.WARMUP_ITERS": 2,
    "DATALOADER.NUM_WORKERS": 0,
    "MODEL.FCOS.SCORE_THRESH_TEST": 0.0,
}
# The arguments of ``run``, and the keys that they set.
KEYS = {
    "max_iter": "SOLVER.MAX_ITER",
    "eval_period": "TEST.EVAL_PERIOD",
    "weights": "MODEL.WEIGHTS",
    "ema_decay": "FCOS_TRAIN.EMA_DECAY",
    "validation_loss": "FCOS_TRAIN.VALIDATION_LOSS",
}


def run(output, *flags, **settings):
    """
    Run train_net.main in this process.

    Args:
        output (Path): The value of OUTPUT_DIR.
        flags (str): Flags such as --resume, and overrides KEY=VALUE.
        settings: Values of the keys that several tests set, see ``KEYS``.
    """
    overrides = {**TINY, "OUTPUT_DIR": output, **{KEYS[k]: x for k, x in settings.items()}}
    opts = [*as_arguments(overrides), *(x for x in flags if not x.startswith("--"))]
    arguments = ["--config-file", SHAPES_CONFIG, *(x for x in flags if x.startswith("--")), *opts]
    return train_net.main(train_net.build_parser().parse_args(arguments))


@pytest.fixture(scope="module")
def trained(few_shapes, tmp_path_factory):
    """Train 8 iterations with an evaluation every 4 iterations, and return the output folder."""
    output = tmp_path_factory.mktemp("output")
    period = "SOLVER.CHECKPOINT_PERIOD=4"
    run(output, period, max_iter=8, eval_period=4, ema_decay=0.5, validation_loss=True)
    return output


def test_training_writes_the_files_of_the_readme(trained):
    for name in ("model_final.pth", "model_best.pth", "metrics.json", "config.yaml", "log.txt"):
        assert (trained / name).stat().st_size > 0, name
    assert list(trained.glob("events.out.tfevents.*"))
    assert read_detections(trained)
    keys = {key for line in read_metrics(trained) for key in line}
    assert {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr", "lr", "bbox/AP"} <= keys


def test_values_that_hooks_log_are_in_both_logs(trained):
    names = {
        *(f"fcos/positives_p{level}" for level in (2, 3, 4, 5)),
        "fcos/loss_fcos_ctr_above_floor",
        *(f"{who}val_loss/{x}" for who in ("", "ema/") for x in ("total_loss", "loss_fcos_cls")),
        "ema/bbox/AP",
    }
    assert names <= {key for line in read_metrics(trained) for key in line}
    events = EventAccumulator(str(trained)).Reload()
    assert names <= set(events.Tags()["scalars"])
    last = read_metrics(trained)[-1]
    parts = [last[f"val_loss/loss_fcos_{x}"] for x in ("cls", "loc", "ctr")]
    assert last["val_loss/total_loss"] == pytest.approx(sum(parts))
    assert last["val_loss/total_loss"] != last["ema/val_loss/total_loss"]


def test_averages_and_validation_losses_change_nothing_in_training(few_shapes, tmp_path):
    weights = []
    sizes = "INPUT.MIN_SIZE_TRAIN=(96, 128, 160)"  # drawn at random
    for decay, validates in ((0.0, False), (0.9, True)):
        output = tmp_path / str(validates)
        settings = {"ema_decay": decay, "validation_loss": validates}
        run(output, sizes, max_iter=4, eval_period=2, **settings)
        weights.append(torch.load(output / "model_final.pth", weights_only=True)["model"])
    for name, value in weights[0].items():
        assert torch.equal(weights[1][name], value), name


def test_number_of_classes_comes_from_the_dataset_and_is_written_down(trained):
    dumped = yaml.safe_load((trained / "config.yaml").read_text())
    assert dumped["MODEL"]["FCOS"]["NUM_CLASSES"] == 6


@pytest.mark.parametrize(
    ("weights", "folder", "prefix"),
    [("model_final.pth", "", ""), ("model_final_ema.pth", "ema", "ema/")],
)
def test_eval_only_repeats_the_detections_and_the_ap_exactly(
    trained, tmp_path, weights, folder, prefix
):
    results = run(tmp_path, "--eval-only", weights=trained / weights)
    assert read_detections(tmp_path) == read_detections(trained / folder)
    for name, value in results["bbox"].items():
        expected = read_metrics(trained)[-1][f"{prefix}bbox/{name}"]
        assert value == expected or (math.isnan(value) and expected is None), name


# Test-time augmentation at one scale, with the mirror image.
TTA = ("TEST.AUG.ENABLED=True", "TEST.AUG.MIN_SIZES=(96,)")


def test_eval_only_with_augmentation_evaluates_twice(trained, tmp_path):
    expected = "TEST.EXPECTED_RESULTS=[['bbox_TTA','AP',0.0,5.0],['bbox','AP',0.0,5.0]]"
    weights = trained / "model_final.pth"
    results = run(tmp_path, "--eval-only", expected, *TTA, weights=weights)
    assert results.keys() == {"bbox", "bbox_TTA"}
    assert results["bbox"].keys() == results["bbox_TTA"].keys()
    assert read_detections(tmp_path) == read_detections(trained)
    augmented = read_detections(tmp_path, "inference_TTA")
    assert augmented
    assert augmented != read_detections(trained)
    # One view at the test size is the plain evaluation.
    plain = ("TEST.AUG.MIN_SIZES=(128,)", "TEST.AUG.FLIP=False", "INPUT.MIN_SIZE_TEST=128")
    run(tmp_path / "plain", "--eval-only", *TTA, *plain, weights=weights)
    assert read_detections(tmp_path / "plain") == read_detections(
        tmp_path / "plain", "inference_TTA"
    )


def test_an_expected_metric_with_augmentation_needs_the_augmentation(trained, tmp_path):
    expected = "TEST.EXPECTED_RESULTS=[['bbox_TTA', 'AP', 0.0, 5.0]]"
    with input_error("bbox_TTA", key="TEST.EXPECTED_RESULTS"):
        run(tmp_path, "--eval-only", expected, weights=trained / "model_final.pth")


def test_training_with_augmentation_evaluates_it_once_at_the_end(few_shapes, tmp_path):
    expected = "TEST.EXPECTED_RESULTS=[['bbox_TTA', 'AP', 0.0, 5.0]]"
    results = run(tmp_path, *TTA, expected, max_iter=4, eval_period=2, ema_decay=0.5)
    assert results.keys() == {"bbox", "bbox_TTA"}
    lines = read_metrics(tmp_path)
    for name in ("bbox_TTA/AP", "ema/bbox_TTA/AP"):
        assert [name in line for line in lines] == [False] * (len(lines) - 1) + [True]
    assert sum("bbox/AP" in line for line in lines) == 2
    for folder in (tmp_path, tmp_path / "ema"):
        assert read_detections(folder, "inference_TTA") != read_detections(folder)
    assert "bbox/AP" in torch.load(tmp_path / "model_best.pth", weights_only=True)


def test_the_subcommand_evaluate_needs_only_the_weights(trained, tmp_path, capsys):
    weights = str(trained / "model_final.pth")
    overrides = ["OUTPUT_DIR", str(tmp_path), "DATALOADER.NUM_WORKERS=0"]
    cli.main(["evaluate", "--weights", weights, *overrides])
    assert str(trained / "config.yaml") in capsys.readouterr().out
    assert read_detections(tmp_path) == read_detections(trained)


@pytest.mark.slow
def test_the_instant_schedule_ends_within_its_bounds(tmp_path):
    # On the whole dataset, the command fails if the result is out of bounds.
    config = REPOSITORY / "configs" / "quick_schedules" / "fcos_shapes_instant_test.yaml"
    arguments = ["train_net.py", "--config-file", config, "OUTPUT_DIR", tmp_path / "output"]
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "DETECTRON2_DATASETS": str(tmp_path / "datasets")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "AP50" in (tmp_path / "output" / "metrics.json").read_text()


def test_raw_and_averaged_weights_are_both_in_every_checkpoint(trained):
    assert read_detections(trained) != read_detections(trained / "ema")
    for name in ("model_0000003.pth", "model_final.pth"):
        saved = torch.load(trained / name, weights_only=True)
        assert saved["averaged_model"].keys() == {
            "n_averaged",
            *(f"module.{key}" for key in saved["model"]),
        }
    averaged = saved["averaged_model"]  # of model_final.pth
    final = torch.load(trained / "model_final_ema.pth", weights_only=True)["model"]
    assert all(torch.equal(value, averaged[f"module.{key}"]) for key, value in final.items())


def test_the_predictor_loads_averaged_weights(trained):
    file = trained / "model_final_ema.pth"
    cfg = load_config(str(trained / "config.yaml"), ["MODEL.WEIGHTS", str(file)])
    weights = Predictor(cfg).model.state_dict()
    for key, value in torch.load(file, weights_only=True)["model"].items():
        assert torch.equal(weights[key], value), key


def test_the_best_averaged_weights_are_kept_if_the_metric_is_that_of_the_average(
    few_shapes, tmp_path
):
    metric = "FCOS_TRAIN.BEST_METRIC=ema/bbox/AP"
    run(tmp_path, metric, max_iter=2, eval_period=2, ema_decay=0.9)
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    final = torch.load(tmp_path / "model_final_ema.pth", weights_only=True)
    assert best["ema/bbox/AP"] >= 0
    assert all(torch.equal(value, final["model"][key]) for key, value in best["model"].items())


def test_a_resumed_run_continues_where_training_stopped(few_shapes, tmp_path):
    run(tmp_path, "SOLVER.STEPS=(4,)", max_iter=3, eval_period=0)
    run(tmp_path, "--resume", "SOLVER.STEPS=(4,)", max_iter=5, eval_period=0)
    resumed = torch.load(tmp_path / "model_final.pth", weights_only=False)
    assert resumed["iteration"] == 4
    assert "Starting training from iteration 3" in (tmp_path / "log.txt").read_text()
    assert resumed["trainer"]["_trainer"]["optimizer"]["state"]  # the momenta


@pytest.mark.parametrize(("expected", "passes"), [("0.0", True), ("99.0", False)])
def test_expected_results_decide_whether_the_command_fails(trained, tmp_path, expected, passes):
    arguments = ("--eval-only", f"TEST.EXPECTED_RESULTS=[['bbox', 'AP', {expected}, 5.0]]")
    with nullcontext() if passes else pytest.raises(SystemExit):
        run(tmp_path, *arguments, weights=trained / "model_final.pth")


def test_training_does_not_resume_from_the_best_weights(trained):
    assert (trained / "last_checkpoint").read_text() == "model_final.pth"
    best = torch.load(trained / "model_best.pth", weights_only=True)
    # The last iteration is 7; the evaluation after it has iteration 8.
    assert best["iteration"] in (3, 8)
    assert best["bbox/AP"] >= 0


def test_eval_only_without_weights_is_refused(few_shapes, tmp_path):
    with input_error("--eval-only", key="MODEL.WEIGHTS"):
        run(tmp_path, "--eval-only")


def test_weights_without_a_head_are_not_evaluated(trained, tmp_path):
    weights = torch.load(trained / "model_final.pth", weights_only=True)["model"]
    backbone = {k: v for k, v in weights.items() if k.startswith("backbone.")}
    torch.save({"model": backbone}, tmp_path / "backbone.pth")
    num_lacking = sum(k.startswith("head.") for k in weights)
    with input_error("backbone.pth", f"{num_lacking} weights"):
        run(tmp_path, "--eval-only", weights=tmp_path / "backbone.pth")


def test_bfloat16_autocast_trains_on_the_cpu(few_shapes, tmp_path):
    run(tmp_path, "SOLVER.AMP.ENABLED=True", max_iter=2, eval_period=0)
    assert (tmp_path / "model_final.pth").is_file()


def test_float16_on_a_cpu_is_refused(few_shapes, tmp_path):
    with input_error("CUDA", "'cpu'", key="FCOS_TRAIN.AMP_DTYPE", value="float16"):
        run(tmp_path, "SOLVER.AMP.ENABLED=True", "FCOS_TRAIN.AMP_DTYPE=float16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_cuda_is_reported_before_anything_is_built(few_shapes, tmp_path):
    with input_error("MODEL.DEVICE cpu", key="MODEL.DEVICE", value="cuda"):
        run(tmp_path, "MODEL.DEVICE=cuda")


@pytest.fixture
def _port_of_detectron2_is_taken():
    """Take the port of detectron2's default URL, as another run of the same user would."""
    url = urlparse(default_argument_parser().parse_args([]).dist_url)
    with socket.socket() as other:
        with suppress(OSError):  # another process has taken it
            other.bind((url.hostname, url.port))
        yield


@pytest.mark.skipif(torch.cuda.is_available(), reason="detectron2 would need two GPUs")
@pytest.mark.usefixtures("_port_of_detectron2_is_taken")
def test_two_processes_train_and_evaluate_from_the_command_line(few_shapes, tmp_path):
    settings = {"SOLVER.MAX_ITER": 2, "TEST.EVAL_PERIOD": 2, "FCOS_TRAIN.EMA_DECAY": 0.5}
    settings |= {"TEST.AUG.ENABLED": True, "TEST.AUG.MIN_SIZES": (64,)}
    process = run_python(
        *("tests/run_train_net.py", "--num-gpus", "2", "--config-file", SHAPES_CONFIG),
        *as_arguments({**TINY, **settings, "OUTPUT_DIR": tmp_path}),
        DETECTRON2_DATASETS=str(few_shapes),
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert (tmp_path / "model_final.pth").is_file()
    # The detections of both processes have been gathered.
    for name in ("inference", "inference_TTA"):
        assert len({d["image_id"] for d in read_detections(tmp_path, name)}) == 8
    assert "ema/bbox_TTA/AP" in read_metrics(tmp_path)[-1]
    # The evaluated weights are the saved weights, although the running statistics of batch norms
    # differ between the two processes, which have trained on different images.
    for name, folder in (("model_final.pth", ""), ("model_final_ema.pth", "ema")):
        run(tmp_path / "alone", "--eval-only", weights=tmp_path / name)
        scores, alone = (
            sorted((d["image_id"], d["score"]) for d in read_detections(output))
            for output in (tmp_path / folder, tmp_path / "alone")
        )
        expected = pytest.approx([score for _, score in scores], abs=1e-4)
        assert [score for _, score in alone] == expected


def test_resuming_with_another_optimizer_is_refused(trained):
    with input_error("FCOS_TRAIN.OPTIMIZER"):
        run(trained, "--resume", "FCOS_TRAIN.OPTIMIZER=SGD", max_iter=9)


def test_resuming_with_another_learning_rate_needs_resume_lr(few_shapes, tmp_path):
    run(tmp_path, "SOLVER.BASE_LR=0.01", max_iter=2, eval_period=0)
    other = ("--resume", "SOLVER.BASE_LR=0.001", "SOLVER.WEIGHT_DECAY=0.5")
    words = ("0.01 in the checkpoint", "SOLVER.WEIGHT_DECAY", "0.5 in the config")
    norms = ("--resume", "SOLVER.BASE_LR=0.01", "SOLVER.WEIGHT_DECAY_NORM=0.5")
    with input_error("0.0 in the checkpoint, 0.5 in the config", key="SOLVER.WEIGHT_DECAY_NORM"):
        run(tmp_path, *norms, max_iter=4, eval_period=0)
    config = tmp_path / "config.yaml"
    before = config.read_bytes()
    with input_error(*words, key="SOLVER.BASE_LR", value="0.001"):
        run(tmp_path, *other, max_iter=4, eval_period=0)
    assert config.read_bytes() == before  # the config of the checkpoints that are there
    run(tmp_path, *other, "FCOS_TRAIN.RESUME_LR=True", max_iter=4, eval_period=0)
    trainer = torch.load(tmp_path / "model_final.pth", weights_only=False)["trainer"]
    group = trainer["_trainer"]["optimizer"]["param_groups"][0]
    assert (group["initial_lr"], group["weight_decay"]) == (0.001, 0.5)
    assert "BASE_LR: 0.001" in config.read_text()
    assert set(trainer["hooks"]["LRScheduler"]["base_lrs"]) == {0.001}
    rates = [line["lr"] for line in read_metrics(tmp_path) if "lr" in line]
    # iteration 3 of 4 of the cosine
    assert rates[-1] == pytest.approx(0.001 * (1 + math.cos(math.pi * 3 / 4)) / 2)


def test_checkpoints_that_a_resume_does_not_find_are_reported_before_training(few_shapes, tmp_path):
    (tmp_path / "model_0000009.pth").touch()
    with input_error("model_0000009.pth", key="OUTPUT_DIR", value=str(tmp_path)):
        run(tmp_path, "--resume", max_iter=2, eval_period=0)
    assert not (tmp_path / "log.txt").exists()


def test_resuming_with_other_weights_is_refused(trained):
    with pytest.raises(InputError) as caught:
        run(trained, "--resume", "MODEL.FPN.OUT_CHANNELS=64", max_iter=9)
    check_error(caught.value, "model_final.pth", "backbone.fpn_lateral2.weight")
