"""
The levels of FCOS: where a cell of a feature map lies in the image, and how distances become boxes.

Everything is in image pixels and float32, whatever autocast says: half precision cannot tell
neighboring pixels apart above 1024.

N = images, L = levels, R = locations of an image over all levels, Hi x Wi = cells of level i.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor

from ..arguments import Arguments, number, one_of
from ..errors import InputError

__all__ = [
    "LEVELS_ARGUMENTS",
    "Levels",
    "activate_ltrb",
    "axis_locations",
    "compute_locations",
    "constant_on",
    "decode_ltrb",
    "encode_ltrb",
    "flatten_levels",
    "gather_locations",
    "select_maps",
]

# The largest distance, 160,000 pixels: areas stay finite in float32, whatever the network predicts.
_MAX_LOG_DISTANCE = 12.0
_MAX_DISTANCE = math.exp(_MAX_LOG_DISTANCE)


LEVELS_ARGUMENTS = Arguments(
    "MODEL.FCOS",
    # Others would not be exact in float32, and nobody trains with them.
    location_offset=number(
        "that is 0.5 (center of the cell) or 0 (its corner)", lambda x: x in (0, 0.5)
    ),
    box_activation=one_of("relu", "exp"),
)


@dataclass(frozen=True)
class Levels:
    """
    The L levels that a head predicts on, and what their cells and raw outputs mean in pixels.

    A model has one of these, made from its backbone. Target assigner, losses and post-processing
    are given it, so that they cannot disagree.

    Args:
        strides (Sequence[int]): pixels a cell of each level, from fine to coarse.
        location_offset (float): 0.5 or 0, see ``axis_locations``.
        box_activation (str): "relu" or "exp", see ``activate_ltrb``.

    Raises:
        InputError: a value out of its range.
    """

    strides: Sequence[int]
    location_offset: float = 0.5
    box_activation: str = "relu"

    def __post_init__(self) -> None:
        LEVELS_ARGUMENTS.check(vars(self))
        strides: tuple[Any, ...] = tuple(self.strides)
        is_stride = [isinstance(x, Integral) and x is not True and int(x) > 0 for x in strides]
        if not strides or not all(is_stride) or any(a >= b for a, b in pairwise(strides)):
            raise InputError(
                f"strides = {list(strides)} must be positive integers, in pixels, that ascend."
            )
        object.__setattr__(self, "strides", tuple(map(int, strides)))
        object.__setattr__(self, "location_offset", float(self.location_offset))

    def __len__(self) -> int:
        return len(self.strides)

    def compute_locations(
        self, feature_sizes: Sequence[tuple[int, int]], device: torch.device | str | None = None
    ) -> list[Tensor]:
        """Compute the L tensors (Hi*Wi, 2) of ``compute_locations``."""
        return compute_locations(feature_sizes, self.strides, self.location_offset, device)

    def activate(self, raw_ltrb: Tensor, level_idxs: Tensor) -> Tensor:
        """
        Turn raw outputs of the head into distances.

        Args:
            raw_ltrb (Tensor): (C, 4) head outputs.
            level_idxs (Tensor): (C,) int64 level of each.

        Returns:
            Tensor: (C, 4) float32 pixels, see ``activate_ltrb``.
        """
        strides = constant_on(self.strides, level_idxs.device)[level_idxs, None]  # (C, 1)
        return activate_ltrb(raw_ltrb, strides, self.box_activation)


def select_maps(
    shapes: Mapping[str, ShapeSpec], feature_names: Sequence[str]
) -> dict[str, ShapeSpec]:
    """
    Select the maps of a backbone that a head looks at.

    Args:
        shapes (dict[str, ShapeSpec]): the backbone's ``output_shape()``, which declares strides.
            They are never derived from image size / map size, which is wrong where maps are
            rounded up.
        feature_names (Sequence[str]): of the maps, from fine to coarse.

    Raises:
        InputError: the backbone lacks a map, or they do not go from fine to coarse.
    """
    names = list(feature_names)
    unknown = [name for name in names if name not in shapes]
    if unknown:
        raise InputError(
            f"MODEL.FCOS.IN_FEATURES = {names}: the backbone has no {unknown}; it has "
            f"{list(shapes)}."
        )
    strides = [shapes[name].stride for name in names]
    if strides != sorted(set(strides)) or not strides:
        raise InputError(
            f"MODEL.FCOS.IN_FEATURES = {names} must go from fine to coarse; the strides are "
            f"{strides}."
        )
    return {name: shapes[name] for name in names}


def axis_locations(cells: Tensor, strides: Tensor | int, offset: float) -> Tensor:
    """
    Compute coordinates of cells along one axis: ``(cell + offset) * stride``.

    Args:
        cells (Tensor): integer cell indices of any shape.
        strides (Tensor or int): pixels a cell, broadcastable to ``cells``.
        offset (float): 0.5 puts locations in the middle of cells (arXiv:1904.01355, Sec. 3.1;
            for even strides its floor(s/2) is the same), 0 in their corner, as torchvision does.

    Returns:
        Tensor: float32 coordinates in image pixels, same shape as ``cells``.
    """
    return (cells.to(torch.float32) + offset) * strides


def compute_locations(
    feature_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    offset: float = 0.5,
    device: torch.device | str | None = None,
) -> list[Tensor]:
    """
    Compute the locations of every level, row by row.

    Args:
        feature_sizes (list[tuple[int, int]]): (Hi, Wi) of each level.
        strides (list[int]): pixels a cell of each level.
        offset (float): see ``axis_locations``.
        device: where to put them.

    Returns:
        list[Tensor]: L tensors (Hi*Wi, 2) float32, xy in image pixels.
    """
    locations = []
    for (height, width), stride in zip(feature_sizes, strides, strict=True):
        xs = axis_locations(torch.arange(width, device=device), stride, offset)
        ys = axis_locations(torch.arange(height, device=device), stride, offset)
        grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
        locations.append(torch.stack([grid_x, grid_y], dim=-1).reshape(-1, 2))
    return locations


def activate_ltrb(raw: Tensor, strides: Tensor | int, activation: str) -> Tensor:
    """
    Turn the raw regression output of the head into distances in pixels.

    Args:
        raw (Tensor): head output of any shape and precision, the level's scale s_l included.
        strides (Tensor or int): stride of each element's level, broadcastable to ``raw``.
        activation (str): "relu": ``relu(raw) * stride``, the network regresses in units of strides
            (arXiv:2006.09214, Sec. 2.1); "exp": ``exp(raw)`` are pixels (arXiv:1904.01355,
            Sec. 3.2).

    Returns:
        Tensor: float32 distances in pixels, from 0 to e^12; NaN where ``raw`` is.
    """
    if activation == "relu":
        return (raw.float().relu() * strides).clamp(max=_MAX_DISTANCE)
    assert activation == "exp", activation
    return raw.float().clamp(max=_MAX_LOG_DISTANCE).exp()


def encode_ltrb(locations: Tensor, boxes: Tensor) -> Tensor:
    """
    Compute distances of locations to the sides of boxes.

    Args:
        locations (Tensor): (..., 2) xy.
        boxes (Tensor): (..., 4) xyxy, broadcastable to the locations.

    Returns:
        Tensor: (..., 4) left, top, right, bottom; all positive exactly when the location lies
        strictly inside the box.
    """
    return torch.cat([locations - boxes[..., :2], boxes[..., 2:] - locations], dim=-1)


def decode_ltrb(locations: Tensor, ltrb: Tensor) -> Tensor:
    """Compute boxes (..., 4) xyxy from locations (..., 2) and distances (..., 4)."""
    return torch.cat([locations - ltrb[..., :2], locations + ltrb[..., 2:]], dim=-1)


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """Concatenate L maps (N, C, Hi, Wi) to (N, R, C), in the order of the locations."""
    # In memory the order stays that of the maps: no transposing.
    if all(x.is_contiguous(memory_format=torch.channels_last) for x in maps):
        return torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in maps], dim=1)
    return torch.cat([x.flatten(2) for x in maps], dim=2).transpose(1, 2)


def gather_locations(maps: Sequence[Tensor], flat_idxs: Tensor) -> Tensor:
    """
    Gather what maps have at some locations of a batch.

    Args:
        maps (list[Tensor]): L maps (N, C, Hi, Wi).
        flat_idxs (Tensor): (P,) int64, image * R + location in the image.

    Returns:
        Tensor: (P, C).
    """
    return flatten_levels(maps).flatten(0, 1).index_select(0, flat_idxs)


def constant_on(values: Any, device: torch.device) -> Tensor:
    """
    Make ``torch.tensor(values, device=device)`` without waiting: that call blocks the host until
    a GPU has finished all queued work.
    """
    return torch.tensor(values).to(device, non_blocking=True)
