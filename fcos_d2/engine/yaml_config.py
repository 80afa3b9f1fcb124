"""Functions that load and check a YAML config, for training, evaluation or predictions."""

import logging
from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import nn

from ..arguments import Arguments, get
from ..config_checks import (
    build_for_checks,
    build_model_for_checks,
    check_config,
    disabled_logging,
)
from ..config_loading import keys_set_by, load_config
from ..data.coco import CheckedDataset, dataset_text
from ..data.dataset_mapper import FCOSDatasetMapper
from ..data.images import WHITE_POINT_RULE
from ..data.keypoints import connection_rules_of, keypoint_names_of
from ..errors import Collector, InputError, listed
from ..modeling import num_classes_key, resolve_num_classes
from ..modeling.backbone.timm_network import expected_pixel_statistics
from ..modeling.backbone.timm_pixels import PIXEL_KEYS
from ..modeling.two_stage import has_roi_heads, proposes
from ..test_time_augmentation import find_tta_faults
from .box_coverage import warn_of_boxes_without_location
from .config_rules import KEYPOINT_ARGUMENTS, find_faults
from .dataset_roles import assign_datasets, find_empty_datasets
from .evaluators import evaluation_tasks
from .keypoint_settings import disable_unpaired_flips, resolve_num_keypoints
from .metric_names import check_can_stop_early, resolve_best_metric
from .preflight import RunPlan, check_device, find_run_faults
from .run_datasets import (
    check_run_datasets,
    find_unscored,
    parse_datasets,
    register_datasets,
)
from .run_keys import YAML_KEYS
from .run_settings import RUN_ARGUMENTS, RunSettings
from .trained_classes import with_trained_classes
from .validation_loss import known_losses

__all__ = ["load_prediction_config", "prepare_config"]

logger = logging.getLogger(__name__)

# The keys of FCOS_TRAIN that predictions read, too.
_PREDICTION_ARGUMENTS = Arguments("FCOS_TRAIN", white_point_16_bit=WHITE_POINT_RULE)


def load_prediction_config(config_file: str, opts: Sequence[str]) -> CfgNode:
    """
    Load a config for predictions, and check the keys for the model and for reading images.

    The pixel format and statistics for a network of timm are filled in if the config has none.
    Networks of timm don't load pretrained weights, because a checkpoint will fill the whole model.

    Args:
        config_file (str): See ``config_loading.load_config``.
        opts (list[str]): See ``config_loading.load_config``.

    Raises:
        InputError: If there are errors in the config. The message lists all of them.
    """
    cfg = load_config(config_file, opts)
    collect = Collector()
    collect(_set_pixel_statistics_of_timm, cfg, keys_set_by(config_file, opts))
    collect(check_device, cfg.MODEL.DEVICE)
    collect(_PREDICTION_ARGUMENTS.read, cfg)
    collect(KEYPOINT_ARGUMENTS.read, cfg)
    check_config(cfg, [*collect.faults, *find_tta_faults(cfg)])
    cfg.MODEL.TIMM.PRETRAINED = False
    return cfg


