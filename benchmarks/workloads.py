"""
What is measured: images, boxes and raw maps, drawn from a seed, in a full and in a small size.

N = images, K = classes, L = levels, Hi x Wi = cells of level i.
"""

import dataclasses
import math
from typing import NamedTuple

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from fcos_d2 import add_fcos_config, add_train_config, get_config_file

__all__ = [
    "FULL",
    "QUICK",
    "STRIDES",
    "Batch",
    "Sizes",
    "draw_batch",
    "draw_maps",
    "make_cfg",
    "solver_cfg",
]

STRIDES = (8, 16, 32, 64, 128)
_LONGEST_SIDE, _SHORTEST_SIDE = 490, 10  # of boxes, in pixels: all levels but the last get some
_SPREAD = 1.5  # standard deviation of class logits where there are many candidates


@dataclasses.dataclass(frozen=True)
class Sizes:
    """
    Args:
        config (str): recipe that ours is built from, and the others' backbone and head too.
        opts (tuple): KEY, VALUE, ... over it.
        targets_batch (int): images whose targets are assigned at once.
        boxes (tuple[int]): an image, for targets.
        memory_boxes (tuple[int]): the same, for their memory.
        image (tuple[int, int]): height and width for inference, targets, losses and selection.
        train_image (tuple[int, int]): of a training step.
        train_boxes (int): an image, for losses, training steps and growth.
        candidates (int): (location, class) pairs above the threshold in the busy selection.
        cuda_batch (int): images of the larger inference and training step on a GPU.
        growth_images (tuple): heights and widths that growth with the area is seen at.
        growth_classes (tuple[int]): numbers of classes that growth with these is seen at.
        photo (tuple[int, int]): height and width of the images that are read from files.
        photos (int): how many.
        loader_batch, loader_batches (int): images a batch, and batches a round, of a data loader.
        loader_workers (tuple[int]): its processes; no more than the machine has processors.
    """

    config: str = "fcos_R_50_FPN_1x.yaml"
    opts: tuple[str | int | float, ...] = ("MODEL.FCOS.NUM_CLASSES", 80, "MODEL.WEIGHTS", "")
    targets_batch: int = 16
    boxes: tuple[int, ...] = (5, 20, 100, 500, 5000)
    memory_boxes: tuple[int, ...] = (5, 20, 100, 500)
    image: tuple[int, int] = (800, 1088)
    train_image: tuple[int, int] = (512, 704)
    train_boxes: int = 20
    candidates: int = 20_000
    cuda_batch: int = 16
    growth_images: tuple[tuple[int, int], ...] = ((416, 544), (576, 768), (800, 1088), (1600, 2176))
    growth_classes: tuple[int, ...] = (20, 80, 320)
    photo: tuple[int, int] = (480, 640)
    photos: int = 32
    loader_batch: int = 16
    loader_batches: int = 6
    loader_workers: tuple[int, ...] = (0, 1, 2, 4, 8, 16)


FULL = Sizes()
# A thin network and small images: seconds, for tests and for a look at the output.
QUICK = Sizes(
    opts=(
        *FULL.opts,
        "MODEL.FCOS.NUM_CLASSES",
        5,
        "MODEL.RESNETS.STEM_OUT_CHANNELS",
        8,
        "MODEL.RESNETS.RES2_OUT_CHANNELS",
        16,
        "MODEL.RESNETS.WIDTH_PER_GROUP",
        4,
        "MODEL.FPN.OUT_CHANNELS",
        64,
        "MODEL.FCOS.NUM_CLS_CONVS",
        1,
        "MODEL.FCOS.NUM_BOX_CONVS",
        1,
    ),
    targets_batch=2,
    boxes=(5, 20),
    memory_boxes=(5,),
    image=(128, 160),
    train_image=(128, 160),
    train_boxes=5,
    candidates=300,
    cuda_batch=2,
    growth_images=((128, 128), (128, 256)),
    growth_classes=(3, 5),
    photo=(48, 64),
    photos=4,
    loader_batch=2,
    loader_batches=1,
    loader_workers=(0, 1),
)


