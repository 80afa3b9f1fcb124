"""The optimizer: SGD or AdamW in one kernel, and a separate learning rate for DCN's offsets."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import Tensor, nn

from ..arguments import NOT_NEGATIVE, Arguments, one_of

__all__ = ["OPTIMIZER_ARGUMENTS", "build_optimizer", "offset_parameters", "scale_lr"]

logger = logging.getLogger(__name__)

OPTIMIZER_ARGUMENTS = Arguments(
    "FCOS_TRAIN", optimizer=one_of("SGD", "AdamW"), dcn_offset_lr_factor=NOT_NEGATIVE
)
# Of DeformableConv (the head's), and of DeformBottleneck and detectron2's deformable blocks.
_OFFSET_LAYERS = ("offset", "conv2_offset")
# FCOS_TRAIN.OPTIMIZER -> the class, and its own settings.
_KINDS: dict[str, Callable[[Any], tuple[type[torch.optim.Optimizer], dict[str, Any]]]] = {
    "SGD": lambda solver: (
        torch.optim.SGD,
        {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV},
    ),
    "AdamW": lambda _: (torch.optim.AdamW, {}),
}


def build_optimizer(cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
    """
    Build the optimizer FCOS_TRAIN.OPTIMIZER with the settings of SOLVER.

    The LR of layers that predict the offsets (and masks) of deformable convolutions is multiplied
    by FCOS_TRAIN.DCN_OFFSET_LR_FACTOR. Device and memory format of the model must be its last ones:
    state is laid out as the weights are.

    Raises:
        InputError: an unknown name, or a factor out of its range.
    """
    arguments = OPTIMIZER_ARGUMENTS.read(cfg)
    factor = arguments["dcn_offset_lr_factor"]
    optimizer = _build(cfg, model, *_KINDS[arguments["optimizer"]](cfg.SOLVER))
    if factor != 1:
        offsets = offset_parameters(model)
        if not offsets:
            logger.warning(
                "FCOS_TRAIN.DCN_OFFSET_LR_FACTOR = %s changes nothing: the model has no deformable "
                "convolution that learns.",
                factor,
            )
        scale_lr(optimizer, offsets, factor)
    return optimizer


def _build(
    cfg: Any, model: nn.Module, kind: type[torch.optim.Optimizer], settings: dict[str, Any]
) -> torch.optim.Optimizer:
    """With detectron2's groups of parameters and its clipping."""
    groups = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
    # Fused: one pass over weights, gradients and momenta instead of one an operation. But then a
    # gradient scaler leaves the gradients scaled until the step, and clipping would see them so.
    # None: PyTorch's own choice, which is not to go weight by weight on a GPU.
    fused = None if cfg.SOLVER.CLIP_GRADIENTS.ENABLED else True
    optimizer_class = maybe_add_gradient_clipping(cfg, kind)
    optimizer = optimizer_class(
        groups, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY, fused=fused, **settings
    )
    _fit_state(optimizer)
    optimizer.register_load_state_dict_post_hook(_fit_state)
    return optimizer


def _fit_state(optimizer: torch.optim.Optimizer) -> None:
    """
    Convert the state to what this optimizer's kernels expect; another one may have saved it.

    Fused ones walk through a weight and its state as both lie in memory: state in another memory
    format, as in a checkpoint from before CHANNELS_LAST, would go to other weights. They want
    AdamW's step beside the weight, others on the host. And either all weights of a group have a
    momentum or none: one without a gradient in the first step would lack it later. From a momentum
    of 0 the first step makes what PyTorch starts with, the gradient.
    """
    for group in optimizer.param_groups:
        group.update({key: optimizer.defaults[key] for key in ("fused", "foreach")})
        for weight in group["params"]:
            state = optimizer.state.get(weight, {})
            if group.get("momentum", 0) > 0 and state.get("momentum_buffer") is None:
                state = optimizer.state[weight]
                state["momentum_buffer"] = torch.zeros_like(weight)
            _fit_state_of_weight(weight, state, group["fused"])


def _fit_state_of_weight(
    weight: Tensor, state: dict[str, Tensor | None], fused: bool | None
) -> None:
    for name, value in state.items():
        if value is None:  # a momentum that is not used
            continue
        if name == "step":
            state[name] = value.to(weight.device if fused else "cpu")
        elif value.stride() != weight.stride():
            state[name] = torch.empty_like(weight).copy_(value)


def offset_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Weights and biases that predict the offsets of deformable convolutions, and learn."""
    return [
        parameter
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in _OFFSET_LAYERS
        for parameter in module.parameters()
        if parameter.requires_grad
    ]


def scale_lr(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], factor: float
) -> None:
    """
    Multiply the LR of some parameters, whatever their groups are; nothing else changes.

    detectron2's own ``lr_factor_func`` is not reached from a config, and its bias LR overrules it.

    Args:
        optimizer (Optimizer): before its first step, and before a scheduler is made for it.
        parameters (list[Parameter]): of the optimizer.
        factor (float): of the LR that they have.
    """
    chosen = set(parameters)
    for group in list(optimizer.param_groups):
        moved = [p for p in group["params"] if p in chosen]
        if not moved:
            continue
        rest = [p for p in group["params"] if p not in chosen]
        if not rest:
            group["lr"] *= factor
            continue
        group["params"] = rest
        optimizer.add_param_group({**group, "params": moved, "lr": group["lr"] * factor})
