"""The same work for every detector, as calls that can be measured."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.utils.events import EventStorage
from measuring import Work
from peers import Maps, Peer
from torch import Tensor, nn
from workloads import Batch

from fcos_d2 import DensePredictions


def make_assignment(peer: Peer, batch: Batch) -> Work:
    """Make the call from boxes to the class and the box of every location."""
    return Work(lambda _: peer.assign(batch))


def make_losses(peer: Peer, batch: Batch, maps: Maps) -> Work:
    """Make the call from boxes and raw maps to losses and the gradients of the maps."""

    def prepare() -> list[list[Tensor]]:
        peer.model.train()
        return [[x.requires_grad_() for x in levels] for levels in _copy(peer, maps)]

    def run(leaves: Maps) -> None:
        inputs = batch.images, batch.features, peer.join_maps(leaves), batch.instances
        with EventStorage():
            losses = peer.model.forward_training(*inputs)
        sum(losses.values()).backward()

    return Work(run, prepare)


def make_selection(peer: Peer, batch: Batch, maps: Maps) -> Work:
    """Make the call from raw maps to detections."""

    def prepare() -> list[list[Tensor]]:
        peer.model.eval()
        return _copy(peer, maps)

    @torch.no_grad()
    def run(copies: Maps) -> Any:
        inputs = batch.images, batch.features, peer.join_maps(copies)
        return peer.model.forward_inference(*inputs)

    return Work(run, prepare)


def make_inference(peer: Peer, batch: Batch, is_bf16: bool = False) -> Work:
    """Make the call from images to detections."""
    inputs = [{"image": x["image"]} for x in batch.draw_inputs()]

    def prepare() -> None:
        if peer.model.training:  # users set the mode once, not in every call
            peer.model.eval()

    @torch.no_grad()
    def run(_: None) -> Any:
        with _autocast(batch, is_bf16):
            return peer.model(inputs)

    return Work(run, prepare)


def make_training_step(peer: Peer, batch: Batch, cfg: CfgNode, is_bf16: bool = False) -> Work:
    """Make the call from images to a step of the optimizer; the LR of ``cfg`` must be 0."""
    inputs, optimizer = batch.draw_inputs(), peer.build_optimizer(cfg)

    def prepare() -> None:
        peer.model.train()
        optimizer.zero_grad(set_to_none=True)

    def run(_: None) -> None:
        with EventStorage(), _autocast(batch, is_bf16):
            losses = sum(peer.model(inputs).values())
        losses.backward()
        optimizer.step()

    return Work(run, prepare)


def _copy(peer: Peer, maps: Maps) -> list[list[Tensor]]:
    """Copy raw maps to the memory format that the detector's own maps have."""
    return [[x.clone(memory_format=peer.memory_format) for x in levels] for levels in maps]


def _autocast(batch: Batch, is_bf16: bool) -> torch.autocast:
    """Enter bfloat16, or make no change."""
    device = batch.features[0].device.type
    return torch.autocast(device, torch.bfloat16, enabled=is_bf16)


class Network(nn.Module):
    """Backbone and head of a model, from tensor to tensors as tracing and CUDA graphs require."""

    def __init__(self, model: DenseDetector) -> None:
        super().__init__()
        self.backbone, self.head, self.names = model.backbone, model.head, model.head_in_features

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the raw maps of normalized images."""
        maps = self.backbone(images)
        predictions = self.head([maps[name] for name in self.names])
        return (*predictions.cls_logits, *predictions.raw_ltrb, *predictions.quality_logits)

    def to_predictions(self, outputs: Any) -> DensePredictions:
        """Convert the outputs of ``forward`` to those of a head."""
        n = len(self.names)
        cls_logits, raw_ltrb, quality = (list(outputs[i : i + n]) for i in (0, n, 2 * n))
        return DensePredictions(cls_logits, raw_ltrb, quality, extra={})
