"""The losses of detectron2's two-stage detectors on FCOS as sums, for validation losses."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN, ProposalNetwork
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.utils.events import EventStorage
from torch import nn

from .losses import LossTerm, LossTerms
from .losses.terms import merge_terms

__all__ = ["compute_two_stage_loss_terms", "roi_loss_names"]


def roi_loss_names(model: GeneralizedRCNN | ProposalNetwork) -> list[str] | None:
    """Return the names of the losses of the ROI heads; None if other classes may have others."""
    roi_heads = getattr(model, "roi_heads", None)
    if roi_heads is None:
        return []
    if type(roi_heads) not in (StandardROIHeads, CascadeROIHeads):
        return None
    names = ["loss_cls", "loss_box_reg"]
    if isinstance(roi_heads, CascadeROIHeads):
        names = [f"{x}_stage{i}" for i in range(roi_heads.num_cascade_stages) for x in names]
    names += ["loss_mask"] if roi_heads.mask_on else []
    return names + (["loss_keypoint"] if roi_heads.keypoint_on else [])


def compute_two_stage_loss_terms(
    model: GeneralizedRCNN | ProposalNetwork, batched_inputs: Sequence[dict[str, Any]]
) -> LossTerms:
    """
    Compute the losses of annotated images as sums, before they are normalized.

    The losses of the ROI heads are means over the sampled proposals of a batch. They are weighted
    by the number of images, and the total "images" normalizes them.

    The model stays in its mode. In eval mode, no buffer and no statistic of the model changes.

    Args:
        model (GeneralizedRCNN | ProposalNetwork): A model with an FCOSProposalGenerator.
        batched_inputs (list[dict]): As for ``forward`` in training.
    """
    # ProposalNetwork has the same steps, but not as a method.
    images = GeneralizedRCNN.preprocess_image(model, batched_inputs)
    gt_instances = [x["instances"].to(model.device) for x in batched_inputs]
    features = model.backbone(images.tensor)
    proposals, terms = model.proposal_generator.compute_loss_terms(images, features, gt_instances)
    if not hasattr(model, "roi_heads"):
        return terms
    # The ROI heads log statistics of a training batch.
    with _computing_losses(model.roi_heads), EventStorage():
        _, losses = model.roi_heads(images, features, proposals, gt_instances)
    num_images = images.tensor.new_full((), len(batched_inputs), dtype=torch.float32)  # ()
    of_roi_heads = {
        name: LossTerm(loss.float() * num_images, "images") for name, loss in losses.items()
    }
    return merge_terms([terms, LossTerms(of_roi_heads, {"images": num_images})])


@contextmanager
def _computing_losses(roi_heads: nn.Module) -> Iterator[None]:
    """Let ROI heads compute losses in a block, in which batch norms keep their mode."""
    batch_norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    modes = {x: x.training for x in roi_heads.modules() if not isinstance(x, batch_norms)}
    try:
        for module in modes:
            module.training = True
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
