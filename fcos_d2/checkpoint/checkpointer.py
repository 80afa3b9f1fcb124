"""detectron2's checkpointer, reading safely, writing whole files, and saying what did not fit."""

import logging
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from ..atomic_write import replacing
from ..errors import InputError, listed
from .backbone_keys import rename_backbone_keys
from .model_parts import find_parts
from .safe_reading import read_checkpoint

__all__ = ["FCOSCheckpointer"]

logger = logging.getLogger(__name__)


class FCOSCheckpointer(DetectionCheckpointer):
    """
    In place of DetectionCheckpointer, which executes what a .pkl file says, and which trains on
    random weights when a file has none that fit.

    - Files are read by ``safe_reading.read_checkpoint``.
    - The weights of a backbone alone are recognised (``backbone_keys.rename_backbone_keys``).
    - Loading fails when no backbone weight fits, or when the file has weights under the name of a
      head, wherever in the model it is, and none of them fits. A head that the file has nothing for
      is named in a warning, unless the file is of a backbone alone.
    - A class layer for another number of classes is left at its initial weights, which is said.
    - Checkpoints are written under a temporary name and renamed.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        complete: bool = False,
        key: str = "MODEL.WEIGHTS",
        **kwargs: Any,
    ) -> None:
        """
        Args:
            model, save_dir, kwargs: see DetectionCheckpointer.
            complete (bool): every parameter must come from the file, as an evaluation wants it.
            key (str): of the config, that names the file.
        """
        super().__init__(model, save_dir, **kwargs)
        self.complete = complete
        self._resumes = False
        self._parts = find_parts(self.model)
        self._key = key
        self._path = ""
        self.backbone_source = ""

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """
        DetectionCheckpointer's.

        Raises:
            InputError: the file is not there, unreadable, unsafe, or of another architecture.
        """
        self._path = path
        self.backbone_source = ""  # what rename_backbone_keys calls it
        if self.complete and not path:
            raise InputError(f"{self._key} is empty: the weights would be random.")
        try:
            return super().load(path, *args, **kwargs)
        except (OSError, AssertionError) as error:
            source = f"{self._key} = {path!r}"
            if path == self.get_checkpoint_file():
                source = f"{path}, which {Path(self.save_dir) / 'last_checkpoint'} names,"
            raise InputError(
                f"{source} cannot be opened: {error}. Give a file that is there, or an address "
                "that this machine can reach."
            ) from error

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """
        DetectionCheckpointer's, but what is resumed must fit: the optimizer's state belongs to the
        weights one by one.
        """
        if not (resume and self.has_checkpoint()):
            return super().resume_or_load(path, resume=resume)
        before, self.complete, self._resumes = self.complete, True, True
        try:
            return super().resume_or_load(path, resume=resume)
        finally:
            self.complete, self._resumes = before, False

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_checkpoint(filename)
        suffix = Path(filename).suffix.lower()
        if suffix == ".pkl":
            if "model" in content and "__author__" in content:
                return content  # detectron2's model zoo
            weights = _weights_under("blobs", content)  # Caffe2's
            weights = {k: v for k, v in weights.items() if not k.endswith("_momentum")}
            return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
        if suffix == ".pyth" and "model_state" in content:  # pycls
            weights = _weights_under("model_state", content)
            weights = {k: v for k, v in weights.items() if "num_batches_tracked" not in k}
            return {"model": weights, "__author__": "pycls", "matching_heuristics": True}
        if not isinstance(content.get("model"), dict):
            content = {"model": _weights_under("state_dict", content)}  # many projects' name
        if parse_qs(urlparse(self._path).query).get("matching_heuristics") == ["True"]:
            content["matching_heuristics"] = True
        return content

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        weights = checkpoint["model"]
        if not isinstance(weights, dict) or not weights:
            raise InputError(f"The weights file {self._path} has no weights by name.")
        strangers = [str(k) for k, v in weights.items() if not _is_weight(k, v)]
        if strangers:
            raise InputError(
                f"The weights file {self._path} has no weights by name: {listed(strangers)} are "
                "none."
            )
        names = list(weights)
        own = self.model.state_dict()
        if not checkpoint.get("matching_heuristics") and not any(
            k.removeprefix("module.") in own for k in names
        ):
            self._take_for_backbone(checkpoint, {k: v.shape for k, v in own.items()})
        # Old FrozenBatchNorm2d had no statistics, so that PyTorch calls none of theirs missing.
        absent = set(own) - {k.removeprefix("module.") for k in checkpoint["model"]}
        if checkpoint.get("matching_heuristics"):
            absent = set()  # other names; what they stand for is found below
        if self._resumes:
            self._check_order(names)
        incompatible = super()._load_model(checkpoint)
        self._check_match(names, absent | set(incompatible.missing_keys))
        for key, in_file, in_model in incompatible.incorrect_shapes:
            is_class_layer = key in {f"{head}cls_logits.weight" for head in self._parts.heads}
            if is_class_layer and in_file[0] != in_model[0]:
                logger.warning(
                    "%s was trained for %d classes, the model has %d: its class layer is not "
                    "taken, and starts from new weights.",
                    self._path,
                    in_file[0],
                    in_model[0],
                )
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
            checkpoint["model"], self.backbone_source = renamed
            logger.info(
                "%s has the weights of a backbone alone (%s).", self._path, self.backbone_source
            )

    def _check_order(self, names: list[str]) -> None:
        """An optimizer's state is by number: parameters must have kept their order."""
        own = [name for name, _ in self.model.named_parameters()]
        saved = [k for k in (name.removeprefix("module.") for name in names) if k in set(own)]
        for in_file, in_model in zip(saved, own, strict=False):
            if in_file != in_model:
                raise InputError(
                    f"{self._path} cannot be resumed: its parameters come in another order than "
                    f"the model's ({in_file} where that has {in_model}), and the optimizer's state "
                    f"would reach others. Start again from its weights: {self._key} "
                    f"{self._path}, without --resume."
                )

    def _check_match(self, names: list[str], missing: set[str]) -> None:
        """``names`` are those of the file, ``missing`` what the model did not find in it."""
        # PyTorch makes up a missing counter, so that it never counts as missing.
        wanted = [k for k in self.model.state_dict() if not k.endswith("num_batches_tracked")]
        backbones = tuple(self._parts.backbones)
        saved = [k.removeprefix("module.") for k in names]
        # Names of a detector, and not of a classifier or of a backbone alone.
        is_detector = len({k.startswith(backbones) for k in saved}) == 2
        for part in (*self._parts.backbones, *self._parts.heads):
            of_part = {k for k in wanted if k.startswith(part)}
            if not of_part or not of_part <= missing:
                continue
            if part in backbones or any(k.startswith(part) for k in saved):
                raise InputError(
                    f"The weights file {self._path} is of another architecture: none of the "
                    f"{len(of_part)} weights {part}* of the model is in it with the same shape.\n"
                    f"  the model has: {listed(sorted(of_part))}\n"
                    f"  the file has:  {listed(names)}"
                )
            if is_detector:
                logger.warning(
                    "%s has none of the %d weights %s*: they stay random.",
                    self._path,
                    len(of_part),
                    part,
                )
        # Norms that are frozen have buffers only. Buffers of the model itself are no weights.
        # Neither is what losses remember of batches.
        lacking = [k for k in wanted if k in missing and "." in k and k not in self._parts.memories]
        if self.complete and lacking:
            raise InputError(
                f"The weights file {self._path} lacks {len(lacking)} weights of the model, or has "
                "them in another shape, and random ones would stand in for them: "
                f"{listed(lacking)}. Give the config that the file was made with."
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


def _weights_under(name: str, content: dict[str, Any]) -> dict[str, Any]:
    inner = content.get(name)
    return inner if isinstance(inner, dict) else content


def _is_weight(name: Any, value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return isinstance(name, str) and value.dtype.kind in "biuf"
    return isinstance(name, str) and isinstance(value, torch.Tensor)
