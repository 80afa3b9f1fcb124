"""
The comparison of an exported file with the model that it was made from.

N = images, D = detections of an image.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from detectron2.structures import Instances
from torch import Tensor

from ..errors import InputError, count_words
from ..modeling import FCOS
from .program_info import ProgramInfo
from .running import SMALLEST_SIZE, RunFunction, pad_to_accepted_size
from .tensor_model import Detections, TensorHead

__all__ = ["Agreement", "compare_detections", "compare_with_model"]

BOX_TOLERANCE = 0.01  # pixels
SCORE_TOLERANCE = 1e-4
# Two scores that are equal except for rounding can change places, and with them what NMS removes
# and what is among the top-k. So this fraction of the detections may differ, and always one.
MAX_DIFFERENT_FRACTION = 0.01
RAW_TOLERANCE = 1e-3  # of the largest value of a map


class Agreement(NamedTuple):
    """
    How well the outputs of a file agree with those of the model.

    Attributes:
        num_images (int): Number of images.
        num_detections (int): Number of the model's detections in them.
        num_missing (int): Number of the model's detections without a counterpart, of the same class
            and within the tolerances, in the file.
        num_additional (int): Number of the file's detections without a counterpart in the model.
        box_difference (float): Largest difference of a coordinate of counterparts, in pixels.
        score_difference (float): Largest difference of their scores.
        raw_difference (float | None): For raw outputs: the largest difference of a value, divided
            by the largest value of its map; infinite if one of the two is not finite.
    """

    num_images: int = 0
    num_detections: int = 0
    num_missing: int = 0
    num_additional: int = 0
    box_difference: float = 0.0
    score_difference: float = 0.0
    raw_difference: float | None = None

    def join(self, other: "Agreement") -> "Agreement":
        """Return the agreement for the images of both."""
        raw = [x.raw_difference for x in (self, other) if x.raw_difference is not None]
        return Agreement(
            self.num_images + other.num_images,
            self.num_detections + other.num_detections,
            self.num_missing + other.num_missing,
            self.num_additional + other.num_additional,
            max(self.box_difference, other.box_difference),
            max(self.score_difference, other.score_difference),
            max(raw, default=None),
        )

    def check(self, name: str) -> None:
        """
        Check that the outputs agree.

        Args:
            name (str): The name of the file.

        Raises:
            InputError: If they don't.
        """
        allowed = max(1.0, MAX_DIFFERENT_FRACTION * self.num_detections)
        is_equal = max(self.num_missing, self.num_additional) <= allowed
        if not is_equal or (self.raw_difference or 0.0) > RAW_TOLERANCE:
            raise InputError(
                f"{name} was not written, because it differs from the model: {self}. If many "
                "scores of the model are equal, as before training, compare other images (images, "
                "--images)."
            )

    def __str__(self) -> str:
        images = count_words(self.num_images, "{image|images}")
        if self.raw_difference is not None:
            return f"{images}, largest relative difference {self.raw_difference:.1g}"
        detections = count_words(self.num_detections, "{detection|detections}")
        text = (
            f"{detections} in {images}, largest difference of boxes {self.box_difference:.1g} "
            f"pixels, of scores {self.score_difference:.1g}"
        )
        if self.num_missing or self.num_additional:
            text += f"; {self.num_missing} are missing, {self.num_additional} are additional"
        return text


def compare_with_model(
    run: RunFunction, info: ProgramInfo, model: FCOS, images: Sequence[Tensor]
) -> Agreement:
    """
    Run a file and the model on the same images.

    Args:
        run (Callable): The file.
        info (ProgramInfo): The metadata of the file.
        model (FCOS): The model, in evaluation mode.
        images (list[Tensor]): (C, H, W) uint8 images, of any sizes that fit into the file's.
    """
    agreement = Agreement()
    for batch in _make_batches(images, info):
        outputs = run(batch.to(getattr(torch, info.input_dtype)))
        if info.is_raw:
            with torch.no_grad():
                expected_maps = TensorHead(model)(batch.to(model.device))
            difference = _find_largest_difference(outputs, expected_maps)
            agreement = agreement.join(Agreement(len(batch), raw_difference=difference))
            continue
        detections = Detections(*(x.cpu() for x in outputs))
        with torch.no_grad():
            expected = [x["instances"].to("cpu") for x in model([{"image": x} for x in batch])]
        for index, instances in enumerate(expected):
            agreement = agreement.join(compare_detections(instances, *detections.of_image(index)))
    return agreement


def _make_batches(images: Sequence[Tensor], info: ProgramInfo) -> Iterator[Tensor]:
    """Yield batches (N, C, H, W) of all kinds that a file accepts."""
    padded = [pad_to_accepted_size(image, info) for image in images]
    number = info.batch_size
    for image in padded:
        # A mirrored image is another one of the same size.
        views = torch.stack([image, image.flip(2)])  # (2, C, H, W)
        yield views[:1] if number is None else views[torch.arange(number) % 2]
    first = padded[0]
    if number is None:
        yield torch.stack([first, first.flip(2), first.flip(1)])
    if info.image_size is None:
        yield first[None, :, :SMALLEST_SIZE, :SMALLEST_SIZE].repeat(number or 1, 1, 1, 1)


def compare_detections(
    expected: Instances, boxes: Tensor, scores: Tensor, classes: Tensor
) -> Agreement:
    """
    Pair the detections of the model and of a file in an image.

    Args:
        expected (Instances): Detections of the model.
        boxes (Tensor): (D, 4) boxes of the file.
        scores (Tensor): (D,) their scores.
        classes (Tensor): (D,) their classes.
    """
    is_free = torch.ones(len(scores), dtype=torch.bool)
    pairs = []  # differences of the box and of the score
    for box, score, class_idx in zip(
        expected.pred_boxes.tensor, expected.scores, expected.pred_classes, strict=True
    ):
        box_differences = (boxes - box).abs().amax(dim=1)  # (D,)
        score_differences = (scores - score).abs()  # (D,)
        is_counterpart = (  # (D,)
            is_free
            & (classes == class_idx)
            & (box_differences <= BOX_TOLERANCE)
            & (score_differences <= SCORE_TOLERANCE)
        )
        if is_counterpart.any():
            nearest = int(box_differences.masked_fill(~is_counterpart, torch.inf).argmin())
            is_free[nearest] = False
            pairs.append((float(box_differences[nearest]), float(score_differences[nearest])))
    return Agreement(
        num_images=1,
        num_detections=len(expected),
        num_missing=len(expected) - len(pairs),
        num_additional=int(is_free.sum()),
        box_difference=max((x for x, _ in pairs), default=0.0),
        score_difference=max((x for _, x in pairs), default=0.0),
    )


def _find_largest_difference(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the ``raw_difference`` of maps."""
    largest = 0.0
    for x, y in zip(actual, expected, strict=True):
        x, y = x.cpu(), y.cpu()
        if x.shape != y.shape or not (x.isfinite().all() and y.isfinite().all()):
            return torch.inf
        difference = (x - y).abs().max() / y.abs().max().clamp(min=1e-6)
        largest = max(largest, float(difference))
    return largest
