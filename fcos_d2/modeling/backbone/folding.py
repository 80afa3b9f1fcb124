"""
FrozenBatchNorm2d folded into the convolution before it: one pass over the maps instead of two.

Parameters, buffers and their names stay as they are. In training the folded weights are formed at
every step, so that the gradient reaches the raw ones; in inference they are formed once and kept.
"""

import logging
from collections import Counter
from typing import Any, NamedTuple

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, fx, nn

__all__ = ["fold_frozen_norms"]

logger = logging.getLogger(__name__)


def fold_frozen_norms(module: nn.Module) -> int:
    """
    Fold, in place, each FrozenBatchNorm2d that nothing but one convolution feeds.

    These are the norms inside of detectron2's Conv2d, and in networks of timm those that their
    graph shows behind an nn.Conv2d whose output goes nowhere else. All others are left as they are:
    behind deformable convolutions, behind convolutions of another class (which may change their
    weights), in a network that cannot be traced.

    Args:
        module (nn.Module): a backbone.

    Returns:
        int: how many norms are folded.
    """
    convs = [x for x in module.modules() if type(x) is Conv2d and _is_frozen(x.norm)]
    for conv in convs:
        # The same object with another forward: who holds it or its parameters goes on with it.
        conv.__class__ = _FoldedConvOfDetectron2
    pairs = [pair for net in _networks_of_timm(module) for pair in _traced_pairs(net)]
    for conv, norm in pairs:
        conv.__dict__["norm_behind"] = (norm,)
        conv.__class__ = _FoldedConv
        norm.__class__ = _FoldedNorm
    num_folded, num_norms = len(convs) + len(pairs), sum(map(_is_frozen, module.modules()))
    if num_folded < num_norms:
        logger.info(
            "FOLD_FROZEN_BN: %d of %d FrozenBatchNorm2d are folded, the others stay layers.",
            num_folded,
            num_norms,
        )
    return num_folded


class _FoldedConv(nn.Conv2d):
    """An nn.Conv2d with the norm behind it, which its place in the network leaves to it."""

    # In a tuple, so that it is no child: its parameters have their names where it stands.
    norm_behind: tuple[FrozenBatchNorm2d]
    _kept: "_Kept | None" = None

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, *self._folded_weights(*self.norm_behind))

    def train(self, mode: bool = True) -> Any:
        self._kept = None
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._kept = None  # another device, type or memory format
        return super()._apply(*args, **kwargs)

    def _folded_weights(self, norm: FrozenBatchNorm2d) -> tuple[Tensor, Tensor]:
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return _fold(self, norm)
        sources = [x for x in (self.weight, self.bias, *norm.buffers()) if x is not None]
        if any(x.is_inference() for x in sources):
            return _fold(self, norm)  # PyTorch does not count their changes
        if self._kept is None or not self._kept.is_of(sources):
            self._kept = _Kept(sources, _states(sources), _fold(self, norm))
        return self._kept.folded

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}  # no part of copies and files


class _Kept(NamedTuple):
    """Weight and bias for inference, and what they were made of."""

    sources: list[Tensor]
    states: list[tuple[int, int]]
    folded: tuple[Tensor, Tensor]

    def is_of(self, sources: list[Tensor]) -> bool:
        """The same tensors, and nothing has been written to them (but through ``.data``)."""
        pairs = zip(self.sources, sources, strict=False)
        return all(a is b for a, b in pairs) and self.states == _states(sources)


def _states(tensors: list[Tensor]) -> list[tuple[int, int]]:
    return [(x.data_ptr(), x._version) for x in tensors]


class _FoldedConvOfDetectron2(_FoldedConv, Conv2d):
    """detectron2's Conv2d, whose norm is its child."""

    norm: nn.Module | None
    activation: Any

    def forward(self, x: Tensor) -> Tensor:
        if not _is_frozen(self.norm):  # somebody has given it another
            return Conv2d.forward(self, x)
        x = self._conv_forward(x, *self._folded_weights(self.norm))
        return x if self.activation is None else self.activation(x)


class _FoldedNorm(FrozenBatchNorm2d):
    """Nothing is left to do, but what timm's layers do behind the norm."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(x)) if hasattr(self, "act") else x


def _is_frozen(norm: Any) -> bool:
    return isinstance(norm, FrozenBatchNorm2d)


def _fold(conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias; torch.nn.utils.fusion's are new parameters, which no gradient leaves."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    return conv.weight * scale[:, None, None, None], shift * scale + norm.bias


def _networks_of_timm(module: nn.Module) -> list[nn.Module]:
    """The outermost modules of timm."""
    if type(module).__module__.startswith("timm."):
        return [module]
    return [net for child in module.children() for net in _networks_of_timm(child)]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # Both have code of their own that depends on the values of maps, or on their sizes.
        is_leaf = isinstance(m, FrozenBatchNorm2d | nn.Conv2d)
        return is_leaf or super().is_leaf_module(m, module_qualified_name)


def _traced_pairs(net: nn.Module) -> list[tuple[nn.Conv2d, FrozenBatchNorm2d]]:
    """Convolutions, and the norms that alone take their output."""
    if not any(map(_is_frozen, net.modules())):
        return []
    try:
        graph = _Tracer().trace(net)
    except Exception:  # whatever the network's own code raises when it is given no tensors
        return []
    calls = [node for node in graph.nodes if node.op == "call_module"]
    num_calls = Counter(node.target for node in calls)
    pairs = []
    for node in calls:
        (before, *_) = node.all_input_nodes
        if before.op != "call_module" or len(before.users) > 1:
            continue
        conv, norm = (net.get_submodule(str(x.target)) for x in (before, node))
        is_called_once = num_calls[before.target] == num_calls[node.target] == 1
        if type(conv) is nn.Conv2d and _is_frozen(norm) and is_called_once:
            pairs.append((conv, norm))
    return pairs
