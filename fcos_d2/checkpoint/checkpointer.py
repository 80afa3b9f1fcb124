"""detectron2's checkpointer, reading safely, writing whole files, and saying what did not fit."""

import logging
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from ..atomic_write import replacing
from ..errors import InputError
from .backbone_keys import rename_backbone_keys
from .safe_reading import read_checkpoint

__all__ = ["FCOSCheckpointer"]

logger = logging.getLogger(__name__)

_CLASS_LAYER = "head.cls_logits.weight"
_NUM_LISTED = 8  # keys that an error lists


class FCOSCheckpointer(DetectionCheckpointer):
    """
    In place of DetectionCheckpointer, which executes what a .pkl file says, and which trains on
    random weights when a file has none that fit.

    - Files are read by :func:`.safe_reading.read_checkpoint`.
    - The weights of a backbone alone are recognised (:func:`.backbone_keys.rename_backbone_keys`).
    - Loading fails when no backbone weight fits, or when the file has a head and none of it fits.
    - A class layer for another number of classes is left at its initial weights, which is said.
    - Checkpoints are written under a temporary name and renamed.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, complete: bool = False, **kwargs: Any
    ) -> None:
        """
        Args:
            model, save_dir, kwargs: see DetectionCheckpointer.
            complete (bool): every parameter must come from the file, as an evaluation wants it.
        """
        super().__init__(model, save_dir, **kwargs)
        self.complete = complete
        self._path = ""

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """
        DetectionCheckpointer's.

        Raises:
            InputError: the file is not there, unreadable, unsafe, or of another architecture.
        """
        self._path = path
        try:
            return super().load(path, *args, **kwargs)
        except (OSError, AssertionError) as error:
            source = f"MODEL.WEIGHTS = {path!r}"
            if path == self.get_checkpoint_file():
                source = f"{path}, which {Path(self.save_dir) / 'last_checkpoint'} names,"
            raise InputError(
                f"{source} cannot be opened: {error}. Give a file that is there, or an address "
                "that this machine can reach."
            ) from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_checkpoint(filename)
        if filename.endswith(".pkl"):
            if "model" in content and "__author__" in content:
                return content  # detectron2's model zoo
            weights = content.get("blobs", content)  # Caffe2's
            weights = {k: v for k, v in weights.items() if not k.endswith("_momentum")}
            return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
        if filename.endswith(".pyth") and "model_state" in content:  # pycls
            weights = {
                k: v for k, v in content["model_state"].items() if "num_batches_tracked" not in k
            }
            return {"model": weights, "__author__": "pycls", "matching_heuristics": True}
        if not isinstance(content.get("model"), dict):
            content = {"model": content}
        if parse_qs(urlparse(self._path).query).get("matching_heuristics") == ["True"]:
            content["matching_heuristics"] = True
        return content

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        weights = checkpoint["model"]
        strangers = [k for k, v in weights.items() if not hasattr(v, "shape")]
        if strangers or not weights:
            raise InputError(
                f"The weights file {self._path} has no weights by name"
                + (f": {_listed(strangers)} are none." if strangers else ".")
            )
        names = list(weights)
        own = self.model.state_dict()
        if not checkpoint.get("matching_heuristics") and not any(
            k.removeprefix("module.") in own for k in names
        ):
            self._take_for_backbone(checkpoint, {k: v.shape for k, v in own.items()})
        incompatible = super()._load_model(checkpoint)
        self._check_match(names, set(incompatible.missing_keys))
        for key, in_file, in_model in incompatible.incorrect_shapes:
            if key == _CLASS_LAYER:
                logger.warning(
                    "%s was trained for %d classes, the model has %d: its class layer is not "
                    "taken, and starts from new weights.", self._path, in_file[0], in_model[0],
                )  # fmt: skip
        return incompatible

    def _take_for_backbone(
        self, checkpoint: dict[str, Any], model_shapes: dict[str, torch.Size]
    ) -> None:
        """Not a name fits: they may be the weights of a classifier."""
        try:
            renamed = rename_backbone_keys(checkpoint["model"], model_shapes)
        except InputError as error:
            raise InputError(f"The weights file {self._path}: {error}") from error
        if renamed is not None:
            checkpoint["model"], source = renamed
            logger.info("%s has the weights of a backbone alone (%s).", self._path, source)

    def _check_match(self, names: list[str], missing: set[str]) -> None:
        """``names`` are those of the file, ``missing`` what the model did not find in it."""
        # PyTorch makes up a missing counter, so that it never counts as missing.
        wanted = {k for k in self.model.state_dict() if not k.endswith("num_batches_tracked")}
        for part in ("backbone.", "head."):
            of_part = {k for k in wanted if k.startswith(part)}
            in_file = part == "backbone." or any(k.startswith(part) for k in names)
            if of_part and in_file and of_part <= missing:
                raise InputError(
                    f"The weights file {self._path} is of another architecture: none of the "
                    f"{len(of_part)} weights {part}* of the model is in it with the same shape.\n"
                    f"  the model has: {_listed(sorted(of_part))}\n"
                    f"  the file has:  {_listed(names)}"
                )
        parameters = [k for k, _ in self.model.named_parameters() if k in missing]
        if self.complete and parameters:
            raise InputError(
                f"The weights file {self._path} lacks {len(parameters)} weights of the model, or "
                "has them in another shape; evaluating would use random ones in their place: "
                f"{_listed(parameters)}"
            )

    def save(self, name: str, **kwargs: Any) -> None:
        """DetectionCheckpointer's, but an interruption leaves no half-written file behind."""
        if not os.path.isdir(self.save_dir) or not self.save_to_disk:
            super().save(name, **kwargs)  # not here at all, or not on a local disk
            return
        content = {"model": self.model.state_dict()}
        content.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        content.update(kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        with replacing(path) as temporary:
            torch.save(content, temporary)
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write down which file training resumes from."""
        with replacing(Path(self.save_dir) / "last_checkpoint") as temporary:
            temporary.write_text(last_filename_basename)


def _listed(keys: list[str]) -> str:
    more = f", ... ({len(keys)} in all)" if len(keys) > _NUM_LISTED else ""
    return ", ".join(keys[:_NUM_LISTED]) + more