def prepare_config(
    config_file: str,
    opts: Sequence[str],
    datasets: Sequence[str] = (),
    *,
    eval_only: bool = False,
    resume: bool = False,
    processes: int = 1,
) -> CfgNode:
    """
    Load a config, check it, register its datasets, and fill in the values that depend on them.

    Args:
        config_file (str): Path of a YAML file.
        opts (list[str]): See ``config_loading.load_config``.
        datasets (list[str]): NAME=ANNOTATIONS.json:IMAGES/, in addition to FCOS_TRAIN.DATASETS.
            If the config names no datasets, see ``dataset_roles.assign_datasets``.
        eval_only (bool): Don't require DATASETS.TRAIN.
        resume (bool): Resume from the last checkpoint in OUTPUT_DIR, if there is one.
        processes (int): Number of processes that share the images of a batch.

    Returns:
        CfgNode: The frozen config. FCOS_TRAIN.DATASETS has absolute paths and
        FCOS_TRAIN.CLASS_NAMES has the classes, so that the config file that training writes works
        from any folder. With keypoints, FCOS_TRAIN.KEYPOINT_NAMES and FCOS_TRAIN.KEYPOINT_SKELETON
        have theirs.

    Raises:
        InputError: If there are errors in the config or the data. The message lists all errors in
            the config or, if it has none, all errors in the data.
    """
    loading_faults: list[InputError] = []
    cfg = load_config(config_file, opts, loading_faults)
    collect = Collector()
    descriptions = collect(parse_datasets, cfg.FCOS_TRAIN.DATASETS, datasets)
    if descriptions is not None:
        names = [text.partition("=")[0] for text in datasets]
        assign_datasets(cfg, names, opts, eval_only=eval_only)
        collect.faults += find_empty_datasets(cfg, names, eval_only=eval_only)
    plan = _build_plan(cfg, eval_only, resume, processes)
    plan = with_trained_classes(plan, get(cfg, num_classes_key(cfg)))
    if not loading_faults:
        collect(_set_pixel_statistics_of_timm, cfg, keys_set_by(config_file, opts))
    if plan.relies_on_checkpoint:
        cfg.MODEL.TIMM.PRETRAINED = False
    faults = [*collect.faults, *find_faults(cfg, eval_only), *find_run_faults(plan, descriptions)]
    # The values of these keys could not be set, so errors about their default values are dropped.
    unset = {fault.key for fault in loading_faults}
    faults = [*loading_faults, *(fault for fault in faults if fault.key not in unset)]
    check_config(cfg, faults, build_model=not loading_faults)
    registered = register_datasets(descriptions, plan)
    cfg.FCOS_TRAIN.DATASETS = [dataset_text(*parts) for parts in descriptions.values()]
    _apply_datasets(cfg, plan, registered)
    cfg.freeze()
    return cfg


def _build_plan(cfg: CfgNode, eval_only: bool, resume: bool, processes: int) -> RunPlan:
    """Collect what the config and the command line say about the run."""
    datasets = YAML_KEYS.datasets._replace(num_classes=num_classes_key(cfg))
    return RunPlan(
        YAML_KEYS._replace(datasets=datasets),
        device=cfg.MODEL.DEVICE,
        weights=cfg.MODEL.WEIGHTS,
        output_dir=cfg.OUTPUT_DIR,
        # With SOLVER.REFERENCE_WORLD_SIZE, detectron2 scales the batch size with the number of
        # processes, so the batch size of the config is not the one that will be used.
        batch_size=None if cfg.SOLVER.REFERENCE_WORLD_SIZE else cfg.SOLVER.IMS_PER_BATCH,
        train_names=cfg.DATASETS.TRAIN,
        test_names=cfg.DATASETS.TEST,
        eval_only=eval_only,
        resume=resume,
        processes=processes,
        trained_classes=cfg.FCOS_TRAIN.CLASS_NAMES if eval_only else (),
        drop_classes=cfg.FCOS_TRAIN.DROP_CLASSES,
        detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        skip_unreadable_images=cfg.FCOS_TRAIN.SKIP_UNREADABLE_IMAGES,
        keep_crowd_boxes=None if proposes(cfg) else cfg.FCOS_TRAIN.KEEP_CROWD_BOXES,
        uses_masks=cfg.MODEL.MASK_ON,
        has_mask_head=cfg.MODEL.MASK_ON and has_roi_heads(cfg),
        mask_format=cfg.INPUT.MASK_FORMAT,
        uses_keypoints=cfg.MODEL.KEYPOINT_ON,
        kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        validation_loss=cfg.FCOS_TRAIN.VALIDATION_LOSS,
    )


