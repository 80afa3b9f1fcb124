"""
The label assignment of FCOS: which location predicts which gt box.

Other implementations compare every location with every box. This is not necessary: only a few cells
can be assigned to a box. They are on the few levels that fit its size (two by default). On each of
these levels, they are in a small window, and stride, size range and center sampling radius limit
the size of this window. Therefore:

1. For each box and each of these levels, the cells in the window are listed (``windows``).
2. The exact tests of the assignment rule determine which of these cells are eligible for the box.
3. If a cell is eligible for several boxes, it is assigned to the smallest one. For this, the boxes
   are ranked by area (``ranked_boxes``), and a scatter-min over the cells keeps the lowest rank.

The result is exactly that of the dense comparison. The cost grows with the number of boxes, not
with the number of boxes x locations.

N = images, M = gt boxes of the batch, Mf = gt boxes that fit a level, Mc = gt boxes of a chunk,
L = levels, V = levels that are considered for each box, R = locations of an image over all levels,
Hi x Wi = cells of level i, w = cells of a window along one axis, A = (location, gt box) pairs,
Ai = pairs of level i.
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
from .windows import CellWindows, center_intervals, chunks_of_boxes, pair_is_eligible, window_cells

__all__ = ["ASSIGNER_ARGUMENTS", "FCOSAssigner"]

# For windows of at most this many cells along an axis (a radius of up to 4 strides), every cell of
# each window is returned as a pair. With larger windows, these pairs would take more memory than
# the feature maps, so only the pairs that are assigned are returned.
_MAX_FIXED_WINDOW = 8
# Boxes with larger windows are processed in chunks, to limit the memory. This is the maximum number
# of (cell, box) pairs of a chunk.
_MAX_PAIRS = 1 << 20


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
    The assignment rule of FCOS.

    See arXiv:1904.01355, Sec. 3.1 and 3.2, and arXiv:2006.09214 for center sampling.

    A location is eligible for a box if it fulfills the first two rules:

    1. Inside: The location is strictly inside the box. With center sampling, it is also strictly
       inside the square of half-side ``radius * stride`` around the center of the box (or around
       the centroid of the object's mask).
    2. Size: The largest of the four distances from the location to the sides of the box is in the
       size range of the location's level, which includes both of its ends.
    3. Ties: A location that is eligible for several boxes is assigned to the box with the smallest
       area. If several of these boxes have the smallest area, the first one in the list is used.
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
        Store the settings of the rule.

        Args:
            levels (Levels): The levels whose locations are assigned.
            sizes_of_interest (list[float]): L - 1 borders in pixels, see
                ``size_ranges.size_ranges_from_sizes``.
            center_sampling_radius (float): Half-side of the center square, in strides of the level;
                0 means the whole box.
            center_of_mask (bool): Use the centroid of the mask for center sampling, see
                ``mask_centroids.centers_of_masks``.

        Raises:
            InputError: If a value is out of its range, or ``center_of_mask`` is set without center
                sampling.
        """
        ASSIGNER_ARGUMENTS.check(locals())
        if center_of_mask and center_sampling_radius == 0:
            raise InputError(
                "MODEL.FCOS.CENTER_OF_MASK = True needs center sampling, but "
                "MODEL.FCOS.CENTER_SAMPLING_RADIUS = 0 turns it off. Set a radius above 0, or set "
                "MODEL.FCOS.CENTER_OF_MASK False.",
                key="MODEL.FCOS.CENTER_OF_MASK",
                value=center_of_mask,
            )
        self.levels = levels
        self.size_ranges = size_ranges_from_sizes(sizes_of_interest, len(levels))
        self.center_sampling_radius = float(center_sampling_radius)
        self.center_of_mask = center_of_mask
        # Without center sampling, positive locations can be anywhere in the box. With centroids of
        # masks, they can too, because the centroid can be anywhere in the box.
        is_near_center = center_sampling_radius > 0 and not center_of_mask
        reach = self.center_sampling_radius if is_near_center else math.inf
        self.fitting_sides = fitting_sides(self.size_ranges, [reach * x for x in levels.strides])

    @classmethod
    def from_config(cls, cfg: CfgNode, levels: Levels) -> dict[str, Any]:
        """Read the arguments of the constructor from a config."""
        return {"levels": levels, **ASSIGNER_ARGUMENTS.read(cfg)}

    @property
    def has_fixed_shapes(self) -> bool:
        """Whether the shapes of the targets depend only on the numbers of boxes and locations."""
        return 0 < self._window <= _MAX_FIXED_WINDOW and not self.center_of_mask

    @property
    def _window(self) -> int:
        """The most cells along an axis that center sampling allows; 0 without center sampling."""
        # An open interval of length 2 r contains at most ceil(2 r) integers, wherever it is.
        return math.ceil(2 * self.center_sampling_radius)

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
        Assign the boxes of a batch to its locations, see ``registry.TargetAssigner``.

        Args:
            gt_instances (list[Instances]): ``gt_boxes`` and ``gt_classes`` of each image; with
                ``center_of_mask`` also ``gt_masks``.
            feature_sizes (list[tuple[int, int]]): (Hi, Wi) of each of the L levels.
            image_sizes (list[tuple[int, int]] | None): Not used by this rule.
            ignore_boxes (list[Boxes] | None): Not used by this rule. The dense head determines
                which locations are ignored because of these boxes.
            predictions (DensePredictions | None): Not used by this rule.

        Returns:
            LocationTargets: The assigned (location, gt box) pairs.

        Raises:
            InputError: If ``center_of_mask`` is set, and there are objects without masks.
        """
        assert len(feature_sizes) == len(self.levels), (feature_sizes, self.levels)
        boxes, num_images = rank_boxes(gt_instances, self.center_of_mask), len(gt_instances)
        if 0 < self._window <= _MAX_FIXED_WINDOW:
            return self._assign_in_fixed_windows(boxes, num_images, feature_sizes, self._window)
        return self._assign_in_chunks(boxes, num_images, feature_sizes)

    def _assign_in_fixed_windows(
        self,
        boxes: RankedBoxes,
        num_images: int,
        feature_sizes: Sequence[tuple[int, int]],
        window: int,
    ) -> LocationTargets:
        """
        Assign locations to boxes on all levels at once; every cell of every window becomes a pair.

        There is no loop over images or boxes, and no shape depends on positions or sizes of boxes.

        Args:
            boxes (RankedBoxes): The M boxes of the batch.
            num_images (int): N.
            feature_sizes (list[tuple[int, int]]): (Hi, Wi) of each level.
            window (int): w.

        Returns:
            LocationTargets: A = V * w * w * M pairs. For pairs that are not assigned,
            ``is_positive`` is False.
        """
        device, num_boxes = boxes.xyxy.device, len(boxes)
        level_idxs = candidate_levels(boxes.longer_sides, self.fitting_sides)  # (V, M)
        heights, widths = zip(*feature_sizes, strict=True)
        *starts, num_locations = accumulate((h * w for h, w in feature_sizes), initial=0)
        per_level = constant_on([self.levels.strides, starts, widths, heights], device)  # (4, L)
        per_box = per_level[:, level_idxs]  # (4, V, M)
        strides, level_starts = per_box[0], per_box[1]  # (V, M) each
        map_sizes = per_box[2:]  # (2, V, M), widths and heights
        size_ranges = constant_on(self.size_ranges, device).T[:, level_idxs]  # (2, V, M)
        windows = self._center_windows(boxes, strides, map_sizes, window)  # (2, V, w, M) each
        is_eligible = pair_is_eligible(windows, size_ranges)  # (V, w, w, M)

        # index in the batch = image * R + start of the level + row * Wi + column
        x_cells, y_cells = windows.cells  # (V, w, M) each
        row_starts = level_starts[:, None] + y_cells * map_sizes[0][:, None]  # (V, w, M)
        location_idxs = row_starts[:, :, None] + x_cells[:, None]  # (V, w, w, M)
        flat_idxs = location_idxs + boxes.image_idxs * num_locations  # (V, w, w, M)
        ranks = torch.arange(num_boxes, device=device, dtype=torch.int32)  # (M,)
        # A cell is assigned to the eligible box of lowest rank. The value num_boxes, which is
        # higher than every rank, means that no box is eligible.
        eligible_ranks = torch.where(is_eligible, ranks, num_boxes)  # (V, w, w, M)
        winners = ranks.new_full((num_images * num_locations,), num_boxes)  # (N * R,)
        # (N * R,) from (V * w * w * M,) eligible ranks
        winners.scatter_reduce_(0, flat_idxs.flatten(), eligible_ranks.flatten(), "amin")
        is_positive = (is_eligible & (winners[flat_idxs] == ranks)).flatten()  # (A,)

        def repeat_for_pairs(values: Tensor) -> Tensor:
            """Return an (A,) tensor of values that can be expanded to (V, w, w, M)."""
            return values.expand_as(location_idxs).flatten()  # (A,)

        (x_low, y_low), (x_high, y_high) = windows.to_low, windows.to_high  # (V, w, M) each
        ltrb = torch.broadcast_tensors(  # (V, w, w, M) each
            x_low[:, None], y_low[:, :, None], x_high[:, None], y_high[:, :, None]
        )
        return LocationTargets(
            image_idxs=repeat_for_pairs(boxes.image_idxs),  # (A,)
            location_idxs=location_idxs.flatten(),  # (A,)
            level_idxs=repeat_for_pairs(level_idxs[:, None, None]),  # (A,)
            gt_idxs=repeat_for_pairs(boxes.gt_idxs),  # (A,)
            ltrb=torch.stack(ltrb).flatten(1).T,  # (A, 4)
            weights=is_positive.float(),  # (A,)
            is_positive=is_positive,
            gt_classes=boxes.gt_classes,  # (M,)
            num_images=num_images,
            num_locations=num_locations,
        )

    def _center_windows(
        self, boxes: RankedBoxes, strides: Tensor, map_sizes: Tensor, window: int
    ) -> CellWindows:
        """
        Compute the window of cells of each box on each of the levels considered for it.

        Args:
            boxes (RankedBoxes): The M boxes of the batch.
            strides (Tensor): (V, M) strides of the levels, in pixels.
            map_sizes (Tensor): (2, V, M) widths and heights of the maps, in cells.
            window (int): w.
        """
        low, high = boxes.xyxy.view(2, 2, 1, len(boxes))  # (2, 1, M) each
        intervals = self._allowed_intervals(
            low, high, boxes.centers[:, None], strides
        )  # (2, V, M) each
        offset = self.levels.location_offset
        return window_cells(intervals, (low, high), strides, map_sizes, offset, window)

    def _allowed_intervals(
        self, low: Tensor, high: Tensor, centers: Tensor, strides: Tensor
    ) -> tuple[Tensor, Tensor]:
        """
        Return the open intervals along x and y that contain the locations allowed by rule 1.

        Args:
            low (Tensor): (2, 1, M) left and top sides of the boxes, in pixels.
            high (Tensor): (2, 1, M) right and bottom sides of the boxes, in pixels.
            centers (Tensor): (2, 1, M) centers of the squares of center sampling.
            strides (Tensor): (V, M) or (1, 1) strides of the levels.

        Returns:
            tuple[Tensor, Tensor]: Low and high ends, (2, V, M) each; (2, 1, M) for whole boxes.
        """
        if self.center_sampling_radius == 0:
            return low, high
        return center_intervals(low, high, centers, strides * self.center_sampling_radius)

    def _assign_in_chunks(
        self, boxes: RankedBoxes, num_images: int, feature_sizes: Sequence[tuple[int, int]]
    ) -> LocationTargets:
        """
        Assign locations to boxes level by level, in chunks of boxes.

        Args:
            boxes (RankedBoxes): The M boxes of the batch.
            num_images (int): N.
            feature_sizes (list[tuple[int, int]]): (Hi, Wi) of each level.

        Returns:
            LocationTargets: A pairs, which are all assigned.
        """
        pairs = []  # for each level: image_idxs, location_idxs, level_idxs, ranks, ltrb
        *starts, num_locations = accumulate((h * w for h, w in feature_sizes), initial=0)
        for level, (start, (height, width)) in enumerate(zip(starts, feature_sizes, strict=True)):
            winners = self._find_winners(boxes, num_images, level, (height, width))  # (N, Hi*Wi)
            image_idxs, cells = (winners < len(boxes)).nonzero().unbind(1)  # (Ai,) each
            ranks = winners[image_idxs, cells]  # (Ai,)
            stride, offset = self.levels.strides[level], self.levels.location_offset
            xs = axis_locations(cells % width, stride, offset)  # (Ai,)
            ys = axis_locations(cells // width, stride, offset)  # (Ai,)
            ltrb = encode_ltrb(torch.stack([xs, ys], dim=1), boxes.xyxy[:, ranks].T)  # (Ai, 4)
            pairs.append((image_idxs, start + cells, torch.full_like(cells, level), ranks, ltrb))
        image_idxs, location_idxs, level_idxs, ranks, ltrb = map(  # (A,) each, ltrb (A, 4)
            torch.cat, zip(*pairs, strict=True)
        )
        is_positive = torch.ones_like(ranks, dtype=torch.bool)  # (A,)
        return LocationTargets(
            image_idxs=image_idxs,
            location_idxs=location_idxs,
            level_idxs=level_idxs,
            gt_idxs=boxes.gt_idxs[ranks],  # (A,)
            ltrb=ltrb,
            weights=is_positive.float(),  # (A,)
            is_positive=is_positive,
            gt_classes=boxes.gt_classes,  # (M,)
            num_images=num_images,
            num_locations=num_locations,
        )

    def _find_winners(
        self, boxes: RankedBoxes, num_images: int, level: int, map_size: tuple[int, int]
    ) -> Tensor:
        """
        Find the box that each cell of one level is assigned to.

        Args:
            boxes (RankedBoxes): The M boxes of the batch.
            num_images (int): N.
            level (int): Index of the level.
            map_size (tuple[int, int]): (Hi, Wi).

        Returns:
            Tensor: (N, Hi*Wi) ranks of the boxes; M for background.
        """
        device, num_boxes, longer_sides = boxes.xyxy.device, len(boxes), boxes.longer_sides
        (height, width), stride = map_size, self.levels.strides[level]
        winners = torch.full((num_images * height * width,), num_boxes, device=device)  # (N*Hi*Wi,)
        least, most = self.fitting_sides[level]
        is_fitting = (longer_sides >= least) & (longer_sides <= most)  # (M,)
        ranks = is_fitting.nonzero().squeeze(1)  # (Mf,)
        strides = torch.tensor([[stride]], device=device)  # (1, 1)
        map_sizes = torch.tensor([width, height], device=device).view(2, 1, 1)  # (2, 1, 1)
        size_range = torch.tensor(self.size_ranges[level], device=device)  # (2,)
        size_ranges = size_range.view(2, 1, 1)  # (2, 1, 1)
        # No interval is longer than the box, or than the square of center sampling.
        longest = 2 * self.center_sampling_radius * stride or math.inf
        lengths = longer_sides[ranks].clamp(max=longest).tolist()
        for selected, window in chunks_of_boxes(lengths, stride, map_size, _MAX_PAIRS):
            chunk = ranks[selected]  # (Mc,)
            low, high = boxes.xyxy.index_select(1, chunk).view(2, 2, 1, -1)  # (2, 1, Mc) each
            centers = boxes.centers[:, None, chunk]  # (2, 1, Mc)
            intervals = self._allowed_intervals(low, high, centers, strides)  # (2, 1, Mc) each
            windows = window_cells(  # (2, 1, w, Mc) each
                intervals,
                (low, high),
                strides,
                map_sizes,
                self.levels.location_offset,
                window,
                slide=True,
            )
            is_eligible = pair_is_eligible(windows, size_ranges)  # (1, w, w, Mc)
            x_cells, y_cells = windows.cells  # (1, w, Mc) each
            cells = y_cells[:, :, None] * width + x_cells[:, None]  # (1, w, w, Mc)
            cells = cells + boxes.image_idxs[chunk] * (height * width)  # (1, w, w, Mc)
            eligible_ranks = torch.where(is_eligible, chunk, num_boxes)  # (1, w, w, Mc)
            winners.scatter_reduce_(0, cells.flatten(), eligible_ranks.flatten(), "amin")
        return winners.view(num_images, height * width)  # (N, Hi*Wi)
