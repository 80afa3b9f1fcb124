"""
Fold FrozenBatchNorm2d into the convolution before it: one pass over the maps instead of two.

Modules, parameters, buffers and their names stay as they are. In training the folded weights are
formed at every step, so that the gradient reaches the raw ones; in inference once, and kept.
"""

import logging
from collections import Counter
from functools import partial
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
    behind deformable convolutions, behind convolutions of another class or with a ``forward`` of
    their own (which may change their weights), in a network that cannot be traced.

    Forward hooks on a folded norm are not called: the convolution does its work. Deep copies and
    pickles of a convolution fold for themselves. A shallow copy (nn.DataParallel
    makes such) runs the original.

    Args:
        module (nn.Module): a backbone.

    Returns:
        int: how many norms are folded.
    """
    convs: list[Any] = [x for x in module.modules() if type(x) is Conv2d]
    children = [_FoldedPair(x, (x, "norm")) for x in convs if _can_fold(x, x.norm)]
    traced = [pair for net in _networks_of_timm(module) for pair in _traced_pairs(net)]
    for pair in children + traced:
        # Attributes of the object shadow the methods of its class, and go along into its copies.
        drops = {name: partial(pair.drop_and_call, name) for name in ("train", "_apply")}
        vars(pair.conv).update(drops, forward=pair.run)
    for pair in traced:
        vars(pair.norm)["forward"] = pair.run_behind_norm
    num_folded, num_norms = len(children + traced), sum(map(_is_frozen, module.modules()))
    if num_folded < num_norms:
        message = "FOLD_FROZEN_BN: %d of %d FrozenBatchNorm2d are folded, the others stay layers."
        logger.info(message, num_folded, num_norms)
    return num_folded


class _Kept(NamedTuple):
    folded: tuple[Tensor, Tensor]
    state: tuple[Any, ...]
    sources: list[Tensor]  # held, so that no other tensor gets the id of one


class _FoldedPair:
    """
    Run a convolution and the norm behind it as one.

    ``places`` are parents and names: of the convolution unless it is the norm's parent, and of the
    norm. Once one of them holds another module, convolution and norm run as they did before.
    """

    def __init__(self, conv: nn.Conv2d, *places: tuple[nn.Module, str]) -> None:
        self.places = [(parent, name, getattr(parent, name)) for parent, name in places]
        self.conv, self.norm = conv, self.places[-1][2]
        self.kept: _Kept | None = None

    def run(self, x: Tensor) -> Tensor:
        """Run as the ``forward`` of the convolution."""
        conv: Any = self.conv
        if not self.is_in_place():
            return type(conv).forward(conv, x)
        x = conv._conv_forward(x, *self.form_weights())
        has_activation = isinstance(conv, Conv2d) and conv.activation is not None
        return conv.activation(x) if has_activation else x

    def run_behind_norm(self, x: Tensor) -> Tensor:
        """Run as the ``forward`` of a norm of timm: what its layers do behind the norm."""
        norm: Any = self.norm
        if not self.is_in_place():
            return type(norm).forward(norm, x)
        return norm.act(norm.drop(x)) if hasattr(norm, "act") else x

    def is_in_place(self) -> bool:
        return all(getattr(parent, name, None) is x for parent, name, x in self.places)

    def form_weights(self) -> tuple[Tensor, Tensor]:
        """Return weight (of the convolution's shape) and bias (C,): formed now, or kept ones."""
        conv, norm = self.conv, self.norm
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return _fold(conv, norm)  # a graph starts from the raw weights
        if conv.training or torch.is_grad_enabled():
            self.kept = None  # PyTorch does not count what a fused optimizer's step changes
            return _fold(conv, norm)
        sources = [conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var]
        if conv.bias is not None:
            sources.append(conv.bias)
        state, kept = _state(sources, norm.eps), self.kept
        if kept is None or kept.state != state:
            kept = _Kept(_fold(conv, norm), state, sources)
            # FakeTensorMode makes fake weights of real ones.
            self.kept = kept if state and type(kept.folded[0]) is Tensor else None
        return kept.folded

    def drop_and_call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Drop the kept weights, and call a method of the convolution's class."""
        self.kept = None
        return getattr(type(self.conv), name)(self.conv, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": None}  # no part of copies and files


def _is_frozen(norm: Any) -> bool:
    return isinstance(norm, FrozenBatchNorm2d)


def _can_fold(conv: nn.Conv2d, norm: Any) -> bool:
    return _is_frozen(norm) and "forward" not in {**vars(conv), **vars(norm)}


def _fold(conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias; those of torch.nn.utils.fusion would let no gradient through."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    return conv.weight * scale[:, None, None, None], shift * scale + norm.bias


def _state(sources: list[Tensor], eps: float) -> tuple[Any, ...]:
    """
    Return what is another after each change, but for writes to ``x.data`` (``x.data.mul_(2)``).

    PyTorch counts the writes to a tensor. It does not count ``x.data = y``, which brings another
    storage or layout; the state holds the storage, so that no other one gets its memory.

    Returns:
        tuple: empty if the writes are not counted (tensors of inference mode, or of a subclass as
            fake and distributed ones are), or if there is no storage (in vmap).
    """
    if any(x.is_inference() or type(x) not in (Tensor, nn.Parameter) for x in sources):
        return ()
    try:
        return eps, [
            (id(x), x._version, x.untyped_storage(), x.storage_offset(), x.shape, x.stride())
            for x in sources
        ]
    except NotImplementedError:
        return ()


def _networks_of_timm(module: nn.Module) -> list[nn.Module]:
    """Return the outermost modules of timm."""
    if type(module).__module__.startswith("timm."):
        return [module]
    return [net for child in module.children() for net in _networks_of_timm(child)]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # Both have code of their own that depends on the values of maps, or on their sizes.
        is_leaf = isinstance(m, FrozenBatchNorm2d | nn.Conv2d)
        return is_leaf or super().is_leaf_module(m, module_qualified_name)


def _traced_pairs(net: nn.Module) -> list[_FoldedPair]:
    """Return the convolutions whose output only a norm takes, with that norm."""
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
        paths = [str(x.target).rpartition(".") for x in (before, node)]
        places = [(net.get_submodule(parent), name) for parent, _, name in paths]
        conv, norm = (getattr(parent, name) for parent, name in places)
        is_called_once = num_calls[before.target] == num_calls[node.target] == 1
        if type(conv) is nn.Conv2d and is_called_once and _can_fold(conv, norm):
            pairs.append(_FoldedPair(conv, *places))
    return pairs
