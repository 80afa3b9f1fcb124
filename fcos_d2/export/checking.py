"""
The comparison of an exported file with the model that it was made from.

N = images, D = detections of an image.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor

from ..errors import InputError, count_words
from ..modeling import FCOS
from .program_info import ProgramInfo
from .tensor_model import Detections, TensorHead
from .tracing import SMALLEST_SIZE

__all__ = ["Agreement", "RunFunction", "compare_detections", "compare_with_model", "pad_to_size"]

# Runs an exported file: from images (N, C, H, W) to the list of outputs.
RunFunction = Callable[[Tensor], Sequence[Tensor]]

BOX_TOLERANCE = 0.01  # pixels
SCORE_TOLERANCE = 1e-4
# Two scores that are equal but for rounding can change places, and with them what NMS removes and
# what is among the top-k. This part of the detections may differ.
MOST_DIFFERENT = 0.01
RAW_TOLERANCE = 1e-3  # of the largest value of a map


@dataclass
class Agreement:
    """
    How well the outputs of a file agree with those of the model.

    Attributes:
        num_images (int): Number of images.
        num_detections (int): Number of the model's detections in them.
        num_different (int): Number of detections of one of the two without a counterpart, of the
            same class and within the tolerances, in the other.
        box_difference (float): Largest difference of a coordinate of counterparts, in pixels.
        score_difference (float): Largest difference of their scores.
        raw_difference (float): Largest difference of a value of raw outputs, divided by the largest
            value of its map.
    """

    num_images: int = 0
    num_detections: int = 0
    num_different: int = 0
    box_difference: float = 0.0
    score_difference: float = 0.0
    raw_difference: float = 0.0

    def check(self, name: str) -> None:
        """Raise an InputError with a name for the file if the outputs do not agree."""
        allowed = MOST_DIFFERENT * self.num_detections
        if self.num_different > allowed or self.raw_difference > RAW_TOLERANCE:
            raise InputError(f"{name} was not written, because it differs from the model: {self}.")

    def __str__(self) -> str:
        images = count_words(self.num_images, "{image|images}")
        if self.raw_difference:
            return f"{images}, largest relative difference {self.raw_difference:.1g}"
        detections = count_words(self.num_detections, "{detection|detections}")
        text = (
            f"{detections} in {images}, largest difference of boxes {self.box_difference:.1g} "
            f"pixels, of scores {self.score_difference:.1g}"
        )
        if self.num_different:
            text += f"; {self.num_different} without counterpart"
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
        images (list[Tensor]): (C, H, W) uint8 images, of any sizes.
    """
    agreement = Agreement()
    for batch in _make_batches(images, info):
        outputs = run(batch.to(getattr(torch, info.input_dtype)))
        agreement.num_images += len(batch)
        with torch.no_grad():
            if info.is_raw:
                _compare_raw(outputs, TensorHead(model)(batch.to(model.device)), agreement)
                continue
            expected = [x["instances"] for x in model([{"image": image} for image in batch])]
        for index, instances in enumerate(expected):
            rows = Detections(*(x[index].cpu() for x in outputs))
            compare_detections(instances.to("cpu"), rows, agreement)
    return agreement


def _make_batches(images: Sequence[Tensor], info: ProgramInfo) -> Iterator[Tensor]:
    """Yield batches (N, C, H, W) of all kinds that a file accepts."""
    number, _, height, width = info.input_shape
    fitted = [pad_to_size(image, height, width, info.pixel_mean) for image in images]
    for image in fitted:
        # A mirrored image is another one of the same size.
        views = torch.stack([image, image.flip(2)])  # (2, C, H, W)
        yield views[:1] if number is None else views[torch.arange(number) % 2]
    if number is None:
        yield torch.stack([fitted[0], fitted[0].flip(2), fitted[0].flip(1)])
    if height is None and width is None:
        smallest = fitted[0][:, :SMALLEST_SIZE, :SMALLEST_SIZE]
        yield smallest[None].repeat(number or 1, 1, 1, 1)


def pad_to_size(
    image: Tensor, height: int | None, width: int | None, fill: Sequence[float]
) -> Tensor:
    """
    Pad an image at the right and lower edge.

    Args:
        image (Tensor): (C, H, W) uint8.
        height (int | None): Height of the result; None pads nothing.
        width (int | None): Width of the result; None pads nothing.
        fill (list[float]): Value of the padding of each channel.
    """
    if height is None or width is None:
        return image
    values = torch.tensor([round(x) for x in fill], dtype=torch.uint8)
    padded = values[:, None, None].repeat(1, height, width)  # (C, height, width)
    padded[:, : image.shape[1], : image.shape[2]] = image
    return padded


def compare_detections(expected: Instances, actual: Detections, agreement: Agreement) -> None:
    """
    Pair the detections of an image, and add the differences to an agreement.

    Args:
        expected (Instances): Detections of the model.
        actual (Detections): Rows (D, ...) of a file.
        agreement (Agreement): It is changed.
    """
    count = int(actual.counts)
    boxes, scores, classes = (x[:count] for x in actual[:3])
    is_free = torch.ones(count, dtype=torch.bool)
    for box, score, label in zip(
        expected.pred_boxes.tensor, expected.scores, expected.pred_classes, strict=True
    ):
        box_differences = (boxes - box).abs().amax(dim=1)  # (count,)
        score_differences = (scores - score).abs()  # (count,)
        is_counterpart = (
            is_free
            & (classes == label)
            & (box_differences <= BOX_TOLERANCE)
            & (score_differences <= SCORE_TOLERANCE)
        )
        if not is_counterpart.any():
            agreement.num_different += 1
            continue
        nearest = int(box_differences.masked_fill(~is_counterpart, torch.inf).argmin())
        is_free[nearest] = False
        for name, values in (("box", box_differences), ("score", score_differences)):
            largest = max(getattr(agreement, f"{name}_difference"), float(values[nearest]))
            setattr(agreement, f"{name}_difference", largest)
    agreement.num_detections += len(expected)
    agreement.num_different += int(is_free.sum())


def _compare_raw(
    actual: Sequence[Tensor], expected: Sequence[Tensor], agreement: Agreement
) -> None:
    """Add the differences of raw maps to an agreement."""
    for x, y in zip(actual, expected, strict=True):
        difference = (x.cpu() - y.cpu()).abs().max() / y.abs().max().cpu().clamp(min=1e-6)
        agreement.raw_difference = max(agreement.raw_difference, float(difference))
