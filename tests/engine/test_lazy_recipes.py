"""The LazyConfigs in configs/lazy: each one trains and detects, and is in the documentation."""

import re
import shutil

import pytest
import torch
from commands import REPOSITORY
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetMapper
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from tiny import random_input
from tiny_lazy import LAZY, R_50, TINY, load_tiny

from fcos_d2 import get_config_file
from fcos_d2.engine import load_config, prepare_lazy_config
from fcos_d2.errors import InputError


def test_the_r_50_config_is_equal_to_the_yaml_recipe():
    cfg = load_config(get_config_file("fcos_R_50_FPN_1x.yaml"), ["MODEL.DEVICE", "cpu"])
    lazy = load_tiny(R_50.name)
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


@pytest.mark.parametrize("name", sorted(TINY))
def test_each_backbone_trains_and_detects(name):
    if "timm" in name:
        pytest.importorskip("timm")
    torch.manual_seed(0)
    cfg = load_tiny(
        name, "model.num_classes=5", "model.dense_head.postprocessor.score_thresh_test=0"
    )
    model = instantiate(cfg.model)
    assert model.levels.strides == (8, 16, 32, 64, 128)
    sum(model([random_input(3), random_input(0, seed=1)]).values()).backward()
    parameters = dict(model.named_parameters())
    # DDP would wait for a parameter without gradient.
    assert [k for k, p in parameters.items() if p.requires_grad and p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in parameters.values() if p.requires_grad)
    # The optimizer can build its groups: layer-wise learning rates, exceptions from weight decay.
    cfg.optimizer.params.model = model
    instantiate(cfg.optimizer).step()
    instances = model.eval()([random_input(1)])[0]["instances"]
    assert instances.image_size == (96, 128)
    assert len(instances) > 0


@pytest.mark.parametrize("file", sorted(LAZY.glob("*.py")), ids=lambda x: x.stem)
def test_each_config_has_all_values_that_training_reads(file, monkeypatch, tmp_path):
    # Only COCO is missing. The check of its files comes after all other checks.
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="'coco_2017_train'") as caught:
        prepare_lazy_config(str(file), ["train.device=cpu", "dataloader.test.dataset.names=[]"])
    assert caught.value.file.endswith("instances_train2017.json")
    assert len(caught.value.faults) == 1


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
    """Return the table of docs/backbones.md: file, network and neck, parameters in M, recipe."""
    page = (REPOSITORY / "docs" / "backbones.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if ".py` |" in line]
    return {row[0].strip("`"): row for row in rows}


def test_each_config_is_in_the_docs():
    assert set(rows_of_the_docs()) == {R_50.name, *TINY} == {x.name for x in LAZY.glob("*.py")}


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(LAZY.glob("*.py")), ids=lambda x: x.stem)
def test_numbers_of_parameters_are_those_of_the_docs(file):
    cfg = LazyConfig.load(str(file))
    if "timm" in file.name:
        cfg.model.backbone.bottom_up.pretrained = False
    parameters = sum(p.numel() for p in instantiate(cfg.model).parameters())
    assert f"{parameters / 1e6:.1f}" == rows_of_the_docs()[file.name][2]
