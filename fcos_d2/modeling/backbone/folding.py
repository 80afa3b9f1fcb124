"""
Folding of FrozenBatchNorm2d into the convolution before it, which saves a pass over each map.

Modules, parameters, buffers and their names stay as they are. In training, the folded weights are
computed in every step, so that the original weights get gradients. In inference they are computed
once and kept.

N = images, C = channels, Hi x Wi = cells of a map.
"""

import logging
from collections import Counter
from functools import partial
from typing import Any, NamedTuple

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, fx, nn

from ..module_hooks import has_hooks

__all__ = ["fold_frozen_norms", "replace_folded_pairs"]

logger = logging.getLogger(__name__)


def fold_frozen_norms(module: nn.Module) -> int:
    """
    Fold, in place, each FrozenBatchNorm2d whose only input is the output of one convolution.

    These are the norms in detectron2's Conv2d and, in networks of timm, the norms after an
    nn.Conv2d whose output is not used elsewhere, according to the traced graph. Other norms are not
    folded: those after deformable convolutions, after convolutions of another class or with a
    replaced ``forward`` (which may change their weights), and in networks that cannot be traced.

    A pair runs separately as long as its norm has hooks, because a hook needs the map before or
    after the norm. Deep copies and pickles of a convolution fold independently. A shallow copy (as
    nn.DataParallel makes) runs the original.

    Args:
        module (nn.Module): A backbone.

    Returns:
        int: Number of folded norms.
    """
    convs: list[Conv2d] = [x for x in module.modules() if type(x) is Conv2d]
    children = [_FoldedPair(x, (x, "norm")) for x in convs if _can_fold(x, x.norm)]
    traced = [pair for net in _networks_of_timm(module) for pair in _traced_pairs(net)]
    for pair in children + traced:
        # Instance attributes take precedence over methods of the class, and are copied with it.
        resets = {name: partial(pair.reset_and_call, name) for name in ("train", "_apply")}
        vars(pair.conv).update(resets, forward=pair.run)
    for pair in traced:
        vars(pair.norm)["forward"] = pair.run_after_norm
    num_folded, num_norms = len(children + traced), sum(map(_is_frozen, module.modules()))
    if num_folded < num_norms:
        message = "FOLD_FROZEN_BN: %d of %d FrozenBatchNorm2d are folded; the others remain layers."
        logger.info(message, num_folded, num_norms)
    return num_folded


def replace_folded_pairs(module: nn.Module) -> None:
    """
    Replace, in place, each folded pair by a plain convolution with the folded weights.

    This changes the names in the state dict, so it is for copies of a model that are exported.

    Args:
        module (nn.Module): A module to which ``fold_frozen_norms`` may have been applied.
    """
    for conv in list(module.modules()):
        pair = getattr(vars(conv).get("forward"), "__self__", None)
        if isinstance(pair, _FoldedPair) and pair.conv is conv and pair.can_run():
            pair.replace()


class _Kept(NamedTuple):
    """
    Folded weights that are kept in inference, and what they were computed from.

    Attributes:
        folded (tuple[Tensor, Tensor]): Weight and bias.
        state (tuple): State of the sources at that time, see ``_state``.
        sources (list[Tensor]): Original tensors. They are referenced here so that no other tensor
            can get the id of one of them.
    """

    folded: tuple[Tensor, Tensor]
    state: tuple[object, ...]
    sources: list[Tensor]


