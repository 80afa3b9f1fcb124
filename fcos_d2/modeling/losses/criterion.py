"""From raw maps and targets to the losses by name: what is weighted, and divided by what."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.utils import comm
from torch import Tensor, nn

from ...arguments import FLAG, NOT_NEGATIVE, UNIT_INTERVAL, Arguments, Rule, one_of
from ...errors import InputError
from ..assignment import LocationTargets
from ..levels import Levels, gather_locations
from ..predictions import DensePredictions
from .box import box_loss
from .focal import focal_loss_sum
from .quality import QUALITIES
from .terms import ExtraTerms, LossTerm, LossTerms, merge_terms

__all__ = ["LOSSES_ARGUMENTS", "FCOSLosses", "ObservedBatch"]

_MOVING_MOMENTUM = 0.9
# The least that a total counts as, over all processes; of other totals it is _FLOOR.
_FLOORS = {"positives": 1.0, "locations": 1.0}
_FLOOR = 1e-6


class ObservedBatch(NamedTuple):
    """
    Statistics of the last training batch, kept for logging; nothing has a gradient.

    Attributes:
        is_positive (Tensor): (C,) bool, of C (location, box) pairs.
        level_idxs (Tensor): (C,) int64, level of each pair's location.
        quality (Tensor): (C,) float32 targets of the quality, 0 where not positive.
        loss_quality (Tensor): float32 scalar, its loss summed over positives.
    """

    is_positive: Tensor
    level_idxs: Tensor
    quality: Tensor
    loss_quality: Tensor


LOSSES_ARGUMENTS = Arguments(
    "MODEL.FCOS",
    loc_loss_type=one_of("giou", "diou", "ciou", "iou", "linear_iou"),
    box_quality=Rule(
        "a name in fcos_d2.modeling.QUALITIES, such as 'centerness' or 'iou', or 'none'",
        lambda value: isinstance(value, str) and value in {*QUALITIES, "none"},
    ),
    ctr_weighted_loc_loss=FLAG,
    loss_normalizer=one_of("fg", "moving_fg", "all"),
    focal_loss_alpha=UNIT_INTERVAL,
    focal_loss_gamma=NOT_NEGATIVE,
    loss_weight_cls=NOT_NEGATIVE,
    loss_weight_loc=NOT_NEGATIVE,
    loss_weight_quality=NOT_NEGATIVE,
)


class FCOSLosses(nn.Module):
    """
    Class, box and quality loss (arXiv:1904.01355, eq. 2 and Sec. 3.3).

    1. Class: focal loss of all locations / positives.
    2. Box, at positives: weighted by the center-ness target / sum of these weights; or, and with
       another quality, unweighted / positives.
    3. Quality, at positives: binary cross entropy / positives.

    Every process divides by the totals of all, so that several compute the gradients of one.

    Attributes:
        observed (ObservedBatch): of the last batch in training mode; None before the first.
    """

    moving_num_positives: Tensor
    observed: ObservedBatch | None = None

    @configurable
    def __init__(
        self,
        *,
        levels: Levels,
        loc_loss_type: str = "giou",
        box_quality: str = "centerness",
        ctr_weighted_loc_loss: bool = True,
        loss_normalizer: str = "fg",
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        loss_weight_cls: float = 1.0,
        loss_weight_loc: float = 1.0,
        loss_weight_quality: float = 1.0,
        extra_terms: Sequence[ExtraTerms] = (),
    ) -> None:
        """
        Keep the settings of the losses.

        Args:
            levels (Levels): of the raw maps.
            loc_loss_type (str): see ``box.box_loss``.
            box_quality (str): what the quality branch learns: a name in
                ``quality.QUALITIES``, "centerness" or "iou" (of the decoded box with its
                target); "none": there is no such branch.
            ctr_weighted_loc_loss (bool): weight the box loss by the center-ness target, if that is
                the quality; False: all positives count alike.
            loss_normalizer (str): "fg": the class loss is divided by the positives of the batch,
                of all processes; "moving_fg": a buffer keeps a moving average of them (momentum
                0.9), which all losses are divided by; "all": the class loss is divided by the
                locations of the batch, the others by the positives.
            focal_loss_alpha, focal_loss_gamma (float): see ``focal.focal_loss_sum``.
            loss_weight_cls, loss_weight_loc, loss_weight_quality (float): factors of the losses.
            extra_terms (Sequence[Callable]): more losses, see ``terms.ExtraTerms``. Those that
                are modules become children, so that their parameters are trained.

        Raises:
            InputError: a value out of its range.
        """
        super().__init__()
        LOSSES_ARGUMENTS.check(locals())
        self.levels = levels
        self.loc_loss_type = loc_loss_type
        self.box_quality = box_quality
        self.quality = QUALITIES.get(box_quality)
        self.weights_boxes_by_quality = box_quality == "centerness" and ctr_weighted_loc_loss
        self.loss_normalizer = loss_normalizer
        if loss_normalizer == "moving_fg":
            # 0: no batch seen yet.
            self.register_buffer("moving_num_positives", torch.zeros(()))
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.loss_weight_cls = loss_weight_cls
        self.loss_weight_loc = loss_weight_loc
        self.loss_weight_quality = loss_weight_quality
        self.extra_terms = tuple(extra_terms)
        for index, term in enumerate(self.extra_terms):
            if isinstance(term, nn.Module):
                self.add_module(f"extra_term{index}", term)

    @classmethod
    def from_config(cls, cfg: CfgNode, levels: Levels) -> dict[str, Any]:
        return {"levels": levels, **LOSSES_ARGUMENTS.read(cfg)}

    def forward(self, predictions: DensePredictions, targets: LocationTargets) -> dict[str, Tensor]:
        """
        Compute the losses of a batch.

        Args:
            predictions (DensePredictions): of the head; without quality logits if the quality is
                "none".
            targets (LocationTargets): of these locations.

        Returns:
            dict[str, Tensor]: float32 scalars "loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr" or
            "loss_fcos_iou" by quality, and those of extra terms. Without any positive all of ours
            but the first are zeros that can be differentiated.
        """
        terms = self.compute_loss_terms(predictions, targets)
        num_processes = comm.get_world_size()
        if num_processes == 1:
            return self.normalize(terms)
        # One all-reduce, by every process and whatever its positives, or the others would wait.
        totals = torch.stack(list(terms.totals.values()))
        torch.distributed.all_reduce(totals)
        of_all = dict(zip(terms.totals, totals.unbind(), strict=True))
        return self.normalize(terms._replace(totals=of_all), num_processes)

    def compute_loss_terms(
        self, predictions: DensePredictions, targets: LocationTargets
    ) -> LossTerms:
        """Compute what a batch adds to the losses; for the arguments see ``forward``."""
        if self.quality is None and predictions.quality_logits is not None:
            raise InputError(
                "The head predicts a quality, but MODEL.FCOS.BOX_QUALITY = 'none' teaches it "
                "nothing: it would rank detections at random."
            )
        flat_idxs = targets.flat_location_idxs  # (C,)
        pred_ltrb, target_ltrb = self._ltrb_of_pairs(predictions.raw_ltrb, targets, flat_idxs)
        if self.quality is None:
            quality = torch.zeros_like(targets.weights)  # (C,)
        else:
            computed = self.quality.compute_targets(pred_ltrb.detach(), target_ltrb)
            quality = computed * targets.is_positive  # (C,)
        box_weights = (
            targets.weights * quality if self.weights_boxes_by_quality else targets.weights
        )

        labels = targets.labels(predictions.num_classes)
        loss_cls = focal_loss_sum(
            predictions.cls_logits,
            labels,
            self.focal_loss_alpha,
            self.focal_loss_gamma,
            ignores=targets.is_ignored is not None,
        )
        loss_loc = (box_loss(pred_ltrb, target_ltrb, self.loc_loss_type) * box_weights).sum()
        losses = {
            "loss_fcos_cls": LossTerm(
                loss_cls, "locations" if self.loss_normalizer == "all" else "positives"
            ),
            "loss_fcos_loc": LossTerm(loss_loc, "box_weights"),
        }
        if self.quality is None:
            loss_quality = torch.zeros_like(loss_cls)
        else:
            logits = gather_locations(_quality_logits_of(predictions), flat_idxs).squeeze(1)  # (C,)
            loss_quality = F.binary_cross_entropy_with_logits(
                logits.float(), quality, weight=targets.weights, reduction="sum"
            )
            losses[self.quality.loss_name] = LossTerm(loss_quality, "positives")
        if self.training:
            self.observed = ObservedBatch(
                targets.is_positive, targets.level_idxs, quality, loss_quality.detach()
            )
        totals = {
            "positives": targets.weights.sum(),
            "box_weights": box_weights.sum(),
            "locations": quality.new_full((), labels.numel()),
        }
        extra = [compute(predictions, targets) for compute in self.extra_terms]
        return merge_terms([LossTerms(losses, totals), *extra])

    def normalize(self, terms: LossTerms, num_processes: int = 1) -> dict[str, Tensor]:
        """
        Divide sums by totals, and apply the weights of the losses.

        A normalizer is max(total, floor) / W, which makes W processes compute the gradients of one.
        The floor applies to the total: applied to each process's share it would shrink the losses
        of batches with fewer positives than processes.

        Args:
            terms (LossTerms): sums of this process, totals of all.
            num_processes (int): W.

        Returns:
            dict[str, Tensor]: see ``forward``.
        """
        normalizers = {
            name: total.clamp(min=_FLOORS.get(name, _FLOOR)) / num_processes
            for name, total in terms.totals.items()
        }
        scale = None
        if self.loss_normalizer == "moving_fg" and self.training:
            # The average takes the place of the positives, and the box weights move with it.
            average = self._update_average(normalizers["positives"] * num_processes) / num_processes
            scale = normalizers["positives"] / average
            normalizers["positives"] = average
        weights = {"loss_fcos_cls": self.loss_weight_cls, "loss_fcos_loc": self.loss_weight_loc}
        if self.quality is not None:
            weights[self.quality.loss_name] = self.loss_weight_quality
        losses = {}
        for name, (loss, normalizer) in terms.losses.items():
            loss = loss / normalizers[normalizer]
            if scale is not None and normalizer == "box_weights":
                loss = loss * scale
            losses[name] = loss * weights.get(name, 1.0)
        return losses

    def _ltrb_of_pairs(
        self, raw_ltrb: Sequence[Tensor], targets: LocationTargets, flat_idxs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(C, 4) predicted and target distances in pixels; anything finite where not positive."""
        is_positive = targets.is_positive[:, None]  # (C, 1)
        # What is not positive must stay finite on the way to being masked out: 0 * inf is NaN.
        raw = gather_locations(raw_ltrb, flat_idxs).where(is_positive, 0)
        return self.levels.activate(raw, targets.level_idxs), targets.ltrb.where(is_positive, 1)

    def _update_average(self, total: Tensor) -> Tensor:
        """The moving average of the positives of all processes, this batch included."""
        # Of the total: training may resume with another number of processes.
        old = self.moving_num_positives
        moved = _MOVING_MOMENTUM * old + (1 - _MOVING_MOMENTUM) * total
        self.moving_num_positives.copy_(torch.where(old > 0, moved, total))
        return self.moving_num_positives


def _quality_logits_of(predictions: DensePredictions) -> list[Tensor]:
    if predictions.quality_logits is None:
        raise InputError(
            "MODEL.FCOS.BOX_QUALITY wants a quality to be learned, but the head predicts none."
        )
    return predictions.quality_logits
