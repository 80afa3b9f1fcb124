"""LazyConfigs: each trains and detects; train_net.py and detectron2's own trainer run them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetMapper
from detectron2.engine import SimpleTrainer, default_setup, hooks
from detectron2.evaluation import inference_on_dataset
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from tiny import random_input

from fcos_d2 import get_config_file
from fcos_d2.engine import load_config, prepare_lazy_config
from fcos_d2.engine.lazy_config import LAZY_RULES
from fcos_d2.engine.lazy_training import _build_model
from fcos_d2.errors import InputError

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY))

import train_net  # noqa: E402
from fcos_d2 import cli  # noqa: E402

LAZY = REPOSITORY / "configs" / "lazy"
R_50 = LAZY / "fcos_R_50_FPN.py"
REGNET = LAZY / "fcos_regnetx_4gf_FPN.py"

# What makes each network small.
TINY = {
    REGNET.name: (
        *(f"model.backbone.bottom_up.{x}" for x in ("depth=8", "w_0=8", "w_a=8", "w_m=2")),
        *(f"model.backbone.bottom_up.{x}" for x in ("norm=BN", "freeze_at=0", "group_width=8")),
    ),
    "fcos_swin_b_in21k_50ep.py": (
        *(f"model.backbone.bottom_up.{x}" for x in ("embed_dim=16", "depths=[1,1,1,1]")),
        "model.backbone.bottom_up.num_heads=[1,2,4,8]",
        "model.backbone.square_pad=128",
    ),
    "fcos_mvitv2_t_3x.py": ("model.backbone.bottom_up.embed_dim=16",),
    "fcos_vitdet_b_100ep.py": (
        *(f"model.backbone.net.{x}" for x in ("embed_dim=48", "depth=2", "num_heads=2")),
        *(f"model.backbone.net.{x}" for x in ("img_size=128", "window_block_indexes=[0]")),
        "model.backbone.net.window_size=4",
        "model.backbone.square_pad=128",
    ),
    "fcos_timm_convnext_tiny_BiFPN.py": (
        *(f"model.backbone.bottom_up.{x}" for x in ("name=convnext_atto", "pretrained=false")),
        "model.backbone.num_repeats=1",
    ),
}
# Two steps on two images of the shapes each, with few_shapes.
SHAPES = (
    *(f"train.{x}" for x in ("device=cpu", "init_checkpoint=''", "max_iter=2")),
    *(f"train.{x}" for x in ("amp.enabled=false", "eval_period=0", "log_period=1")),
    *(f"dataloader.{x}" for x in ("train.dataset.names=shapes_train", "train.num_workers=0")),
    *(f"dataloader.{x}" for x in ("test.dataset.names=shapes_val", "test.num_workers=0")),
    *(f"dataloader.{x}" for x in ("train.total_batch_size=2", "evaluator.output_dir=null")),
    "dataloader.train.mapper.augmentations.0.short_edge_length=128",
    "dataloader.test.mapper.augmentations.0.short_edge_length=128",
    *("model.num_classes=6", "model.dense_head.postprocessor.score_thresh_test=0"),
    *("model.dense_head.head.num_cls_convs=1", "model.dense_head.head.num_box_convs=1"),
    *TINY[REGNET.name],
)


def load(name, *overrides):
    cfg = LazyConfig.load(str(LAZY / name))
    return LazyConfig.apply_overrides(cfg, [*TINY.get(name, ()), *overrides])


def run(output, *arguments, config=REGNET):
    """train_net.main in this process."""
    flags = [x for x in arguments if x.startswith("--")]
    overrides = [x for x in arguments if not x.startswith("--")]
    output = f"train.output_dir={output}"
    args = train_net.build_parser().parse_args(
        ["--config-file", str(config), *flags, *SHAPES, output, *overrides]
    )
    return train_net.main(args)


def test_the_first_one_is_the_yaml_recipe():
    cfg = load_config(get_config_file("fcos_R_50_FPN_1x.yaml"), ["MODEL.DEVICE", "cpu"])
    lazy = load(R_50.name)
    expected, model = build_model(cfg), instantiate(lazy.model)
    model.load_state_dict(expected.state_dict())
    assert {k: p.requires_grad for k, p in model.named_parameters()} == {
        k: p.requires_grad for k, p in expected.named_parameters()
    }
    batch = [random_input(3), random_input(2, seed=1)]
    losses = model(batch)
    torch.testing.assert_close(losses, expected(batch))
    sum(losses.values()).backward()

    lazy.optimizer.params.model = model
    optimizer, by_yaml = instantiate(lazy.optimizer), build_optimizer(cfg, expected)
    for name in ("lr", "momentum", "nesterov"):
        assert optimizer.defaults[name] == by_yaml.defaults[name], name
    decays = [
        {(p.numel(), group["weight_decay"]) for group in x.param_groups for p in group["params"]}
        for x in (optimizer, by_yaml)
    ]
    assert decays[0] == decays[1]
    schedule, multiplier = build_lr_scheduler(cfg, by_yaml), instantiate(lazy.lr_multiplier)
    for where in (0, 0.001, 0.01, 0.5, 0.67, 0.9):
        assert multiplier(where) == pytest.approx(schedule._multiplier(where)), where
    train = lazy.dataloader.train
    assert (train.total_batch_size, lazy.train.max_iter) == (16, cfg.SOLVER.MAX_ITER)
    for is_train, mapper in ((True, train.mapper), (False, lazy.dataloader.test.mapper)):
        by_yaml = DatasetMapper(cfg, is_train)
        mapper = instantiate(mapper)
        assert mapper.image_format == by_yaml.image_format
        pairs = zip(mapper.augmentations.augs, by_yaml.augmentations.augs, strict=True)
        for transform, expected in pairs:
            assert type(transform) is type(expected)
            if hasattr(transform, "short_edge_length"):
                assert set(transform.short_edge_length) == set(expected.short_edge_length)
                assert transform.max_size == expected.max_size


@pytest.mark.parametrize("name", TINY)
def test_each_backbone_trains_and_detects(name):
    if "timm" in name:
        pytest.importorskip("timm")
    torch.manual_seed(0)
    cfg = load(name, "model.num_classes=5", "model.dense_head.postprocessor.score_thresh_test=0")
    model = instantiate(cfg.model)
    assert model.levels.strides == (8, 16, 32, 64, 128)
    sum(model([random_input(3), random_input(0, seed=1)]).values()).backward()
    parameters = dict(model.named_parameters())
    # DDP would wait for a parameter without gradient.
    assert [k for k, p in parameters.items() if p.requires_grad and p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in parameters.values() if p.requires_grad)
    # The groups of the optimizer: layer-wise rates, exceptions from weight decay.
    cfg.optimizer.params.model = model
    instantiate(cfg.optimizer).step()
    instances = model.eval()([random_input(1)])[0]["instances"]
    assert instances.image_size == (96, 128)
    assert len(instances) > 0


@pytest.mark.parametrize("file", sorted(LAZY.glob("*.py")), ids=lambda x: x.stem)
def test_all_that_a_training_reads_is_there(file, monkeypatch, tmp_path):
    # COCO is not: the files are looked for only after all else has been found right.
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"annotation file .* of the dataset 'coco_2017_train'"):
        prepare_lazy_config(str(file), ["train.device=cpu", "dataloader.test.dataset.names=[]"])


def test_the_example_of_the_docs_trains(tmp_path):
    page = (REPOSITORY / "docs" / "backbones.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    shutil.copytree(LAZY, tmp_path / "lazy")
    (tmp_path / "lazy" / "mine.py").write_text(example)
    cfg = LazyConfig.load(str(tmp_path / "lazy" / "mine.py"))
    model = instantiate(cfg.model)
    assert type(model.backbone.bottom_up).__name__ == "SwinTransformer"
    sum(model([random_input(3)]).values()).backward()


def rows_of_the_docs():
    """File, network and neck, parameters in M, recipe."""
    page = (REPOSITORY / "docs" / "backbones.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if ".py` |" in line]
    return {row[0].strip("`"): row for row in rows}


def test_each_is_in_the_docs():
    assert set(rows_of_the_docs()) == {R_50.name, *TINY} == {x.name for x in LAZY.glob("*.py")}


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(LAZY.glob("*.py")), ids=lambda x: x.stem)
def test_parameters_are_those_of_the_docs(file):
    cfg = LazyConfig.load(str(file))
    if "timm" in file.name:
        cfg.model.backbone.bottom_up.pretrained = False
    parameters = sum(p.numel() for p in instantiate(cfg.model).parameters())
    assert f"{parameters / 1e6:.1f}" == rows_of_the_docs()[file.name][2]


@pytest.fixture(scope="module")
def trained(few_shapes, tmp_path_factory):
    output = tmp_path_factory.mktemp("lazy")
    run(output, "dataloader.evaluator.output_dir=${train.output_dir}/inference")
    return output


def test_train_net_trains_a_lazy_config(trained):
    for name in ("model_final.pth", "metrics.json", "config.yaml", "log.txt"):
        assert (trained / name).stat().st_size > 0, name
    metrics = [json.loads(line) for line in (trained / "metrics.json").read_text().splitlines()]
    names = {
        "loss_fcos_cls",
        "lr",
        "bbox/AP",
        "fcos/positives_p3",
        "fcos/loss_fcos_ctr_above_floor",
    }
    assert names <= {key for line in metrics for key in line}
    assert json.loads((trained / "inference" / "coco_instances_results.json").read_text())


def test_train_net_evaluates_a_lazy_config(trained, tmp_path):
    results = run(
        tmp_path,
        "--eval-only",
        f"train.init_checkpoint={trained / 'model_final.pth'}",
        "dataloader.evaluator.output_dir=${train.output_dir}/inference",
    )
    assert 0 <= results["bbox"]["AP50"] <= 100
    first, again = (
        (folder / "inference" / "coco_instances_results.json").read_text()
        for folder in (trained, tmp_path)
    )
    assert first == again


def test_a_lazy_training_is_resumed(few_shapes, tmp_path):
    run(tmp_path)
    run(tmp_path, "--resume", "train.max_iter=3")
    assert torch.load(tmp_path / "model_final.pth", weights_only=False)["iteration"] == 2
    assert "Starting training from iteration 2" in (tmp_path / "log.txt").read_text()
    # Now biases are a group of their own.
    biases = (f"optimizer.params.{x}" for x in ("base_lr=0.01", "bias_lr_factor=2"))
    with pytest.raises(InputError, match=r"checkpoint has the state of another one"):
        run(tmp_path, "--resume", *biases)


def test_averages_validation_losses_and_the_best_weights(few_shapes, tmp_path):
    run(
        tmp_path,
        "train.ema_decay=0.9",
        "train.validation_loss=true",
        "train.eval_period=1",
        "train.best_metric=ema/val_loss/total_loss",
        "train.checkpointer.period=1",
        "train.checkpointer.max_to_keep=1",
        "train.log_period=20",
        "dataloader.evaluator.output_dir=${train.output_dir}/inference",
    )
    names = {file.name for file in tmp_path.glob("*.pth")}
    assert names == {f"model_{x}.pth" for x in ("0000001", "best", "final", "final_ema")}
    best, average = (
        torch.load(tmp_path / name, weights_only=True)
        for name in ("model_best.pth", "model_final_ema.pth")
    )
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    last = {key: value for line in lines for key, value in json.loads(line).items()}
    assert {"bbox/AP", "ema/bbox/AP", "val_loss/loss_fcos_loc"} <= last.keys()
    assert best["ema/val_loss/total_loss"] <= last["ema/val_loss/total_loss"]
    assert best["model"].keys() == average["model"].keys()
    raw, averaged = (
        (folder / "inference" / "coco_instances_results.json").read_text()
        for folder in (tmp_path, tmp_path / "ema")
    )
    assert raw != averaged


def test_a_lazy_training_ends_early(few_shapes, tmp_path):
    # No AP is above that of the first evaluation: the rate is 0.
    run(
        tmp_path,
        "train.max_iter=9",
        "train.eval_period=1",
        "train.early_stopping_patience=1",
        "optimizer.lr=1e-30",
    )
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 1


def test_validation_losses_need_the_model_fcos_and_a_mapper(few_shapes, tmp_path):
    with pytest.raises(InputError) as caught:
        run(tmp_path, "train.validation_loss=true", "dataloader.test.mapper=null")
    assert caught.value.key == "train.validation_loss"


def test_autocast_on_the_cpu(few_shapes, tmp_path):
    # Wide enough for a P7 of two columns: see AMP_DTYPE in docs/config.md.
    wide = "dataloader.train.mapper.augmentations.0.short_edge_length=160"
    run(tmp_path, wide, "train.amp.enabled=true", "train.max_iter=1")
    assert (tmp_path / "model_final.pth").is_file()


def test_own_data_is_registered_by_flag(few_shapes, tmp_path):
    images = few_shapes / "shapes" / "train" / "images"
    text = f"lazy_own={images.parent / 'annotations.json'}:{images}"
    run(
        tmp_path, f"--dataset={text}", "dataloader.train.dataset.names=lazy_own", "train.max_iter=1"
    )
    assert (tmp_path / "model_final.pth").is_file()


def test_synchronised_norms_are_those_of_the_device():
    pytest.importorskip("timm")
    cfg = load("fcos_timm_convnext_tiny_BiFPN.py", "train.device=cpu")
    norms = [x for x in _build_model(cfg).modules() if "BatchNorm" in type(x).__name__]
    assert norms
    assert all(isinstance(x, NaiveSyncBatchNorm) for x in norms)


@pytest.mark.slow
@pytest.mark.parametrize("name", [REGNET.name, "fcos_timm_convnext_tiny_BiFPN.py"])
def test_two_processes(few_shapes, tmp_path, name):
    shapes = [x for x in SHAPES if x not in TINY[REGNET.name]]
    command = [
        sys.executable,
        str(REPOSITORY / "tests" / "run_train_net.py"),
        "--config-file",
        str(LAZY / name),
        "--num-gpus",
        "2",
        *shapes,
        *TINY[name],
        f"train.output_dir={tmp_path}",
    ]
    env = {**os.environ, "DETECTRON2_DATASETS": str(few_shapes), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]
    assert (tmp_path / "model_final.pth").is_file()


def test_detectron2s_own_lazy_trainer_trains_it(few_shapes, tmp_path):
    """What tools/lazyconfig_train_net.py of detectron2 does, with nothing of ours in between."""
    args = train_net.build_parser().parse_args(["--config-file", str(REGNET)])
    cfg = LazyConfig.load(args.config_file)
    cfg = LazyConfig.apply_overrides(cfg, [*SHAPES, f"train.output_dir={tmp_path}"])
    default_setup(cfg, args)
    model = instantiate(cfg.model)
    model.to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    trainer = SimpleTrainer(model, instantiate(cfg.dataloader.train), optimizer)
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)

    def evaluate():
        loader, evaluator = (
            instantiate(x) for x in (cfg.dataloader.test, cfg.dataloader.evaluator)
        )
        return inference_on_dataset(model, loader, evaluator)

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


OVERRIDES = [
    (("SOLVER.MAX_ITER",), r"Overrides of a LazyConfig are KEY=VALUE, such as .* 'SOLVER.MAX_IT"),
    (("train.max_itr=3",), r"has no key train.max_itr. Did you mean 'train.max_iter'\?"),
    (("trian.max_iter=3",), r"no key trian.max_iter. Did you mean 'train.max_iter'\?"),
    (("train.max_iter.x=3",), r"has no key train.max_iter.x"),
    (("train.max_iter=[",), r"The override 'train.max_iter=\[' of the LazyConfig cannot be app"),
    (("~train.max_iter=",), r"has no key ~train.max_iter"),
    (("dataloader.train.mapper.augmentations.7.prob=1",), r"has no key dataloader.train.mapper.au"),
    (
        ("model.dense_head.postprocessor.nms_tresh=0.5",),
        r"model.dense_head.postprocessor of the LazyConfig calls FCOSPostProcessor: got an "
        r"unexpected keyword argument 'nms_tresh'. Its arguments are: levels, score_thresh_test",
    ),
    (("model.dense_head.head.num_cls_convs=x",), r"num_cls_convs = 'x' must be an integer"),
    (("model.num_classes=???",), r"model.num_classes"),
    (("model.num_classes=${nowhere}",), r"nowhere"),
    (("lr_multiplier=null",), r"The LazyConfig lacks lr_multiplier"),
    (("optimizer=null", "train.max_iter=null"), r"lacks optimizer.params, train.max_iter"),
    (("train.device=gpu",), r"train.device = 'gpu'"),
    (("model.num_classes=7",), r"model.num_classes = 7, but the dataset 'shapes_train' has 6"),
    (("dataloader.train.dataset.names=shapes",), r"dataloader.train.dataset.names: the dataset 's"),
    (("train.output_dir=/dev/null/x",), r"train.output_dir = '/dev/null/x' cannot be written to"),
    (("--eval-only",), r"--eval-only evaluates a checkpoint, but train.init_checkpoint is empty"),
    (("train.init_checkpoint=nowhere.pth",), r"train.init_checkpoint = 'nowhere.pth' cannot be op"),
    (("--num-gpus=3",), r"total_batch_size = 2 cannot be shared evenly by 3 processes"),
]


@pytest.mark.parametrize(("arguments", "message"), OVERRIDES, ids=lambda x: str(x)[:50])
def test_an_override_that_cannot_work_is_explained(few_shapes, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, *arguments)


@pytest.mark.parametrize("key", LAZY_RULES)
def test_a_wrong_number_is_an_error_with_key_rule_and_value(few_shapes, tmp_path, key):
    wrong = [x for x in ("abc", -1, True, 1.5) if not LAZY_RULES[key].holds(x)]
    assert len(wrong) > 1
    for value in wrong:
        with pytest.raises(InputError) as caught:
            run(tmp_path, f"{key}={value}")
        assert str(caught.value) == f"{key} = {value!r} must be {LAZY_RULES[key].text}."


FILES = [
    (None, r"The config file .*mine.py does not exist"),
    ("train = dict(", r"mine.py cannot be run: .*mine.py: SyntaxError: '\(' was never closed"),
    ("train = dict()\nmodel = nothing\n", r"mine.py, line 2: NameError: name 'nothing' is not def"),
    ("from .other import model\n", r"cannot be run: .*mine.py, line 1: ImportError.*other.py does"),
    ("train = 5\n", r"The LazyConfig lacks model, train.device, train.output_dir"),
]


@pytest.mark.parametrize(("content", "message"), FILES, ids=lambda x: str(x)[:30])
def test_a_file_that_cannot_work_is_explained(tmp_path, content, message):
    file = tmp_path / "mine.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=message):
        prepare_lazy_config(str(file), [])


def test_a_new_key_is_made_with_a_plus(few_shapes, tmp_path):
    cfg = prepare_lazy_config(
        str(REGNET), [*SHAPES, f"train.output_dir={tmp_path}", "+train.seed=3"]
    )
    assert cfg.train.seed == 3


def test_an_evaluation_fetches_no_pretrained_weights(few_shapes, tmp_path):
    pytest.importorskip("timm")
    shapes = [x for x in SHAPES if "bottom_up" not in x]
    cfg = prepare_lazy_config(
        str(LAZY / "fcos_timm_convnext_tiny_BiFPN.py"),
        [*shapes, f"train.output_dir={tmp_path}", "train.init_checkpoint=model.pth"],
        eval_only=True,
    )
    assert cfg.model.backbone.bottom_up.pretrained is False


def test_the_verb_evaluate_gives_the_weights_to_a_lazy_config(monkeypatch):
    seen = {}
    monkeypatch.setattr("fcos_d2.cli.train.launch_run", lambda run, args: seen.update(vars(args)))
    weights = "it's a=b, c.pth"  # any path
    cli.main(
        ["evaluate", "--weights", weights, "--config-file", f"lazy/{R_50.name}", "train.seed=3"]
    )
    assert seen["eval_only"]
    cfg = LazyConfig.apply_overrides(LazyConfig.load(seen["config_file"]), seen["opts"])
    assert (cfg.train.init_checkpoint, cfg.train.seed) == (weights, 3)


def test_the_command_prints_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_net.py", "--config-file", str(REGNET), "train.lr=3"])
    with pytest.raises(SystemExit, match=r"^error: The LazyConfig has no key train.lr"):
        train_net.invoke_main()


def test_wrong_arguments_of_parts_are_found_at_once_with_their_keys(few_shapes, tmp_path):
    with pytest.raises(InputError) as caught:
        run(
            tmp_path,
            "model.dense_head.head.norm=Baz",
            "model.dense_head.losses.loc_loss_type=foo",
            "model.num_classes=0",
            "dataloader.train.num_workers=-1",
        )
    assert {(x.key, x.value) for x in caught.value.faults} == {
        ("model.dense_head.head.norm", "Baz"),
        ("model.dense_head.losses.loc_loss_type", "foo"),
        ("model.dense_head.head.num_classes", 0),
        ("dataloader.train.num_workers", -1),
    }


def test_a_file_may_leave_other_names_behind(few_shapes, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from detectron2.config import LazyConfig\n"
        f"base = LazyConfig.load({str(REGNET)!r})\n"
        "model, dataloader, optimizer = base.model, base.dataloader, base.optimizer\n"
        "lr_multiplier, train = base.lr_multiplier, base.train\n"
    )
    overrides = [*SHAPES, f"train.output_dir={tmp_path}"]
    assert prepare_lazy_config(str(file), overrides).model.num_classes == 6


def test_a_bug_in_what_a_config_imports_is_named_where_it_is(tmp_path):
    (tmp_path / "lib_with_bug.py").write_text("x = 1\ny = x.nothing\n")
    file = tmp_path / "mine.py"
    file.write_text(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport lib_with_bug\n")
    with pytest.raises(InputError, match=r"lib_with_bug.py, line 2: AttributeError"):
        prepare_lazy_config(str(file), [])
