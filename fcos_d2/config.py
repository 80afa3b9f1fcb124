"""
Config keys of fcos_d2. They are added under new nodes; no key that detectron2 owns is changed.
"""

from pathlib import Path

from detectron2.config import CfgNode

__all__ = ["add_fcos_config", "add_train_config", "get_config_file"]


def add_fcos_config(cfg: CfgNode) -> None:
    """
    Add ``MODEL.FCOS``, all that building the meta-architecture ``FCOS`` reads; ``MODEL.TIMM``, what
    backbones of timm read besides; and ``MODEL.BIFPN``, what backbones with a BiFPN do.
    """
    fcos = cfg.MODEL.FCOS = CfgNode()

    # K: foreground classes, background not counted. -1: as many as DATASETS.TRAIN[0] has.
    fcos.NUM_CLASSES = -1
    # Maps of the backbone that the head looks at, from fine to coarse.
    fcos.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]

    # Backbone: levels on top of the FPN (0, 1: P6, 2: P6 and P7), and the map they are made from:
    # "p5" (arXiv:2006.09214, Sec. 2.2) or "res5" (C5, as RetinaNet). A BiFPN, which makes them
    # before any p5 is there, takes the coarsest of MODEL.FPN.IN_FEATURES whatever this says.
    fcos.TOP_LEVELS = 2
    fcos.TOP_IN_FEATURE = "p5"

    # The head network, a name in HEAD_REGISTRY.
    fcos.HEAD = "FCOSHead"
    # 3x3 convolutions of the class and of the box tower, and of a tower in front of both;
    # channels of all of them (0: those of the FPN).
    fcos.NUM_CLS_CONVS = 4
    fcos.NUM_BOX_CONVS = 4
    fcos.NUM_SHARE_CONVS = 0
    fcos.HEAD_CHANNELS = 0
    # Norm behind each: "GN": 32 groups, one for all levels; "BN", "SyncBN": one for each level;
    # "naiveSyncBN": detectron2's SyncBN for any device, which "SyncBN" is on a CPU; "": none.
    fcos.NORM = "GN"
    # The last convolution of the class and of the box tower is deformable, with masks (DCNv2,
    # arXiv:1811.11168). For the backbone see detectron2's MODEL.RESNETS.DEFORM_ON_PER_STAGE.
    fcos.USE_DEFORMABLE = False
    # A learnable scale s_i a level for the regression; the tower that centre-ness is predicted
    # from: "box" (arXiv:2006.09214) or "cls" (arXiv:1904.01355).
    fcos.USE_SCALE = True
    fcos.CENTERNESS_ON = "box"
    # Class probability (pi of the focal-loss paper) that every location starts with.
    fcos.PRIOR_PROB = 0.01
    # Raw output of the box branch that every location starts with, as the activation below reads
    # it: with "relu" 4 strides to each side, with "exp" e^4 = 55 pixels. Such boxes learn sooner
    # than those of 0, which the papers have: empty ones, or of one pixel to each side.
    fcos.PRIOR_LTRB = 4.0

    # Regression: "relu": distances are relu(x) * stride; "exp": they are exp(x) pixels
    # (arXiv:1904.01355).
    fcos.BOX_ACTIVATION = "relu"

    # Locations are (index + offset) * stride: 0.5 = centre of the cell; 0 = its corner, which is
    # what torchvision's weights were trained with.
    fcos.LOCATION_OFFSET = 0.5

    # Targets: the rule (TARGET_ASSIGNER_REGISTRY); m_2 .. m_L, the borders in pixels between the
    # max(l, t, r, b) of neighbouring levels, one fewer than levels; half side of the centre square
    # in strides (0 = the whole box, arXiv:1904.01355), which lies about the centre of the box, or
    # if CENTER_OF_MASK about the centroid of the object's mask (with MODEL.MASK_ON True).
    fcos.TARGET_ASSIGNER = "FCOSAssigner"
    fcos.SIZES_OF_INTEREST = [64, 128, 256, 512]
    fcos.CENTER_SAMPLING_RADIUS = 1.5
    fcos.CENTER_OF_MASK = False

    # Losses: alpha (weight of positives) and gamma of the focal loss; box loss: "giou",
    # "diou", "ciou", "iou" (-log IoU) or "linear_iou" (1 - IoU).
    fcos.FOCAL_LOSS_ALPHA = 0.25
    fcos.FOCAL_LOSS_GAMMA = 2.0
    fcos.LOC_LOSS_TYPE = "giou"
    # Quality of its box that a location learns besides, and that ranks detections: "centerness";
    # "iou", that of the predicted box with its target (from the tower CENTERNESS_ON too); "none".
    fcos.BOX_QUALITY = "centerness"
    # With "centerness", the box loss of a location is weighted by its centre-ness target; if False,
    # and with the other qualities, all positives count alike.
    fcos.CTR_WEIGHTED_LOC_LOSS = True
    # What the losses are divided by: "fg": the positives of the batch; "moving_fg": their moving
    # average, so that in small batches an image with few positives does not count for more; "all":
    # the locations of the batch for the class loss, the positives for the others.
    fcos.LOSS_NORMALIZER = "fg"
    # Factors of the class, the box and the quality loss.
    fcos.LOSS_WEIGHT_CLS = 1.0
    fcos.LOSS_WEIGHT_LOC = 1.0
    fcos.LOSS_WEIGHT_QUALITY = 1.0

    # Inference: class scores must be above the threshold, and if THRESH_WITH_CTR their products
    # with the quality; the best of each image and level that go into NMS; IoU above which the
    # lesser box of a class goes.
    # How many detections an image keeps is detectron2's TEST.DETECTIONS_PER_IMAGE.
    fcos.SCORE_THRESH_TEST = 0.05
    fcos.THRESH_WITH_CTR = False
    fcos.TOPK_CANDIDATES_TEST = 1000
    fcos.NMS_THRESH_TEST = 0.6

    # Speed and memory, in training and in inference; results differ by rounding alone. The
    # backbone's FrozenBN folded into its convolutions: in training into the weights of each step,
    # in inference once. Weights and maps in the memory format channels_last: faster convolutions.
    fcos.FOLD_FROZEN_BN = True
    fcos.CHANNELS_LAST = True
    # Training keeps none of the maps inside of the head's towers and computes them a second time
    # for the gradient: less memory, more time. Not with a BatchNorm in the head.
    fcos.CHECKPOINT_TOWERS = False
    # torch.compile for the backbone and the head, each one graph for images of all sizes; on a CPU
    # it needs a C++ compiler.
    fcos.COMPILE = False
    # Detections in mixed precision: "bfloat16" or "float16". (That of training is detectron2's
    # SOLVER.AMP.ENABLED, and FCOS_TRAIN.AMP_DTYPE.)
    fcos.INFERENCE_DTYPE = "float32"

    timm = cfg.MODEL.TIMM = CfgNode()

    # Network of the package timm, such as "resnet18" or "convnext_tiny"; timm.list_models() has
    # all. It must have the strides of MODEL.FPN.IN_FEATURES: "res2" is 4, ..., "res5" is 32.
    # Where a config sets none of INPUT.FORMAT, MODEL.PIXEL_MEAN and MODEL.PIXEL_STD, train_net.py
    # and fcos-d2 take those of timm's weights, and say so.
    timm.NAME = ""
    # "": the norm layers that the network has; "FrozenBN": BatchNorm with fixed statistics and
    # weights, for pretrained weights and small batches; "SyncBN": BatchNorm over all processes (on
    # a CPU detectron2's "naiveSyncBN").
    timm.NORM = ""
    # Start from the weights that timm's own loader finds or downloads.
    timm.PRETRAINED = False

    # The neck of the backbones build_fcos_resnet_bifpn_backbone and build_fcos_timm_bifpn_backbone,
    # on the maps MODEL.FPN.IN_FEATURES and with MODEL.FCOS.TOP_LEVELS more on top of them.
    bifpn = cfg.MODEL.BIFPN = CfgNode()

    # How often maps are fused from coarse to fine and back; channels of all maps.
    bifpn.NUM_REPEATS = 6
    bifpn.OUT_CHANNELS = 160
    # Norm behind each convolution, as MODEL.FCOS.NORM.
    bifpn.NORM = "SyncBN"


