"""
Config keys of fcos_d2: default and meaning of each.

They are added under new nodes; no key that detectron2 owns is changed. docs/config.md is made from
this file (docs/config_page.py): a comment above each key says what it does and, after "Elsewhere:",
what others call it. What values a key takes is checked by the constructor that takes it.
"""

from pathlib import Path

from detectron2.config import CfgNode, get_cfg

__all__ = ["add_fcos_config", "add_train_config", "get_config_file", "new_cfg"]


def new_cfg() -> CfgNode:
    """Make detectron2's default config with all keys of this project."""
    cfg = get_cfg()
    # detectron2's samplers read these, and its defaults lack them.
    cfg.DATASETS.setdefault("TRAIN_REPEAT_FACTOR", [])
    cfg.DATALOADER.setdefault("RANDOM_SUBSET_RATIO", 1.0)
    add_fcos_config(cfg)
    add_train_config(cfg)
    return cfg


def add_fcos_config(cfg: CfgNode) -> None:
    """Add ``MODEL.FCOS``, ``MODEL.TIMM`` and ``MODEL.BIFPN``: what building a model reads."""
    # What building the meta-architecture `FCOS` reads (`add_fcos_config`).
    fcos = cfg.MODEL.FCOS = CfgNode()

    # K, foreground classes, background not counted. -1: as many as `DATASETS.TRAIN[0]` has.
    # Elsewhere: original, torchvision: one more, with background; AdelaiDet: the same; mmdet
    # `num_classes`
    fcos.NUM_CLASSES = -1

    # Maps of the backbone that the head looks at, from fine to coarse.
    # Elsewhere: AdelaiDet: the same
    fcos.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]

    # Levels on top of the FPN or BiFPN: 0; 1: P6; 2: P6 and P7.
    # Elsewhere: AdelaiDet: the same
    fcos.TOP_LEVELS = 2

    # Map that the FPN's P6 is made from: `"p5"`, or `"res5"` (C5). A BiFPN's is made from C5,
    # whatever this says.
    # Elsewhere: original `MODEL.RETINANET.USE_C5`; mmdet `add_extra_convs`
    fcos.TOP_IN_FEATURE = "p5"

    # The head network, registered in `HEAD_REGISTRY`; one of another package is chosen by its name.
    fcos.HEAD = "FCOSHead"

    # 3x3 convolutions of the class tower.
    # Elsewhere: original `NUM_CONVS`; AdelaiDet: the same; torchvision `num_convs`; mmdet
    # `stacked_convs`
    fcos.NUM_CLS_CONVS = 4

    # 3x3 convolutions of the box tower.
    # Elsewhere: original `NUM_CONVS`; AdelaiDet: the same; torchvision `num_convs`; mmdet
    # `stacked_convs`
    fcos.NUM_BOX_CONVS = 4

    # 3x3 convolutions of a tower in front of both.
    # Elsewhere: AdelaiDet: the same
    fcos.NUM_SHARE_CONVS = 0

    # Channels of all towers; 0: those of the FPN.
    # Elsewhere: mmdet `feat_channels`
    fcos.HEAD_CHANNELS = 0

    # Normalization after each of their convolutions; `"GN"`: 32 groups, one for all levels; `"BN"`,
    # `"SyncBN"`: one for each level; `"naiveSyncBN"`: detectron2's SyncBN for any device, which
    # `"SyncBN"` is on a CPU; `""`: none.
    # Elsewhere: AdelaiDet: the same; torchvision `norm_layer`; mmdet `norm_cfg`
    fcos.NORM = "GN"

    # The last convolution of the class and of the box tower is deformable, with masks (DCNv2).
    # Elsewhere: original `USE_DCN_IN_TOWER`; AdelaiDet: the same; mmdet `dcn_on_last_conv`
    fcos.USE_DEFORMABLE = False

    # A learnable scale s_i a level for the regression.
    # Elsewhere: AdelaiDet: the same
    fcos.USE_SCALE = True

    # Tower that center-ness (or the IoU of `BOX_QUALITY`) is predicted from; `"cls"`: the 2019
    # version.
    # Elsewhere: original `CENTERNESS_ON_REG`; mmdet `centerness_on_reg`
    fcos.CENTERNESS_ON = "box"

    # Class probability that every location starts with.
    # Elsewhere: original, AdelaiDet: the same; torchvision `prior_probability`
    fcos.PRIOR_PROB = 0.01

    # Raw output of the box branch that every location starts with: with the activation `relu`,
    # strides to each side, with `exp` the logarithm of pixels (e^4 = 55). The recipes of published
    # models have 0.
    # Elsewhere: 0 in the papers and everywhere else
    fcos.PRIOR_LTRB = 4.0

    # Distances are relu(x) strides, or exp(x) pixels (the 2019 version).
    # Elsewhere: original `NORM_REG_TARGETS`; mmdet `norm_on_bbox`
    fcos.BOX_ACTIVATION = "relu"

    # Locations are (index + offset) * stride; torchvision's weights were trained with 0.
    fcos.LOCATION_OFFSET = 0.5

    # The rule that gives boxes to locations, a name in `TARGET_ASSIGNER_REGISTRY`.
    fcos.TARGET_ASSIGNER = "FCOSAssigner"

    # Borders, in pixels, between the max(l, t, r, b) of neighboring levels: one fewer than levels.
    # Elsewhere: AdelaiDet: the same; mmdet `regress_ranges`
    fcos.SIZES_OF_INTEREST = [64, 128, 256, 512]

    # Half side of the center square in strides of the level; 0: the 2019 version.
    # Elsewhere: original: the same; AdelaiDet `POS_RADIUS` with `CENTER_SAMPLE`; torchvision
    # `center_sampling_radius`; mmdet `center_sample_radius` with `center_sampling`
    fcos.CENTER_SAMPLING_RADIUS = 1.5

    # The center square lies about the centroid of the object's mask, not the center of its box.
    # Needs `MODEL.MASK_ON True` and a segmentation at each object.
    # Elsewhere: AdelaiDet: wherever instances have `gt_bitmasks_full`
    fcos.CENTER_OF_MASK = False

    # Weight of positives in the focal loss, 1 - alpha that of negatives.
    # Elsewhere: original, AdelaiDet `LOSS_ALPHA`; mmdet `alpha` of `loss_cls`
    fcos.FOCAL_LOSS_ALPHA = 0.25

    # Exponent of the focal loss.
    # Elsewhere: original, AdelaiDet `LOSS_GAMMA`; mmdet `gamma` of `loss_cls`
    fcos.FOCAL_LOSS_GAMMA = 2.0

    # The box loss; `iou` is -log(IoU), `linear_iou` 1 - IoU.
    # Elsewhere: original `IOU_LOSS_TYPE`; AdelaiDet: the same, without `diou` and `ciou`; mmdet
    # `loss_bbox`
    fcos.LOC_LOSS_TYPE = "giou"

    # What a location learns of its box and detections are ranked by; `iou`: that of the predicted
    # box with its target, `none`: by the class score alone.
    # Elsewhere: AdelaiDet: the same, `ctrness` or `iou`
    fcos.BOX_QUALITY = "centerness"

    # With the quality `centerness`, the box loss of a location is weighted by its center-ness
    # target; otherwise all positives count alike.
    # Elsewhere: the original, AdelaiDet and mmdet weight it, torchvision and detectron2's own do
    # not
    fcos.CTR_WEIGHTED_LOC_LOSS = True

    # What the losses are divided by: the positives of the batch, their moving average, or, for the
    # class loss alone, all locations of the batch.
    # Elsewhere: AdelaiDet `LOSS_NORMALIZER_CLS`
    fcos.LOSS_NORMALIZER = "fg"

    # Factor of the class loss.
    # Elsewhere: AdelaiDet: the same; mmdet `loss_weight` of `loss_cls`
    fcos.LOSS_WEIGHT_CLS = 1.0

    # Factor of the box loss.
    # Elsewhere: mmdet `loss_weight` of `loss_bbox`
    fcos.LOSS_WEIGHT_LOC = 1.0

    # Factor of the loss of `BOX_QUALITY`.
    # Elsewhere: mmdet `loss_weight` of `loss_centerness`
    fcos.LOSS_WEIGHT_QUALITY = 1.0

    # Class scores must be above it. The score of a detection is the root of class score times
    # quality, so it may lie below; with the quality `none` it is the class score, and lies above.
    # Elsewhere: original `INFERENCE_TH`; AdelaiDet `INFERENCE_TH_TEST`; torchvision `score_thresh`
    # (compared with the root); mmdet `score_thr`
    fcos.SCORE_THRESH_TEST = 0.05

    # The product of class score and quality must be above the threshold, and not the class score.
    # Without quality, the same.
    # Elsewhere: AdelaiDet: the same
    fcos.THRESH_WITH_CTR = False

    # The best of each image and level that go into NMS.
    # Elsewhere: original `PRE_NMS_TOP_N`; AdelaiDet `PRE_NMS_TOPK_TEST`; torchvision
    # `topk_candidates`; mmdet `nms_pre`
    fcos.TOPK_CANDIDATES_TEST = 1000

    # IoU above which the lower-scoring box of a class is removed.
    # Elsewhere: original, AdelaiDet `NMS_TH`; torchvision `nms_thresh`; mmdet `iou_threshold` of
    # `nms`
    fcos.NMS_THRESH_TEST = 0.6

    # The backbone's FrozenBN is folded into the convolutions before it. State dicts do not change.
    # Training folds at every step, and the gradient reaches the raw weights; inference folds once,
    # and keeps the result beside the weights (94 MB of a ResNet-50) until they change, or until
    # `train()` or `eval()` is called: call one of these after in-place writes through `.data`,
    # which PyTorch does not count. Those behind deformable convolutions stay layers, and in
    # networks of timm those that PyTorch cannot trace to their convolution.
    fcos.FOLD_FROZEN_BN = True

    # Weights and maps are kept in the memory format channels_last, in which most processors
    # convolve faster. Code that flattens weights by `view(-1)`
    # (`torch.nn.utils.parameters_to_vector`) wants it off.
    fcos.CHANNELS_LAST = True

    # Activation checkpointing: training keeps none of the maps inside of the head's towers, and
    # computes them a second time for the gradient. Less memory, more time, equal gradients. `NORM`
    # must be `"GN"` or `""`: a BatchNorm would count each map twice.
    fcos.CHECKPOINT_TOWERS = False

    # `torch.compile` for the backbone and the head, each one graph for images of all sizes;
    # training and inference have each their own, and so have images so small that a map is one cell
    # wide or high. The first step takes as long as compiling does; on a CPU a C++ compiler must be
    # there.
    fcos.COMPILE = False

    # Autocast of backbone and head in evaluation and prediction; boxes and scores stay float32.
    # That of training is `SOLVER.AMP.ENABLED` with `FCOS_TRAIN.AMP_DTYPE`. float16 is for GPUs.
    fcos.INFERENCE_DTYPE = "float32"

    # What the backbones `build_fcos_timm_fpn_backbone` and `build_fcos_timm_bifpn_backbone` also
    # read (`add_fcos_config`).
    timm = cfg.MODEL.TIMM = CfgNode()

    # Network of timm, with a tag of weights or without. Where a config sets none of `INPUT.FORMAT`,
    # `MODEL.PIXEL_MEAN` and `MODEL.PIXEL_STD`, `train_net.py` and `fcos-d2` take those of timm's
    # weights and say so; in your own program a warning says what to write.
    timm.NAME = ""

    # `"FrozenBN"`: BatchNorm with fixed statistics and weights; `"SyncBN"`: BatchNorm over all
    # processes (on a CPU detectron2's `"naiveSyncBN"`); `""`: as the network has them.
    # Elsewhere: AdelaiDet `MODEL.DLA.NORM`, `MODEL.VOVNET.NORM`
    timm.NORM = ""

    # Start from the weights that timm's loader finds or downloads.
    timm.PRETRAINED = False

    # What the backbones `build_fcos_resnet_bifpn_backbone` and `build_fcos_timm_bifpn_backbone`
    # also read (`add_fcos_config`). The maps that they start from are detectron2's
    # `MODEL.FPN.IN_FEATURES`; its other keys are for the FPN.
    bifpn = cfg.MODEL.BIFPN = CfgNode()

    # How often maps are fused from coarse to fine and back.
    # Elsewhere: AdelaiDet: the same, under `MODEL.BiFPN`
    bifpn.NUM_REPEATS = 6

    # Channels of all maps.
    # Elsewhere: AdelaiDet: the same, under `MODEL.BiFPN`
    bifpn.OUT_CHANNELS = 160

    # Normalization after each convolution (on a CPU `"SyncBN"` is detectron2's `"naiveSyncBN"`).
    # Elsewhere: AdelaiDet: the same, under `MODEL.BiFPN`; `""` by default, `"SyncBN"` in its
    # recipes
    bifpn.NORM = "SyncBN"


