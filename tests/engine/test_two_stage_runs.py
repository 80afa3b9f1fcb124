"""Trainings and evaluations of the recipes of two-stage detectors on the shapes."""

import json
import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from input_errors import check_error, input_error
from two_processes import run_in_two_processes
from two_stage_models import INPUTS, MODELS, PROPOSALS, build

from fcos_d2 import get_config_file
from fcos_d2.checkpoint import FCOSCheckpointer
from fcos_d2.engine import Trainer, prepare_config
from fcos_d2.engine.evaluators import evaluation_tasks
from fcos_d2.engine.trainer import wrap_in_ddp
from fcos_d2.engine.validation_loss import compute_validation_losses, known_losses
from fcos_d2.errors import InputError

pytestmark = pytest.mark.usefixtures("few_shapes")

# name: the tasks of its evaluation
RECIPES = {
    "fcos_proposals": ["box_proposals"],
    "faster_rcnn_fcos": ["bbox"],
    "mask_rcnn_fcos": ["bbox", "segm"],
    "cascade_mask_rcnn_fcos": ["bbox", "segm"],
    "keypoint_rcnn_fcos": ["bbox", "keypoints"],
}
ROI_LOSSES = {
    "fcos_proposals": set(),
    "faster_rcnn_fcos": {"loss_cls", "loss_box_reg"},
    "mask_rcnn_fcos": {"loss_mask"},
    "cascade_mask_rcnn_fcos": {"loss_mask", "loss_cls_stage2"},
    "keypoint_rcnn_fcos": {"loss_keypoint"},
}


def prepare(name, folder, *opts, **arguments):
    """Prepare a recipe with small batches."""
    file = get_config_file(f"shapes/{name}_shapes.yaml")
    small = ["SOLVER.IMS_PER_BATCH=2", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE=16"]
    return prepare_config(file, [*small, f"OUTPUT_DIR={folder}", *opts], **arguments)


def train(cfg, *, resume=False):
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_resumes_and_evaluates(name, tmp_path):
    opts = ["TEST.EVAL_PERIOD=40", "FCOS_TRAIN.VALIDATION_LOSS=True", "FCOS_TRAIN.EMA_DECAY=0.9"]
    cfg = prepare(name, tmp_path, *opts, "SOLVER.MAX_ITER=40")
    assert evaluation_tasks(cfg) == RECIPES[name]
    train(cfg)
    lines = [json.loads(x) for x in (tmp_path / "metrics.json").read_text().splitlines()]
    losses = [line["total_loss"] for line in lines if "total_loss" in line]
    assert losses
    assert all(map(math.isfinite, losses))
    metrics = {key for line in lines for key in line}
    for task in RECIPES[name]:
        assert any(key.startswith(f"ema/{task}/A") for key in metrics), task
    assert {f"val_loss/{x}" for x in ("loss_fcos_loc", *ROI_LOSSES[name])} <= metrics
    assert (tmp_path / "model_best.pth").is_file()

    more = ["TEST.EVAL_PERIOD=0", "SOLVER.MAX_ITER=42"]
    trainer = train(prepare(name, tmp_path, *opts, *more, resume=True), resume=True)
    assert trainer.start_iter == 40
    weights = str(tmp_path / "model_final.pth")
    cfg = prepare(name, tmp_path, f"MODEL.WEIGHTS={weights}", eval_only=True)
    model = Trainer.build_model(cfg)
    FCOSCheckpointer(model, complete=True).load(cfg.MODEL.WEIGHTS)
    assert list(Trainer.test(cfg, model)) == RECIPES[name]


def test_the_numbers_of_classes_and_keypoints_are_those_of_the_dataset(tmp_path):
    cfg = prepare("keypoint_rcnn_fcos", tmp_path)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 6
    assert cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS == 5


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("MODEL.ROI_HEADS.NUM_CLASSES=80", "MODEL.ROI_HEADS.NUM_CLASSES"),
        ("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS=17", "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"),
        ("FCOS_TRAIN.KEEP_CROWD_BOXES=True", "FCOS_TRAIN.KEEP_CROWD_BOXES"),
        ("FCOS_TRAIN.BEST_METRIC=segm/AP", "FCOS_TRAIN.BEST_METRIC"),
    ],
)
def test_what_does_not_fit_is_an_error_before_the_training(tmp_path, override, key):
    with input_error(override.split("=")[1], key=key):
        prepare("keypoint_rcnn_fcos", tmp_path, override)


def test_the_best_metric_of_proposals_is_their_recall(tmp_path):
    assert prepare("fcos_proposals", tmp_path).FCOS_TRAIN.BEST_METRIC == "box_proposals/AR@100"