def add_train_config(cfg: CfgNode) -> None:
    """Add ``FCOS_TRAIN``: what :class:`fcos_d2.engine.Trainer` reads, and no model does."""
    train = cfg.FCOS_TRAIN = CfgNode()

    # Datasets in COCO's format to register, each "NAME=ANNOTATIONS.json:IMAGES/"; the flag
    # --dataset of train_net.py adds to them. DATASETS names those that are used.
    train.DATASETS = []
    # Names of the K classes. Training fills them in from DATASETS.TRAIN[0]; an evaluation compares
    # them with its dataset's, and `fcos-d2 predict` shows them.
    train.CLASS_NAMES = []
    # Annotations with "iscrowd": True: nothing inside of their boxes is taught to be background.
    # False: they are dropped, and what the crowd consists of is background.
    train.KEEP_CROWD_BOXES = False
    # "SGD", or "AdamW", which learns faster from random weights. Groups of parameters, LR, weight
    # decay, warm-up, schedule and clipping are detectron2's and of its SOLVER for both.
    train.OPTIMIZER = "SGD"
    # Factor of the LR of layers that predict the offsets of deformable convolutions, in the
    # backbone and in the head.
    train.DCN_OFFSET_LR_FACTOR = 1.0
    # Type that autocast computes in when SOLVER.AMP.ENABLED: "float16" (CUDA only) or "bfloat16";
    # "auto": float16 on CUDA, bfloat16 on a CPU.
    train.AMP_DTYPE = "auto"
    # Exponential moving average of the weights, with this decay a step (0.999, 0.9998): evaluated
    # too, as "ema/bbox/AP" ..., and saved as model_final_ema.pth. 0: none.
    train.EMA_DECAY = 0.0
    # At every evaluation during training (not with --eval-only) also compute the losses on
    # DATASETS.TEST ("val_loss/total_loss" ...), in the mode of inference and with its image size.
    train.VALIDATION_LOSS = False
    # Metric whose best value keeps a separate checkpoint, model_best.pth; higher is better, of
    # "val_loss/..." lower. If it begins with "ema/" the averaged weights are kept. "" keeps none;
    # so does TEST.EVAL_PERIOD 0, detectron2's default: only the final weights are evaluated.
    train.BEST_METRIC = "bbox/AP"
    # Evaluations in a row without a new best BEST_METRIC after which training ends. 0: never.
    train.EARLY_STOPPING_PATIENCE = 0
    # How many of the checkpoints of SOLVER.CHECKPOINT_PERIOD are kept, the last ones. 0: all.
    train.MAX_TO_KEEP = 0
    # At Ctrl-C and SIGTERM save a checkpoint after the current iteration, for --resume, and end.
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
