"""The optimizer: detectron2's SGD or AdamW, and a learning rate of their own for DCN's offsets."""

import logging
from typing import Any

import torch
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

from ..config_rules import check_value

__all__ = ["build_optimizer", "offset_parameters", "scale_lr"]

logger = logging.getLogger(__name__)

# Of DeformableConv (the head's), and of DeformBottleneck and detectron2's deformable blocks.
_OFFSET_LAYERS = ("offset", "conv2_offset")


def build_optimizer(cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
    """
    The optimizer FCOS_TRAIN.OPTIMIZER with the settings of SOLVER, in which the LR of layers that
    predict the offsets (and masks) of deformable convolutions is multiplied by
    FCOS_TRAIN.DCN_OFFSET_LR_FACTOR.

    Raises:
        InputError: an unknown name, or a factor out of its range.
    """
    name, factor = cfg.FCOS_TRAIN.OPTIMIZER, cfg.FCOS_TRAIN.DCN_OFFSET_LR_FACTOR
    check_value("FCOS_TRAIN.OPTIMIZER", name)
    check_value("FCOS_TRAIN.DCN_OFFSET_LR_FACTOR", factor)
    optimizer = build_sgd(cfg, model) if name == "SGD" else _build_adamw(cfg, model)
    if factor != 1:
        offsets = offset_parameters(model)
        if not offsets:
            logger.warning(
                "FCOS_TRAIN.DCN_OFFSET_LR_FACTOR = %s changes nothing: the model has no deformable "
                "convolution that learns.", factor,
            )  # fmt: skip
        scale_lr(optimizer, offsets, factor)
    return optimizer


def _build_adamw(cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
    # The groups of parameters are those that detectron2 makes for SGD.
    groups = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
    optimizer_class = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    # Fused: one kernel for all groups, of which there is one a parameter. But then a gradient
    # scaler leaves the gradients scaled until the step, and clipping would see them so.
    fused = not cfg.SOLVER.CLIP_GRADIENTS.ENABLED
    return optimizer_class(
        groups, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY, fused=fused
    )


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
    Multiply the LR of some parameters, whatever their groups are; all else of these stays.

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