class Batch(NamedTuple):
    """N images of one size, and what is annotated in them."""

    instances: list[Instances]
    seed: int

    @property
    def device(self) -> torch.device:
        return self.instances[0].gt_classes.device

    @property
    def image_size(self) -> tuple[int, int]:
        return self.instances[0].image_size

    @property
    def feature_sizes(self) -> list[tuple[int, int]]:
        """(Hi, Wi) of the five levels; each is half the one before, rounded up."""
        height, width = self.image_size
        return [(math.ceil(height / stride), math.ceil(width / stride)) for stride in STRIDES]

    def draw_images(self) -> list[Tensor]:
        """(3, H, W) float32, 0 to 255; drawn when asked for, as most work needs none."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (3, *self.image_size)
        return [
            (torch.rand(shape, generator=generator) * 255).to(self.device) for _ in self.instances
        ]

    def make_empty_features(self) -> list[Tensor]:
        """(N, 1, Hi, Wi): for those who ask the maps for nothing but their sizes."""
        shape = (len(self.instances), 1)
        return [torch.zeros(*shape, *x, device=self.device) for x in self.feature_sizes]

    def make_image_list(self) -> ImageList:
        """For those who ask the images for nothing but their sizes."""
        shape = (len(self.instances), 1, *self.image_size)
        empty = torch.zeros(1, device=self.device).expand(shape)
        return ImageList(empty, [self.image_size] * len(self.instances))


def make_cfg(sizes: Sizes, device: str, *opts: str | int | float) -> CfgNode:
    cfg = get_cfg()
    add_fcos_config(cfg)
    add_train_config(cfg)
    cfg.merge_from_file(get_config_file(sizes.config))
    cfg.merge_from_list([*sizes.opts, *opts])
    cfg.MODEL.DEVICE = device
    cfg.freeze()
    return cfg


def solver_cfg() -> CfgNode:
    """SGD with steps of length 0."""
    cfg = get_cfg()
    add_train_config(cfg)
    cfg.SOLVER.BASE_LR = 0.0
    return cfg


def draw_batch(
    num_images: int,
    image_size: tuple[int, int],
    num_boxes: int,
    num_classes: int,
    device: str,
    seed: int = 0,
) -> Batch:
    """Boxes of log-uniform sides and random aspect, clipped to the image; they overlap."""
    generator = torch.Generator().manual_seed(seed)
    height, width = image_size
    instances = []
    for _ in range(num_images):
        low, high = math.log(_SHORTEST_SIDE), math.log(min(_LONGEST_SIDE, height, width))
        sides = torch.exp(low + (high - low) * torch.rand(num_boxes, 2, generator=generator))
        corners = torch.rand(num_boxes, 2, generator=generator) * (
            torch.tensor([width, height]) - sides
        )
        classes = torch.randint(num_classes, (num_boxes,), generator=generator)
        found = Instances(image_size)
        found.gt_boxes = Boxes(torch.cat([corners, corners + sides], dim=1).to(device))
        found.gt_classes = classes.to(device)
        instances.append(found)
    return Batch(instances, seed)


def draw_maps(
    batch: Batch,
    num_classes: int,
    num_candidates: int = 0,
    score_thresh: float = 0.05,
    seed: int = 0,
) -> list[list[Tensor]]:
    """
    Raw maps as a head gives them: class logits (N, K, Hi, Wi), ltrb in strides, centre-ness logits.

    Args:
        num_candidates (int): class scores above the threshold, of the whole batch; 0: as a new head
            gives them, all near its prior of 0.01.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(channels: int) -> list[Tensor]:
        shape = (len(batch.instances), channels)
        return [torch.randn(*shape, *x, generator=generator) for x in batch.feature_sizes]

    logits = draw(num_classes)
    if num_candidates:
        ordered = torch.cat([x.flatten() for x in logits]).sort(descending=True).values
        between = (ordered[num_candidates - 1] + ordered[num_candidates]) / 2
        threshold = math.log(score_thresh / (1 - score_thresh))
        logits = [(x - between) * _SPREAD + threshold for x in logits]
    else:
        logits = [x * 0.1 - math.log(99) for x in logits]
    ltrb = [x * 1.5 + 4 for x in draw(4)]
    maps = [logits, ltrb, draw(1)]
    return [[x.to(batch.device) for x in levels] for levels in maps]
