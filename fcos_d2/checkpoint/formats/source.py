"""What the converter knows of a project whose FCOS weights it reads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from torch import Tensor

from .key_table import KeyTable

__all__ = [
    "RECIPES",
    "STYLES",
    "SameAs",
    "Settings",
    "Source",
    "Weights",
    "pixel_statistics",
    "resnet_rows",
]

Settings = dict[str, Any]  # config key -> value
Weights = dict[str, Tensor]


class SameAs(NamedTuple):
    """Among the values that a project has for a key: that of another key."""

    key: str


# Sets of choices that no weight tells apart.
RECIPES: dict[str, Settings] = {
    # arXiv:2006.09214, "imprv", "center-normbbox-centeronreg-giou"
    "improved": {
        "MODEL.FCOS.BOX_ACTIVATION": "relu",
        "MODEL.FCOS.CENTERNESS_ON": "box",
        "MODEL.FCOS.CENTER_SAMPLING_RADIUS": 1.5,
        "MODEL.FCOS.LOC_LOSS_TYPE": "giou",
    },
    # arXiv:1904.01355
    "iccv": {
        "MODEL.FCOS.BOX_ACTIVATION": "exp",
        "MODEL.FCOS.CENTERNESS_ON": "cls",
        "MODEL.FCOS.CENTER_SAMPLING_RADIUS": 0.0,
        "MODEL.FCOS.LOC_LOSS_TYPE": "iou",
    },
}
STYLES: dict[str, Settings] = {
    "caffe": {"MODEL.RESNETS.STRIDE_IN_1X1": True, "INPUT.FORMAT": "BGR"},
    "pytorch": {
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    },
}


@dataclass(frozen=True)
class Source:
    """
    Attributes:
        name (str): what ``--from`` and ``--to`` call it.
        title (str): what people call it.
        signature (tuple[str, ...]): prefixes; a file that has weights under each is of this source.
        keys (KeyTable): their names, our names.
        dead (dict[str, str]): patterns of their names that stand for nothing in our model -> why.
        facts (dict): config of all their models.
        has_equal_towers (bool): none of its models has more convolutions before the classes than
            before the boxes, or less.
        tell: (content of the file, their weights) -> config that the file itself says.
        remark: (weights under our names) -> what is to be said of them.
        usual_recipe: (config told, their weights) -> name of the usual of RECIPES; None: ``facts``
            has them.
        usual_style: (config told) -> name of the usual of STYLES; None: it is no choice.
        assume: (config told, recipe, style) -> the usual values of what is left.
        to_ours: weights under our names, with their values -> with ours.
        to_theirs: the way back, still under our names; None: there is no way back.
        pack: (their weights, names of the classes, our config) -> what their .pth files hold.
        needs (dict): config key -> the values of which a model has one, if the project can build it
            and computes the same; what is learnt by does not count.
        differences (tuple[str, ...]): what the outputs differ by, whatever the config.
    """

    name: str
    title: str
    signature: tuple[str, ...]
    keys: KeyTable
    dead: Mapping[str, str] = field(default_factory=dict)
    facts: Settings = field(default_factory=dict)
    has_equal_towers: bool = True
    tell: Callable[[Mapping[str, Any], Weights], Settings] = lambda content, weights: {}
    remark: Callable[[Weights], list[str]] = lambda weights: []
    usual_recipe: Callable[[Settings, Weights], str] | None = None
    usual_style: Callable[[Settings], str] | None = None
    assume: Callable[[Settings, str | None, str | None], Settings] = lambda told, recipe, style: {}
    to_ours: Callable[[Weights], Weights] = lambda weights: weights
    to_theirs: Callable[[Weights], Weights] | None = None
    pack: Callable[[Weights, list[str], CfgNode], dict[str, Any]] = lambda weights, names, cfg: {
        "model": weights
    }
    needs: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    differences: tuple[str, ...] = ()


def usual_of_detectron2(told: Settings) -> Settings:
    """
    Images and ResNets as detectron2's model zoo has them, and what was trained from it; whoever
    differs in one says so behind it.
    """
    return {
        "INPUT.FORMAT": "BGR",
        "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        # ResNets are MSRA's, ResNeXts are not.
        "MODEL.RESNETS.STRIDE_IN_1X1": told.get("MODEL.RESNETS.NUM_GROUPS", 1) == 1,
    }


def resnet_rows(prefix: str) -> list[tuple[str, str]]:
    """Torchvision's names of a ResNet, which most projects share, behind a prefix."""
    ours = "backbone.bottom_up."
    block, our_block = f"{prefix}layer{{s}}.{{b}}.", f"{ours}res{{s+1}}.{{b}}."
    # On the way back, "conv1.norm." must be tried before "conv1.".
    return [
        (f"{prefix}bn1.", f"{ours}stem.conv1.norm."),
        (f"{prefix}conv1.", f"{ours}stem.conv1."),
        (f"{block}downsample.1.", f"{our_block}shortcut.norm."),
        (f"{block}downsample.0.", f"{our_block}shortcut."),
        (f"{block}bn{{n}}.", f"{our_block}conv{{n}}.norm."),
        (f"{block}conv{{n}}.", f"{our_block}conv{{n}}."),
    ]


def pixel_statistics(content: Mapping[str, Any], weights: Weights) -> Settings:
    """Pixel mean and deviation, which detectron2's models of 2019 and 2020 saved as weights."""
    told = {}
    for name in ("pixel_mean", "pixel_std"):
        if name in weights:
            # The shortest text of a float32 is what someone once wrote: 103.53, not 103.529998...
            values = [float(str(x)) for x in weights[name].flatten().numpy()]
            told[f"MODEL.{name.upper()}"] = values
    return told