def add_train_config(cfg: CfgNode) -> None:
    """Add ``FCOS_TRAIN``: what ``fcos_d2.engine.Trainer`` reads, and no model does."""
    # What `train_net.py` and `fcos_d2.engine.Trainer` read, and no model does (`add_train_config`).
    train = cfg.FCOS_TRAIN = CfgNode()

    # Datasets in COCO's format to register; the flag `--dataset` adds to them.
    train.DATASETS = []

    # Names of the K classes. Training fills them in from `DATASETS.TRAIN[0]`; an evaluation
    # compares them with its dataset's, and `fcos-d2 predict` shows them.
    train.CLASS_NAMES = []

    # True: no location inside of a box with `iscrowd` is taught to be background, of whatever
    # class; those that are positive for an object learn as usual. False: crowds are dropped, and
    # what they consist of is background.
    # Elsewhere: mmdet `gt_bboxes_ignore`, which its FCOS takes and does not use
    train.KEEP_CROWD_BOXES = False

    # SGD or AdamW with detectron2's groups of parameters and the settings of `SOLVER`; fused, one
    # kernel for a step, unless gradients are clipped.
    train.OPTIMIZER = "SGD"

    # Factor of the LR of layers that predict the offsets (and masks) of deformable convolutions, in
    # backbone and head; it multiplies `SOLVER.BIAS_LR_FACTOR`.
    # Elsewhere: original `SOLVER.DCONV_OFFSETS_LR_FACTOR`
    train.DCN_OFFSET_LR_FACTOR = 1.0

    # Type of autocast with `SOLVER.AMP.ENABLED`; `auto`: float16 on CUDA, bfloat16 on a CPU. On
    # CPUs with AMX the bfloat16 convolutions of oneDNN (seen with torch 2.14) are wrong where one
    # of stride 2 leaves a single column: P7 of images that are at most 128 pixels wide.
    train.AMP_DTYPE = "auto"

    # Decay of an exponential moving average of the weights, evaluated too (`ema/bbox/AP`) and
    # saved as `model_final_ema.pth`; 0: none, and one that an earlier training left is renamed
    # to `model_final_ema_of_earlier_run.pth`. The first steps use min(decay, (1 + n) / (10 + n)).
    train.EMA_DECAY = 0.0

    # At every evaluation during training (not with `--eval-only`), compute the losses on
    # `DATASETS.TEST` too: `val_loss/total_loss`, `val_loss/loss_fcos_cls`, ... Batch norms use
    # their running statistics, images have their size of inference; the sums over all images are
    # divided by the positives of all.
    train.VALIDATION_LOSS = False

    # Metric whose best value keeps `model_best.pth`: the highest, of `val_loss/...` the lowest; if
    # it begins with `ema/`, the averaged weights are kept; `""`: none. With `TEST.EVAL_PERIOD` 0,
    # detectron2's default, only the final weights are evaluated, and none are kept as best.
    train.BEST_METRIC = "bbox/AP"

    # Evaluations in a row without a new best `BEST_METRIC` after which training ends, as at its
    # last iteration: final and averaged weights are saved. With `--resume` it continues to count,
    # or ends again at once; 0: never. Needs `TEST.EVAL_PERIOD`.
    train.EARLY_STOPPING_PATIENCE = 0

    # How many of the checkpoints that are saved every `SOLVER.CHECKPOINT_PERIOD` iterations are
    # kept, the last ones, those from before `--resume` included; 0: all.
    # Elsewhere: detectron2's LazyConfigs `train.checkpointer.max_to_keep`
    train.MAX_TO_KEEP = 0

    # Ctrl-C (SIGINT) and SIGTERM during training save `model_interrupted.pth` after the current
    # iteration (with several processes, after the next reading of losses, every 20 iterations), or
    # at once during an evaluation; `--resume` resumes from it, and it is removed when the next
    # checkpoint is saved. The exit code is 130 or 143. A second signal ends the process at once.
    train.CHECKPOINT_AT_SIGNAL = True


def get_config_file(name: str) -> str:
    """
    Path of a config file that comes with the project.

    Args:
        name (str): relative to configs/, such as "fcos_R_50_FPN_1x.yaml" or
            "lazy/fcos_R_50_FPN.py".

    Raises:
        FileNotFoundError: there is none of this name; the message lists those that there are.
    """
    package = Path(__file__).resolve().parent
    # Inside of the package in a wheel, beside it in a checkout.
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    path = folder / name
    if not path.is_file():
        files = (file.relative_to(folder) for file in folder.rglob("*.*"))
        known = sorted(str(file) for file in files if file.suffix in (".yaml", ".py"))
        raise FileNotFoundError(f"fcos_d2 has no config {name!r}; it has: {', '.join(known)}.")
    return str(path)
