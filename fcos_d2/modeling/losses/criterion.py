"""
``FCOSLosses``, which computes the weighted and normalized losses of predictions and targets.

N = images, K = classes, R = locations of an image over all levels, Hi x Wi = cells of level i,
A = (location, gt box) pairs.
"""

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
# Totals over all processes are clamped to at least these values, and all others to _MIN_TOTAL.
_MIN_TOTALS = {"positives": 1.0, "locations": 1.0}
_MIN_TOTAL = 1e-6


class ObservedBatch(NamedTuple):
    """
    Statistics of the last training batch, kept for logging and without gradients.

    Attributes:
        is_positive (Tensor): (A,) bool, whether each pair is positive.
        level_idxs (Tensor): (A,) int64, level of each pair's location.
        quality (Tensor): (A,) float32, targets of the quality; 0 where not positive.
        loss_quality (Tensor): () float32, quality loss summed over the positives.
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

    1. Class loss: the focal loss of all locations / number of positives.
    2. Box loss, at positives: weighted by the center-ness target / sum of these weights. Without
       this weighting, or with another quality: unweighted / number of positives.
    3. Quality loss, at positives: binary cross entropy / number of positives.

    All processes divide by the totals over all processes. So training with several processes
    computes the same gradients as with one.

    Attributes:
        moving_num_positives (Tensor): () float32, moving average of the number of positives over
            all processes; 0 before the first batch. It exists for ``loss_normalizer`` "moving_fg".
        observed (ObservedBatch | None): Statistics of the last batch in training mode; None before
            the first.
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
        Store the settings of the losses.

        Args:
            levels (Levels): The levels of the head.
            loc_loss_type (str): Type of the box loss, see ``box.box_loss``.
            box_quality (str): Target of the quality branch, a name in ``quality.QUALITIES``:
                "centerness", or "iou" (between the predicted box and the gt box). "none" means that
                there is no quality branch.
            ctr_weighted_loc_loss (bool): Weight the box loss by the center-ness target, if
                ``box_quality`` is "centerness". False gives all positives the same weight.
            loss_normalizer (str): "fg" divides the class loss by the number of positives in the
                batches of all processes. "moving_fg" divides all losses by a moving average of this
                number (momentum 0.9), which is kept in a buffer. "all" divides the class loss by
                the number of locations, and the others by the number of positives.
            focal_loss_alpha (float): Weight of positives, see ``focal.focal_loss_sum``.
            focal_loss_gamma (float): Exponent of the focal loss, see ``focal.focal_loss_sum``.
            loss_weight_cls (float): Factor of the class loss.
            loss_weight_loc (float): Factor of the box loss.
            loss_weight_quality (float): Factor of the quality loss.
            extra_terms (Sequence[Callable]): User-defined losses, see ``terms.ExtraTerms``. Those
                that are modules become submodules, so that their parameters are trained.

        Raises:
            InputError: If a value is out of its range.
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
            # 0 means that there was no batch yet.
            self.register_buffer("moving_num_positives", torch.zeros(()))  # ()
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
        """Read the arguments of the constructor from a config."""
        return {"levels": levels, **LOSSES_ARGUMENTS.read(cfg)}

    def forward(self, predictions: DensePredictions, targets: LocationTargets) -> dict[str, Tensor]:
        """
        Compute the losses of a batch.

        Args:
            predictions (DensePredictions): Outputs of the head; without quality logits if
                ``box_quality`` is "none".
            targets (LocationTargets): Targets of the same locations.

        Returns:
            dict[str, Tensor]: () float32 by name: "loss_fcos_cls", "loss_fcos_loc",
            "loss_fcos_ctr" or "loss_fcos_iou" (depending on the quality), and the losses of extra
            terms. In a batch without positives, box and quality loss are 0 and have gradients of 0.
        """
        return self.normalize_over_processes(self.compute_loss_terms(predictions, targets))

    @property
    def loss_names(self) -> list[str] | None:
        """The names of the losses; None if extra terms or a subclass add others."""
        if self.extra_terms or type(self) is not FCOSLosses:
            return None
        quality = [] if self.quality is None else [self.quality.loss_name]
        return ["loss_fcos_cls", "loss_fcos_loc", *quality]

    def normalize_over_processes(self, terms: LossTerms) -> dict[str, Tensor]:
        """
        Divide the sums of this process by the totals over all processes, see ``normalize``.

        Args:
            terms (LossTerms): The sums and totals of this process.
        """
        num_processes = comm.get_world_size()
        if num_processes == 1:
            return self.normalize(terms)
        # Every process must take part in this all-reduce, also one without positives, because the
        # others would wait for it.
        totals = torch.stack(list(terms.totals.values()))  # (totals,)
        torch.distributed.all_reduce(totals)
        global_totals = dict(zip(terms.totals, totals.unbind(), strict=True))
        return self.normalize(terms._replace(totals=global_totals), num_processes)

    def compute_loss_terms(
        self, predictions: DensePredictions, targets: LocationTargets
    ) -> LossTerms:
        """
        Compute the losses of a batch as sums, and the totals that normalize them.

        Args:
            predictions (DensePredictions): See ``forward``.
            targets (LocationTargets): See ``forward``.

        Raises:
            InputError: If the head predicts a quality that the losses do not train, or if the
                losses train a quality that the head does not predict.
        """
        if self.quality is None and predictions.quality_logits is not None:
            raise InputError(
                "The head predicts a quality, but MODEL.FCOS.BOX_QUALITY = 'none' does not train "
                "it: it would rank detections at random. Set another BOX_QUALITY, or build the "
                "head with predict_quality=False.",
                key="MODEL.FCOS.BOX_QUALITY",
                value=self.box_quality,
            )
        flat_idxs = targets.flat_location_idxs  # (A,)
        pred_ltrb, target_ltrb = self._ltrb_of_pairs(  # (A, 4) each
            predictions.raw_ltrb, targets, flat_idxs
        )
        if self.quality is None:
            quality = torch.zeros_like(targets.weights)  # (A,)
        else:
            quality = self.quality.compute_targets(pred_ltrb.detach(), target_ltrb)  # (A,)
            quality = quality * targets.is_positive  # (A,)
        box_weights = (  # (A,)
            targets.weights * quality if self.weights_boxes_by_quality else targets.weights
        )

        labels = targets.labels(predictions.num_classes)  # (N, R)
        loss_cls = focal_loss_sum(  # ()
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
            quality_logits = self._require_quality_logits(predictions)  # L of (N, 1, Hi, Wi)
            logits = gather_locations(quality_logits, flat_idxs).squeeze(1)  # (A,)
            loss_quality = F.binary_cross_entropy_with_logits(
                logits.float(), quality, weight=targets.weights, reduction="sum"
            )
            losses[self.quality.loss_name] = LossTerm(loss_quality, "positives")
        if self.training:
            self.observed = ObservedBatch(
                targets.is_positive, targets.level_idxs, quality, loss_quality.detach()
            )
        totals = {
            "positives": targets.weights.sum(),  # ()
            "box_weights": box_weights.sum(),  # ()
            "locations": quality.new_full((), labels.numel()),  # ()
        }
        extra = [compute(predictions, targets) for compute in self.extra_terms]
        return merge_terms([LossTerms(losses, totals), *extra])

    def normalize(self, terms: LossTerms, num_processes: int = 1) -> dict[str, Tensor]:
        """
        Divide the sums by their totals, and multiply them by the weights of the losses.

        A normalizer is max(total, minimum) / number of processes. DistributedDataParallel averages
        the gradients of the processes, and so they are those of a single process. The minimum
        applies to the total. If it were applied to each process's share, the losses of batches with
        fewer positives than processes would be too small.

        Args:
            terms (LossTerms): The sums of this process, with the totals of all processes.
            num_processes (int): Number of processes.

        Returns:
            dict[str, Tensor]: () float32 losses by name, see ``forward``.
        """
        normalizers = {  # () each
            name: total.clamp(min=_MIN_TOTALS.get(name, _MIN_TOTAL)) / num_processes
            for name, total in terms.totals.items()
        }
        scale = None
        if self.loss_normalizer == "moving_fg" and self.training:
            # The average replaces the number of positives. The box loss, which has another
            # normalizer, is scaled by the same ratio.
            average = self._update_average(normalizers["positives"] * num_processes) / num_processes
            scale = normalizers["positives"] / average  # ()
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
        """
        Return the predicted and the target distances of each pair, in pixels.

        Pairs that are not positive get arbitrary finite distances: their losses are multiplied by
        0, and 0 * inf would be NaN.

        Args:
            raw_ltrb (list[Tensor]): L maps (N, 4, Hi, Wi).
            targets (LocationTargets): The A pairs.
            flat_idxs (Tensor): (A,) index of each pair's location in the batch.

        Returns:
            tuple[Tensor, Tensor]: Predicted and target distances, (A, 4) each.
        """
        is_positive = targets.is_positive[:, None]  # (A, 1)
        raw = gather_locations(raw_ltrb, flat_idxs).where(is_positive, 0)  # (A, 4)
        pred_ltrb = self.levels.activate(raw, targets.level_idxs)  # (A, 4)
        return pred_ltrb, targets.ltrb.where(is_positive, 1)  # (A, 4) each

    def _update_average(self, total: Tensor) -> Tensor:
        """
        Add this batch to the moving average of the number of positives, and return the average.

        It is an average of totals over all processes, because training may resume with another
        number of processes.

        Args:
            total (Tensor): () number of positives over all processes.
        """
        old = self.moving_num_positives  # ()
        updated = _MOVING_MOMENTUM * old + (1 - _MOVING_MOMENTUM) * total  # ()
        self.moving_num_positives.copy_(torch.where(old > 0, updated, total))  # ()
        return self.moving_num_positives

    def _require_quality_logits(self, predictions: DensePredictions) -> list[Tensor]:
        """Return the L maps (N, 1, Hi, Wi) of the quality branch, which must exist."""
        if predictions.quality_logits is None:
            raise InputError(
                f"MODEL.FCOS.BOX_QUALITY = {self.box_quality!r} trains a quality, but the head "
                "predicts none. Build the head with predict_quality=True, or set BOX_QUALITY to "
                "'none'.",
                key="MODEL.FCOS.BOX_QUALITY",
                value=self.box_quality,
            )
        return predictions.quality_logits
