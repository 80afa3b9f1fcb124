"""detectron2's checkpointer with safe reading, atomic writing and checks that weights fit."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import _IncompatibleKeys
from torch import nn

from ..atomic_write import replacing
from ..errors import InputError, agree, count_words, listed
from .backbone_keys import rename_backbone_keys
from .gray_filters import sum_color_filters
from .model_parts import find_parts
from .proposal_keys import move_head_weights
from .safe_reading import name_weights_file, read_checkpoint
from .saved_weights import PLAIN_CONTAINERS, remove_wrappers

__all__ = ["FCOSCheckpointer"]

logger = logging.getLogger(__name__)


class FCOSCheckpointer(DetectionCheckpointer):
    """
    A checkpointer that reads weights safely and checks that they fit the model.

    DetectionCheckpointer executes code from .pkl files, and silently trains from random weights if
    no weight of a file fits. The differences are:

    - Files are read by ``safe_reading.read_checkpoint``.
    - A .pkl file may have arrays under the names of this model. Prefixes that wrappers add to all
      names are removed, as in ``saved_weights.find_weights``.
    - A model for images with one channel starts from weights for three channels
      (``gray_filters.sum_color_filters``), unless all weights are required.
    - The head of a one-stage FCOS becomes that of a proposal generator
      (``proposal_keys.move_head_weights``).
    - Files with only a backbone are recognized (``backbone_keys.rename_backbone_keys``).
    - Loading fails if no backbone weight fits. It also fails if the file has weights for a head, in
      any part of the model, and none of them fits. If the file has no weights for a head, a warning
      names the head, unless the file has only a backbone.
    - A class layer for another number of classes keeps its initial weights, with a warning.
    - Checkpoints are written to a temporary file that is then renamed.

    Attributes:
        complete (bool): Whether every parameter must be in the file.
        not_loaded (list[str]): The names in the model's state dict that the last call of ``load``
            has not loaded.
        backbone_source (str): If the file has only a backbone, what kind of file it is; see
            ``backbone_keys.rename_backbone_keys``.
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
        Create a checkpointer for a model.

        Args:
            model (nn.Module): See DetectionCheckpointer.
            save_dir (str): See DetectionCheckpointer.
            complete (bool): Require every parameter from the file, as an evaluation does.
            key (str): The config key that names the file, for messages.
            **kwargs: See DetectionCheckpointer.
        """
        super().__init__(model, save_dir, **kwargs)
        self.complete = complete
        self._resumes = False
        self._parts = find_parts(self.model)
        self._key = key
        self._path = ""
        self._reported: set[str] = set()  # weights that have been logged as not loaded
        self.not_loaded = list(self.model.state_dict())
        self.backbone_source = ""

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """
        Load a checkpoint as DetectionCheckpointer does.

        Args:
            path (str): A file, or an address that detectron2's PathManager knows.
            *args: See DetectionCheckpointer.
            **kwargs: See DetectionCheckpointer.

        Returns:
            dict: The rest of the checkpoint.

        Raises:
            InputError: If the file is missing, damaged or unsafe, or has weights of another
                architecture.
        """
        self._path = path
        self._reported = set()
        self.not_loaded = list(self.model.state_dict())
        self.backbone_source = ""
        if self.complete and not path:
            text = f"{self._key} is empty: the weights would be random."
            raise InputError(text, key=self._key, value=path)
        try:
            return super().load(path, *args, **kwargs)
        except (OSError, AssertionError) as error:
            reason = str(error).rstrip(".!")
            if path == self.get_checkpoint_file():
                last_checkpoint = Path(self.save_dir) / "last_checkpoint"
                raise InputError(
                    f"{path}, which {last_checkpoint} names, cannot be opened: {reason}. Write "
                    "the name of another checkpoint to that file."
                ) from error
            raise InputError(
                f"{self._key} = {path!r} cannot be opened: {reason}. Give a file that exists, or "
                "an address that this machine can reach.",
                key=self._key,
                value=path,
            ) from error

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """
        Resume or load as DetectionCheckpointer does, but require that a resumed checkpoint fits.

        Each entry of the optimizer's state belongs to one parameter, in the order of parameters.

        Args:
            path (str): The file to load if there is no checkpoint to resume from.
            resume (bool): Resume from the last checkpoint in ``save_dir``, if there is one.

        Returns:
            dict: The rest of the checkpoint.

        Raises:
            InputError: See ``load``. The error is also raised if a resumed checkpoint does not fit
                the model.
        """
        if not (resume and self.has_checkpoint()):
            return super().resume_or_load(path, resume=resume)
        before, self.complete, self._resumes = self.complete, True, True
        try:
            return super().resume_or_load(path, resume=resume)
        finally:
            self.complete, self._resumes = before, False

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Read a file into a dict that has the weights under "model"."""
        content = read_checkpoint(filename)
        suffix = Path(filename).suffix.lower()
        if suffix == ".pkl" and "model" in content and "__author__" in content:
            return content  # detectron2's model zoo
        if suffix == ".pyth" and "model_state" in content:  # pycls
            weights = _weights_under(["model_state"], content)
            weights = {k: v for k, v in weights.items() if "num_batches_tracked" not in k}
            return {"model": weights, "__author__": "pycls", "matching_heuristics": True}
        weights = _weights_under(["blobs", *PLAIN_CONTAINERS], content)
        # Names of Caffe2 have no dots, and names of PyTorch do.
        is_caffe2 = "blobs" in content or not any("." in str(name) for name in weights)
        if suffix == ".pkl" and is_caffe2:
            weights = {k: v for k, v in weights.items() if not k.endswith("_momentum")}
            return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
        if not isinstance(content.get("model"), dict):
            content = {"model": weights}
        if parse_qs(urlparse(self._path).query).get("matching_heuristics") == ["True"]:
            content["matching_heuristics"] = True
        return content

    def _load_model(self, checkpoint: dict[str, Any]) -> _IncompatibleKeys:
        """Load the weights into the model, and check that they fit."""
        weights = checkpoint["model"]
        if not isinstance(weights, dict) or not weights:
            raise InputError(f"The weights file {self._path} has no weights by name.")
        not_weights = [str(k) for k, v in weights.items() if not _is_weight(k, v)]
        if not_weights:
            raise InputError(
                f"The weights file {self._path} has entries that are not weights by name: "
                f"{listed(not_weights)}."
            )
        model_state = self.model.state_dict()
        if model_state.keys().isdisjoint(weights):
            weights = remove_wrappers(weights)
        weights = checkpoint["model"] = move_head_weights(weights, self._parts.heads)
        names = list(weights)
        if not self.complete:
            self._adapt_to_gray_images(weights)
        if not checkpoint.get("matching_heuristics") and model_state.keys().isdisjoint(names):
            self._rename_backbone(checkpoint, {k: v.shape for k, v in model_state.items()})
        # Old versions of FrozenBatchNorm2d had no statistics, so missing_keys does not report them.
        absent = model_state.keys() - checkpoint["model"].keys()
        if checkpoint.get("matching_heuristics"):
            absent = set()  # the names differ; the heuristics match them during loading
        if self._resumes:
            self._check_order(names)
        incompatible = super()._load_model(checkpoint)
        missing = absent | set(incompatible.missing_keys)
        self.not_loaded = [name for name in model_state if name in missing]
        class_layers = {f"{head}cls_logits.weight" for head in self._parts.heads}
        other_numbers = {
            (in_file[0], in_model[0])
            for key, in_file, in_model in incompatible.incorrect_shapes
            if key in class_layers and in_file[0] != in_model[0]
        }
        self._check_match(names, missing, other_numbers)
        for in_file, in_model in other_numbers:
            owner = "the model" if "head." in self._parts.heads else "the proposal generator"
            logger.warning(
                "%s was trained for another number of classes (%d) than %s has (%d): its class "
                "layer is not loaded, and starts from initial weights.",
                self._path,
                in_file,
                owner,
                in_model,
            )
        if other_numbers:
            prefixes = tuple(f"{head}cls_logits." for head in self._parts.heads)
            self._reported.update(x for x in model_state if x.startswith(prefixes))
        return incompatible

    def _log_incompatible_keys(self, incompatible: _IncompatibleKeys) -> None:
        """Log what does not fit, with one line for all weights of another shape."""
        shapes = [x for x in incompatible.incorrect_shapes if x[0] not in self._reported]
        if shapes:
            logger.warning(
                "%s has another shape of %s not loaded: %s.",
                self._path,
                count_words(
                    len(shapes), "{weight of the model, which is|weights of the model, which are}"
                ),
                listed([f"{x} {in_file} instead of {in_model}" for x, in_file, in_model in shapes]),
            )
        reported = {*self._reported, *(name for name, _, _ in shapes)}
        missing = [name for name in incompatible.missing_keys if name not in reported]
        super()._log_incompatible_keys(
            incompatible._replace(missing_keys=missing, incorrect_shapes=[])
        )

    def _rename_backbone(
        self, checkpoint: dict[str, Any], model_shapes: dict[str, torch.Size]
    ) -> None:
        """Rename the weights of a file without a fitting name, if they are those of a backbone."""
        with name_weights_file(self._path):
            renamed = rename_backbone_keys(checkpoint["model"], model_shapes)
        if renamed is not None:
            checkpoint["model"], self.backbone_source = renamed
            logger.info(
                "%s has only the weights of a backbone (%s).", self._path, self.backbone_source
            )

    def _adapt_to_gray_images(self, weights: dict[str, Any]) -> None:
        """Sum the filters of the first layer, if they are for color images and the model's not."""
        name = sum_color_filters(weights, self.model)
        if name:
            logger.info(
                "%s is for images with three channels: the filters of %s are summed over the "
                "channels, because the model's images have one channel.",
                self._path,
                name,
            )

    def _check_order(self, names: list[str]) -> None:
        """
        Check that the parameters have the same order in the file and in the model.

        An optimizer's state identifies parameters by their number.
        """
        parameters = [name for name, _ in self.model.named_parameters()]
        known = set(parameters)
        saved = [name for name in names if name in known]
        for in_file, in_model in zip(saved, parameters, strict=False):
            if in_file != in_model:
                raise InputError(
                    f"{self._path} cannot be resumed: its parameters are in another order than "
                    f"those of the model ({in_file} instead of {in_model}), so the "
                    "optimizer's state would be assigned to the wrong parameters. Start a new "
                    f"training from its weights: {self._key} {self._path}, without --resume."
                )

    def _check_match(
        self, names: list[str], missing: set[str], other_numbers: Iterable[tuple[int, int]]
    ) -> None:
        """
        Check that the weights of the file fit the parts of the model.

        Args:
            names (list[str]): The names in the file.
            missing (set[str]): The names in the model that were not loaded.
            other_numbers (Iterable[tuple[int, int]]): The numbers of classes of the file and of
                the model, for each class layer in which they differ.

        Raises:
            InputError: If no weight of a part fits, or if a weight is missing although all weights
                are required.
        """
        # PyTorch creates missing counters, so they are never missing.
        expected = [k for k in self.model.state_dict() if not k.endswith("num_batches_tracked")]
        backbones = tuple(self._parts.backbones)
        # Whether some names are of the backbone and some are not: not a classifier or a backbone.
        is_detector = len({k.startswith(backbones) for k in names}) == 2
        for part in (*self._parts.backbones, *self._parts.heads):
            in_part = {k for k in expected if k.startswith(part)}
            if not in_part or not in_part <= missing:
                continue
            if part in backbones or any(k.startswith(part) for k in names):
                raise InputError(
                    f"The weights file {self._path} is of another architecture: none of the "
                    f"{len(in_part)} weights {part}* of the model is in it with the same shape.\n"
                    f"  the model has: {listed(sorted(in_part))}\n"
                    f"  the file has:  {listed(names)}"
                )
            if is_detector:
                logger.warning(
                    "%s has none of the %d weights %s*: they stay random.",
                    self._path,
                    len(in_part),
                    part,
                )
                self._reported |= in_part
        # Buffers count, because frozen norms have only buffers. Not counted are the buffers of the
        # model itself, which are not weights, and the statistics that losses keep between batches.
        lacking = [
            k for k in expected if k in missing and "." in k and k not in self._parts.loss_buffers
        ]
        if self.complete and lacking and all(".cls_logits." in f".{k}" for k in lacking):
            for in_file, in_model in other_numbers:
                raise InputError(
                    f"{self._path} was trained for {count_words(in_file, '{class|classes}')}, but "
                    "the model has "
                    f"{in_model}. A test set needs the same categories as the training set, and "
                    "the config needs their number (in an evaluation, -1 means the number of the "
                    "test set, unless a config next to the weights has the class names)."
                )
        if self.complete and lacking:
            raise InputError(
                f"The weights file {self._path} lacks "
                f"{count_words(len(lacking), '{weight|weights}')} of the model, or has "
                f"{agree('{it|them}', len(lacking))} in another shape, so random values would be "
                f"used: {listed(lacking)}. Give the config that the file was made with."
            )

    def save(self, name: str, **kwargs: Any) -> None:
        """
        Save a checkpoint as DetectionCheckpointer does, but never leave a half-written file.

        Args:
            name (str): The name of the file, without .pth.
            **kwargs: More entries of the checkpoint.
        """
        if not os.path.isdir(self.save_dir) or not self.save_to_disk:
            super().save(name, **kwargs)  # this process does not write, or not to a local disk
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
        """Write the name of the checkpoint from which ``--resume`` resumes."""
        with replacing(Path(self.save_dir) / "last_checkpoint") as temporary:
            temporary.write_text(last_filename_basename)


def _weights_under(names: Iterable[str], content: dict[str, Any]) -> dict[str, Any]:
    """Return the first dict under one of the names, or the content itself if there is none."""
    dicts = (content[name] for name in names if isinstance(content.get(name), dict))
    return next(dicts, content)


def _is_weight(name: Any, value: Any) -> bool:
    """Check that an entry is a tensor or an array of numbers under a string."""
    if isinstance(value, np.ndarray):
        return isinstance(name, str) and value.dtype.kind in "biuf"
    return isinstance(name, str) and isinstance(value, torch.Tensor)
