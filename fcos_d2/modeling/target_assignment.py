"""
Which location predicts which box: the label assignment of FCOS, sparse and exact.

Peers compare every location with every box. Nothing dense is needed: a box can own only few cells
of the levels that its size fits (two, by default), all of them in a small window that strides, size
ranges and the sampling radius fix beforehand. So each box proposes the cells of its windows, the
exact float tests of the rule sift them, and where several boxes want one cell the smallest wins by
a scatter-min of the boxes' ranks.
The cost grows with the number of boxes, not with boxes x locations.

N = images, M = boxes of the batch, L = levels, V = levels that one box can have locations on,
R = locations of an image over all levels, Hi x Wi = cells of level i, w = cells of a window along
one axis.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.structures import Instances
from detectron2.utils.registry import Registry
from torch import Tensor

from ..config_rules import check_registered, check_value
from ..errors import InputError
from ..registration import register_in
from .cell_windows import (
    CellWindows,
    center_intervals,
    chunks_of_boxes,
    pair_is_candidate,
    window_cells,
)
from .levels import Levels, axis_locations, constant_on, encode_ltrb
from .location_targets import (
    LocationTargets,
    RankedBoxes,
    concatenate_targets,
    rank_boxes,
)
from .size_ranges import candidate_levels, fitting_sides, size_ranges_from_sizes

__all__ = [
    "TARGET_ASSIGNER_REGISTRY",
    "FCOSAssigner",
    "build_target_assigner",
]

TARGET_ASSIGNER_REGISTRY = Registry("TARGET_ASSIGNER")
TARGET_ASSIGNER_REGISTRY.__doc__ = """
Registry of target assigners. A registered class is built from (cfg, levels: Levels) and called with
(gt_instances: list[Instances], feature_sizes: list[tuple[int, int]]); it returns
:class:`.location_targets.LocationTargets`.
"""

# Whole-box assignment looks at this many candidates at a time, so that its memory has a bound.
_MAX_CANDIDATES = 1 << 20


def build_target_assigner(cfg: Any, levels: Levels) -> Any:
    """
    The assigner that ``MODEL.FCOS.TARGET_ASSIGNER`` names.

    Args:
        cfg (CfgNode): handed to the assigner's ``from_config``.
        levels (Levels): whose locations it assigns.
    """
    name = cfg.MODEL.FCOS.TARGET_ASSIGNER
    check_registered("MODEL.FCOS.TARGET_ASSIGNER", name, TARGET_ASSIGNER_REGISTRY)
    return TARGET_ASSIGNER_REGISTRY.get(name)(cfg, levels)


@register_in(TARGET_ASSIGNER_REGISTRY)
class FCOSAssigner:
    """
    The rule of FCOS (arXiv:1904.01355, Sec. 3.1 and 3.2; centre sampling: arXiv:2006.09214):

    1. A location wants a box when it lies strictly inside of it and, with centre sampling, strictly
       inside the square of half-side ``radius * stride`` about its centre (of the box, or of the
       object's mask),
    2. and the largest of its four distances lies in the range of its level, ends included.
    3. Of several boxes it takes the one of least area; of equal areas the one listed first.
    """

    @configurable
    def __init__(
        self,
        *,
        levels: Levels,
        sizes_of_interest: Sequence[float] = (64, 128, 256, 512),
        center_sampling_radius: float = 1.5,
        center_of_mask: bool = False,
    ) -> None:
        """
        Args:
            levels (Levels): whose locations are assigned.
            sizes_of_interest (list[float]): L - 1 borders in pixels, see
                :func:`size_ranges_from_sizes`.
            center_sampling_radius (float): in strides of the level; 0 = the whole box.
            center_of_mask (bool): centre sampling about the centroid of the mask, see
                :func:`.mask_centroids.centers_of_masks`.

        Raises:
            InputError: a value out of its range, or a centre asked for without centre sampling.
        """
        check_value("MODEL.FCOS.CENTER_OF_MASK", center_of_mask)
        check_value("MODEL.FCOS.CENTER_SAMPLING_RADIUS", center_sampling_radius)
        if center_of_mask and center_sampling_radius == 0:
            raise InputError(
                "MODEL.FCOS.CENTER_OF_MASK = True needs centre sampling, but "
                "MODEL.FCOS.CENTER_SAMPLING_RADIUS = 0 takes the whole box."
            )
        self.levels = levels
        self.size_ranges = size_ranges_from_sizes(sizes_of_interest, len(levels))
        self.center_sampling_radius = float(center_sampling_radius)
        self.center_of_mask = center_of_mask
        # The middle of a mask may be anywhere in the box.
        is_near_middle = center_sampling_radius > 0 and not center_of_mask
        reach = self.center_sampling_radius if is_near_middle else math.inf
        self.fitting_sides = fitting_sides(self.size_ranges, [reach * x for x in levels.strides])

    @classmethod
    def from_config(cls, cfg: Any, levels: Levels) -> dict[str, Any]:
        return {
            "levels": levels,
            "sizes_of_interest": cfg.MODEL.FCOS.SIZES_OF_INTEREST,
            "center_sampling_radius": cfg.MODEL.FCOS.CENTER_SAMPLING_RADIUS,
            "center_of_mask": cfg.MODEL.FCOS.CENTER_OF_MASK,
        }

    @torch.no_grad()
    def __call__(
        self, gt_instances: Sequence[Instances], feature_sizes: Sequence[tuple[int, int]]
    ) -> LocationTargets:
        """
        Args:
            gt_instances (list[Instances]): for each image ``gt_boxes`` (Boxes) and ``gt_classes``,
                and with ``center_of_mask`` ``gt_masks`` too.
            feature_sizes (list[tuple[int, int]]): (Hi, Wi) of each level.

        Raises:
            InputError: objects without masks, if these are to be the centres.
        """
        assert len(feature_sizes) == len(self.levels), (feature_sizes, self.levels)
        boxes = rank_boxes(gt_instances, self.center_of_mask)
        if self.center_sampling_radius > 0:
            return self._assign_center_windows(boxes, len(gt_instances), feature_sizes)
        return self._assign_whole_boxes(boxes, len(gt_instances), feature_sizes)

    def _assign_center_windows(
        self, boxes: RankedBoxes, num_images: int, feature_sizes: Sequence[tuple[int, int]]
    ) -> LocationTargets:
        """All levels at once: no loop over images or boxes, no shape that depends on the data."""
        device, num_boxes = boxes.xyxy.device, len(boxes.classes)
        level_idxs = candidate_levels(boxes.longer_sides, self.fitting_sides)  # (V, M)
        heights, widths = zip(*feature_sizes, strict=True)
        *starts, num_locations = accumulate((h * w for h, w in feature_sizes), initial=0)
        of_levels = constant_on([self.levels.strides, starts, widths, heights], device)[
            :, level_idxs
        ]
        strides, level_starts, map_sizes = of_levels[0], of_levels[1], of_levels[2:]
        size_ranges = constant_on(self.size_ranges, device).T[:, level_idxs]  # (2, V, M)
        windows = self._center_windows(boxes, strides, map_sizes)
        is_candidate = pair_is_candidate(windows, size_ranges)  # (V, w, w, M)

        x_cells, y_cells = windows.cells
        row_starts = level_starts + boxes.image_idxs * num_locations  # (V, M)
        rows = row_starts[:, None] + y_cells * map_sizes[0][:, None]  # (V, w, M)
        slots = rows[:, :, None] + x_cells[:, None]  # (V, w, w, M)
        ranks = torch.arange(num_boxes, device=device, dtype=torch.int32)
        claims = torch.where(is_candidate, ranks, num_boxes)
        winners = ranks.new_full((num_images * num_locations,), num_boxes)
        winners.scatter_reduce_(0, slots.flatten(), claims.flatten(), "amin")

        def of_each_pair(of_box: Tensor) -> Tensor:
            return of_box.expand_as(slots).flatten()

        (x_low, y_low), (x_high, y_high) = windows.to_low, windows.to_high
        ltrb = torch.broadcast_tensors(
            x_low[:, None], y_low[:, :, None], x_high[:, None], y_high[:, :, None]
        )
        return LocationTargets(
            slots=slots.flatten(),
            level_idxs=of_each_pair(level_idxs[:, None, None]),
            box_idxs=of_each_pair(boxes.box_idxs),
            classes=of_each_pair(boxes.classes),
            ltrb=torch.stack(ltrb).flatten(1).T,
            is_positive=(is_candidate & (winners[slots] == ranks)).flatten(),
        )

    def _center_windows(
        self, boxes: RankedBoxes, strides: Tensor, map_sizes: Tensor
    ) -> CellWindows:
        """For each box, on levels of these strides (V, M) and map sizes (2, V, M)."""
        low, high = boxes.xyxy.view(2, 2, 1, len(boxes.classes))
        half_sides = strides * self.center_sampling_radius
        intervals = center_intervals(low, high, boxes.centers[:, None], half_sides)
        # An open interval of length 2 r holds at most ceil(2 r) integers, wherever its middle is.
        window = math.ceil(2 * self.center_sampling_radius)
        return window_cells(
            intervals, (low, high), strides, map_sizes, self.levels.location_offset, window
        )

    def _assign_whole_boxes(
        self, boxes: RankedBoxes, num_images: int, feature_sizes: Sequence[tuple[int, int]]
    ) -> LocationTargets:
        """Level by level, in chunks of boxes; only the winner of each cell is kept."""
        levels = []
        *starts, num_locations = accumulate((h * w for h, w in feature_sizes), initial=0)
        for level, (start, (height, width)) in enumerate(zip(starts, feature_sizes, strict=True)):
            winners = self._whole_box_winners(boxes, num_images, level, (height, width))
            stride = self.levels.strides[level]
            image_idxs, cells = (winners < len(boxes.classes)).nonzero().unbind(1)
            ranks = winners[image_idxs, cells]
            xs = axis_locations(cells % width, stride, self.levels.location_offset)
            ys = axis_locations(cells // width, stride, self.levels.location_offset)
            levels.append(
                LocationTargets(
                    slots=image_idxs * num_locations + start + cells,
                    level_idxs=torch.full_like(cells, level),
                    box_idxs=boxes.box_idxs[ranks],
                    classes=boxes.classes[ranks],
                    ltrb=encode_ltrb(torch.stack([xs, ys], dim=1), boxes.xyxy[:, ranks].T),
                    is_positive=torch.ones_like(cells, dtype=torch.bool),
                )
            )
        return concatenate_targets(levels)

    def _whole_box_winners(
        self, boxes: RankedBoxes, num_images: int, level: int, map_size: tuple[int, int]
    ) -> Tensor:
        """(N, Hi*Wi) rank of the box that owns each cell of one level; M = background."""
        device, num_boxes, longer_sides = boxes.xyxy.device, len(boxes.classes), boxes.longer_sides
        (height, width), stride = map_size, self.levels.strides[level]
        winners = torch.full((num_images * height * width,), num_boxes, device=device)
        least, most = self.fitting_sides[level]
        ranks = ((longer_sides >= least) & (longer_sides <= most)).nonzero().squeeze(1)
        strides = torch.tensor([[stride]], device=device)
        map_sizes = torch.tensor([width, height], device=device).view(2, 1, 1)
        size_ranges = torch.tensor(self.size_ranges[level], device=device).view(2, 1, 1)
        all_sides = longer_sides[ranks].tolist()
        for chosen, window in chunks_of_boxes(all_sides, stride, map_size, _MAX_CANDIDATES):
            chunk = ranks[chosen]
            low, high = boxes.xyxy.index_select(1, chunk).view(2, 2, 1, -1)
            sides = (low, high)
            windows = window_cells(
                sides, sides, strides, map_sizes, self.levels.location_offset, window, slide=True
            )
            is_candidate = pair_is_candidate(windows, size_ranges)
            x_cells, y_cells = windows.cells
            slots = y_cells[:, :, None] * width + x_cells[:, None]
            slots = slots + boxes.image_idxs[chunk] * (height * width)
            claims = torch.where(is_candidate, chunk, num_boxes)
            winners.scatter_reduce_(0, slots.flatten(), claims.flatten(), "amin")
        return winners.view(num_images, height * width)
