"""
The config keys of fcos_d2, with their defaults and meanings.

The keys are added under new nodes; detectron2's own keys are not changed. docs/config_page.py
writes docs/config.md from this file. The comment above a key says what it does and, after
"Elsewhere:", its name in other projects. The constructor that reads a key checks its value.
"""

from pathlib import Path

from detectron2.config import CfgNode, get_cfg

__all__ = ["add_fcos_config", "add_train_config", "get_config_file", "new_cfg"]


def new_cfg() -> CfgNode:
    """Return detectron2's default config with all keys of this project."""
    cfg = get_cfg()
    add_fcos_config(cfg)
    add_train_config(cfg)
    return cfg


def add_fcos_config(cfg: CfgNode) -> None:
    """Add ``MODEL.FCOS``, ``MODEL.TIMM`` and ``MODEL.BIFPN``, from which models are built."""
    # The keys of the meta-architecture `FCOS`. `add_fcos_config` adds them.
    fcos = cfg.MODEL.FCOS = CfgNode()

    # Number K of foreground classes, without the background. -1 takes the number of classes of the
    # dataset `DATASETS.TRAIN[0]`.
    # Elsewhere: original, torchvision: one more, for the background; AdelaiDet: the same; mmdet
    # `num_classes`
    fcos.NUM_CLASSES = -1

    # Names of the backbone's maps that the head uses, from fine to coarse.
    # Elsewhere: AdelaiDet: the same
    fcos.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]

    # Number of additional levels on top of the FPN or BiFPN: 0 adds none, 1 adds P6, 2 adds P6 and
    # P7.
    # Elsewhere: AdelaiDet: the same
    fcos.TOP_LEVELS = 2

    # The map from which the FPN computes P6: `"p5"` or `"res5"` (C5). A BiFPN ignores this key and
    # always uses C5.
    # Elsewhere: original `MODEL.RETINANET.USE_C5`; mmdet `add_extra_convs`
    fcos.TOP_IN_FEATURE = "p5"

    # Name of the head network in `HEAD_REGISTRY`. Other packages can register their own.
    fcos.HEAD = "FCOSHead"

    # Number of 3x3 convolutions in the class tower.
    # Elsewhere: original `NUM_CONVS`; AdelaiDet: the same; torchvision `num_convs`; mmdet
    # `stacked_convs`
    fcos.NUM_CLS_CONVS = 4

    # Number of 3x3 convolutions in the box tower.
    # Elsewhere: original `NUM_CONVS`; AdelaiDet: the same; torchvision `num_convs`; mmdet
    # `stacked_convs`
    fcos.NUM_BOX_CONVS = 4

    # Number of 3x3 convolutions in a shared tower, before the class tower and the box tower.
    # Elsewhere: AdelaiDet: the same
    fcos.NUM_SHARE_CONVS = 0

    # Number of channels in all towers; 0 takes the number of channels of the FPN's maps.
    # Elsewhere: mmdet `feat_channels`
    fcos.HEAD_CHANNELS = 0

    # Normalization after each convolution of the towers. `"GN"` is GroupNorm with 32 groups, shared
    # by all levels. `"BN"` and `"SyncBN"` are BatchNorms with separate statistics and weights for
    # each level. `"naiveSyncBN"` is detectron2's SyncBN for any device, which `"SyncBN"` also uses
    # on a CPU. `""` means no normalization.
    # Elsewhere: AdelaiDet: the same; torchvision `norm_layer`; mmdet `norm_cfg`
    fcos.NORM = "GN"

    # Whether the last convolution of the class tower and that of the box tower are deformable with
    # masks (DCNv2).
    # Elsewhere: original `USE_DCN_IN_TOWER`; AdelaiDet: the same; mmdet `dcn_on_last_conv`
    fcos.USE_DEFORMABLE = False

    # Whether each level has a learnable scale s_i for the box regression.
    # Elsewhere: AdelaiDet: the same
    fcos.USE_SCALE = True

    # The tower from which center-ness (or the IoU, see `BOX_QUALITY`) is predicted: `"box"`, or
    # `"cls"` as in the 2019 version.
    # Elsewhere: original `CENTERNESS_ON_REG`; mmdet `centerness_on_reg`
    fcos.CENTERNESS_ON = "box"

    # Class probability that every location predicts at the start of training.
    # Elsewhere: original, AdelaiDet: the same; torchvision `prior_probability`
    fcos.PRIOR_PROB = 0.01

    # Output of the box branch, before the activation, that every location predicts at the start of
    # training. With the activation `relu`, it is a distance in strides; with `exp`, it is the
    # logarithm of a distance in pixels (e^4 = 55). The recipes of published models use 0.
    # Elsewhere: 0 in the papers and in all other projects
    fcos.PRIOR_LTRB = 4.0

    # How the output x of the box branch becomes a distance: `relu` means relu(x) strides, `exp`
    # means exp(x) pixels, as in the 2019 version.
    # Elsewhere: original `NORM_REG_TARGETS`; mmdet `norm_on_bbox`
    fcos.BOX_ACTIVATION = "relu"

    # Offset of the locations in strides: a location is at (index + offset) * stride. torchvision's
    # weights were trained with 0.
    fcos.LOCATION_OFFSET = 0.5

    # Name of the rule that assigns boxes to locations, in `TARGET_ASSIGNER_REGISTRY`.
    fcos.TARGET_ASSIGNER = "FCOSAssigner"

    # Limits of max(l, t, r, b) between neighboring levels, in pixels. There is one limit fewer than
    # levels.
    # Elsewhere: AdelaiDet: the same; mmdet `regress_ranges`
    fcos.SIZES_OF_INTEREST = [64, 128, 256, 512]

    # Half the side of the center square, in strides of the level. 0 turns center sampling off, as
    # in the 2019 version.
    # Elsewhere: original: the same; AdelaiDet `POS_RADIUS` with `CENTER_SAMPLE`; torchvision
    # `center_sampling_radius`; mmdet `center_sample_radius` with `center_sampling`
    fcos.CENTER_SAMPLING_RADIUS = 1.5

    # Whether the center square is around the centroid of the object's mask instead of the center of
    # its box. This needs `MODEL.MASK_ON True` and a segmentation for each object.
    # Elsewhere: AdelaiDet: always, if the instances have `gt_bitmasks_full`
    fcos.CENTER_OF_MASK = False

    # Weight alpha of the positives in the focal loss. The weight of the negatives is 1 - alpha.
    # Elsewhere: original, AdelaiDet `LOSS_ALPHA`; mmdet `alpha` of `loss_cls`
    fcos.FOCAL_LOSS_ALPHA = 0.25

    # Exponent gamma of the focal loss.
    # Elsewhere: original, AdelaiDet `LOSS_GAMMA`; mmdet `gamma` of `loss_cls`
    fcos.FOCAL_LOSS_GAMMA = 2.0

    # The box loss. `iou` is -log(IoU), and `linear_iou` is 1 - IoU.
    # Elsewhere: original `IOU_LOSS_TYPE`; AdelaiDet: the same, without `diou` and `ciou`; mmdet
    # `loss_bbox`
    fcos.LOC_LOSS_TYPE = "giou"

    # What the quality branch predicts: `centerness`, or `iou`, the IoU of the predicted box with
    # its target. Detections are ranked by the class score and this quality. `none` removes the
    # branch, and only the class score ranks detections.
    # Elsewhere: AdelaiDet: the same, `ctrness` or `iou`
    fcos.BOX_QUALITY = "centerness"

    # Whether the center-ness target of a location weights its box loss, if `BOX_QUALITY` is
    # `centerness`. Otherwise all positives have the same weight.
    # Elsewhere: weighted in the original, AdelaiDet and mmdet, but not in torchvision and
    # detectron2's own FCOS
    fcos.CTR_WEIGHTED_LOC_LOSS = True

    # What the losses are divided by. `fg` is the number of positives in the batch, and `moving_fg`
    # is its moving average. `all` divides the class loss by the number of all locations in the
    # batch, and the other losses as `fg` does.
    # Elsewhere: AdelaiDet `LOSS_NORMALIZER_CLS`
    fcos.LOSS_NORMALIZER = "fg"

    # Factor of the class loss.
    # Elsewhere: AdelaiDet: the same; mmdet `loss_weight` of `loss_cls`
    fcos.LOSS_WEIGHT_CLS = 1.0

    # Factor of the box loss.
    # Elsewhere: mmdet `loss_weight` of `loss_bbox`
    fcos.LOSS_WEIGHT_LOC = 1.0

    # Factor of the loss of the quality branch (`BOX_QUALITY`).
    # Elsewhere: mmdet `loss_weight` of `loss_centerness`
    fcos.LOSS_WEIGHT_QUALITY = 1.0

    # Class score that candidates must exceed. The score of a detection is the square root of class
    # score times quality, so it may be below the threshold. If `BOX_QUALITY` is `none`, the score
    # is the class score, and it is above the threshold.
    # Elsewhere: original `INFERENCE_TH`; AdelaiDet `INFERENCE_TH_TEST`; torchvision `score_thresh`
    # (compared with the root); mmdet `score_thr`
    fcos.SCORE_THRESH_TEST = 0.05

    # Whether the product of class score and quality must exceed `SCORE_THRESH_TEST`, instead of the
    # class score. It has no effect if `BOX_QUALITY` is `none`.
    # Elsewhere: AdelaiDet: the same
    fcos.THRESH_WITH_CTR = False

    # Number of candidates with the highest scores, for each image and level, that go into NMS.
    # Elsewhere: original `PRE_NMS_TOP_N`; AdelaiDet `PRE_NMS_TOPK_TEST`; torchvision
    # `topk_candidates`; mmdet `nms_pre`
    fcos.TOPK_CANDIDATES_TEST = 1000

    # IoU of two boxes of a class above which the box with the lower score is removed.
    # Elsewhere: original, AdelaiDet `NMS_TH`; torchvision `nms_thresh`; mmdet `iou_threshold` of
    # `nms`
    fcos.NMS_THRESH_TEST = 0.6

    # Whether a box is also removed because of a box of another class with a higher score, so that
    # each object is found only once. `fcos-d2 predict --class-agnostic` sets it to True.
    # Elsewhere: mmdet `class_agnostic` of `nms`
    fcos.CLASS_AGNOSTIC_NMS = False

    # Sizes of the boxes that each scale of the test-time augmentation (`TEST.AUG`) may find: a pair
    # [lowest, highest] for each of `TEST.AUG.MIN_SIZES`. The size of a box is the square root of
    # its area, in pixels of the original image; a highest size of -1 means no limit. An empty list
    # limits no scale. Example for two scales: `[[96, -1], [0, 256]]`.
    # Elsewhere: ATSS `TEST.BBOX_AUG.SCALE_RANGES`
    fcos.TTA_SIZE_RANGES = []

    # Whether the FrozenBN layers of the backbone are folded into the convolutions before them.
    # State dicts do not change. Training folds in every step, and the gradient reaches the original
    # weights. Inference folds once and keeps the result in addition to the weights (94 MB for a
    # ResNet-50) until the weights change, or until `train()` or `eval()` is called. Call one of
    # these after you change weights in place through `.data`, because PyTorch does not track such
    # changes. Layers after deformable convolutions are not folded, and neither are layers in
    # networks of timm that PyTorch cannot trace to their convolution.
    fcos.FOLD_FROZEN_BN = True

    # Whether weights and maps are in the memory format channels_last, in which convolutions are
    # faster on most processors. Turn it off for code that flattens weights with `view(-1)`, such as
    # `torch.nn.utils.parameters_to_vector`.
    fcos.CHANNELS_LAST = True

    # Whether training uses activation checkpointing in the head's towers: it does not store the
    # maps inside the towers, but computes them again for the gradient. This needs less memory and
    # more time, and the gradients are equal. `NORM` must be `"GN"` or `""`, because a BatchNorm
    # would count each map twice.
    fcos.CHECKPOINT_TOWERS = False

    # Whether `torch.compile` compiles the backbone and the head, each to one graph for all image
    # sizes. Training and inference have separate graphs, as do images so small that a map is one
    # cell wide or high. The first step includes the time to compile. On a CPU, a C++ compiler is
    # needed.
    fcos.COMPILE = False

    # What is launched as CUDA graphs on a GPU: `"none"`; `"inference"`; or `"all"`, inference and
    # training. Python launches kernels one by one, which takes longer than the kernels of a few
    # images. A CUDA graph launches all kernels at once. Each image size has its own graph, which is
    # made the second time that the size occurs. Results are equal up to rounding.
    fcos.CUDA_GRAPHS = "none"

    # Whether FCOS as a proposal generator (`MODEL.PROPOSAL_GENERATOR.NAME "FCOS"`) learns all
    # objects as one class. Otherwise its head has the K classes of the dataset. The model FCOS does
    # not read this key.
    fcos.CLASS_AGNOSTIC = True

    # Data type of autocast for the backbone and the head in evaluation and prediction; boxes and
    # scores stay float32. float16 needs a GPU. Autocast in training is set by `SOLVER.AMP.ENABLED`
    # and `FCOS_TRAIN.AMP_DTYPE`.
    fcos.INFERENCE_DTYPE = "float32"

    # Additional keys of the backbones `build_fcos_timm_fpn_backbone` and
    # `build_fcos_timm_bifpn_backbone`. `add_fcos_config` adds them.
    timm = cfg.MODEL.TIMM = CfgNode()

    # Name of a network of timm, with or without a tag of weights. If a config sets none of
    # `INPUT.FORMAT`, `MODEL.PIXEL_MEAN` and `MODEL.PIXEL_STD`, `train_net.py` and `fcos-d2` set
    # them to the values for timm's weights and log this. In your own program, a warning says what
    # to set.
    timm.NAME = ""

    # Normalization of the network. `"FrozenBN"` is BatchNorm with fixed statistics and weights.
    # `"SyncBN"` is BatchNorm over all processes (on a CPU, detectron2's `"naiveSyncBN"`). `""`
    # keeps the network's own layers.
    # Elsewhere: AdelaiDet `MODEL.DLA.NORM`, `MODEL.VOVNET.NORM`
    timm.NORM = ""

    # Whether to start from weights that timm loads or downloads.
    timm.PRETRAINED = False

    # Additional keys of the backbones `build_fcos_resnet_bifpn_backbone` and
    # `build_fcos_timm_bifpn_backbone`. `add_fcos_config` adds them. The input maps are those in
    # detectron2's `MODEL.FPN.IN_FEATURES`; the other keys of `MODEL.FPN` are not used.
    bifpn = cfg.MODEL.BIFPN = CfgNode()

    # How many times the maps are fused from coarse to fine and back.
    # Elsewhere: AdelaiDet: the same, under `MODEL.BiFPN`
    bifpn.NUM_REPEATS = 6

    # Number of channels of all maps.
    # Elsewhere: AdelaiDet: the same, under `MODEL.BiFPN`
    bifpn.OUT_CHANNELS = 160

    # Normalization after each convolution. On a CPU, `"SyncBN"` is detectron2's `"naiveSyncBN"`.
    # Elsewhere: AdelaiDet: the same, under `MODEL.BiFPN`; `""` by default, `"SyncBN"` in its
    # recipes
    bifpn.NORM = "SyncBN"


