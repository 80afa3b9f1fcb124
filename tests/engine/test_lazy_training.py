"""Training with a LazyConfig, by train_net.py and by detectron2's own trainer."""

import pytest
import torch
from commands import REPOSITORY, run_python
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import SimpleTrainer, default_setup, hooks
from detectron2.evaluation import inference_on_dataset
from detectron2.layers import NaiveSyncBatchNorm
from input_errors import input_error
from tiny import read_detections, read_metrics
from tiny_lazy import (
    LAZY,
    ON_SHAPES,
    R_50,
    REGNET,
    REGNET_ON_SHAPES,
    TIMM,
    TINY,
    load_tiny,
    overrides,
    run_lazy,
    train_net,
)

from fcos_d2 import cli
from fcos_d2.engine.lazy_training import _build_model
from fcos_d2.engine.trained_classes import _read_class_names
from fcos_d2.errors import InputError

INTO_OUTPUT = "dataloader.evaluator.output_dir=${train.output_dir}/inference"


@pytest.fixture(scope="module")
def trained(few_shapes, tmp_path_factory):
    """Train the small RegNet, and return the output folder."""
    output = tmp_path_factory.mktemp("lazy")
    run_lazy(output, INTO_OUTPUT)
    return output


def test_train_net_trains_a_lazy_config(trained):
    for name in ("model_final.pth", "metrics.json", "config.yaml", "log.txt"):
        assert (trained / name).stat().st_size > 0, name
    classes = MetadataCatalog.get("shapes_train").thing_classes
    assert _read_class_names(trained / "config.yaml") == list(classes)
    names = {"loss_fcos_cls", "lr", "bbox/AP"}
    names |= {"fcos/positives_p3", "fcos/loss_fcos_ctr_above_floor"}
    assert names <= {key for line in read_metrics(trained) for key in line}
    assert read_detections(trained)


def test_train_net_evaluates_a_lazy_config(trained, tmp_path):
    weights = f"train.init_checkpoint={trained / 'model_final.pth'}"
    results = run_lazy(tmp_path, "--eval-only", weights, INTO_OUTPUT)
    assert 0 <= results["bbox"]["AP50"] <= 100
    assert read_detections(trained) == read_detections(tmp_path)


def test_training_with_a_lazy_config_resumes(few_shapes, tmp_path):
    run_lazy(tmp_path)
    run_lazy(tmp_path, "--resume", "train.max_iter=3")
    assert torch.load(tmp_path / "model_final.pth", weights_only=False)["iteration"] == 2
    trained = [x["iteration"] for x in read_metrics(tmp_path) if "total_loss" in x]
    assert trained == [0, 1, 2]  # No iteration is trained twice.
    # With these keys, the biases are a separate group of the optimizer.
    biases = (f"optimizer.params.{x}" for x in ("base_lr=0.01", "bias_lr_factor=2"))
    with pytest.raises(InputError, match="optimizer"):
        run_lazy(tmp_path, "--resume", *biases)


def test_training_with_a_lazy_config_averages_validates_and_keeps_the_best_weights(
    few_shapes, tmp_path
):
    run_lazy(
        tmp_path,
        *overrides("train", ema_decay=0.9, validation_loss="true", eval_period=1, log_period=20),
        "train.best_metric=ema/val_loss/total_loss",
        *overrides("train.checkpointer", period=1, max_to_keep=1),
        INTO_OUTPUT,
    )
    names = {file.name for file in tmp_path.glob("*.pth")}
    assert names == {f"model_{x}.pth" for x in ("0000001", "best", "final", "final_ema")}
    best, average = (
        torch.load(tmp_path / name, weights_only=True)
        for name in ("model_best.pth", "model_final_ema.pth")
    )
    last = {key: value for line in read_metrics(tmp_path) for key, value in line.items()}
    assert {"bbox/AP", "ema/bbox/AP", "val_loss/loss_fcos_loc"} <= last.keys()
    assert best["ema/val_loss/total_loss"] <= last["ema/val_loss/total_loss"]
    assert best["model"].keys() == average["model"].keys()
    assert read_detections(tmp_path) != read_detections(tmp_path / "ema")


def test_training_with_a_lazy_config_ends_early(few_shapes, tmp_path, monkeypatch):
    # All evaluations have the same result, so none is better than the first one.
    results = {"bbox": {"AP": 1.0}}
    monkeypatch.setattr("fcos_d2.engine.lazy_training.inference_on_dataset", lambda *_: results)
    early = overrides("train", max_iter=9, eval_period=1, early_stopping_patience=1)
    run_lazy(tmp_path, *early)
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 1


NO_TEST_SET = ["dataloader.test.dataset.names=[]", "train.eval_period=1"]


@pytest.mark.parametrize("overrides", [NO_TEST_SET, ["dataloader.evaluator=null", NO_TEST_SET[1]]])
def test_training_without_a_test_set_or_an_evaluator(few_shapes, tmp_path, package_log, overrides):
    run_lazy(tmp_path, *overrides)
    assert (tmp_path / "model_final.pth").is_file()
    assert not (tmp_path / "model_best.pth").exists()
    (line,) = (x for x in package_log.records if "model_best.pth" in x.getMessage())
    assert line.levelname == "INFO"


@pytest.mark.parametrize(
    ("key", "value"), [("train.early_stopping_patience", 2), ("train.validation_loss", True)]
)
def test_what_reads_evaluations_needs_a_test_set(few_shapes, tmp_path, key, value):
    with input_error(key=key, value=value):
        run_lazy(tmp_path, *NO_TEST_SET, f"{key}={value}")


