"""A training run that gets a signal finishes its step, saves a checkpoint and ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest
import tiny_run
import torch
from commands import REPOSITORY, SHAPES_CONFIG
from tiny import read_metrics
from tiny_run import checkpoints_in, run
from two_processes import run_in_two_processes

from fcos_d2.engine.signals import Interrupted, block_signals, forward_signals, handle_signals

# The exit code of a process after a signal is 128 + the number of the signal.
CODES = pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


def iteration_of(file):
    return torch.load(file, weights_only=True)["iteration"]


def send(signum):
    return lambda _: os.kill(os.getpid(), signum)


@CODES
def test_a_signal_saves_a_checkpoint_after_the_step(tmp_path, caplog, signum, code):
    before = [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) as caught:
        run(tmp_path, 20, at={5: send(signum)})
    assert caught.value.code == code
    assert checkpoints_in(tmp_path) == ["model_interrupted.pth"]
    assert iteration_of(tmp_path / "model_interrupted.pth") == 5
    (line,) = (x for x in caplog.messages if "--resume" in x)
    assert str(tmp_path / "model_interrupted.pth") in line
    assert read_metrics(tmp_path)[-1]["iteration"] == 5  # The losses so far are logged.
    assert [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_interrupted_run_ends_with_the_weights_and_files_of_an_uninterrupted_run(tmp_path):
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
    kinds = ("0000007", "0000011", "best", "final", "final_ema")
    assert names == [f"model_{x}.pth" for x in kinds]
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
def test_a_signal_ends_an_evaluation_at_once(tmp_path, eval_period, expected):
    def evaluate(model, output_dir):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        pytest.fail("the evaluation continued")

    with pytest.raises(Interrupted):
        run(tmp_path, 4, evaluate, eval_period=eval_period)
    assert checkpoints_in(tmp_path) == [expected]
    assert iteration_of(tmp_path / expected) == (1 if eval_period else 3)


def test_without_the_setting_a_signal_has_its_usual_effect_and_no_checkpoint_is_saved(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 20, at={5: send(signal.SIGINT)}, checkpoint_at_signal=False)
    assert checkpoints_in(tmp_path) == []


def test_training_works_in_a_thread_that_cannot_install_handlers(tmp_path):
    trainers = []
    thread = threading.Thread(target=lambda: trainers.append(run(tmp_path, 2)))
    thread.start()
    thread.join()
    assert trainers[0].iter == 2


def train_with_two_signals(folder):
    def send_twice(_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.2)
        os.kill(os.getpid(), signal.SIGTERM)

    run(folder, 20, at={5: send_twice})


def test_a_second_signal_ends_the_process_at_once(tmp_path):
    context = torch.multiprocessing.get_context("fork")
    process = context.Process(target=train_with_two_signals, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGTERM
    assert checkpoints_in(tmp_path) == []


def test_signals_are_blocked_while_processes_start():
    def blocked():
        return signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT, signal.SIGTERM}

    with block_signals():
        assert blocked() == {signal.SIGINT, signal.SIGTERM}
    assert not blocked()


def train_until_a_signal(rank, folder, parent):
    at = dict.fromkeys(range(8, 40), lambda _: time.sleep(0.1))
    if rank == 1:
        at[7] = lambda _: os.kill(parent, signal.SIGTERM)
    run(folder, 10**6, at=at, log_period=5)


def test_all_processes_end_at_a_signal_to_their_parent(tmp_path):
    function = partial(train_until_a_signal, parent=os.getpid())
    with pytest.raises(Interrupted) as caught, forward_signals():
        run_in_two_processes(function, tmp_path)
    assert caught.value.code == 143
    assert checkpoints_in(tmp_path) == ["model_interrupted.pth"]
    # Losses are read after the iterations 4, 9, 14, ...
    assert iteration_of(tmp_path / "model_interrupted.pth") % 5 == 4


def test_earlier_handlers_are_restored():
    def mine(*_):
        pass

    with handle_signals({signal.SIGTERM: mine}):
        with handle_signals({signal.SIGTERM: signal.SIG_IGN}):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is mine


def start_training(few_shapes, output, *opts):
    """Start train_net.py in a separate session, like a command in the foreground of a terminal."""
    command = [sys.executable, str(REPOSITORY / "tests" / "run_train_net.py")]
    command += ["--config-file", SHAPES_CONFIG, "OUTPUT_DIR", str(output)]
    command += ["MODEL.FCOS.NUM_CLS_CONVS", "1", "MODEL.FCOS.NUM_BOX_CONVS", "1"]
    command += ["SOLVER.IMS_PER_BATCH", "2", "TEST.EVAL_PERIOD", "0", *opts]
    env = {**os.environ, "DETECTRON2_DATASETS": str(few_shapes), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, start_new_session=True)


# A terminal sends Ctrl-C to the data loader's workers too, and a cluster sends SIGTERM to them.
@CODES
def test_the_step_is_finished_also_if_the_workers_get_the_signal(
    few_shapes, tmp_path, signum, code
):
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
    draw_image = tiny_run.draw_image

    def interrupt(index):
        if index == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return draw_image(index)

    monkeypatch.setattr(tiny_run, "draw_image", interrupt)
    with pytest.raises(Interrupted) as caught:
        run(tmp_path, 20)
    assert caught.value.code == 130
    assert iteration_of(tmp_path / "model_interrupted.pth") == 0


def test_a_run_with_workers_ends_if_training_fails(few_shapes, tmp_path):
    opts = "SOLVER.BASE_LR 1e30 SOLVER.WARMUP_ITERS 1 SOLVER.MAX_ITER 60 DATALOADER.NUM_WORKERS 1"
    process = start_training(few_shapes, tmp_path, *opts.split())
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert b"not finite" in errors
    assert checkpoints_in(tmp_path) == []
