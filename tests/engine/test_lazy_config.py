"""The checks of a LazyConfig before a run: its parts, their arguments, and their values."""

import sys

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from input_errors import input_error
from tiny_lazy import ON_SHAPES, REGNET, TIMM, TINY, run_lazy, train_net

from fcos_d2.engine import prepare_lazy_config
from fcos_d2.engine.lazy_rules import LAZY_RULES
from fcos_d2.errors import InputError

# (arguments, (key, value) of the error, texts that the message must contain)
FAULTS = [
    (
        ["model.dense_head.postprocessor.nms_tresh=0.5"],
        ("model.dense_head.postprocessor", None),
        ["FCOSPostProcessor", "'nms_tresh'", "levels, score_thresh_test"],
    ),
    (
        ["model.dense_head.head.num_cls_convs=x"],
        ("model.dense_head.head.num_cls_convs", "x"),
        ["integer"],
    ),
    (["model.num_classes=???"], (None, None), [REGNET.name, "model.num_classes"]),
    (["model.num_classes=${nowhere}"], (None, None), [REGNET.name, "nowhere"]),
    (["lr_multiplier=null"], ("lr_multiplier", None), ["lacks"]),
    (
        ["optimizer=null", "train.max_iter=null"],
        ("optimizer.params", None),
        ["lacks", "optimizer.params, train.max_iter"],
    ),
    (["train.device=gpu"], ("train.device", "gpu"), ["cuda"]),
    (["model.num_classes=7"], ("model.num_classes", 7), ["'shapes_train'", "6 classes"]),
    (
        ["dataloader.train.dataset.names=shapes"],
        ("dataloader.train.dataset.names", ["shapes"]),
        ["'shapes_train'?"],
    ),
    (["train.output_dir=/dev/null/x"], ("train.output_dir", "/dev/null/x"), ["/dev/null is not"]),
    (
        ["train.eval_period=1", "train.best_metric=bbox/mAP"],
        ("train.best_metric", "bbox/mAP"),
        ["bbox/AP, bbox/AP50"],
    ),
    (
        [
            "train.eval_period=1",
            "train.validation_loss=true",
            "train.best_metric=val_loss/loss_fcos_clss",
        ],
        ("train.best_metric", "val_loss/loss_fcos_clss"),
        ["val_loss/loss_fcos_ctr"],
    ),
    (
        ["dataloader.test.dataset.names=[shapes_val,shapes_train]"],
        ("dataloader.evaluator.dataset_name", ["shapes_val", "shapes_train"]),
        ["dataloader.test.dataset.names", "--eval-only"],
    ),
    (["--eval-only"], ("train.init_checkpoint", None), ["--eval-only"]),
    (["--num-gpus=3"], ("dataloader.train.total_batch_size", 2), ["3 processes"]),
]


@pytest.mark.parametrize(("arguments", "fault", "words"), FAULTS)
def test_a_fault_is_an_error_with_key_and_value(few_shapes, tmp_path, arguments, fault, words):
    with pytest.raises(InputError) as caught:
        run_lazy(tmp_path, *arguments)
    assert (caught.value.key, caught.value.value) == fault
    assert all(word in caught.value.text for word in words)


def test_a_checkpoint_that_does_not_exist_is_an_error(few_shapes, tmp_path):
    with pytest.raises(InputError, match=r"train\.init_checkpoint = 'nowhere\.pth'"):
        run_lazy(tmp_path, "train.init_checkpoint=nowhere.pth")


WRONG = ["abc", -1, True, 1.5]


@pytest.mark.parametrize("key", sorted(LAZY_RULES))
def test_at_least_two_of_the_wrong_values_are_wrong_for_each_key(key):
    assert len([x for x in WRONG if not LAZY_RULES[key].holds(x)]) > 1