def test_an_evaluation_needs_a_test_set(few_shapes, tmp_path):
    weights = "train.init_checkpoint=model.pth"
    with input_error("empty", key="dataloader.test.dataset.names", value=[]):
        run_lazy(tmp_path, "--eval-only", weights, NO_TEST_SET[0])


def test_early_stopping_on_scores_needs_an_evaluator(few_shapes, tmp_path):
    key = "train.early_stopping_patience"
    extra = [*overrides("train", eval_period=1, validation_loss="true"), f"{key}=2"]
    with input_error("bbox/AP", key=key, value=2):
        run_lazy(tmp_path, "dataloader.evaluator=null", *extra)


def test_validation_losses_need_a_mapper(few_shapes, tmp_path):
    with pytest.raises(InputError) as caught:
        run_lazy(tmp_path, "train.validation_loss=true", "dataloader.test.mapper=null")
    assert caught.value.key == "train.validation_loss"


def test_autocast_trains_on_the_cpu(few_shapes, tmp_path):
    # These images are wide enough for a P7 of two columns: see AMP_DTYPE in docs/config.md.
    wide = "dataloader.train.mapper.augmentations.0.short_edge_length=160"
    run_lazy(tmp_path, wide, "train.amp.enabled=true", "train.max_iter=1")
    assert (tmp_path / "model_final.pth").is_file()


def test_own_data_is_registered_by_the_flag_dataset(few_shapes, tmp_path):
    images = few_shapes / "shapes" / "train" / "images"
    flag = f"--dataset=lazy_own={images.parent / 'annotations.json'}:{images}"
    try:
        run_lazy(tmp_path, flag, "dataloader.train.dataset.names=lazy_own", "train.max_iter=1")
    finally:
        DatasetCatalog.remove("lazy_own")
        MetadataCatalog.remove("lazy_own")
    assert (tmp_path / "model_final.pth").is_file()


def test_synchronized_norms_on_a_cpu_are_those_of_detectron2():
    pytest.importorskip("timm")
    cfg = load_tiny(TIMM.name, "train.device=cpu")
    norms = [x for x in _build_model(cfg).modules() if "BatchNorm" in type(x).__name__]
    assert norms
    assert all(isinstance(x, NaiveSyncBatchNorm) for x in norms)


@pytest.mark.slow
@pytest.mark.parametrize("name", [REGNET.name, TIMM.name])
def test_two_processes_train_a_lazy_config(few_shapes, tmp_path, name):
    flags = ["--config-file", LAZY / name, "--num-gpus", 2]
    overrides = [*ON_SHAPES, *TINY[name], f"train.output_dir={tmp_path}"]
    script = REPOSITORY / "tests" / "run_train_net.py"
    process = run_python(script, *flags, *overrides, DETECTRON2_DATASETS=str(few_shapes))
    assert process.returncode == 0, process.stderr[-3000:]
    assert (tmp_path / "model_final.pth").is_file()


def test_detectron2s_own_trainer_trains_a_lazy_config(few_shapes, tmp_path):
    # This is the code of detectron2's tools/lazyconfig_train_net.py, without the engine of fcos_d2.
    args = train_net.build_parser().parse_args(["--config-file", str(REGNET)])
    cfg = LazyConfig.load(args.config_file)
    cfg = LazyConfig.apply_overrides(cfg, [*REGNET_ON_SHAPES, f"train.output_dir={tmp_path}"])
    default_setup(cfg, args)
    model = instantiate(cfg.model)
    model.to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    trainer = SimpleTrainer(model, instantiate(cfg.dataloader.train), optimizer)
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)

    def evaluate():
        loader = instantiate(cfg.dataloader.test)
        return inference_on_dataset(model, loader, instantiate(cfg.dataloader.evaluator))

    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
            hooks.EvalHook(cfg.train.eval_period, evaluate),
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=False)
    before = model.dense_head.head.cls_logits.weight.detach().clone()
    trainer.train(0, cfg.train.max_iter)
    assert (model.dense_head.head.cls_logits.weight != before).any()
    assert (tmp_path / "model_final.pth").is_file()


def test_the_subcommand_evaluate_passes_the_weights_to_a_lazy_config(monkeypatch):
    parsed = {}
    monkeypatch.setattr("fcos_d2.cli.train.launch_run", lambda _, args: parsed.update(vars(args)))
    weights = "it's a=b, c.pth"  # any path
    config = ["--config-file", f"lazy/{R_50.name}"]
    cli.main(["evaluate", "--weights", weights, *config, "train.seed=3"])
    assert parsed["eval_only"]
    cfg = LazyConfig.apply_overrides(LazyConfig.load(parsed["config_file"]), parsed["opts"])
    assert (cfg.train.init_checkpoint, cfg.train.seed) == (weights, 3)


def test_a_lazy_config_can_leave_classes_out(own_data, tmp_path):
    own_data.write()
    datasets = [f"--dataset={x}={own_data.file(x)}:{own_data.images}" for x in own_data.NAMES]
    names = ["dataloader.train.dataset.names=train", "dataloader.test.dataset.names=val"]
    try:
        run_lazy(
            tmp_path,
            *datasets,
            *names,
            "model.num_classes=1",
            "train.drop_classes=[cat]",
            INTO_OUTPUT,
        )
    finally:
        for name in own_data.NAMES:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    assert {x["category_id"] for x in read_detections(tmp_path)} == {2}


def test_the_evaluator_counts_as_many_detections_as_the_model_returns(few_shapes):
    cfg = load_tiny(
        REGNET.name, *ON_SHAPES, "model.dense_head.postprocessor.detections_per_image=300"
    )
    assert cfg.dataloader.evaluator.detections_per_image == 300
