"""
The levels of FCOS: the location of each cell in the image, and boxes from predicted distances.

All coordinates are float32 pixels of the image, also under autocast: above 1024, half precision
cannot represent neighboring pixels.

N = images, C = channels, L = levels, R = locations of an image over all levels, Hi x Wi = cells of
level i, A = (location, gt box) pairs, P = candidates of the batch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral

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

# The largest distance is 160,000 pixels, so that areas are finite in float32 for any prediction.
_MAX_LOG_DISTANCE = 12.0
_MAX_DISTANCE = math.exp(_MAX_LOG_DISTANCE)


LEVELS_ARGUMENTS = Arguments(
    "MODEL.FCOS",
    # Locations at other offsets would not be exact in float32, and they are not used in practice.
    location_offset=number(
        "that is 0.5 (center of the cell) or 0 (its corner)", lambda x: x in (0, 0.5)
    ),
    box_activation=one_of("relu", "exp"),
)


@dataclass(frozen=True)
class Levels:
    """
    The L levels of a head, and how their cells and raw outputs convert to pixels.

    A model has one ``Levels``, which is made from its backbone and passed to the target assigner,
    the losses and the postprocessor, so that all of them use the same conversion.

    Args:
        strides (Sequence[int]): Stride of each level in pixels, from fine to coarse.
        location_offset (float): 0.5 or 0, see ``axis_locations``.
        box_activation (str): "relu" or "exp", see ``activate_ltrb``.

    Raises:
        InputError: If a value is out of its range.
    """

    strides: Sequence[int]
    location_offset: float = 0.5
    box_activation: str = "relu"

    def __post_init__(self) -> None:
        LEVELS_ARGUMENTS.check(vars(self))
        strides = tuple(self.strides)
        is_valid = len(strides) > 0 and all(map(_is_stride, strides))
        if not is_valid or any(fine >= coarse for fine, coarse in pairwise(strides)):
            raise InputError(
                f"strides = {list(strides)} must be positive integers in ascending order: the "
                "stride of each level in pixels.",
                key="strides",
                value=self.strides,
            )
        object.__setattr__(self, "strides", tuple(map(int, strides)))
        object.__setattr__(self, "location_offset", float(self.location_offset))

    def __len__(self) -> int:
        return len(self.strides)

    def compute_locations(
        self, feature_sizes: Sequence[tuple[int, int]], device: torch.device | str | None = None
    ) -> list[Tensor]:
        """Compute the locations of each level, see ``compute_locations``."""
        return compute_locations(feature_sizes, self.strides, self.location_offset, device)

    def activate(self, raw_ltrb: Tensor, level_idxs: Tensor) -> Tensor:
        """
        Convert raw outputs of the head to distances.

        Args:
            raw_ltrb (Tensor): (A, 4) head outputs.
            level_idxs (Tensor): (A,) int64 level of each output.

        Returns:
            Tensor: (A, 4) float32 pixels, see ``activate_ltrb``.
        """
        strides = constant_on(self.strides, level_idxs.device)[level_idxs, None]  # (A, 1)
        return activate_ltrb(raw_ltrb, strides, self.box_activation)  # (A, 4)


def _is_stride(value: object) -> bool:
    """Return whether a value is a positive integer of any integer type, but not True."""
    return isinstance(value, Integral) and value is not True and int(value) > 0


def select_maps(
    shapes: Mapping[str, ShapeSpec], feature_names: Sequence[str]
) -> dict[str, ShapeSpec]:
    """
    Select the feature maps of a backbone that a head uses.

    Args:
        shapes (dict[str, ShapeSpec]): The backbone's ``output_shape()``, which declares the
            strides. They are not computed as image size / map size, which is wrong for map sizes
            that are rounded up.
        feature_names (Sequence[str]): Names of the maps, from fine to coarse.

    Returns:
        dict[str, ShapeSpec]: The selected maps by name, from fine to coarse.

    Raises:
        InputError: If the backbone does not have one of the maps, or they are not in order from
            fine to coarse.
    """
    names = list(feature_names)
    unknown = [name for name in names if name not in shapes]
    if unknown:
        raise InputError(
            f"MODEL.FCOS.IN_FEATURES = {names}: the backbone has no {unknown}; it has "
            f"{list(shapes)}.",
            key="MODEL.FCOS.IN_FEATURES",
            value=names,
        )
    strides = [shapes[name].stride for name in names]
    if strides != sorted(set(strides)) or not strides:
        raise InputError(
            f"MODEL.FCOS.IN_FEATURES = {names} must go from fine to coarse; the strides are "
            f"{strides}.",
            key="MODEL.FCOS.IN_FEATURES",
            value=names,
        )
    return {name: shapes[name] for name in names}


def axis_locations(cells: Tensor, strides: Tensor | int, offset: float) -> Tensor:
    """
    Compute the coordinates of cells along one axis: ``(cell + offset) * stride``.

    Args:
        cells (Tensor): Integer cell indices of any shape.
        strides (Tensor | int): Stride in pixels, broadcastable to ``cells``.
        offset (float): 0.5 for locations at the centers of cells (arXiv:1904.01355, Sec. 3.1, which
            has floor(s / 2): the same for even strides s); 0 for locations at their corners, as in
            torchvision.

    Returns:
        Tensor: Float32 coordinates in image pixels, of the shape of ``cells``.
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
        strides (list[int]): Stride of each level in pixels.
        offset (float): Position of a location in its cell, see ``axis_locations``.
        device (torch.device | str | None): Device of the result; None is PyTorch's default.

    Returns:
        list[Tensor]: L tensors (Hi*Wi, 2) float32, xy in image pixels.
    """
    locations = []
    for (height, width), stride in zip(feature_sizes, strides, strict=True):
        xs = axis_locations(torch.arange(width, device=device), stride, offset)  # (Wi,)
        ys = axis_locations(torch.arange(height, device=device), stride, offset)  # (Hi,)
        grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")  # (Hi, Wi) each
        locations.append(torch.stack([grid_x, grid_y], dim=-1).reshape(-1, 2))  # (Hi*Wi, 2)
    return locations


# --8<-- [start:activation]
def activate_ltrb(raw: Tensor, strides: Tensor | int, activation: str) -> Tensor:
    """
    Convert the raw regression output of the head to distances in pixels.

    Args:
        raw (Tensor): Head output of any shape and precision, after the learnable scale of the
            level.
        strides (Tensor | int): Stride of the level of each element, broadcastable to ``raw``.
        activation (str): "relu": the distance is ``relu(raw) * stride``, so the network regresses
            in units of strides (arXiv:2006.09214, Sec. 2.1). "exp": it is ``exp(raw)`` pixels
            (arXiv:1904.01355, Sec. 3.2).

    Returns:
        Tensor: Float32 distances in pixels, of the shape of ``raw``, from 0 to e^12; NaN where
        ``raw`` is NaN.
    """
    if activation == "relu":
        return (raw.float().relu() * strides).clamp(max=_MAX_DISTANCE)
    assert activation == "exp", activation
    return raw.float().clamp(max=_MAX_LOG_DISTANCE).exp()
    # --8<-- [end:activation]


# --8<-- [start:ltrb]
def encode_ltrb(locations: Tensor, boxes: Tensor) -> Tensor:
    """
    Compute the distances from locations to the sides of boxes.

    Args:
        locations (Tensor): (..., 2) xy.
        boxes (Tensor): (..., 4) xyxy, broadcastable to the locations.

    Returns:
        Tensor: (..., 4) left, top, right, bottom; all positive exactly when the location is
        strictly inside the box.
    """
    return torch.cat([locations - boxes[..., :2], boxes[..., 2:] - locations], dim=-1)


def decode_ltrb(locations: Tensor, ltrb: Tensor) -> Tensor:
    """
    Compute boxes from locations and distances: the inverse of ``encode_ltrb``.

    Args:
        locations (Tensor): (..., 2) xy.
        ltrb (Tensor): (..., 4) left, top, right, bottom.

    Returns:
        Tensor: (..., 4) xyxy.
    """
    return torch.cat([locations - ltrb[..., :2], locations + ltrb[..., 2:]], dim=-1)
    # --8<-- [end:ltrb]


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """
    Concatenate the maps of all levels, in the order of the locations.

    The index of a location is the start of its level + row * Wi + column:

        level     0                              1                                  ...
        row       0            1           ...   0                 1                ...
        column    0, 1, ...    0, 1, ...   ...   0, 1, ...         0, 1, ...        ...
        index     0, 1, ...    W0, ...     ...   H0*W0, ...        H0*W0 + W1, ...  ...  R - 1

    Args:
        maps (list[Tensor]): L maps (N, C, Hi, Wi).

    Returns:
        Tensor: (N, R, C).
    """
    # The maps are copied as they are in memory; only the view is transposed.
    if all(x.is_contiguous(memory_format=torch.channels_last) for x in maps):
        return torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in maps], dim=1)  # (N, R, C)
    return torch.cat([x.flatten(2) for x in maps], dim=2).transpose(1, 2)  # (N, R, C)


def gather_locations(maps: Sequence[Tensor], flat_idxs: Tensor) -> Tensor:
    """
    Gather the values of maps at some locations of a batch.

    Args:
        maps (list[Tensor]): L maps (N, C, Hi, Wi).
        flat_idxs (Tensor): (P,) int64, image * R + index of the location in the image.

    Returns:
        Tensor: (P, C).
    """
    return flatten_levels(maps).flatten(0, 1).index_select(0, flat_idxs)  # (P, C)


def constant_on(
    values: Sequence[float] | Sequence[Sequence[float]], device: torch.device
) -> Tensor:
    """
    Copy numbers to a device without waiting for it.

    ``torch.tensor(values, device=device)`` would block the host until a GPU has finished all queued
    work.

    Args:
        values (Sequence): Numbers, or rows of numbers.
        device (torch.device): Device of the result.

    Returns:
        Tensor: The tensor that ``torch.tensor(values)`` makes, on the device.
    """
    constant = torch.tensor(values)
    is_initialized = device.type == "cuda" and torch.cuda.is_initialized()
    if is_initialized and torch.cuda.is_current_stream_capturing():
        # A CUDA graph would read the memory of the host again at every launch.
        filled = [constant.new_full((), x, device=device) for x in constant.flatten().tolist()]
        return torch.stack(filled).view(constant.shape)
    return constant.to(device, non_blocking=True)
