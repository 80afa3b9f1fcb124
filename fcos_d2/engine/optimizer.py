"""The optimizer, with fused SGD or AdamW and a separate learning rate for DCN offsets."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import Tensor, nn

from ..arguments import NOT_NEGATIVE, Arguments, one_of

__all__ = [
    "OPTIMIZER_ARGUMENTS",
    "build_optimizer",
    "exceptions_in",
    "offset_parameters",
    "scale_lr",
]

logger = logging.getLogger(__name__)

OPTIMIZER_ARGUMENTS = Arguments(
    "FCOS_TRAIN", optimizer=one_of("SGD", "AdamW"), dcn_offset_lr_factor=NOT_NEGATIVE
)
# Names of the layers that predict offsets: in DeformableConv (of the head), and in DeformBottleneck
# and detectron2's deformable blocks.
_OFFSET_LAYERS = ("offset", "conv2_offset")


class _OptimizerKind(NamedTuple):
    """An optimizer class, and a function that reads its specific settings from ``cfg.SOLVER``."""

    optimizer_class: type[torch.optim.Optimizer]
    read_settings: Callable[[CfgNode], dict[str, Any]]


def _read_sgd_settings(solver: CfgNode) -> dict[str, Any]:
    """Return the arguments that SGD takes in addition to those of all optimizers."""
    return {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}


# The keys are the values of FCOS_TRAIN.OPTIMIZER.
_KINDS = {
    "SGD": _OptimizerKind(torch.optim.SGD, _read_sgd_settings),
    "AdamW": _OptimizerKind(torch.optim.AdamW, lambda _: {}),
}


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """
    Build the optimizer that FCOS_TRAIN.OPTIMIZER names, with the settings in SOLVER.

    The learning rate of the layers that predict the offsets (and masks) of deformable convolutions
    is multiplied by FCOS_TRAIN.DCN_OFFSET_LR_FACTOR.

    Args:
        cfg (CfgNode): A config with the keys of ``add_train_config``.
        model (nn.Module): The model. Move it to its device and memory format before this call,
            because the optimizer state gets the memory layout of the weights.

    Raises:
        InputError: If the name is unknown or the factor is negative.
    """
    arguments = OPTIMIZER_ARGUMENTS.read(cfg)
    factor = arguments["dcn_offset_lr_factor"]
    optimizer = _build(cfg, model, _KINDS[arguments["optimizer"]])
    if factor != 1:
        offsets = offset_parameters(model)
        if not offsets:
            logger.warning(
                "FCOS_TRAIN.DCN_OFFSET_LR_FACTOR = %s changes nothing because the model has no "
                "trainable deformable convolution.",
                factor,
            )
        scale_lr(optimizer, offsets, factor)
    return optimizer


def _build(cfg: CfgNode, model: nn.Module, kind: _OptimizerKind) -> torch.optim.Optimizer:
    """Build an optimizer with detectron2's parameter groups and gradient clipping."""
    groups = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
    # A fused optimizer makes one pass over weights, gradients and momenta instead of one pass per
    # operation. With it, a gradient scaler leaves the gradients scaled until the step, and gradient
    # clipping would clip the scaled ones. With None, PyTorch decides (a multi-tensor implementation
    # on a GPU).
    fused = None if cfg.SOLVER.CLIP_GRADIENTS.ENABLED else True
    optimizer_class = maybe_add_gradient_clipping(cfg, kind.optimizer_class)
    optimizer = optimizer_class(
        groups,
        lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        fused=fused,
        **kind.read_settings(cfg.SOLVER),
    )
    _convert_state(optimizer)
    optimizer.register_load_state_dict_post_hook(_convert_state)
    return optimizer


def _convert_state(optimizer: torch.optim.Optimizer) -> None:
    """
    Convert the state to the layout and device that this optimizer's kernels expect.

    The state may have been saved by an optimizer with other settings:

    - Fused kernels read a weight and its state in memory order. State in another memory format, as
      in a checkpoint saved without CHANNELS_LAST, would be applied to the wrong weights.
    - Fused kernels need the step count of AdamW on the device of the weight; other kernels need it
      on the CPU.
    - Fused SGD requires that either all weights of a group have a momentum or none. A weight
      without a gradient in the first step would have none, so all momenta start at 0. The first
      step then sets them to the gradient, as PyTorch does.
    """
    for group in optimizer.param_groups:
        group.update({key: optimizer.defaults[key] for key in ("fused", "foreach")})
        for weight in group["params"]:
            state = optimizer.state.get(weight, {})
            if group.get("momentum", 0) > 0 and state.get("momentum_buffer") is None:
                state = optimizer.state[weight]
                state["momentum_buffer"] = torch.zeros_like(weight)
            _convert_state_of_weight(weight, state, group["fused"])


def _convert_state_of_weight(
    weight: Tensor, state: dict[str, Tensor | None], fused: bool | None
) -> None:
    """Convert the state of one weight in place."""
    for name, value in state.items():
        if value is None:  # an unused momentum
            continue
        if name == "step":
            state[name] = value.to(weight.device if fused else "cpu")
        elif value.stride() != weight.stride():
            state[name] = torch.empty_like(weight).copy_(value)


def exceptions_in(cfg: CfgNode) -> dict[str, str]:
    """Return the keys that the config sets for some parameters; see ``keys_of_groups``."""
    solver = cfg.SOLVER
    is_set = {
        "weight_decay_norm": solver.WEIGHT_DECAY_NORM is not None,
        "weight_decay_bias": solver.WEIGHT_DECAY_BIAS is not None,
        "bias_lr_factor": solver.BIAS_LR_FACTOR != 1,
    }
    exceptions = {name: f"SOLVER.{name.upper()}" for name, is_set in is_set.items() if is_set}
    if cfg.FCOS_TRAIN.DCN_OFFSET_LR_FACTOR != 1:
        exceptions["scaled_lr_factor"] = OPTIMIZER_ARGUMENTS.keys["dcn_offset_lr_factor"]
    return exceptions


def offset_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the trainable weights and biases that predict offsets of deformable convolutions."""
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
    Multiply the learning rate of some parameters, and split their groups where necessary.

    detectron2's own ``lr_factor_func`` cannot be set in a YAML config, and its bias learning rate
    overrides it.

    Args:
        optimizer (Optimizer): The optimizer, before its first step and before a scheduler is built
            for it.
        parameters (list[Parameter]): Parameters of the optimizer.
        factor (float): Factor of their current learning rate.
    """
    scaled = set(parameters)
    for group in list(optimizer.param_groups):
        moved = [p for p in group["params"] if p in scaled]
        if not moved:
            continue
        rest = [p for p in group["params"] if p not in scaled]
        if not rest:
            group["lr"] *= factor
            continue
        group["params"] = rest
        optimizer.add_param_group({**group, "params": moved, "lr": group["lr"] * factor})
