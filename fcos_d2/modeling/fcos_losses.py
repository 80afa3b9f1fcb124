"""From raw maps and targets to the losses by name: what is weighted, and divided by what."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor, nn

from ..config_rules import check_value
from .levels import Levels, flatten_levels
from .losses import box_loss, centerness_targets, focal_loss_sum, ltrb_iou
from .predictions import DensePredictions
from .target_assignment import LocationTargets

__all__ = ["FCOSLosses", "LossTerms", "ObservedBatch"]

_MOVING_MOMENTUM = 0.9
_FLOORS = (1.0, 1e-6, 1.0)  # of LossTerms.totals
_QUALITY_LOSS_NAMES = {"centerness": "loss_fcos_ctr", "iou": "loss_fcos_iou"}


class LossTerms(NamedTuple):
    """
    What images add to the losses; the terms of several batches add up to those of all.

    Attributes:
        cls, loc, quality (Tensor): float32 scalars, losses summed over locations, the box loss as
            it is weighted; 0 without a quality.
        totals (Tensor): (3,) float32: positives, weights of the box loss, locations.
    """

    cls: Tensor
    loc: Tensor
    quality: Tensor
    totals: Tensor


class ObservedBatch(NamedTuple):
    """
    What of a training batch is kept for logs to read, when they want to; nothing has a gradient.

    Attributes:
        is_positive (Tensor): (C,) bool, of C (location, box) pairs.
        level_idxs (Tensor): (C,) int64, level of each pair's location.
        quality (Tensor): (C,) float32 targets of the quality, 0 at no positives.
        loss_quality (Tensor): float32 scalar, its loss summed over positives.
    """

    is_positive: Tensor
    level_idxs: Tensor
    quality: Tensor
    loss_quality: Tensor


class FCOSLosses(nn.Module):
    """
    Class, box and quality loss (arXiv:1904.01355, eq. 2 and Sec. 3.3).

    1. Class: focal loss of all locations / normaliser.
    2. Box, at positives: weighted by the centre-ness target / sum of these weights; or, and with
       another quality, unweighted / positives.
    3. Quality, at positives: binary cross entropy / positives.

    Every process divides by the totals of all, so that several compute the gradients of one.

    Attributes:
        observed (ObservedBatch): of the last batch in training mode; None before the first.
    """

    moving_num_positives: Tensor
    observed: ObservedBatch | None = None

    def __init__(
        self,
        *,
        levels: Levels,
        box_loss_type: str = "giou",
        box_quality: str = "centerness",
        centerness_weighted_box_loss: bool = True,
        loss_normalizer: str = "fg",
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        loss_weight_cls: float = 1.0,
        loss_weight_loc: float = 1.0,
        loss_weight_quality: float = 1.0,
    ) -> None:
        """
        Args:
            levels (Levels): of the raw maps.
            box_loss_type (str): see :func:`.losses.box_loss`.
            box_quality (str): what the quality branch learns: "centerness"; "iou": the IoU of the
                decoded box with its target, through which no gradient flows; "none": there is none.
            centerness_weighted_box_loss (bool): weight the box loss by the centre-ness target, if
                that is the quality; False: all positives count alike.
            loss_normalizer (str): "fg": the class loss is divided by the positives of the batch,
                of all processes; "moving_fg": a buffer keeps a moving average of them (momentum
                0.9), which all losses are divided by; "all": the class loss is divided by the
                locations of the batch, the others by the positives.
            focal_loss_alpha, focal_loss_gamma (float): see :func:`.losses.focal_loss_sum`.
            loss_weight_cls, loss_weight_loc, loss_weight_quality (float): factors of the losses.

        Raises:
            InputError: a value out of its range.
        """
        super().__init__()
        for key, value in (
            ("LOC_LOSS_TYPE", box_loss_type),
            ("BOX_QUALITY", box_quality),
            ("CTR_WEIGHTED_LOC_LOSS", centerness_weighted_box_loss),
            ("LOSS_NORMALIZER", loss_normalizer),
            ("FOCAL_LOSS_ALPHA", focal_loss_alpha),
            ("FOCAL_LOSS_GAMMA", focal_loss_gamma),
            ("LOSS_WEIGHT_CLS", loss_weight_cls),
            ("LOSS_WEIGHT_LOC", loss_weight_loc),
            ("LOSS_WEIGHT_QUALITY", loss_weight_quality),
        ):
            check_value(f"MODEL.FCOS.{key}", value)
        self.levels = levels
        self.box_loss_type = box_loss_type
        self.box_quality = box_quality
        self.weighs_boxes = box_quality == "centerness" and centerness_weighted_box_loss
        self.quality_loss_name = _QUALITY_LOSS_NAMES.get(box_quality)
        self.loss_normalizer = loss_normalizer
        if loss_normalizer == "moving_fg":
            # 0: no batch seen yet.
            self.register_buffer("moving_num_positives", torch.zeros(()))
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.loss_weight_cls = loss_weight_cls
        self.loss_weight_loc = loss_weight_loc
        self.loss_weight_quality = loss_weight_quality

    def forward(
        self,
        predictions: DensePredictions,
        targets: LocationTargets,
        is_in_ignore_box: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """
        Args:
            predictions (DensePredictions): of the head; no quality logits if the quality is "none".
            targets (LocationTargets): of these locations.
            is_in_ignore_box (Tensor): (N, R) bool, locations that are not taught to be background;
                those that are positive are taught as ever. None: there are none.

        Returns:
            dict[str, Tensor]: float32 scalars "loss_fcos_cls", "loss_fcos_loc", and "loss_fcos_ctr"
            or "loss_fcos_iou" by quality. Without any positive all but the first are zeros that can
            be differentiated.
        """
        terms = self.sum_up(predictions, targets, is_in_ignore_box)
        # One all-reduce, by every process and whatever its positives, or the others would wait.
        num_processes = comm.get_world_size()
        if num_processes > 1:
            torch.distributed.all_reduce(terms.totals)
        return self.divide(terms, num_processes)

    def sum_up(
        self,
        predictions: DensePredictions,
        targets: LocationTargets,
        is_in_ignore_box: Tensor | None = None,
    ) -> LossTerms:
        """What a batch adds to the losses, before anything is divided; for the arguments see
        :meth:`forward`."""
        cls_logits = predictions.cls_logits
        is_positive = targets.is_positive
        pred_ltrb, target_ltrb = self._ltrb_of_pairs(predictions.raw_ltrb, targets)
        quality = self._quality_targets(pred_ltrb.detach(), target_ltrb) * is_positive
        box_weights = quality if self.weighs_boxes else is_positive.float()

        num_locations = sum(x.shape[2] * x.shape[3] for x in cls_logits)
        labels = targets.labels(len(cls_logits[0]), num_locations)
        is_ignored = None
        if is_in_ignore_box is not None:
            is_ignored = is_in_ignore_box & (labels < 0)
        loss_cls = focal_loss_sum(
            cls_logits, labels, self.focal_loss_alpha, self.focal_loss_gamma, is_ignored
        )
        loss_loc = box_loss(pred_ltrb, target_ltrb, self.box_loss_type) * box_weights
        loss_quality = torch.zeros_like(loss_cls)
        if self.quality_loss_name is not None:
            assert predictions.quality_logits is not None
            loss_quality = _quality_loss_sum(predictions.quality_logits, quality, targets)
        if self.training:
            self.observed = ObservedBatch(
                is_positive, targets.level_idxs, quality, loss_quality.detach()
            )
        total_locations = quality.new_full((), labels.numel())
        totals = [is_positive.sum().float(), box_weights.sum().float(), total_locations.float()]
        return LossTerms(loss_cls, loss_loc.sum(), loss_quality, torch.stack(totals))

    def divide(self, terms: LossTerms, num_processes: int = 1) -> dict[str, Tensor]:
        """
        The losses that sums and totals make.

        A normaliser is max(total, floor) / W, which makes W processes compute the gradients of one.
        The floor applies to the total: applied to each process's share it would shrink the losses
        of batches with fewer positives than processes.

        Args:
            terms (LossTerms): sums of this process, totals of all.
            num_processes (int): W.

        Returns:
            dict[str, Tensor]: see :meth:`forward`.
        """
        num_positives, sum_box_weights, num_locations = (
            total.clamp(min=floor) / num_processes
            for total, floor in zip(terms.totals.unbind(), _FLOORS, strict=True)
        )
        normalizer = self._positives_to_divide_by(num_positives, num_processes)
        cls_normalizer = num_locations if self.loss_normalizer == "all" else normalizer
        loss_loc = terms.loc / sum_box_weights * (num_positives / normalizer)
        losses = {
            "loss_fcos_cls": terms.cls / cls_normalizer * self.loss_weight_cls,
            "loss_fcos_loc": loss_loc * self.loss_weight_loc,
        }
        if self.quality_loss_name is not None:
            loss_quality = terms.quality / normalizer * self.loss_weight_quality
            losses[self.quality_loss_name] = loss_quality
        return losses

    def _ltrb_of_pairs(
        self, raw_ltrb: Sequence[Tensor], targets: LocationTargets
    ) -> tuple[Tensor, Tensor]:
        """(C, 4) predicted and target distances in pixels; anything finite at no positives."""
        is_positive = targets.is_positive[:, None]
        # What is no positive must stay finite on the way to being masked out: 0 * inf is NaN.
        raw = _of_pairs(raw_ltrb, targets)
        pred_ltrb = self.levels.activate(raw.where(is_positive, 0), targets.level_idxs)
        return pred_ltrb, targets.ltrb.where(is_positive, 1)

    def _quality_targets(self, pred_ltrb: Tensor, target_ltrb: Tensor) -> Tensor:
        if self.box_quality == "centerness":
            return centerness_targets(target_ltrb)
        return ltrb_iou(pred_ltrb, target_ltrb)

    def _positives_to_divide_by(self, num_positives: Tensor, num_processes: int) -> Tensor:
        """From those of this batch (either is a mean over processes)."""
        # The average is of batches of training: no measure of anything else.
        if self.loss_normalizer != "moving_fg" or not self.training:
            return num_positives
        # The total of all processes is kept: another number of them may go on with it.
        total, old = num_positives * num_processes, self.moving_num_positives
        moved = _MOVING_MOMENTUM * old + (1 - _MOVING_MOMENTUM) * total
        self.moving_num_positives.copy_(torch.where(old > 0, moved, total))
        return self.moving_num_positives / num_processes


def _of_pairs(maps: Sequence[Tensor], targets: LocationTargets) -> Tensor:
    """(C, ...) what L maps (N, ..., Hi, Wi) have at the location of each pair."""
    return flatten_levels(maps).flatten(0, 1).index_select(0, targets.slots)


def _quality_loss_sum(
    quality_logits: Sequence[Tensor], quality: Tensor, targets: LocationTargets
) -> Tensor:
    logits = _of_pairs(quality_logits, targets).squeeze(1)
    return F.binary_cross_entropy_with_logits(
        logits.float(), quality, weight=targets.is_positive.float(), reduction="sum"
    )
