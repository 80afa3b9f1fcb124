"""train_net.py from end to end: train, evaluate, resume, several processes, autocast."""

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlparse

import pytest
import torch
import yaml
from detectron2.engine import default_argument_parser
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import train_net  # noqa: E402
from fcos_d2 import cli  # noqa: E402
from fcos_d2.engine import load_config  # noqa: E402
from fcos_d2.errors import InputError  # noqa: E402
from fcos_d2.prediction import Predictor  # noqa: E402

TINY = [
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    "8",
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    "16",
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    "4",
    "MODEL.FCOS.NUM_CLS_CONVS",
    "1",
    "MODEL.FCOS.NUM_BOX_CONVS",
    "1",
    "SOLVER.IMS_PER_BATCH",
    "4",
    "SOLVER.WARMUP_ITERS",
    "2",
    "DATALOADER.NUM_WORKERS",
    "0",
    "MODEL.FCOS.SCORE_THRESH_TEST",
    "0.0",
]
CONFIG = str(REPOSITORY / "configs" / "shapes" / "fcos_shapes_demo.yaml")


def run(output, *arguments):
    """train_net.main in this process."""
    flags = [x for x in arguments if x.startswith("--")]
    opts = [x for x in arguments if not x.startswith("--")]
    args = train_net.build_parser().parse_args(
        ["--config-file", CONFIG, *flags, *TINY, "OUTPUT_DIR", str(output), *opts]
    )
    return train_net.main(args)


@pytest.fixture(scope="module")
def trained(few_shapes, tmp_path_factory):
    """Output folder of a run of 8 iterations with an evaluation every 4."""
    output = tmp_path_factory.mktemp("output")
    run(
        output,
        "SOLVER.MAX_ITER",
        "8",
        "TEST.EVAL_PERIOD",
        "4",
        "SOLVER.CHECKPOINT_PERIOD",
        "4",
        "FCOS_TRAIN.EMA_DECAY",
        "0.5",
        "FCOS_TRAIN.VALIDATION_LOSS",
        "True",
    )
    return output


def metrics_of(output):
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def detections(output):
    return json.loads((output / "inference" / "coco_instances_results.json").read_text())