def _apply_datasets(cfg: CfgNode, plan: RunPlan, registered: Mapping[str, CheckedDataset]) -> None:
    """Fill in the values that depend on the datasets, and check that datasets and model fit."""
    if plan.eval_only and plan.trained_classes:
        cfg.FCOS_TRAIN.CLASS_NAMES = list(plan.trained_classes)
    num_classes = resolve_num_classes(cfg, plan.eval_only)
    cfg.merge_from_list([num_classes_key(cfg), num_classes])
    check_run_datasets(plan, num_classes, registered)
    if cfg.MODEL.KEYPOINT_ON:
        cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = resolve_num_keypoints(cfg, plan.eval_only)
    if plan.eval_only:
        return
    disable_unpaired_flips(cfg)
    model = build_for_checks(lambda: build_model_for_checks(cfg))
    if not cfg.DATASETS.TEST and cfg.TEST.EVAL_PERIOD > 0 and cfg.FCOS_TRAIN.BEST_METRIC:
        logger.info("DATASETS.TEST is empty: no best weights are kept (model_best.pth).")
    elif cfg.DATASETS.TEST and cfg.TEST.EVAL_PERIOD > 0:
        unscored = find_unscored(plan.test_names, registered)
        cfg.FCOS_TRAIN.BEST_METRIC = _resolve_best_metric(cfg, unscored, model)
    with disabled_logging():  # the mapper of the training logs its augmentations
        augmentations = FCOSDatasetMapper(cfg, is_train=True).augmentations.augs
    warn_of_boxes_without_location(model, augmentations, plan, registered)
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    cfg.FCOS_TRAIN.CLASS_NAMES = list(metadata.get("thing_classes", []))
    if cfg.MODEL.KEYPOINT_ON:
        cfg.FCOS_TRAIN.KEYPOINT_NAMES = keypoint_names_of(cfg.DATASETS.TRAIN[0])
        rules = connection_rules_of(cfg.DATASETS.TRAIN[0])
        cfg.FCOS_TRAIN.KEYPOINT_SKELETON = [[*names, list(color)] for *names, color in rules]


def _resolve_best_metric(cfg: CfgNode, unscored: Sequence[str], model: nn.Module | None) -> str:
    """
    Return the full name of FCOS_TRAIN.BEST_METRIC; "" stays "".

    The default becomes "" if no test set has annotations.
    """
    tasks = evaluation_tasks(cfg)
    metric, key = cfg.FCOS_TRAIN.BEST_METRIC, RUN_ARGUMENTS.keys["best_metric"]
    patience_key = RUN_ARGUMENTS.keys["early_stopping_patience"]
    check_can_stop_early(get(cfg, patience_key), patience_key, cfg.DATASETS.TEST, unscored)
    has_scores = set(cfg.DATASETS.TEST) - set(unscored)
    if not has_scores and metric == RunSettings.best_metric:
        logger.warning(
            "The test set %s has no annotations, so there are no scores: no best weights are kept "
            "(model_best.pth).",
            listed(cfg.DATASETS.TEST),
        )
        return ""
    if not metric:
        return ""
    if metric == RunSettings.best_metric and tasks == ["box_proposals"]:
        metric = "box_proposals/AR@100"
    return resolve_best_metric(
        metric, cfg.DATASETS.TEST, tasks, key, losses=known_losses(model), unscored=unscored
    )


def _set_pixel_statistics_of_timm(cfg: CfgNode, keys_set: set[str]) -> None:
    """
    Set the pixel format and statistics to those of timm's weights, unless the config sets any.

    detectron2's default statistics are not right for timm's weights.
    """
    statistics = None if keys_set & set(PIXEL_KEYS) else expected_pixel_statistics(cfg)
    if statistics is None:
        return
    cfg.INPUT.FORMAT = statistics.format
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(statistics.mean), list(statistics.std)
    logger.info(
        "The config sets none of %s. They are set to the values for timm's weights:\n%s",
        ", ".join(PIXEL_KEYS),
        statistics.format_as(PIXEL_KEYS),
    )
