"""
What is measured: images, boxes and raw maps, drawn from a seed, in a full and in a quick size.

N = images, K = classes, Hi x Wi = cells of level i.
"""

import dataclasses
import math

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from fcos_d2 import get_config_file, new_cfg

Size = tuple[int, int]  # height and width in pixels

STRIDES = (8, 16, 32, 64, 128)
_SHORTEST_SIDE, _LONGEST_SIDE = 10, 490  # of boxes, in pixels: boxes for all levels but the last


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of the measured work."""

    opts: str = "MODEL.FCOS.NUM_CLASSES 80"  # overrides of the recipe
    image: Size = (800, 1088)
    train_image: Size = (512, 704)
    train_boxes: int = 20  # in an image, for losses and training steps
    large_batch: int = 16  # images, for targets, operations and, on a GPU, the whole model
    boxes: tuple[int, ...] = (5, 20, 100, 500, 5000)  # in an image, for targets
    most_boxes_of_others: int = 500  # with more, the others would take minutes
    candidates: int = 20_000  # (location, class) pairs above the threshold in the busy selection
    loss_images: tuple[Size, ...] = ((416, 544), (800, 1088), (1600, 2176))  # with 80 classes
    loss_classes: tuple[int, ...] = (20, 320)  # with images of the usual size


FULL = Sizes()
# A thin network and small images: a run takes seconds, its figures mean nothing.
QUICK = Sizes(
    opts="MODEL.FCOS.NUM_CLASSES 5 MODEL.FCOS.NUM_CLS_CONVS 1 MODEL.FCOS.NUM_BOX_CONVS 1 "
    "MODEL.RESNETS.STEM_OUT_CHANNELS 8 MODEL.RESNETS.RES2_OUT_CHANNELS 16 "
    "MODEL.RESNETS.WIDTH_PER_GROUP 4 MODEL.FPN.OUT_CHANNELS 64",
    image=(128, 160),
    train_image=(128, 160),
    train_boxes=5,
    large_batch=2,
    boxes=(5, 20),
    most_boxes_of_others=5,
    candidates=300,
    loss_images=((128, 160),),
    loss_classes=(80,),
)


@dataclasses.dataclass(frozen=True)
class Batch:
    """The annotations of N images of one padded size."""

    instances: list[Instances]  # with gt_boxes and gt_classes
    num_classes: int
    images: ImageList  # empty, for detectors that only read their sizes
    features: list[Tensor]  # empty maps (N, 1, Hi, Wi), also for detectors that read their sizes

    @classmethod
    def make(cls, instances: list[Instances], num_classes: int, padded_size: Size) -> "Batch":
        """Make a batch with the empty images and maps of a padded size."""
        device, shape = instances[0].gt_classes.device, (len(instances), 1)
        images = torch.zeros(1, device=device).expand(*shape, *padded_size)
        sizes = [[math.ceil(x / stride) for x in padded_size] for stride in STRIDES]
        features = [torch.zeros(*shape, *size, device=device) for size in sizes]
        image_list = ImageList(images, [x.image_size for x in instances])
        return cls(instances, num_classes, image_list, features)

    @property
    def feature_sizes(self) -> list[Size]:
        """The sizes (Hi, Wi) of the maps."""
        return [(x.shape[2], x.shape[3]) for x in self.features]

    def describe(self) -> str:
        """Describe the images in words."""
        count, (height, width) = len(self.instances), self.instances[0].image_size
        return f"{count} image{'s' if count > 1 else ''} of {height}x{width}"

    def draw_inputs(self) -> list[dict[str, object]]:
        """Draw images, and return detectron2's input dicts with these and the annotations."""
        generator = torch.Generator().manual_seed(0)
        images = [torch.rand(3, *x.image_size, generator=generator) * 255 for x in self.instances]
        return [
            {"image": image.to(x.gt_classes.device), "instances": x}
            for image, x in zip(images, self.instances, strict=True)
        ]


def make_cfg(
    sizes: Sizes, device: str, *opts: str | float, config: str = "fcos_R_50_FPN_1x.yaml"
) -> CfgNode:
    """Make the config of a recipe in these sizes, without learning (LR 0)."""
    cfg = new_cfg()
    cfg.merge_from_file(get_config_file(config))
    cfg.merge_from_list([*sizes.opts.split(), "MODEL.WEIGHTS", "", *opts])
    cfg.MODEL.DEVICE = device
    cfg.SOLVER.BASE_LR = 0.0
    cfg.freeze()
    return cfg


def draw_batch(
    num_images: int, image_size: Size, num_boxes: int, num_classes: int, device: str, seed: int = 0
) -> Batch:
    """Draw boxes with log-uniform sides inside of the images; they overlap."""
    generator = torch.Generator().manual_seed(seed)
    height, width = image_size
    low, high = math.log(_SHORTEST_SIDE), math.log(min(_LONGEST_SIDE, height, width))
    batch = []
    for _ in range(num_images):
        sides = torch.exp(low + (high - low) * torch.rand(num_boxes, 2, generator=generator))
        room = torch.tensor([width, height]) - sides
        corners = torch.rand(num_boxes, 2, generator=generator) * room
        classes = torch.randint(num_classes, (num_boxes,), generator=generator)
        boxes = torch.cat([corners, corners + sides], dim=1)
        instances = Instances(image_size, gt_boxes=Boxes(boxes), gt_classes=classes)
        batch.append(instances.to(device))
    return Batch.make(batch, num_classes, image_size)


def draw_maps(batch: Batch, num_candidates: int = 0) -> list[list[Tensor]]:
    """Draw raw maps with this many class scores above 0.05, or with 0 all scores near 0.01."""
    generator = torch.Generator().manual_seed(0)

    def draw(channels: int) -> list[Tensor]:
        shape = (len(batch.instances), channels)
        return [torch.randn(*shape, *x, generator=generator) for x in batch.feature_sizes]

    logits = draw(batch.num_classes)
    if num_candidates:
        ordered = torch.cat([x.flatten() for x in logits]).sort(descending=True).values
        between = (ordered[num_candidates - 1] + ordered[num_candidates]) / 2
        logits = [(x - between) * 1.5 + math.log(0.05 / 0.95) for x in logits]
    else:  # the prior of an untrained head
        logits = [x * 0.1 - math.log(99) for x in logits]
    ltrb = [x * 1.5 + 4 for x in draw(4)]
    device = batch.features[0].device
    return [[x.to(device) for x in levels] for levels in (logits, ltrb, draw(1))]