class _FoldedPair:
    """
    A convolution and the norm after it, which run as one convolution.

    Args:
        conv (nn.Conv2d): The convolution.
        *places (tuple[nn.Module, str]): Parent and name of the convolution (unless it is itself the
            parent of the norm), and of the norm. If one of these modules is replaced later or has
            hooks, convolution and norm run separately.
    """

    def __init__(self, conv: nn.Conv2d, *places: tuple[nn.Module, str]) -> None:
        self.places = [(parent, name, getattr(parent, name)) for parent, name in places]
        self.conv, self.norm = conv, self.places[-1][2]
        self.kept: _Kept | None = None

    def run(self, x: Tensor) -> Tensor:
        """Run the folded convolution on a map (N, C, Hi, Wi); replaces its ``forward``."""
        conv = self.conv
        if not self.can_run():
            return type(conv).forward(conv, x)
        x = conv._conv_forward(x, *self.form_weights())
        if isinstance(conv, Conv2d) and conv.activation is not None:
            return conv.activation(x)
        return x

    def run_after_norm(self, x: Tensor) -> Tensor:
        """
        Run what follows the norm in timm's BatchNormAct2d: dropout and activation.

        This replaces ``forward`` of a norm in a network of timm.

        Args:
            x (Tensor): (N, C, Hi, Wi) map that is already normalized.
        """
        norm = self.norm
        if not self.can_run():
            return type(norm).forward(norm, x)
        return norm.act(norm.drop(x)) if hasattr(norm, "act") else x

    def can_run(self) -> bool:
        """Return whether no module of the pair has hooks or has been replaced in its parent."""
        return all(
            not has_hooks(x) and getattr(parent, name, None) is x for parent, name, x in self.places
        )

    def form_weights(self) -> tuple[Tensor, Tensor]:
        """
        Return the folded weight and bias, either computed now or kept from before.

        Returns:
            tuple[Tensor, Tensor]: Weight of the shape of the convolution's, and bias (C,).
        """
        conv, norm = self.conv, self.norm
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return _fold(conv, norm)  # a graph must start from the original weights
        if conv.training or torch.is_grad_enabled():
            # The changes of fused optimizers do not increase the version counters of PyTorch.
            self.kept = None
            return _fold(conv, norm)
        sources = [conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var]
        if conv.bias is not None:
            sources.append(conv.bias)
        state, kept = _state(sources, norm.eps), self.kept
        if kept is None or kept.state != state:
            kept = _Kept(_fold(conv, norm), state, sources)
            # In FakeTensorMode, the folded weights of real weights are fake and are not kept.
            self.kept = kept if state and type(kept.folded[0]) is Tensor else None
        return kept.folded

    def replace(self) -> None:
        """Store the folded weights in the convolution, and remove the norm."""
        conv, norm = self.conv, self.norm
        with torch.no_grad():
            weight, bias = _fold(conv, norm)
        conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
        for name in ("forward", "train", "_apply"):
            del vars(conv)[name]
        parent, name, _ = self.places[-1]
        if parent is conv:  # detectron2's Conv2d
            conv.norm = None  # type: ignore[assignment]
        else:
            rest = (norm.drop, norm.act) if hasattr(norm, "act") else ()
            setattr(parent, name, nn.Sequential(*rest))

    def reset_and_call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """
        Discard the kept weights, and call a method of the convolution's class.

        Args:
            name (str): Name of the method.
            *args (Any): Its arguments.
            **kwargs (Any): Its keyword arguments.
        """
        self.kept = None
        return getattr(type(self.conv), name)(self.conv, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": None}  # kept weights are not copied or saved


def _is_frozen(norm: object) -> bool:
    """Return whether a module is a FrozenBatchNorm2d."""
    return isinstance(norm, FrozenBatchNorm2d)


def _can_fold(conv: nn.Conv2d, norm: object) -> bool:
    """Return whether the norm is frozen, and ``forward`` is not replaced in either of the two."""
    return _is_frozen(norm) and "forward" not in {**vars(conv), **vars(norm)}


def _fold(conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> tuple[Tensor, Tensor]:
    """
    Compute the folded weight and bias.

    The function in torch.nn.utils.fusion does not pass gradients to the original weights.

    Args:
        conv (nn.Conv2d): The convolution.
        norm (FrozenBatchNorm2d): The norm after it.

    Returns:
        tuple[Tensor, Tensor]: Weight of the shape of the convolution's, and bias (C,).
    """
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()  # (C,)
    shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean  # (C,)
    return conv.weight * scale[:, None, None, None], shift * scale + norm.bias


def _state(sources: list[Tensor], eps: float) -> tuple[object, ...]:
    """
    Return a value that changes whenever one of the tensors is changed.

    PyTorch counts the in-place changes of a tensor. It does not count ``x.data = y``, but this
    changes the storage or the layout. The state references the storage, so that no other storage
    can get its address. In-place changes of ``x.data`` (``x.data.mul_(2)``) are not noticed.

    Args:
        sources (list[Tensor]): The tensors that the folded weights are computed from.
        eps (float): Epsilon of the norm.

    Returns:
        tuple: The state. It is empty if changes are not counted (for tensors of the inference mode
        and of subclasses, such as fake and distributed tensors), or if a tensor has no storage (in
        vmap).
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
    """Return the outermost modules whose class is defined in timm."""
    if type(module).__module__.startswith("timm."):
        return [module]
    return [net for child in module.children() for net in _networks_of_timm(child)]


class _Tracer(fx.Tracer):
    """A tracer that does not trace into convolutions and frozen norms."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is a single node of the graph."""
        # The code of frozen norms and of some convolutions depends on values or sizes of maps.
        is_leaf = isinstance(m, FrozenBatchNorm2d | nn.Conv2d)
        return is_leaf or super().is_leaf_module(m, module_qualified_name)


def _traced_pairs(net: nn.Module) -> list[_FoldedPair]:
    """Return the convolutions whose output is only used by a frozen norm, with that norm."""
    if not any(map(_is_frozen, net.modules())):
        return []
    try:
        graph = _Tracer().trace(net)
    except Exception:  # the code of a network may raise anything without real tensors
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
