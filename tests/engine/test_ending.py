"""How a training ends: early, or at a signal; and which checkpoints it leaves."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny_run
import torch
from process_group import one_of_two
from tiny_run import checkpoints_in, run

from fcos_d2.engine.signals import Interrupted, handled, pass_on_signals, signals_held_back
from fcos_d2.errors import InputError

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def iteration_of(file):
    return torch.load(file, weights_only=True)["iteration"]


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


# An evaluation every 2 iterations: after the second one no better value comes.
EARLY = {"eval_period": 2, "early_stopping_patience": 2, "checkpoint_period": 100}


def test_training_ends_after_evaluations_without_a_new_best(tmp_path):
    trainer = run(tmp_path, 20, values=[1.0, 3.0, 3.0, 2.0, 9.0], **EARLY)
    # 3.0 after iteration 3; 3.0 again is not better.
    assert trainer.evaluated == [1, 3, 5, 7]
    assert checkpoints_in(tmp_path) == ["model_best.pth", "model_final.pth"]
    assert iteration_of(tmp_path / "model_final.pth") == 7
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["bbox/AP"] == 3.0
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert [x["iteration"] for x in metrics_of(tmp_path) if "bbox/AP" in x] == [7]


def test_the_count_begins_again_with_a_new_best(tmp_path):
    trainer = run(tmp_path, 20, values=[3.0, 2.0, 4.0, 1.0, 1.0], **EARLY)
    assert trainer.evaluated == [1, 3, 5, 7, 9]


def test_a_run_that_ended_early_ends_at_once_when_resumed(tmp_path):
    run(tmp_path, 20, values=[3.0, 2.0, 1.0], **EARLY)
    before = (tmp_path / "model_final.pth").read_bytes()
    resumed = run(tmp_path, 20, values=[1.0], resume=True, **EARLY)
    assert resumed.evaluated == [6]  # only the evaluation of the final weights
    assert (tmp_path / "model_final.pth").read_bytes() == before
    more = run(tmp_path, 10, values=[1.0], resume=True, **{**EARLY, "early_stopping_patience": 3})
    assert more.evaluated == [7]


def test_a_resumed_run_continues_to_count(tmp_path):
    run(tmp_path, 4, values=[3.0, 2.0], **{**EARLY, "checkpoint_period": 4})
    # The last evaluation of a complete run is not counted: it comes after the checkpoint.
    resumed = run(tmp_path, 20, values=[0.0], resume=True, **EARLY)
    assert resumed.evaluated == [5, 7]


def test_a_run_that_is_resumed_with_another_metric_begins_to_count_again(tmp_path):
    run(tmp_path, 20, values=[3.0, 2.0, 1.0], **EARLY)
    resumed = run(tmp_path, 8, values=[1.0], resume=True, **{**EARLY, "best_metric": "bbox/AP50"})
    assert resumed.iter == 8  # there is no such value: nothing is counted


def test_early_stopping_without_an_evaluation_is_an_error(tmp_path):
    with pytest.raises(InputError) as caught:
        run(tmp_path, 20, **EARLY)
    assert caught.value.key == "early_stopping_patience"


def work_early(rank, folder):
    with one_of_two(rank, folder):
        values = [3.0, 2.0, 1.0] if rank == 0 else [0.0, 1.0, 2.0]  # only the first counts
        trainer = run(folder, 20, values=values, checkpoint_at_signal=False, **EARLY)
        torch.save(trainer.iter, folder / f"{rank}.iter")


def test_all_processes_end_early_after_the_same_iteration(tmp_path):
    torch.multiprocessing.spawn(work_early, (tmp_path,), nprocs=2)
    assert [torch.load(tmp_path / f"{rank}.iter") for rank in (0, 1)] == [6, 6]


def test_only_the_last_checkpoints_are_kept_also_across_a_resume(tmp_path):
    keep = {"checkpoint_period": 2, "max_to_keep": 2}
    run(tmp_path, 8, **keep)
    assert checkpoints_in(tmp_path) == ["model_0000005.pth", "model_0000007.pth", "model_final.pth"]
    run(tmp_path, 10, resume=True, **keep)
    assert checkpoints_in(tmp_path) == ["model_0000007.pth", "model_0000009.pth", "model_final.pth"]
    run(tmp_path, 12, resume=True, **{**keep, "max_to_keep": 1})
    assert checkpoints_in(tmp_path) == ["model_0000011.pth", "model_final.pth"]


def test_checkpoints_of_another_run_are_left_alone(tmp_path):
    run(tmp_path, 4, checkpoint_period=1)
    run(tmp_path, 2, checkpoint_period=2, max_to_keep=1)
    assert "model_0000003.pth" in checkpoints_in(tmp_path)


def send(signum):
    return lambda _: os.kill(os.getpid(), signum)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_a_checkpoint_after_the_step(tmp_path, caplog, signum, code):
    before = [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) as caught:
        run(tmp_path, 20, at={5: send(signum)})
    assert caught.value.code == code
    assert checkpoints_in(tmp_path) == ["model_interrupted.pth"]
    assert iteration_of(tmp_path / "model_interrupted.pth") == 5
    (line,) = (x for x in caplog.messages if "--resume" in x)
    assert str(tmp_path / "model_interrupted.pth") in line
    assert metrics_of(tmp_path)[-1]["iteration"] == 5  # its losses are read
    assert [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_interrupted_run_ends_with_the_weights_and_files_of_a_whole_one(tmp_path):
    settings = {
        "checkpoint_period": 4,
        "max_to_keep": 2,
        "ema_decay": 0.9,
        "eval_period": 3,
        "early_stopping_patience": 5,
        "values": [1.0, 2.0, 3.0, 1.0, 1.0],
    }
    run(tmp_path / "whole", 14, **settings)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", 14, at={9: send(signal.SIGTERM)}, **settings)
    run(tmp_path / "parts", 14, resume=True, **settings)
    names = checkpoints_in(tmp_path / "whole")
    assert names == [
        "model_0000007.pth",
        "model_0000011.pth",
        "model_best.pth",
        "model_final.pth",
        "model_final_ema.pth",
    ]
    assert checkpoints_in(tmp_path / "parts") == names
    for name in names:
        whole, parts = (
            torch.load(tmp_path / folder / name, weights_only=True) for folder in ("whole", "parts")
        )
        torch.testing.assert_close(parts, whole, rtol=0, atol=0)


def test_a_signal_in_the_last_step_ends_the_run_after_its_final_weights(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, 4, at={3: send(signal.SIGTERM)}, values=[1.0])
    assert checkpoints_in(tmp_path) == ["model_final.pth"]
    resumed = run(tmp_path, 4, values=[1.0], resume=True)
    assert resumed.evaluated == [4]


@pytest.mark.parametrize(
    ("eval_period", "expected"), [(2, "model_interrupted.pth"), (0, "model_final.pth")]
)
def test_a_signal_in_an_evaluation_ends_it_at_once(tmp_path, eval_period, expected):
    def evaluate(model, output_dir):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        pytest.fail("the evaluation went on")

    with pytest.raises(Interrupted):
        run(tmp_path, 4, evaluate, eval_period=eval_period)
    assert checkpoints_in(tmp_path) == [expected]
    assert iteration_of(tmp_path / expected) == (1 if eval_period else 3)


def test_without_the_setting_signals_are_left_alone(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 20, at={5: send(signal.SIGINT)}, checkpoint_at_signal=False)
    assert checkpoints_in(tmp_path) == []


def test_training_in_another_thread_installs_no_handlers(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(run(tmp_path, 2)))
    thread.start()
    thread.join()
    assert found[0].iter == 2


def second_signal(folder):
    def send_twice(_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.2)
        os.kill(os.getpid(), signal.SIGTERM)

    run(folder, 20, at={5: send_twice})


def test_a_second_signal_ends_the_process_at_once(tmp_path):
    process = torch.multiprocessing.get_context("fork").Process(
        target=second_signal, args=(tmp_path,)
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGTERM
    assert checkpoints_in(tmp_path) == []


def test_signals_are_held_back_from_what_is_started():
    def blocked():
        return signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT, signal.SIGTERM}

    with signals_held_back():
        assert blocked() == {signal.SIGINT, signal.SIGTERM}
    assert not blocked()


def work_interrupted(rank, folder):
    with one_of_two(rank, folder):
        at = {7: lambda _: os.kill(os.getppid(), signal.SIGTERM)} if rank == 1 else {}
        run(
            folder,
            10**6,
            at={**at, **dict.fromkeys(range(8, 40), lambda _: time.sleep(0.1))},
            log_period=5,
        )


def test_all_processes_end_at_a_signal_to_their_parent(tmp_path):
    with pytest.raises(Interrupted) as caught, pass_on_signals():
        torch.multiprocessing.spawn(work_interrupted, (tmp_path,), nprocs=2)
    assert caught.value.code == 143
    assert checkpoints_in(tmp_path) == ["model_interrupted.pth"]
    # Losses are read after the iterations 4, 9, 14, ...
    assert iteration_of(tmp_path / "model_interrupted.pth") % 5 == 4


def test_handlers_that_were_there_are_put_back():
    def mine(*_):
        pass

    with handled({signal.SIGTERM: mine}):
        with handled({signal.SIGTERM: signal.SIG_IGN}):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is mine


def start_training(few_shapes, output, *opts):
    """In a separate session: a group of processes, as a terminal has it in the foreground."""
    command = [
        sys.executable,
        str(REPOSITORY / "tests" / "run_train_net.py"),
        "--config-file",
        str(REPOSITORY / "configs" / "shapes" / "fcos_shapes_demo.yaml"),
        "OUTPUT_DIR",
        str(output),
        "SOLVER.IMS_PER_BATCH",
        "2",
        "MODEL.FCOS.NUM_CLS_CONVS",
        "1",
        "MODEL.FCOS.NUM_BOX_CONVS",
        "1",
        "TEST.EVAL_PERIOD",
        "0",
        *opts,
    ]
    env = {**os.environ, "DETECTRON2_DATASETS": str(few_shapes), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, start_new_session=True)


# A terminal sends Ctrl-C to the workers too, and a cluster SIGTERM.
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_workers_too_lets_the_step_be_finished(few_shapes, tmp_path, signum, code):
    process = start_training(few_shapes, tmp_path, "DATALOADER.NUM_WORKERS", "2")
    metrics = tmp_path / "metrics.json"
    while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.1)
    os.killpg(process.pid, signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors.decode()[-3000:]
    assert b"Traceback" not in errors
    assert checkpoints_in(tmp_path) == ["model_interrupted.pth"]


def test_a_signal_in_the_first_batch_is_not_lost(tmp_path, monkeypatch):
    image_of = tiny_run.image_of

    def interrupted(index):
        if index == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return image_of(index)

    monkeypatch.setattr(tiny_run, "image_of", interrupted)
    with pytest.raises(Interrupted) as caught:
        run(tmp_path, 20)
    assert caught.value.code == 130
    assert iteration_of(tmp_path / "model_interrupted.pth") == 0


def test_a_training_with_workers_that_fails_ends(few_shapes, tmp_path):
    opts = ("SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_ITERS", "1", "SOLVER.MAX_ITER", "60")
    process = start_training(few_shapes, tmp_path, "DATALOADER.NUM_WORKERS", "1", *opts)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert b"The loss is not finite at iteration" in errors
    assert checkpoints_in(tmp_path) == []
