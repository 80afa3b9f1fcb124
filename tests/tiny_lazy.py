"""LazyConfigs that are small enough to train in a test, and the command that trains them."""

import sys

from commands import REPOSITORY
from detectron2.config import LazyConfig

sys.path.insert(0, str(REPOSITORY))

import train_net

LAZY = REPOSITORY / "configs" / "lazy"
R_50 = LAZY / "fcos_R_50_FPN.py"
REGNET = LAZY / "fcos_regnetx_4gf_FPN.py"
TIMM = LAZY / "fcos_timm_convnext_tiny_BiFPN.py"


def overrides(section, **values):
    """Return the overrides of one section: ``["section.name=value", ...]``."""
    return [f"{section}.{name}={value}" for name, value in values.items()]


_BOTTOM_UP = "model.backbone.bottom_up"
# For each file, the overrides that make its network small.
TINY = {
    REGNET.name: overrides(
        _BOTTOM_UP, depth=8, w_0=8, w_a=8, w_m=2, group_width=8, norm="BN", freeze_at=0
    ),
    "fcos_swin_b_in21k_50ep.py": [
        *overrides(_BOTTOM_UP, embed_dim=16, depths="[1,1,1,1]", num_heads="[1,2,4,8]"),
        "model.backbone.square_pad=128",
    ],
    "fcos_mvitv2_t_3x.py": overrides(_BOTTOM_UP, embed_dim=16),
    "fcos_vitdet_b_100ep.py": [
        *overrides("model.backbone.net", embed_dim=48, depth=2, num_heads=2, img_size=128),
        *overrides("model.backbone.net", window_block_indexes="[0]", window_size=4),
        "model.backbone.square_pad=128",
    ],
    TIMM.name: [
        *overrides(_BOTTOM_UP, name="convnext_atto", pretrained="false"),
        "model.backbone.num_repeats=1",
    ],
}
# The overrides for two steps on two images of shapes each. They need the fixture few_shapes.
ON_SHAPES = [
    *overrides("train", device="cpu", init_checkpoint="''", max_iter=2, eval_period=0),
    *overrides("train", log_period=1, **{"amp.enabled": "false"}),
    *overrides("dataloader.train", num_workers=0, total_batch_size=2),
    *overrides("dataloader.test", num_workers=0),
    "dataloader.train.dataset.names=shapes_train",
    "dataloader.test.dataset.names=shapes_val",
    "dataloader.train.mapper.augmentations.0.short_edge_length=128",
    "dataloader.test.mapper.augmentations.0.short_edge_length=128",
    "dataloader.evaluator.output_dir=null",
    "model.num_classes=6",
    "model.dense_head.postprocessor.score_thresh_test=0",
    *overrides("model.dense_head.head", num_cls_convs=1, num_box_convs=1),
]
REGNET_ON_SHAPES = [*ON_SHAPES, *TINY[REGNET.name]]


def load_tiny(name, *more):
    """Load a file of configs/lazy with the overrides of its small network and more overrides."""
    cfg = LazyConfig.load(str(LAZY / name))
    return LazyConfig.apply_overrides(cfg, [*TINY.get(name, ()), *more])


def run_lazy(output, *arguments):
    """Train the small RegNet on the shapes by train_net.py, with more flags and overrides."""
    flags = [x for x in arguments if x.startswith("--")]
    keys = [f"train.output_dir={output}", *(x for x in arguments if not x.startswith("--"))]
    command = ["--config-file", str(REGNET), *flags, *REGNET_ON_SHAPES, *keys]
    return train_net.main(train_net.build_parser().parse_args(command))
