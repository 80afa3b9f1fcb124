"""
FCOS as the proposal generator of detectron2's two-stage detectors (arXiv:1904.01355, Sec. 4.3).

N = images, K = classes, C = channels, L = levels, Hi x Wi = cells of level i, D = proposals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ..arguments import FLAG, UNIT_INTERVAL, Arguments, integer
from ..registration import register_in
from .dense_head import FCOSDenseHead
from .levels import select_maps
from .losses import LossTerms
from .num_classes import resolve_num_classes
from .postprocessing import FCOSPostProcessor
from .predictions import DensePredictions
from .two_stage import check_roi_heads

__all__ = ["PROPOSAL_ARGUMENTS", "FCOSProposalGenerator"]

PROPOSAL_ARGUMENTS = Arguments(
    "MODEL.RPN",
    elsewhere={"class_agnostic": "MODEL.FCOS"},
    class_agnostic=FLAG,
    pre_nms_topk_train=integer(at_least=1),
    pre_nms_topk_test=integer(at_least=1),
    post_nms_topk_train=integer(at_least=1),
    post_nms_topk_test=integer(at_least=1),
    nms_thresh=UNIT_INTERVAL,
)
_LEAST_PROBABILITY = 1e-6  # of the scores that become logits, which must be finite


@register_in(PROPOSAL_GENERATOR_REGISTRY, name="FCOS")
class FCOSProposalGenerator(nn.Module):
    """
    FCOS in the place of a region proposal network.

    It is registered as PROPOSAL_GENERATOR "FCOS", for detectron2's GeneralizedRCNN and
    ProposalNetwork. The head network runs once in a step, for losses and proposals.

    Attributes:
        postprocessor (FCOSPostProcessor): Computes the proposals in inference.
        train_postprocessor (FCOSPostProcessor): Computes them in training.
    """

    postprocessor: FCOSPostProcessor

    @configurable
    def __init__(
        self,
        *,
        dense_head: FCOSDenseHead,
        input_shape: Mapping[str, ShapeSpec],
        head_in_features: Sequence[str],
        class_agnostic: bool = True,
        pre_nms_topk_train: int = 12000,
        pre_nms_topk_test: int = 6000,
        post_nms_topk_train: int = 2000,
        post_nms_topk_test: int = 1000,
        nms_thresh: float = 0.7,
    ) -> None:
        """
        Attach the dense head, and build the post-processing of proposals.

        Args:
            dense_head (FCOSDenseHead): The parts of FCOS. Of its postprocessor, only the score
                function is used.
            input_shape (dict[str, ShapeSpec]): The backbone's maps.
            head_in_features (list[str]): Names of the L maps to use, from fine to coarse.
            class_agnostic (bool): Learn all objects as one class. The head must have one class.
            pre_nms_topk_train (int): Maximum number of candidates of each image and level that go
                into NMS in training.
            pre_nms_topk_test (int): The same in inference.
            post_nms_topk_train (int): Maximum number of proposals of an image in training.
            post_nms_topk_test (int): The same in inference.
            nms_thresh (float): IoU above which the lower-scoring of two boxes is removed, whatever
                their classes are.

        Raises:
            InputError: If a value is out of its range, or parts do not fit together.
        """
        super().__init__()
        PROPOSAL_ARGUMENTS.check(locals())
        maps = select_maps(input_shape, head_in_features)
        self.in_features = list(maps)
        self.class_agnostic = class_agnostic

        def build_postprocessor(pre_nms_topk: int, post_nms_topk: int) -> FCOSPostProcessor:
            """Build the post-processing for these numbers of boxes."""
            return FCOSPostProcessor(
                levels=dense_head.levels,
                score_thresh_test=0.0,
                topk_candidates_test=pre_nms_topk,
                nms_thresh_test=nms_thresh,
                class_agnostic_nms=True,
                detections_per_image=post_nms_topk,
                score_function=dense_head.postprocessor.score_function,
            )

        self.train_postprocessor = build_postprocessor(pre_nms_topk_train, post_nms_topk_train)
        postprocessor = build_postprocessor(pre_nms_topk_test, post_nms_topk_test)
        dense_head = replace(dense_head, postprocessor=postprocessor)
        dense_head.attach_to(self, list(maps.values()))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Build the arguments of the constructor from a config."""
        arguments = PROPOSAL_ARGUMENTS.read(cfg)
        check_roi_heads(cfg, input_shape)
        maps = select_maps(input_shape, cfg.MODEL.FCOS.IN_FEATURES)
        num_classes = 1 if arguments["class_agnostic"] else resolve_num_classes(cfg)
        return {
            "dense_head": FCOSDenseHead.from_config(cfg, list(maps.values()), num_classes),
            "input_shape": input_shape,
            "head_in_features": list(maps),
            **arguments,
        }

    @property
    def dense_head(self) -> FCOSDenseHead:
        """The current parts of FCOS; any of these attributes may be replaced."""
        return FCOSDenseHead.of(self)

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        gt_instances: Sequence[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        Compute proposals, and in training the losses.

        Args:
            images (ImageList): The padded batch, with the sizes of the images.
            features (dict[str, Tensor]): The backbone's maps (N, C, Hi, Wi) by name.
            gt_instances (list[Instances]): Annotations of each image, in training.

        Returns:
            tuple[list[Instances], dict[str, Tensor]]: The proposals of each image by descending
            score, at most D: ``proposal_boxes`` in pixels of the image, and ``objectness_logits``,
            the logit of the score, which is finite. And the losses by name; none in inference.
        """
        predictions = self._predict(features)
        losses: dict[str, Tensor] = {}
        if self.training:
            assert gt_instances is not None, "Instance annotations are missing in training!"
            losses = self.dense_head.compute_losses(
                predictions, self._as_objects(gt_instances), images.image_sizes
            )
        postprocessor = self.train_postprocessor if self.training else self.postprocessor
        return _propose(postprocessor, predictions, images), losses

    def compute_loss_terms(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        gt_instances: Sequence[Instances],
    ) -> tuple[list[Instances], LossTerms]:
        """
        Compute the proposals of training, and the losses as sums before they are normalized.

        The generator stays in its mode. In eval mode, no buffer changes.

        Args:
            images (ImageList): See ``forward``.
            features (dict[str, Tensor]): See ``forward``.
            gt_instances (list[Instances]): See ``forward``.
        """
        predictions = self._predict(features)
        terms = self.dense_head.compute_loss_terms(
            predictions, self._as_objects(gt_instances), images.image_sizes
        )
        return _propose(self.train_postprocessor, predictions, images), terms

    def _predict(self, features: Mapping[str, Tensor]) -> DensePredictions:
        """Run the head network."""
        return self.dense_head.predict([features[name] for name in self.in_features])

    def _as_objects(self, gt_instances: Sequence[Instances]) -> list[Instances]:
        """Return the annotations that the head learns; the ROI heads need the given ones."""
        if not self.class_agnostic:
            return list(gt_instances)
        return [
            Instances(
                x.image_size,
                **{**x.get_fields(), "gt_classes": torch.zeros_like(x.gt_classes)},
            )
            for x in gt_instances
        ]


def _propose(
    postprocessor: FCOSPostProcessor, predictions: DensePredictions, images: ImageList
) -> list[Instances]:
    """Compute the proposals of each image."""
    return [_to_proposals(x) for x in postprocessor(predictions, images.image_sizes)]


def _to_proposals(detections: Instances) -> Instances:
    """Convert detections to proposals in the form that detectron2's ROI heads read."""
    return Instances(
        detections.image_size,
        proposal_boxes=detections.pred_boxes,
        objectness_logits=detections.scores.logit(eps=_LEAST_PROBABILITY),
    )
