"""The description of a project from which FCOS weights can be converted."""

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
    "detectron2_defaults",
    "read_pixel_statistics",
    "resnet_rows",
]

Settings = dict[str, Any]  # config key -> value
Weights = dict[str, Tensor]


class SameAs(NamedTuple):
    """A supported value of a key that is the value of another key."""

    key: str


# Settings that cannot be detected from the weights.
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
    A project from which FCOS weights can be converted.

    "Detected" settings are those known so far, from the weights, the file and the project.

    Attributes:
        name (str): The name for ``--from`` and ``--to``.
        title (str): The name in messages.
        signature (tuple[str, ...]): Prefixes. A file with weights under each is of this source.
        keys (KeyTable): Translates between their names and ours.
        dead (dict[str, str]): Pattern of their names -> the reason why our model does not need the
            weight.
        fixed_settings (dict): The settings that all of their models have.
        has_equal_towers (bool): Whether the two towers of all of their models have the same number
            of convolutions.
        read_settings (Callable): (content of the file, their weights) -> settings in the file.
        describe (Callable): (weights under our names) -> lines for the user.
        default_recipe (Callable): (detected settings, their weights) -> key of RECIPES; None if
            ``fixed_settings`` has that of all models.
        default_style (Callable): (detected settings) -> key of STYLES; None if the source has no
            choice.
        default_settings (Callable): (detected settings, recipe, style) -> values for the remaining
            settings.
        to_ours (Callable): Changes the values of weights, which already have our names, to ours.
        to_theirs (Callable): The inverse of ``to_ours``; None if there is no conversion to this
            project.
        pack (Callable): (their weights, names of the classes, our config) -> content of a .pth file
            of theirs.
        supported (dict): Config key -> values with which the project builds the same model. Keys
            that only change training are not included.
        differences (tuple[str, ...]): How outputs of the converted model differ, with any config.
    """

    name: str
    title: str
    signature: tuple[str, ...]
    keys: KeyTable
    dead: Mapping[str, str] = field(default_factory=dict)
    fixed_settings: Settings = field(default_factory=dict)
    has_equal_towers: bool = True
    read_settings: Callable[[Mapping[str, Any], Weights], Settings] = lambda content, weights: {}
    describe: Callable[[Weights], list[str]] = lambda weights: []
    default_recipe: Callable[[Settings, Weights], str] | None = None
    default_style: Callable[[Settings], str] | None = None
    default_settings: Callable[[Settings, str | None, str | None], Settings] = (
        lambda detected, recipe, style: {}
    )
    to_ours: Callable[[Weights], Weights] = lambda weights: weights
    to_theirs: Callable[[Weights], Weights] | None = None
    pack: Callable[[Weights, list[str], CfgNode], dict[str, Any]] = (
        lambda weights, class_names, cfg: {"model": weights}
    )
    supported: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    differences: tuple[str, ...] = ()


def detectron2_defaults(detected: Settings) -> Settings:
    """Return the settings of images and ResNets in detectron2's model zoo."""
    return {
        "INPUT.FORMAT": "BGR",
        "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        # The zoo's ResNets are MSRA's, with the stride in the 1x1 convolution; ResNeXts are not.
        "MODEL.RESNETS.STRIDE_IN_1X1": detected.get("MODEL.RESNETS.NUM_GROUPS", 1) == 1,
    }


def resnet_rows(prefix: str) -> list[tuple[str, str]]:
    """Build the rows for a ResNet with torchvision's names, which most projects use."""
    ours = "backbone.bottom_up."
    block, our_block = f"{prefix}layer{{s}}.{{b}}.", f"{ours}res{{s+1}}.{{b}}."
    # In the direction to theirs, "conv1.norm." must be tried before "conv1.".
    return [
        (f"{prefix}bn1.", f"{ours}stem.conv1.norm."),
        (f"{prefix}conv1.", f"{ours}stem.conv1."),
        (f"{block}downsample.1.", f"{our_block}shortcut.norm."),
        (f"{block}downsample.0.", f"{our_block}shortcut."),
        (f"{block}bn{{n}}.", f"{our_block}conv{{n}}.norm."),
        (f"{block}conv{{n}}.", f"{our_block}conv{{n}}."),
    ]


def read_pixel_statistics(content: Mapping[str, Any], weights: Weights) -> Settings:
    """
    Read the pixel mean and standard deviation.

    detectron2's models of 2019 and 2020 saved them as weights.
    """
    settings: Settings = {}
    for name in ("pixel_mean", "pixel_std"):
        if name in weights:
            # The shortest text of a float32 is the original decimal number: 103.53, not
            # 103.529998...
            values = [float(str(x)) for x in weights[name].flatten().numpy()]
            settings[f"MODEL.{name.upper()}"] = values
    return settings
