"""The checkpoints that a training run keeps."""

from tiny_run import checkpoints_in, run


def test_only_the_last_checkpoints_are_kept_even_after_resuming(tmp_path):
    keep = {"checkpoint_period": 2, "max_to_keep": 2}
    run(tmp_path, 8, **keep)
    assert checkpoints_in(tmp_path) == ["model_0000005.pth", "model_0000007.pth", "model_final.pth"]
    run(tmp_path, 10, resume=True, **keep)
    assert checkpoints_in(tmp_path) == ["model_0000007.pth", "model_0000009.pth", "model_final.pth"]
    run(tmp_path, 12, resume=True, **{**keep, "max_to_keep": 1})
    assert checkpoints_in(tmp_path) == ["model_0000011.pth", "model_final.pth"]


def test_checkpoints_of_another_run_are_not_deleted(tmp_path):
    run(tmp_path, 4, checkpoint_period=1)
    run(tmp_path, 2, checkpoint_period=2, max_to_keep=1)
    assert "model_0000003.pth" in checkpoints_in(tmp_path)
