"""
The raw outputs of a head at every location, before any activation.

N = images, K = classes, C = channels, L = levels, Hi x Wi = cells of level i.
"""

from typing import NamedTuple

from torch import Tensor

__all__ = ["DensePredictions"]


class DensePredictions(NamedTuple):
    """
    The raw outputs of a head network; each output is a list of L maps, from fine to coarse.

    Attributes:
        cls_logits (list[Tensor]): (N, K, Hi, Wi) class logits.
        raw_ltrb (list[Tensor]): (N, 4, Hi, Wi) raw distances; see ``levels.activate_ltrb``.
        quality_logits (list[Tensor] | None): (N, 1, Hi, Wi) logits of center-ness or IoU; None if
            the head does not predict a quality.
        extra (dict[str, list[Tensor]]): Other outputs by name, (N, C, Hi, Wi) with any C, such as
            the parameters of mask heads. Loss terms may use them. Their values at the locations of
            detections become fields of the detections.
        cls_features (list[Tensor] | None): (N, C, Hi, Wi) outputs of the classification tower, if
            they were requested.
        box_features (list[Tensor] | None): (N, C, Hi, Wi) outputs of the box tower, if they were
            requested.
    """

    cls_logits: list[Tensor]
    raw_ltrb: list[Tensor]
    quality_logits: list[Tensor] | None
    extra: dict[str, list[Tensor]]
    cls_features: list[Tensor] | None = None
    box_features: list[Tensor] | None = None

    @property
    def feature_sizes(self) -> list[tuple[int, int]]:
        """The size (Hi, Wi) of each level."""
        return [(x.shape[2], x.shape[3]) for x in self.cls_logits]

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        return self.cls_logits[0].shape[1]
