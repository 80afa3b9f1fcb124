"""
What a head predicts at every location, before any activation.

N = images, K = classes, L = levels, Hi x Wi = cells of level i.
"""

from typing import NamedTuple

from torch import Tensor

__all__ = ["DensePredictions"]


class DensePredictions(NamedTuple):
    """
    The raw maps of a head network, each a list of L maps from fine to coarse.

    Attributes:
        cls_logits (list[Tensor]): (N, K, Hi, Wi).
        raw_ltrb (list[Tensor]): (N, 4, Hi, Wi), see ``levels.activate_ltrb``.
        quality_logits (list[Tensor] | None): (N, 1, Hi, Wi): center-ness or IoU. None: the head
            predicts no quality.
        extra (dict[str, list[Tensor]]): other outputs by name, (N, C, Hi, Wi) with any C, such as
            controllers of masks. Loss terms may read them; their values at the locations of
            detections become fields of the detections.
        cls_features, box_features (list[Tensor] | None): (N, C, Hi, Wi) outputs of the two towers,
            where they were asked for.
    """

    cls_logits: list[Tensor]
    raw_ltrb: list[Tensor]
    quality_logits: list[Tensor] | None
    extra: dict[str, list[Tensor]]
    cls_features: list[Tensor] | None = None
    box_features: list[Tensor] | None = None

    @property
    def feature_sizes(self) -> list[tuple[int, int]]:
        """(Hi, Wi) of each level."""
        return [(x.shape[2], x.shape[3]) for x in self.cls_logits]

    @property
    def num_classes(self) -> int:
        """K."""
        return self.cls_logits[0].shape[1]
