"""Recorded outputs of other projects (tests/data/peers), and our FCOS with their weights."""

import json
from functools import cache
from pathlib import Path

import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from fcos_d2.checkpoint import load_any
from fcos_d2.modeling.levels import activate_ltrb

FOLDER = Path(__file__).resolve().parent / "data" / "peers"
LEVELS = ["p3", "p4", "p5", "p6", "p7"]
STRIDES = [8, 16, 32, 64, 128]

# The arguments that a user must give. The weights of the original FCOS do not show which of its two
# recipes they are from.
FLAGS = {
    "adelaidet_gn_ctrness": {},
    "original_fcos_v1": {"recipe": "iccv"},
    "original_fcos_imprv": {},
    "original_fcos_dcn": {},
    "mmdet_fcos_r50_gn": {},
    "mmdet_fcos_tricks": {},
}
PEERS = sorted(FLAGS)


class PeerFixture:
    """
    A model of another project.

    Attributes:
        io (dict[str, Tensor]): The recorded inputs and outputs of the other project.
        meta (dict): The config and the thresholds of the other project.
        model (FCOS): Our model with the converted weights.
    """

    def __init__(self, name):
        self.name = name
        self.checkpoint = FOLDER / name / "checkpoint.pth"
        self.meta = json.loads((FOLDER / name / "meta.json").read_text())
        self.io = torch.load(FOLDER / name / "io.pt", weights_only=True)
        self.project = name.partition("_")[0]
        self.converted = load_any(self.checkpoint, **FLAGS[name])
        cfg = self.converted.cfg.clone()
        cfg.MODEL.DEVICE = "cpu"
        # Folding and memory formats change the order of operations, and so the rounding.
        cfg.MODEL.FCOS.FOLD_FROZEN_BN = cfg.MODEL.FCOS.CHANNELS_LAST = False
        self.model = build_model(cfg).eval()
        self.model.load_state_dict(self.converted.weights)
        self.image_sizes = [tuple(x.shape[1:]) for x in self.per_image("image")]

    def per_level(self, name):
        return [self.io[f"{name}.{level}"] for level in LEVELS]

    def per_image(self, name):
        return [self.io[f"{name}.{image}"] for image in (0, 1)]

    def inputs(self):
        return [{"image": image.float()} for image in self.per_image("image")]

    @cache  # noqa: B019  # there are few fixtures
    def features(self):
        with torch.no_grad():
            return self.model.backbone(self.model.preprocess_image(self.inputs()).tensor)

    @cache  # noqa: B019
    def predictions(self):
        with torch.no_grad():
            return self.model.head([self.features()[level] for level in LEVELS])

    def our_ltrb(self):
        """Return the L maps of distances that our model predicts, in pixels."""
        activation = self.model.levels.box_activation
        return [
            activate_ltrb(raw, stride, activation)
            for raw, stride in zip(self.predictions()[1], STRIDES, strict=True)
        ]

    def their_ltrb(self):
        """Return the L recorded maps of distances, in pixels; AdelaiDet records them in strides."""
        maps = self.per_level("head.reg")
        if self.project != "adelaidet":
            return maps
        return [x * stride for x, stride in zip(maps, STRIDES, strict=True)]

    def gt_instances(self):
        return [
            Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes)
            for size, boxes, classes in zip(
                self.image_sizes,
                self.per_image("gt.boxes"),
                self.per_image("gt.classes"),
                strict=True,
            )
        ]


@cache
def load_peer(name):
    return PeerFixture(name)
