"""
The label assignment of FCOS: which location predicts which box, sparse and exact.

Peers compare every location with every box. Nothing dense is needed: a box can own only few cells
of the levels that its size fits (two, by default), all of them in a small window that strides, size
ranges and the sampling radius fix beforehand. So each box proposes the cells of its windows, the
exact float tests of the rule sift them, and where several boxes want one cell the smallest wins by
a scatter-min of the boxes' ranks. The cost grows with the number of boxes, not with boxes x
locations.

N = images, M = boxes of the batch, L = levels, V = levels that one box can have locations on,
R = locations of an image over all levels, Hi x Wi = cells of level i, w = cells of a window along
one axis.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ...arguments import FLAG, Arguments, ascending, number
from ...errors import InputError
from ...registration import register_in
from ..levels import Levels, axis_locations, constant_on, encode_ltrb
from ..predictions import DensePredictions
from .ranked_boxes import RankedBoxes, rank_boxes
from .registry import TARGET_ASSIGNER_REGISTRY
from .size_ranges import candidate_levels, fitting_sides, size_ranges_from_sizes
from .targets import LocationTargets
from .windows import CellWindows, center_intervals, chunks_of_boxes, pair_is_candidate, window_cells

__all__ = ["ASSIGNER_ARGUMENTS", "FCOSAssigner"]

# Windows of at most this many cells along an axis are kept whole (a radius of up to 4 strides);
# larger ones, whose pairs would take more memory than maps do, are reduced to their winners.
_MAX_FIXED_WINDOW = 8
# At most this many candidates are looked at in one piece then, so that memory has a bound.
_MAX_CANDIDATES = 1 << 20


ASSIGNER_ARGUMENTS = Arguments(
    "MODEL.FCOS",
    sizes_of_interest=ascending("pixels"),
    center_sampling_radius=number(
        "of strides, from 0 (the whole box) to 16", lambda x: 0 <= x <= 16
    ),
    center_of_mask=FLAG,
)


@register_in(TARGET_ASSIGNER_REGISTRY)
class FCOSAssigner:
    """
    The rule of FCOS (arXiv:1904.01355, Sec. 3.1 and 3.2; center sampling: arXiv:2006.09214):

    1. A location wants a box when it lies strictly inside of it and, with center sampling, strictly
       inside the square of half-side ``radius * stride`` about its center (of the box, or of the
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
        Keep the rule's settings.

        Args:
            levels (Levels): whose locations are assigned.
            sizes_of_interest (list[float]): L - 1 borders in pixels, see
                ``size_ranges.size_ranges_from_sizes``.
            center_sampling_radius (float): in strides of the level; 0 = the whole box.
            center_of_mask (bool): center sampling about the centroid of the mask, see
                ``mask_centers.centers_of_masks``.

        Raises:
            InputError: a value out of its range, or a center asked for without center sampling.
        """
        ASSIGNER_ARGUMENTS.check(locals())
        if center_of_mask and center_sampling_radius == 0:
            raise InputError(
                "MODEL.FCOS.CENTER_OF_MASK = True needs center sampling, but "
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
    def from_config(cls, cfg: CfgNode, levels: Levels) -> dict[str, Any]:
        return {"levels": levels, **ASSIGNER_ARGUMENTS.read(cfg)}

    @torch.no_grad()
    def __call__(
        self,
        gt_instances: Sequence[Instances],
        feature_sizes: Sequence[tuple[int, int]],
        *,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        ignore_boxes: Sequence[Boxes] | None = None,
        predictions: DensePredictions | None = None,
    ) -> LocationTargets:
        """
        Assign the boxes of a batch, see ``registry.TargetAssigner``.

        This rule needs boxes and sizes of maps; with ``center_of_mask`` it reads ``gt_masks`` too.

        Raises:
            InputError: objects without masks, if the centers are to be theirs.
        """
        assert len(feature_sizes) == len(self.levels), (feature_sizes, self.levels)
        boxes, num_images = rank_boxes(gt_instances, self.center_of_mask), len(gt_instances)
        # An open interval of length 2 r holds at most ceil(2 r) integers, wherever its middle is.
        window = math.ceil(2 * self.center_sampling_radius)
        if 0 < window <= _MAX_FIXED_WINDOW:
            return self._assign_fixed_windows(boxes, num_images, feature_sizes, window)
        return self._assign_in_chunks(boxes, num_images, feature_sizes)

    def _assign_fixed_windows(
        self,
        boxes: RankedBoxes,
        num_images: int,
        feature_sizes: Sequence[tuple[int, int]],
        window: int,
    ) -> LocationTargets:
        """All levels at once: no loop over images or boxes, no shape that depends on the data."""
        device, num_boxes = boxes.xyxy.device, len(boxes)
        level_idxs = candidate_levels(boxes.longer_sides, self.fitting_sides)  # (V, M)
        heights, widths = zip(*feature_sizes, strict=True)
        *starts, num_locations = accumulate((h * w for h, w in feature_sizes), initial=0)
        per_level = constant_on([self.levels.strides, starts, widths, heights], device)  # (4, L)
        of_levels = per_level[:, level_idxs]  # (4, V, M)
        strides, level_starts, map_sizes = of_levels[0], of_levels[1], of_levels[2:]
        size_ranges = constant_on(self.size_ranges, device).T[:, level_idxs]  # (2, V, M)
        windows = self._center_windows(boxes, strides, map_sizes, window)
        is_candidate = pair_is_candidate(windows, size_ranges)  # (V, w, w, M)

        x_cells, y_cells = windows.cells  # (V, w, M) each
        rows = level_starts[:, None] + y_cells * map_sizes[0][:, None]  # (V, w, M)
        location_idxs = rows[:, :, None] + x_cells[:, None]  # (V, w, w, M)
        flat_idxs = location_idxs + boxes.image_idxs * num_locations  # (V, w, w, M)
        ranks = torch.arange(num_boxes, device=device, dtype=torch.int32)  # (M,)
        # The lowest rank that wants a cell wins it; num_boxes is above all of them.
        wanted = torch.where(is_candidate, ranks, num_boxes)  # (V, w, w, M)
        winners = ranks.new_full((num_images * num_locations,), num_boxes)  # (N * R,)
        winners.scatter_reduce_(0, flat_idxs.flatten(), wanted.flatten(), "amin")
        is_positive = (is_candidate & (winners[flat_idxs] == ranks)).flatten()  # (C,)

        def of_each_pair(of_box: Tensor) -> Tensor:
            """(C,) from what can be expanded to (V, w, w, M)."""
            return of_box.expand_as(location_idxs).flatten()

        (x_low, y_low), (x_high, y_high) = windows.to_low, windows.to_high  # (V, w, M) each
        ltrb = torch.broadcast_tensors(  # 4 x (V, w, w, M)
            x_low[:, None], y_low[:, :, None], x_high[:, None], y_high[:, :, None]
        )
        return LocationTargets(
            image_idxs=of_each_pair(boxes.image_idxs),
            location_idxs=location_idxs.flatten(),
            level_idxs=of_each_pair(level_idxs[:, None, None]),
            gt_idxs=of_each_pair(boxes.gt_idxs),
            ltrb=torch.stack(ltrb).flatten(1).T,
            weights=is_positive.float(),
            is_positive=is_positive,
            gt_classes=boxes.gt_classes,
            num_images=num_images,
            num_locations=num_locations,
        )

    def _center_windows(
        self, boxes: RankedBoxes, strides: Tensor, map_sizes: Tensor, window: int
    ) -> CellWindows:
        """For each box, on levels of these strides (V, M) and map sizes (2, V, M)."""
        low, high = boxes.xyxy.view(2, 2, 1, len(boxes))  # (2, 1, M) each
        intervals = self._intervals(low, high, boxes.centers[:, None], strides)
        offset = self.levels.location_offset
        return window_cells(intervals, (low, high), strides, map_sizes, offset, window)

    def _intervals(
        self, low: Tensor, high: Tensor, centers: Tensor, strides: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Ends of the open intervals along x and y that locations must lie in."""
        if self.center_sampling_radius == 0:
            return low, high
        return center_intervals(low, high, centers, strides * self.center_sampling_radius)

    def _assign_in_chunks(
        self, boxes: RankedBoxes, num_images: int, feature_sizes: Sequence[tuple[int, int]]
    ) -> LocationTargets:
        """Level by level, in chunks of boxes; only the winner of each cell is kept."""
        pairs = []  # of each level: image, location, level, rank of the box, ltrb
        *starts, num_locations = accumulate((h * w for h, w in feature_sizes), initial=0)
        for level, (start, (height, width)) in enumerate(zip(starts, feature_sizes, strict=True)):
            winners = self._find_winners(boxes, num_images, level, (height, width))
            image_idxs, cells = (winners < len(boxes)).nonzero().unbind(1)
            ranks = winners[image_idxs, cells]
            stride, offset = self.levels.strides[level], self.levels.location_offset
            xs = axis_locations(cells % width, stride, offset)
            ys = axis_locations(cells // width, stride, offset)
            ltrb = encode_ltrb(torch.stack([xs, ys], dim=1), boxes.xyxy[:, ranks].T)
            pairs.append((image_idxs, start + cells, torch.full_like(cells, level), ranks, ltrb))
        image_idxs, location_idxs, level_idxs, ranks, ltrb = map(
            torch.cat, zip(*pairs, strict=True)
        )
        is_positive = torch.ones_like(ranks, dtype=torch.bool)
        return LocationTargets(
            image_idxs=image_idxs,
            location_idxs=location_idxs,
            level_idxs=level_idxs,
            gt_idxs=boxes.gt_idxs[ranks],
            ltrb=ltrb,
            weights=is_positive.float(),
            is_positive=is_positive,
            gt_classes=boxes.gt_classes,
            num_images=num_images,
            num_locations=num_locations,
        )

    def _find_winners(
        self, boxes: RankedBoxes, num_images: int, level: int, map_size: tuple[int, int]
    ) -> Tensor:
        """(N, Hi*Wi) rank of the box that owns each cell of one level; M = background."""
        device, num_boxes, longer_sides = boxes.xyxy.device, len(boxes), boxes.longer_sides
        (height, width), stride = map_size, self.levels.strides[level]
        winners = torch.full((num_images * height * width,), num_boxes, device=device)
        least, most = self.fitting_sides[level]
        ranks = ((longer_sides >= least) & (longer_sides <= most)).nonzero().squeeze(1)
        strides = torch.tensor([[stride]], device=device)  # (1, 1)
        map_sizes = torch.tensor([width, height], device=device).view(2, 1, 1)
        size_ranges = torch.tensor(self.size_ranges[level], device=device).view(2, 1, 1)
        # No interval is longer than the box, or than the square of center sampling.
        longest = 2 * self.center_sampling_radius * stride or math.inf
        lengths = longer_sides[ranks].clamp(max=longest).tolist()
        for chosen, window in chunks_of_boxes(lengths, stride, map_size, _MAX_CANDIDATES):
            chunk = ranks[chosen]  # (B,) of these boxes
            low, high = boxes.xyxy.index_select(1, chunk).view(2, 2, 1, -1)  # (2, 1, B) each
            intervals = self._intervals(low, high, boxes.centers[:, None, chunk], strides)
            windows = window_cells(
                intervals,
                (low, high),
                strides,
                map_sizes,
                self.levels.location_offset,
                window,
                slide=True,
            )
            is_candidate = pair_is_candidate(windows, size_ranges)  # (1, w, w, B)
            x_cells, y_cells = windows.cells  # (1, w, B) each
            cells = y_cells[:, :, None] * width + x_cells[:, None]  # (1, w, w, B)
            cells = cells + boxes.image_idxs[chunk] * (height * width)
            wanted = torch.where(is_candidate, chunk, num_boxes)
            winners.scatter_reduce_(0, cells.flatten(), wanted.flatten(), "amin")
        return winners.view(num_images, height * width)