def test_training_leaves_what_the_readme_promises(trained):
    for name in ("model_final.pth", "model_best.pth", "metrics.json", "config.yaml", "log.txt"):
        assert (trained / name).stat().st_size > 0, name
    assert list(trained.glob("events.out.tfevents.*"))
    assert detections(trained)
    keys = {key for line in metrics_of(trained) for key in line}
    assert {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr", "lr", "bbox/AP"} <= keys


def test_what_hooks_log_is_in_both_logs(trained):
    names = {
        *(f"fcos/positives_p{level}" for level in (2, 3, 4, 5)),
        "fcos/loss_fcos_ctr_above_floor",
        *(f"{who}val_loss/{x}" for who in ("", "ema/") for x in ("total_loss", "loss_fcos_cls")),
        "ema/bbox/AP",
    }
    assert names <= {key for line in metrics_of(trained) for key in line}
    events = EventAccumulator(str(trained)).Reload()
    assert names <= set(events.Tags()["scalars"])
    last = metrics_of(trained)[-1]
    parts = [last[f"val_loss/loss_fcos_{x}"] for x in ("cls", "loc", "ctr")]
    assert last["val_loss/total_loss"] == pytest.approx(sum(parts))
    assert last["val_loss/total_loss"] != last["ema/val_loss/total_loss"]


def test_averages_and_validation_losses_change_nothing_in_training(few_shapes, tmp_path):
    weights = []
    for decay, validates in (("0.0", "False"), ("0.9", "True")):
        output = tmp_path / validates
        run(
            output,
            "SOLVER.MAX_ITER",
            "4",
            "TEST.EVAL_PERIOD",
            "2",
            "FCOS_TRAIN.EMA_DECAY",
            decay,
            "FCOS_TRAIN.VALIDATION_LOSS",
            validates,
            "INPUT.MIN_SIZE_TRAIN",
            "(96, 128, 160)",
        )
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
    results = run(tmp_path, "--eval-only", "MODEL.WEIGHTS", str(trained / weights))
    assert detections(tmp_path) == detections(trained / folder)
    for name, value in results["bbox"].items():
        expected = metrics_of(trained)[-1][f"{prefix}bbox/{name}"]
        assert value == expected or (value != value and expected != expected), name  # NaN


def test_the_verb_evaluate_needs_only_the_weights(trained, tmp_path, capsys):
    weights = str(trained / "model_final.pth")
    overrides = ["OUTPUT_DIR", str(tmp_path), "DATALOADER.NUM_WORKERS=0"]
    cli.main(["evaluate", "--weights", weights, *overrides])
    assert f"found next to the weights: {trained / 'config.yaml'}" in capsys.readouterr().out
    assert detections(tmp_path) == detections(trained)


@pytest.mark.slow
def test_the_instant_schedule_ends_within_its_bounds(tmp_path):
    """The whole command, on the whole dataset: it fails when the result is out of bounds."""
    config = REPOSITORY / "configs" / "quick_schedules" / "fcos_shapes_instant_test.yaml"
    done = subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / "train_net.py"),
            "--config-file",
            str(config),
            "OUTPUT_DIR",
            str(tmp_path / "output"),
        ],
        env={**os.environ, "DETECTRON2_DATASETS": str(tmp_path / "datasets")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "AP50" in (tmp_path / "output" / "metrics.json").read_text()


def test_raw_and_averaged_weights_are_both_in_every_checkpoint(trained):
    assert detections(trained) != detections(trained / "ema")
    for name in ("model_0000003.pth", "model_final.pth"):
        saved = torch.load(trained / name, weights_only=True)
        assert saved["averaged_model"].keys() == {
            "n_averaged",
            *(f"module.{key}" for key in saved["model"]),
        }
    final = torch.load(trained / "model_final_ema.pth", weights_only=True)["model"]
    assert all(
        torch.equal(value, saved["averaged_model"][f"module.{key}"]) for key, value in final.items()
    )


def test_fcos_d2_predict_takes_the_averaged_weights(trained):
    file = trained / "model_final_ema.pth"
    cfg = load_config(str(trained / "config.yaml"), ["MODEL.WEIGHTS", str(file)])
    weights = Predictor(cfg).model.state_dict()
    for key, value in torch.load(file, weights_only=True)["model"].items():
        assert torch.equal(weights[key], value), key


def test_the_best_averaged_weights_are_kept_if_the_metric_is_theirs(few_shapes, tmp_path):
    run(
        tmp_path,
        "SOLVER.MAX_ITER",
        "2",
        "TEST.EVAL_PERIOD",
        "2",
        "FCOS_TRAIN.EMA_DECAY",
        "0.9",
        "FCOS_TRAIN.BEST_METRIC",
        "ema/bbox/AP",
    )
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    final = torch.load(tmp_path / "model_final_ema.pth", weights_only=True)
    assert best["ema/bbox/AP"] >= 0
    assert all(torch.equal(value, final["model"][key]) for key, value in best["model"].items())


def test_resume_goes_on_where_training_stopped(few_shapes, tmp_path):
    run(tmp_path, "SOLVER.MAX_ITER", "3", "TEST.EVAL_PERIOD", "0", "SOLVER.STEPS", "(4,)")
    run(
        tmp_path,
        "--resume",
        "SOLVER.MAX_ITER",
        "5",
        "TEST.EVAL_PERIOD",
        "0",
        "SOLVER.STEPS",
        "(4,)",
    )
    resumed = torch.load(tmp_path / "model_final.pth", weights_only=False)
    assert resumed["iteration"] == 4
    assert "Starting training from iteration 3" in (tmp_path / "log.txt").read_text()
    momentum = resumed["trainer"]["_trainer"]["optimizer"]["state"]
    assert momentum


@pytest.mark.parametrize(("expected", "passes"), [("0.0", True), ("99.0", False)])
def test_expected_results_are_honoured(trained, tmp_path, expected, passes):
    arguments = (
        "--eval-only",
        "MODEL.WEIGHTS",
        str(trained / "model_final.pth"),
        "TEST.EXPECTED_RESULTS",
        f"[['bbox', 'AP', {expected}, 5.0]]",
    )
    if passes:
        run(tmp_path, *arguments)
    else:
        with pytest.raises(SystemExit):
            run(tmp_path, *arguments)


def test_best_weights_are_not_what_training_resumes_from(trained):
    assert (trained / "last_checkpoint").read_text() == "model_final.pth"
    best = torch.load(trained / "model_best.pth", weights_only=True)
    assert best["iteration"] in (3, 8)  # 8: evaluated after the last, 7
    assert best["bbox/AP"] >= 0


def test_eval_only_without_weights_is_refused(few_shapes, tmp_path):
    with pytest.raises(InputError, match=r"MODEL.WEIGHTS is empty"):
        run(tmp_path, "--eval-only")


def test_weights_that_lack_the_head_are_not_evaluated(trained, tmp_path):
    weights = torch.load(trained / "model_final.pth", weights_only=True)["model"]
    backbone = {k: v for k, v in weights.items() if k.startswith("backbone.")}
    torch.save({"model": backbone}, tmp_path / "backbone.pth")
    with pytest.raises(InputError, match=r"lacks \d+ weights of the model"):
        run(tmp_path, "--eval-only", "MODEL.WEIGHTS", str(tmp_path / "backbone.pth"))


def test_bfloat16_autocast_on_the_cpu(few_shapes, tmp_path):
    run(tmp_path, "SOLVER.MAX_ITER", "2", "SOLVER.AMP.ENABLED", "True", "TEST.EVAL_PERIOD", "0")
    assert (tmp_path / "model_final.pth").is_file()


def test_float16_on_a_cpu_is_refused(few_shapes, tmp_path):
    with pytest.raises(ValueError, match=r"'float16' needs CUDA, MODEL.DEVICE is 'cpu'"):
        run(tmp_path, "SOLVER.AMP.ENABLED", "True", "FCOS_TRAIN.AMP_DTYPE", "float16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_cuda_is_said_before_anything_is_built(few_shapes, tmp_path):
    with pytest.raises(InputError, match=r"MODEL.DEVICE cpu"):
        run(tmp_path, "MODEL.DEVICE", "cuda")


@pytest.fixture
def _detectron2s_port_is_taken():
    """As by another run of the same user."""
    url = urlparse(default_argument_parser().parse_args([]).dist_url)
    with socket.socket() as other:
        with suppress(OSError):  # it is by one
            other.bind((url.hostname, url.port))
        yield


@pytest.mark.skipif(torch.cuda.is_available(), reason="detectron2 would want two GPUs")
@pytest.mark.usefixtures("_detectron2s_port_is_taken")
def test_two_processes_from_the_command_line(few_shapes, tmp_path):
    command = [
        sys.executable,
        str(REPOSITORY / "tests" / "run_train_net.py"),
        "--num-gpus",
        "2",
        "--config-file",
        CONFIG,
        *TINY,
        "OUTPUT_DIR",
        str(tmp_path),
        "SOLVER.MAX_ITER",
        "2",
        "TEST.EVAL_PERIOD",
        "2",
        "FCOS_TRAIN.EMA_DECAY",
        "0.5",
    ]
    env = {**os.environ, "DETECTRON2_DATASETS": str(few_shapes), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]
    assert (tmp_path / "model_final.pth").is_file()
    assert len({d["image_id"] for d in detections(tmp_path)}) == 8  # gathered from both
    # What was evaluated is what was saved, though each process has seen other images: the running
    # statistics of its batch norms are its own.
    for name, folder in (("model_final.pth", ""), ("model_final_ema.pth", "ema")):
        run(tmp_path / "alone", "--eval-only", "MODEL.WEIGHTS", str(tmp_path / name))
        scores, alone = (
            sorted((d["image_id"], d["score"]) for d in detections(output))
            for output in (tmp_path / folder, tmp_path / "alone")
        )
        expected = pytest.approx([score for _, score in scores], abs=1e-4)
        assert [score for _, score in alone] == expected


def test_the_command_line_wants_a_config(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_net.py"])
    with pytest.raises(SystemExit, match="2"):
        train_net.invoke_main()
    assert "--config-file" in capsys.readouterr().err


def test_several_machines_need_an_address(monkeypatch):
    command = ["train_net.py", "--config-file", CONFIG, "--num-machines", "2"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="error: --num-machines needs --dist-url, such as tcp://"):
        train_net.invoke_main()


def test_the_flags_are_those_of_detectron2_and_dataset():
    theirs, ours = (
        {x.dest: (x.option_strings, x.default, x.nargs, x.const) for x in parser._actions}
        for parser in (default_argument_parser(), train_net.build_parser())
    )
    assert ours.pop("dataset")[0] == ["--dataset"]
    assert ours.keys() == theirs.keys()
    assert {name for name in theirs if ours[name] != theirs[name]} == {
        "config_file",  # it is required
        "dist_url",  # a free port
    }


def test_a_resume_with_another_optimizer_is_refused(trained):
    with pytest.raises(InputError, match=r"has the state of another one.*FCOS_TRAIN.OPTIMIZER"):
        run(trained, "--resume", "FCOS_TRAIN.OPTIMIZER", "SGD", "SOLVER.MAX_ITER", "9")


def test_a_resume_with_other_weights_is_refused(trained):
    with pytest.raises(InputError, match=r"lacks \d+ weights of the model, or has them in another"):
        run(trained, "--resume", "MODEL.FPN.OUT_CHANNELS", "64", "SOLVER.MAX_ITER", "9")
