"""The race of detectors: who learns how much, in as many iterations and in as much time."""

import json

import learning
import pytest
import torch
from detectron2.utils.events import EventStorage
from learning_table import format_learning
from tiny import random_input
from workloads import FULL, make_cfg


def runs(aps, parameters=1_000_000):
    return [{"AP": ap, "parameters": parameters} for ap in aps]


def test_iterations_of_equal_time():
    assert learning.iterations_of_equal_time(0.10, 0.20, 1000) == 500
    assert learning.iterations_of_equal_time(0.10, 0.05, 1000) == 2000
    assert learning.iterations_of_equal_time(0.10, 0.101, 1000) == 1000


def test_learning_table_weighs_differences_by_the_standard_error():
    def row(aps, then):
        return {
            "runs": runs(aps),
            "milliseconds_a_step": 100.0,
            "iterations_of_equal_time": 900,
            "runs_of_equal_time": runs(then),
        }

    text = format_learning(
        {
            "machine": {"processor": "an abacus"},
            "data": "shapes_train",
            "iterations": 1000,
            "images": 4,
            "rows": {
                "fcos_d2": row([70.0, 71.0, 72.0], [70.0, 71.0, 72.0]),
                "torchvision": row([71.0, 72.0, 73.0], [69.0, 70.0, 71.0]),
            },
        }
    )
    assert "| torchvision | 1.00 | 100 | 72.0 +- 1.0 | 900 | 70.0 +- 1.0 |" in text
    # sqrt(1/3 + 1/3) = 0.8
    assert (
        "At equal iterations ours is -1.0 from torchvision, standard error 0.8: "
        "below by more than a standard error." in text
    )
    assert "At equal time ours is +1.0 from torchvision, standard error 0.8: not below." in text


def test_schedule_is_stretched():
    cfg = make_cfg(FULL, "cpu")  # 90,000 iterations, steps at 60,000 and 80,000
    opts = learning._schedule(cfg, 45_000)
    found = dict(zip(opts[::2], opts[1::2], strict=True))
    assert found["SOLVER.MAX_ITER"] == 45_000
    assert found["SOLVER.STEPS"] == (30_000, 40_000)


@pytest.mark.parametrize("name", list(learning.TRAINERS))
def test_each_detector_of_the_learning_race_learns_and_detects(name, tmp_path):
    cfg = learning.make_cfg(tmp_path, 1, [])
    model = learning.TRAINERS[name].build_model(cfg)
    inputs = [random_input(3, 64, 64)]
    with EventStorage():
        losses = model(inputs)
    sum(losses.values()).backward()
    trained = [x for x in model.parameters() if x.requires_grad]
    assert all(loss.isfinite() for loss in losses.values())
    assert all(x.grad is not None for x in trained)
    with torch.no_grad():
        (result,) = model.eval()(inputs)
    assert result["instances"].has("pred_classes")


def test_steps_of_all_are_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "_TIMED_STEPS", 1)
    opts = ["SOLVER.IMS_PER_BATCH", 1, "INPUT.MIN_SIZE_TRAIN", (64,), "DATALOADER.NUM_WORKERS", 0]
    times = learning.time_steps(["fcos_d2", "torchvision"], learning.make_cfg(tmp_path, 1, opts))
    assert times.keys() == {"fcos_d2", "torchvision"}
    assert min(times.values()) > 0


def test_what_was_trained_is_not_trained_again(tmp_path, monkeypatch, capsys):
    done = {}

    def run(trainer_class, cfg):
        key = (trainer_class, cfg.SOLVER.MAX_ITER, cfg.SEED)
        assert key not in done
        done[key] = runs([10.0])[0]
        return done[key]

    timed = []

    def time_steps(names, cfg):
        timed.append(names)
        return {"fcos_d2": 200.0, "RetinaNet": 100.0}

    monkeypatch.setattr(learning, "run", run)
    monkeypatch.setattr(learning, "time_steps", time_steps)
    command = ["--seeds", "1", "2", "--others", "RetinaNet", "--output-dir"]
    command += [str(tmp_path / "learning"), "--", "SOLVER.MAX_ITER", "20"]
    learning.main(command)
    # RetinaNet is made out to be twice as fast, so in the time of ours it does 40.
    expected = [(learning.Trainer, 20), (learning.RetinaNetTrainer, 20)]
    expected.append((learning.RetinaNetTrainer, 40))
    assert sorted(done, key=str) == sorted(((*x, s) for x in expected for s in (1, 2)), key=str)
    learning.main(command)
    rows = json.loads((tmp_path / "learning.json").read_text())["rows"]
    assert rows["RetinaNet"]["iterations_of_equal_time"] == 40
    assert timed == [["fcos_d2", "RetinaNet"]]
    assert "written" in capsys.readouterr().out
    done.clear()
    learning.main([*command, "SOLVER.BASE_LR", "0.5"])  # other settings: all anew
    assert len(done) == 6
    assert len(timed) == 2
