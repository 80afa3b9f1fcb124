"""The package timm: whether it is there, which networks it knows, and making one."""

import difflib
from types import ModuleType
from typing import Any

from ...errors import InputError

__all__ = ["check_name", "create_network", "import_timm"]


def import_timm() -> ModuleType:
    """
    Import timm.

    Raises:
        InputError: it is not installed.
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
            "Install it with: pip install timm"
        ) from None
    return timm


def check_name(timm: ModuleType, name: str) -> None:
    """
    Check that timm knows a network, and its tag of pretrained weights.

    Raises:
        InputError: it does not; the message has the nearest names.
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
        f"MODEL.TIMM.NAME = {name!r} is no model of timm. Nearest names: "
        f"{', '.join(nearest) or 'none'}. timm.list_models() lists all."
    )


def create_network(timm: ModuleType, name: str, **kwargs: Any) -> Any:
    """
    Make a network that gives maps; ``kwargs`` are those of timm.create_model.

    Raises:
        InputError: its weights could not be fetched, or it is for images of one size only.
    """
    fixed_size = timm.get_pretrained_cfg(name).fixed_input_size
    if fixed_size:
        kwargs["strict_img_size"] = False  # Swin's windows go over images of any size
    try:
        return timm.create_model(name, features_only=True, **kwargs)
    except OSError as error:  # all that downloading raises is one
        raise InputError(
            f"MODEL.TIMM.PRETRAINED = True, but timm could not fetch the weights of {name!r}: "
            f"{type(error).__name__}: {error} Where there is no network, set it to False and give "
            "a file in MODEL.WEIGHTS."
        ) from error
    except TypeError as error:
        if not fixed_size:
            raise
        raise InputError(
            f"MODEL.TIMM.NAME = {name!r} is built by timm for images of one size, and those of a "
            "detector differ. Choose a convolutional network or a Swin Transformer."
        ) from error
