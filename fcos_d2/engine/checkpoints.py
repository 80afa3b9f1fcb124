"""Saving checkpoints periodically and at the end, of which old ones can be removed."""

import re
from pathlib import Path
from typing import Any

from detectron2.engine import hooks

__all__ = ["INTERRUPTED_NAME", "SaveCheckpoints"]

INTERRUPTED_NAME = "model_interrupted"  # without ".pth"


class SaveCheckpoints(hooks.PeriodicCheckpointer):
    """
    detectron2's PeriodicCheckpointer, with three differences:

    - ``model_final.pth`` is saved at whatever iteration training ends;
    - of the checkpoints to keep, those from before a resume are counted too;
    - the checkpoint of an interruption is removed when a later one is there.

    Only in the main process.
    """

    def __init__(self, checkpointer: Any, period: int, max_to_keep: int = 0) -> None:
        """
        Args:
            checkpointer (Checkpointer): which saves to a local folder.
            period (int): iterations.
            max_to_keep (int): how many periodic checkpoints are kept, the last ones; 0: all.
        """
        super().__init__(checkpointer, period, max_to_keep=max_to_keep or None)

    def before_train(self) -> None:
        if self.trainer.start_iter == 0:
            return  # files of another run are not ours to remove
        folder = Path(self.checkpointer.save_dir)
        found = [(re.fullmatch(r"model_(\d+)\.pth", x.name), x) for x in folder.glob("model_*")]
        by_iteration = sorted((int(match[1]), str(file)) for match, file in found if match)
        self.recent_checkpoints = [x for i, x in by_iteration if i < self.trainer.start_iter]

    def after_step(self) -> None:
        iteration = self.trainer.iter
        if (iteration + 1) % self.period != 0:
            return
        self._save(f"model_{iteration:07d}")
        if self.max_to_keep is not None:
            self.recent_checkpoints.append(self.checkpointer.get_checkpoint_file())
            while len(self.recent_checkpoints) > self.max_to_keep:
                Path(self.recent_checkpoints.pop(0)).unlink(missing_ok=True)

    def after_last_step(self) -> None:
        """Save the final weights, see ``run_loop.RunLoop``."""
        self._save("model_final")

    def _save(self, name: str) -> None:
        self.checkpointer.save(name, iteration=self.trainer.iter)
        folder = Path(self.checkpointer.save_dir)
        (folder / f"{INTERRUPTED_NAME}.pth").unlink(missing_ok=True)