def add_train_config(cfg: CfgNode) -> None:
    """
    Add ``FCOS_TRAIN``, which ``fcos_d2.engine.Trainer`` reads and models don't.

    Two keys of detectron2's samplers are added too, which its defaults lack.
    """
    cfg.DATASETS.setdefault("TRAIN_REPEAT_FACTOR", [])
    cfg.DATALOADER.setdefault("RANDOM_SUBSET_RATIO", 1.0)

    # The keys that `train_net.py` and `fcos_d2.engine.Trainer` read, and models don't.
    # `add_train_config` adds them.
    train = cfg.FCOS_TRAIN = CfgNode()

    # Datasets in COCO format to register. The flag `--dataset` adds more.
    train.DATASETS = []

    # Names of the K classes. Training sets them to those of `DATASETS.TRAIN[0]`. An evaluation
    # needs a dataset with the same names, and `fcos-d2 predict` shows them.
    train.CLASS_NAMES = []

    # Names of the keypoints of an object. With `MODEL.KEYPOINT_ON`, training sets them to those of
    # `DATASETS.TRAIN[0]`.
    train.KEYPOINT_NAMES = []

    # The lines that `fcos-d2 predict` draws between keypoints. Each has the names of two keypoints
    # and a color RGB from 0 to 255, such as `["left_hip", "left_knee", [255, 255, 77]]`. With
    # `MODEL.KEYPOINT_ON`, training sets them to those of `DATASETS.TRAIN[0]`.
    train.KEYPOINT_SKELETON = []

    # Names of classes that are left out of training and evaluation, with their annotations. They
    # are not classes of the model. This needs datasets in COCO format that are given by `DATASETS`
    # or `--dataset`. Example: the class without any box that Roboflow adds to each export.
    train.DROP_CLASSES = []

    # What happens to boxes with `iscrowd`. True: a location inside such a box is not background for
    # any class, but it still learns if it is positive for an object. False: the boxes are dropped,
    # and the locations inside them are background.
    # Elsewhere: mmdet `gt_bboxes_ignore`, which its FCOS accepts but does not use
    train.KEEP_CROWD_BOXES = False

    # Whether training leaves out images that are missing, damaged or not images. Warnings count
    # them. Without it, they are errors. An evaluation never leaves out images.
    train.SKIP_UNREADABLE_IMAGES = False

    # The value in gray images of 16 bits that becomes 255. Values between 0 and it are scaled, and
    # higher values become 255, too. The default divides by 257, the whole range of 16 bits. If a
    # camera or scanner writes only 12 bits, images would be dark: set 4095. An evaluation and
    # predictions read this key, too.
    train.WHITE_POINT_16_BIT = 65535

    # The optimizer, SGD or AdamW, with detectron2's parameter groups and the settings in `SOLVER`.
    # It is fused (one kernel for a step), unless gradients are clipped.
    train.OPTIMIZER = "SGD"

    # Factor of the learning rate of layers that predict the offsets (and masks) of deformable
    # convolutions, in the backbone and the head. It applies in addition to `SOLVER.BIAS_LR_FACTOR`.
    # Elsewhere: original `SOLVER.DCONV_OFFSETS_LR_FACTOR`
    train.DCN_OFFSET_LR_FACTOR = 1.0

    # Data type of autocast in training, if `SOLVER.AMP.ENABLED` is set. `auto` is float16 on CUDA
    # and bfloat16 on a CPU. On CPUs with AMX, oneDNN (seen with torch 2.14) computes wrong bfloat16
    # convolutions with stride 2 if the output has a single column, as P7 of images that are at most
    # 128 pixels wide.
    train.AMP_DTYPE = "auto"

    # Decay of an exponential moving average of the weights, which is also evaluated (`ema/bbox/AP`)
    # and saved as `model_final_ema.pth`. The first steps use the decay min(decay, (1 + n) / (10 +
    # n)). 0 means no average; then such a file of an earlier run is renamed to
    # `model_final_ema_of_earlier_run.pth`.
    train.EMA_DECAY = 0.0

    # Whether each evaluation during training (not with `--eval-only`) also computes the losses on
    # `DATASETS.TEST`: `val_loss/total_loss`, `val_loss/loss_fcos_cls`, ... Batch norms use their
    # running statistics, and images have the size for inference. The sums over all images are
    # divided by the number of positives in all images.
    train.VALIDATION_LOSS = False

    # The metric whose best value decides which weights are kept as `model_best.pth`. The highest
    # value is the best, but the lowest for `val_loss/...`. If the name begins with `ema/`, the
    # averaged weights are kept. With several test sets, the names have that of the set, such as
    # `my_val/bbox/AP`; a name without it means the first set. `""` keeps none. If
    # `TEST.EVAL_PERIOD` is 0, detectron2's default, only the final weights are evaluated, and there
    # is no `model_best.pth`.
    train.BEST_METRIC = "bbox/AP"

    # Number of evaluations in a row without a new best `BEST_METRIC` after which training ends; 0
    # means never. The final and averaged weights are saved as at the last iteration. With
    # `--resume`, counting continues, and a run that had ended early ends again at once. Evaluations
    # whose metric is NaN are not counted. This needs `TEST.EVAL_PERIOD` and a test set.
    train.EARLY_STOPPING_PATIENCE = 0

    # How many of the checkpoints that are saved every `SOLVER.CHECKPOINT_PERIOD` iterations are
    # kept; 0 keeps all. The latest ones are kept, and those from before `--resume` count too.
    # Elsewhere: detectron2's LazyConfigs `train.checkpointer.max_to_keep`
    train.MAX_TO_KEEP = 0

    # Whether Ctrl-C (SIGINT) and SIGTERM during training save `model_interrupted.pth`. It is saved
    # after the current iteration (with several processes, after losses are read, every 20
    # iterations), or at once during an evaluation. `--resume` resumes from it, and it is removed
    # when the next checkpoint is saved. The exit code is 130 or 143. A second signal ends the
    # process at once.
    train.CHECKPOINT_AT_SIGNAL = True

    # Whether a run with `--resume` takes `SOLVER.BASE_LR`, `WEIGHT_DECAY`, `MOMENTUM` and
    # `NESTEROV` from the config. The learning rate then continues at the same point of its
    # schedule. False: the optimizer's state in the checkpoint has these settings, and other values
    # in the config are an error.
    train.RESUME_LR = False


def get_config_file(name: str) -> str:
    """
    Return the path of a config file that comes with the project.

    Args:
        name (str): Path relative to configs/, such as "fcos_R_50_FPN_1x.yaml" or
            "lazy/fcos_R_50_FPN.py".

    Raises:
        FileNotFoundError: If there is no such config. The message lists all configs.
    """
    package = Path(__file__).resolve().parent
    # The folder is inside the package in a wheel, and next to the package in a checkout.
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    path = folder / name
    if not path.is_file():
        files = (file.relative_to(folder) for file in folder.rglob("*.*"))
        known = sorted(str(file) for file in files if file.suffix in (".yaml", ".py"))
        raise FileNotFoundError(f"fcos_d2 has no config {name!r}; it has: {', '.join(known)}.")
    return str(path)