def test_other_proposal_generators_have_no_validation_losses(tmp_path):
    opts = ["MODEL.PROPOSAL_GENERATOR.NAME=RPN", "MODEL.RPN.IN_FEATURES=['p2']"]
    opts.append("FCOS_TRAIN.VALIDATION_LOSS=True")
    with input_error("GeneralizedRCNN", key="FCOS_TRAIN.VALIDATION_LOSS"):
        prepare("faster_rcnn_fcos", tmp_path, *opts)


def test_validation_losses_do_not_change_a_training(tmp_path):
    cfg = prepare("faster_rcnn_fcos", tmp_path)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    state = {k: x.clone() for k, x in model.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    losses = compute_validation_losses(cfg, model)
    assert torch.rand(1) == expected
    assert compute_validation_losses(cfg, model) == losses  # of the same sampled proposals
    assert all(torch.equal(x, state[k]) for k, x in model.state_dict().items())
    assert model.training
    assert losses["total_loss"] == pytest.approx(sum(losses.values()) - losses["total_loss"])


@pytest.mark.parametrize("validates", [True, False])
def test_validation_losses_need_masks_in_the_test_sets(own_data, monkeypatch, validates):
    for annotation in own_data.train["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    arguments = [f"FCOS_TRAIN.VALIDATION_LOSS={validates}", "SOLVER.MAX_ITER=1"]
    file = get_config_file("shapes/mask_rcnn_fcos_shapes.yaml")
    names = ["DATASETS.TRAIN=('train',)", "DATASETS.TEST=('val',)"]
    own_data.write()
    datasets = [f"{x}={own_data.file(x)}:{own_data.images}" for x in ("train", "val")]
    try:
        prepare_config(file, [*names, *arguments], datasets)
    except InputError as error:
        assert validates
        check_error(error, "test set 'val'", key="MODEL.MASK_ON", file=own_data.file("val"))
    else:
        assert not validates
    own_data.forget()


def test_weights_with_keypoints_are_evaluated_on_a_test_set_without_them(tmp_path, own_data):
    own_data.write()
    dataset = f"val={own_data.file('val')}:{own_data.images}"
    opts = ["DATASETS.TEST=('val',)", "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS=4"]
    opts += ["MODEL.WEIGHTS=model.pth", f"OUTPUT_DIR={tmp_path}"]
    file = get_config_file("shapes/keypoint_rcnn_fcos_shapes.yaml")
    cfg = prepare_config(file, opts, [dataset], eval_only=True)
    assert cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS == 4
    unknown = "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS=-1"
    with input_error("no keypoint_names", key=unknown.partition("=")[0]):
        prepare_config(file, [*opts, unknown], [dataset], eval_only=True)
    own_data.forget()


def test_crowds_are_reported_without_a_setting_that_the_model_refuses(own_data, package_log):
    own_data.train["annotations"][0]["iscrowd"] = 1
    own_data.write()
    datasets = [f"{x}={own_data.file(x)}:{own_data.images}" for x in ("train", "val")]
    names = ["DATASETS.TRAIN=('train',)", "DATASETS.TEST=('val',)"]
    prepare_config(get_config_file("shapes/faster_rcnn_fcos_shapes.yaml"), names, datasets)
    (warning,) = [x.getMessage() for x in package_log.records if "iscrowd" in x.getMessage()]
    assert "KEEP_CROWD_BOXES" not in warning
    own_data.forget()


def test_a_best_metric_that_no_loss_has_is_an_error(tmp_path):
    opts = ["FCOS_TRAIN.VALIDATION_LOSS=True", "TEST.EVAL_PERIOD=2"]
    key = "FCOS_TRAIN.BEST_METRIC"
    with input_error("val_loss/loss_maskk", key=key):
        prepare("mask_rcnn_fcos", tmp_path, *opts, f"{key}=val_loss/loss_maskk")
    assert prepare("mask_rcnn_fcos", tmp_path, *opts, f"{key}=val_loss/loss_mask")


@pytest.mark.parametrize("name", [*MODELS, "proposals"])
def test_the_names_of_the_losses_are_known(name):
    opts = MODELS[name][0] if name in MODELS else PROPOSALS
    model = build(opts)
    with EventStorage():
        assert sorted(known_losses(model)) == sorted(model(INPUTS))


def step_of_one_process(rank, _):
    """Train each model for a step, with objects in the first process only; return the gradients."""
    results = {}
    for name, (opts, *_) in MODELS.items():
        model = wrap_in_ddp(build(opts))
        with EventStorage():
            losses = model([INPUTS[rank]])
        sum(losses.values()).backward()
        results[name] = {k: p.grad for k, p in model.module.named_parameters()}
    return results


def test_one_of_two_processes_may_have_no_object(tmp_path):
    first, second = run_in_two_processes(step_of_one_process, tmp_path)
    for name in MODELS:
        for key, gradient in first[name].items():
            assert gradient.isfinite().all(), key
            assert torch.equal(gradient, second[name][key]), key
        assert any(x.any() for k, x in first[name].items() if k.startswith("roi_heads"))