@pytest.mark.parametrize("value", WRONG, ids=str)
def test_each_wrong_value_is_a_fault_with_its_key_and_rule(few_shapes, tmp_path, value):
    keys = [key for key, rule in LAZY_RULES.items() if not rule.holds(value)]
    with pytest.raises(InputError) as caught:
        run_lazy(tmp_path, *(f"{key}={value}" for key in keys))
    faults = {x.key: x for x in caught.value.faults}
    assert sorted(faults) == sorted(keys)
    for key, fault in faults.items():
        assert (type(fault.value), fault.value) == (type(value), value)
        assert LAZY_RULES[key].text in fault.text


def test_wrong_arguments_of_several_parts_are_reported_together(few_shapes, tmp_path):
    wrong = {
        "model.dense_head.head.norm": "Baz",
        "model.dense_head.losses.loc_loss_type": "foo",
        "model.num_classes": 0,
        "dataloader.train.num_workers": -1,
    }
    with pytest.raises(InputError) as caught:
        run_lazy(tmp_path, *(f"{key}={value}" for key, value in wrong.items()))
    # The head has the number of classes from the model.
    wrong["model.dense_head.head.num_classes"] = wrong.pop("model.num_classes")
    assert {x.key: x.value for x in caught.value.faults} == wrong


def test_an_evaluation_downloads_no_pretrained_weights(few_shapes, tmp_path):
    pytest.importorskip("timm")
    overrides = [*ON_SHAPES, f"train.output_dir={tmp_path}", "train.init_checkpoint=model.pth"]
    cfg = prepare_lazy_config(str(TIMM), overrides, eval_only=True)
    assert cfg.model.backbone.bottom_up.pretrained is False


def test_leaving_out_all_classes_is_an_error_with_the_key_of_the_config(
    few_shapes, own_data, tmp_path
):
    own_data.write()
    dataset = f"lazy_own={own_data.file('train')}:{own_data.images}"
    more = [f"train.output_dir={tmp_path / 'out'}", "dataloader.train.dataset.names=lazy_own"]
    more += ["dataloader.test.dataset.names=[]", "train.drop_classes=[cat,dog]"]
    try:
        with input_error("'lazy_own'", key="train.drop_classes", value=["cat", "dog"]):
            prepare_lazy_config(str(REGNET), [*ON_SHAPES, *TINY[REGNET.name], *more], [dataset])
    finally:
        DatasetCatalog.remove("lazy_own")
        MetadataCatalog.remove("lazy_own")


def test_arguments_of_the_mapper_are_read_for_the_checks_of_datasets(
    few_shapes, own_data, tmp_path, package_log
):
    own_data.train["annotations"][0]["iscrowd"] = 1
    own_data.train["images"].append({"id": 9, "file_name": "no.png", "width": 9, "height": 9})
    own_data.write()
    dataset = f"lazy_own={own_data.file('train')}:{own_data.images}"
    more = [f"train.output_dir={tmp_path / 'out'}", "dataloader.train.dataset.names=lazy_own"]
    more += ["dataloader.test.dataset.names=[]", "model.num_classes=2"]
    overrides = [*ON_SHAPES, *TINY[REGNET.name], *more]
    advice = "dataloader.train.mapper.skip_unreadable_images=True"
    with input_error("no.png", advice, file=own_data.images / "no.png"):
        prepare_lazy_config(str(REGNET), overrides, [dataset])
    try:
        arguments = ("skip_unreadable_images=True", "keep_crowd_boxes=True")
        overrides += (f"+dataloader.train.mapper.{x}" for x in arguments)
        prepare_lazy_config(str(REGNET), overrides, [dataset])
        assert len(DatasetCatalog.get("lazy_own")) == 2
        assert "which is set, is for real crowds" in package_log.text
    finally:
        DatasetCatalog.remove("lazy_own")
        MetadataCatalog.remove("lazy_own")


def test_the_command_prints_an_error_as_one_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_net.py", "--config-file", str(REGNET), "train.lr=3"])
    with pytest.raises(SystemExit, match=r"^error: .*train\.lr") as caught:
        train_net.invoke_main()
    assert "\n" not in caught.value.code
