"""The interface to the package timm: importing it, checking names, and creating networks."""

import difflib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol, cast

from torch import nn

from ...errors import InputError

__all__ = ["FeatureInfo", "check_name", "create_network", "feature_info", "import_timm"]


class FeatureInfo(Protocol):
    """The description of the maps of a timm network; each sequence has an entry for each map."""

    out_indices: Sequence[int]

    def reduction(self) -> list[int]:
        """Return the strides of the maps in pixels."""

    def channels(self) -> list[int]:
        """Return the numbers of channels of the maps."""

    def module_name(self) -> list[str]:
        """Return the names of the modules that output the maps."""


def import_timm() -> ModuleType:
    """
    Import timm.

    Raises:
        InputError: If timm is not installed.
    """
    try:
        import timm
        import timm.data
        import timm.layers
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise InputError(
            "MODEL.TIMM: a backbone of timm needs the package timm, which is not installed. "
            "Install it with: pip install timm",
            key="MODEL.TIMM.NAME",
        ) from None
    return timm


def check_name(timm: ModuleType, name: str) -> None:
    """
    Check that timm has a network, and pretrained weights with the tag in its name, if any.

    Args:
        timm (ModuleType): The package.
        name (str): Name of the network, such as "resnet18" or "resnet18.a1_in1k".

    Raises:
        InputError: If timm does not have the network. The message lists the most similar names.
    """
    base, _, tag = name.partition(".")
    known = timm.list_models()
    if base in known:
        tagged = timm.list_models(f"{base}.*", pretrained=True)
        if not tag or name in tagged:
            return
        nearest = tagged
    else:
        nearest = difflib.get_close_matches(base, known, n=5, cutoff=0.4)
    raise InputError(
        f"MODEL.TIMM.NAME = {name!r} is not a model of timm. Nearest names: "
        f"{', '.join(nearest) or 'none'}. timm.list_models() lists all models.",
        key="MODEL.TIMM.NAME",
        value=name,
    )


def create_network(timm: ModuleType, name: str, **kwargs: Any) -> nn.Module:
    """
    Create a network that returns feature maps instead of class logits.

    Args:
        timm (ModuleType): The package.
        name (str): Name of the network.
        **kwargs (Any): Other arguments of ``timm.create_model``.

    Raises:
        InputError: If the weights could not be downloaded, or the network accepts only images of
            one size.
    """
    fixed_size = timm.get_pretrained_cfg(name).fixed_input_size
    if fixed_size:
        kwargs["strict_img_size"] = False  # the windows of Swin work for images of any size
    try:
        return timm.create_model(name, features_only=True, **kwargs)
    except OSError as error:  # all errors of downloads are subclasses of it
        raise InputError(
            f"MODEL.TIMM.PRETRAINED = True, but timm could not download the weights of {name!r}: "
            f"{type(error).__name__}: {error} Without an internet connection, set it to False and "
            "set MODEL.WEIGHTS to a file.",
            key="MODEL.TIMM.PRETRAINED",
            value=True,
        ) from error
    except TypeError as error:
        if not fixed_size:
            raise
        raise InputError(
            f"MODEL.TIMM.NAME = {name!r} is built by timm for images of one size, but the images "
            "of a detector have different sizes. Choose a convolutional network or a Swin "
            "Transformer.",
            key="MODEL.TIMM.NAME",
            value=name,
        ) from error


def feature_info(net: nn.Module) -> FeatureInfo:
    """Return the description of the maps of a network from ``create_network``."""
    return cast(FeatureInfo, net.feature_info)
