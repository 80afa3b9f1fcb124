"""The hook that saves checkpoints and removes old ones, and a search for saved checkpoints."""

import os
import re
from pathlib import Path

from detectron2.engine import hooks
from fvcore.common.checkpoint import Checkpointer

from ..errors import InputError, listed

__all__ = [
    "INTERRUPTED_NAME",
    "SaveCheckpoints",
    "check_can_resume",
    "find_checkpoints",
    "has_last_checkpoint",
]

INTERRUPTED_NAME = "model_interrupted"  # without ".pth"
# Files that have weights but no state of the optimizer, so that no run can be resumed from them.
_WEIGHTS = ("model_best.pth", "model_final_ema.pth")
_CHECKPOINT = re.compile(rf"(model_\d+|model_final|{INTERRUPTED_NAME})\.pth")


def find_checkpoints(folder: str | os.PathLike[str]) -> list[str]:
    """
    Return the names of the checkpoints in a folder from which a run can be resumed.

    Files with the best or the averaged weights are not checkpoints of this kind, because they have
    no optimizer state.

    Args:
        folder (str): The output folder of a run, which may not exist.

    Returns:
        list[str]: The names, from the oldest to the newest file.
    """
    files = [file for file in Path(folder).glob("model_*.pth") if _CHECKPOINT.fullmatch(file.name)]
    return [file.name for file in sorted(files, key=lambda x: (x.stat().st_mtime_ns, x.name))]


def has_last_checkpoint(folder: str | os.PathLike[str]) -> bool:
    """Return whether an output folder has the file that names the last checkpoint."""
    return _last_checkpoint(folder).is_file()


def _last_checkpoint(folder: str | os.PathLike[str]) -> Path:
    """Return the file of fvcore that names the last checkpoint in an output folder."""
    return Path(folder) / "last_checkpoint"


def check_can_resume(output_dir: str, key: str) -> None:
    """
    Check that the file ``last_checkpoint`` in an output folder names one of the checkpoints there.

    Without the file, a new training would overwrite the checkpoints, although --resume asks to
    continue from them.

    Args:
        output_dir (str): The output folder.
        key (str): The config key of the folder, for the message.

    Raises:
        InputError: If the file names no checkpoint, or if there are checkpoints or the best weights
            of a run but no such file.
    """
    file, names = _last_checkpoint(output_dir), find_checkpoints(output_dir)
    named = file.read_text().strip() if file.is_file() else None
    weights = [x for x in _WEIGHTS if (file.parent / x).is_file()]
    if (file.parent / named).is_file() if named else named is None and not (names or weights):
        return
    other = f"set {key} to another folder, or leave --resume out."
    if named is None and not names:
        text = (
            f"--resume finds no checkpoint in {file.parent}, which has only {listed(weights)}, "
            "without the state of the optimizer that a run is resumed with."
        )
    elif named is None:
        text = (
            f"--resume finds no file {file}, which names the checkpoint to resume from, but the "
            f"folder has {listed(names)}. A new training would overwrite them."
        )
    else:
        text = f"--resume cannot continue: {file} names {named!r}, which does not exist."
    if names:
        text += (
            f" To resume from {names[-1]}, write its name to the file (echo {names[-1]} > {file})."
        )
    raise InputError(
        f"{text} To start a new training, {other}", key=key, value=output_dir, file=str(file)
    )


class SaveCheckpoints(hooks.PeriodicCheckpointer):
    """
    The hook that saves checkpoints, as detectron2's PeriodicCheckpointer with three differences.

    - ``model_final.pth`` is saved at the iteration where training ends, even if it ends early.
    - The limit on the number of checkpoints includes those saved before a resume.
    - The checkpoint of an interruption is removed when a later checkpoint is saved.

    It runs only in the main process.

    Args:
        checkpointer (Checkpointer): Saves to a local folder.
        period (int): Iterations between two checkpoints.
        max_to_keep (int): Number of periodic checkpoints to keep, the latest ones; 0 keeps all.
    """

    def __init__(self, checkpointer: Checkpointer, period: int, max_to_keep: int = 0) -> None:
        super().__init__(checkpointer, period, max_to_keep=max_to_keep or None)

    def before_train(self) -> None:
        """List the checkpoints that were saved before a resume."""
        if self.trainer.start_iter == 0:
            return  # the files belong to another run and must not be removed
        folder = Path(self.checkpointer.save_dir)
        matches = [(re.fullmatch(r"model_(\d+)\.pth", x.name), x) for x in folder.glob("model_*")]
        by_iteration = sorted((int(match[1]), str(file)) for match, file in matches if match)
        self.recent_checkpoints = [x for i, x in by_iteration if i < self.trainer.start_iter]

    def after_step(self) -> None:
        """Save a checkpoint when the period is over, and remove the oldest ones."""
        iteration = self.trainer.iter
        if (iteration + 1) % self.period != 0:
            return
        self._save(f"model_{iteration:07d}")
        if self.max_to_keep is not None:
            self.recent_checkpoints.append(self.checkpointer.get_checkpoint_file())
            while len(self.recent_checkpoints) > self.max_to_keep:
                Path(self.recent_checkpoints.pop(0)).unlink(missing_ok=True)

    def after_last_step(self) -> None:
        """Save the final weights; ``run_loop.RunLoop`` calls this method."""
        self._save("model_final")

    def _save(self, name: str) -> None:
        """Save a checkpoint and remove that of an interruption."""
        self.checkpointer.save(name, iteration=self.trainer.iter)
        folder = Path(self.checkpointer.save_dir)
        (folder / f"{INTERRUPTED_NAME}.pth").unlink(missing_ok=True)
