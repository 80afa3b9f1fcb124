"""The class names of weights that are evaluated: an evaluation must not mix up the classes."""

import pytest
from commands import SHAPES_CONFIG
from detectron2.data import MetadataCatalog
from input_errors import check_error, command_error
from own_data import OwnData
from tiny_lazy import REGNET, REGNET_ON_SHAPES

from fcos_d2.engine import prepare_config, prepare_lazy_config
from fcos_d2.engine.preflight import RunPlan
from fcos_d2.engine.run_keys import YAML_KEYS
from fcos_d2.engine.trained_classes import with_trained_classes

UNKNOWN = "The order of the classes of the weights is unknown"
NAMES = "FCOS_TRAIN: {CLASS_NAMES: [cat, dog]}\n"


LAZY_NAMES = "train: {class_names: [cat, dog]}\nmodel: !!python/name:a.B ''\n"


def make_plan(folder, **values):
    """Return the plan of the evaluation of folder/model.pth."""
    known = {"device": "cpu", "weights": str(folder / "model.pth"), "output_dir": str(folder)}
    more = {"batch_size": None, "train_names": (), "test_names": ("val",), "eval_only": True}
    return RunPlan(YAML_KEYS, **{**known, **more, **values})


@pytest.mark.parametrize("num_classes", [-1, None, 2])
@pytest.mark.parametrize("name", ["config.yaml", "model.yaml"])
@pytest.mark.parametrize("content", [NAMES, LAZY_NAMES])
def test_the_names_are_those_of_the_config_next_to_the_weights(
    tmp_path, content, name, num_classes
):
    (tmp_path / name).write_text(content)
    plan = with_trained_classes(make_plan(tmp_path), num_classes)
    assert plan.trained_classes == ["cat", "dog"]


@pytest.mark.parametrize(
    "content",
    [None, "", "[1]", "FCOS_TRAIN: {CLASS_NAMES: []}", "FCOS_TRAIN: 1", "a: {", "a: !!python/x 1"],
)
def test_a_config_without_names_leaves_the_classes_unknown(tmp_path, content):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    plan = make_plan(tmp_path)
    assert with_trained_classes(plan, -1) == plan


def test_names_that_are_set_or_not_for_this_model_are_not_replaced(tmp_path):
    (tmp_path / "config.yaml").write_text(NAMES)
    for plan, num_classes in (
        (make_plan(tmp_path, trained_classes=["dog", "cat"]), 2),
        (make_plan(tmp_path, eval_only=False), 2),
        (make_plan(tmp_path), 3),
    ):
        assert with_trained_classes(plan, num_classes) == plan


def test_the_names_of_a_resumed_run_are_those_of_its_output_folder(tmp_path):
    (tmp_path / "config.yaml").write_text(NAMES)
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    plan = make_plan(tmp_path, weights="elsewhere/model.pth", resume=True)
    assert with_trained_classes(plan, -1).trained_classes == ["cat", "dog"]


def evaluation_of(data: OwnData) -> list[str]:
    """Return the arguments that evaluate the weights of a training with the config of a recipe."""
    weights = f"MODEL.WEIGHTS={data.output}/model_final.pth"
    return data.arguments("--eval-only", weights, f"OUTPUT_DIR={data.folder}/other")


def prepare_evaluation(data: OwnData):
    """Make the checks of ``evaluation_of``, and return the config and the classes of "val"."""
    data.write()
    opts = [x for x in evaluation_of(data)[2:] if not x.startswith("--")]
    try:
        cfg = prepare_config(
            SHAPES_CONFIG, opts, [f"val={data.file('val')}:{data.images}"], eval_only=True
        )
        return cfg, list(MetadataCatalog.get("val").thing_classes)
    finally:
        data.forget()


def test_a_recipe_evaluates_a_test_set_with_other_ids_by_names(trained_own_data, package_log):
    trained_own_data.val["categories"].reverse()
    trained_own_data.val["categories"][0]["id"], trained_own_data.val["categories"][1]["id"] = 1, 2
    cfg, classes = prepare_evaluation(trained_own_data)
    assert classes == cfg.FCOS_TRAIN.CLASS_NAMES == ["cat", "dog"]
    assert UNKNOWN not in package_log.text


@pytest.mark.parametrize(
    ("names", "word"),
    [(["Cat", "dog"], "'Cat'"), (["cat"], "lacks 'dog'"), (["cat", "dog", "cow"], "'cow'")],
)
def test_a_recipe_refuses_a_test_set_with_other_classes(trained_own_data, monkeypatch, names, word):
    data = trained_own_data
    data.val["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    data.val["annotations"] = [x for x in data.val["annotations"] if x["category_id"] == 1]
    data.write()
    error = command_error(data.run, monkeypatch, evaluation_of(data))
    check_error(error, "'val'", word, key="FCOS_TRAIN.CLASS_NAMES", value=["cat", "dog"])


def test_one_warning_says_that_the_order_of_classes_is_unknown(trained_own_data, package_log):
    (trained_own_data.output / "config.yaml").unlink()
    _, classes = prepare_evaluation(trained_own_data)
    assert classes == ["cat", "dog"]
    (text,) = (x.getMessage() for x in package_log.records if UNKNOWN in x.getMessage())
    assert all(x in text for x in ("FCOS_TRAIN.CLASS_NAMES", "'val'", "cat, dog")), text


@pytest.mark.parametrize("more", [[], ["train.class_names=[dog,cat]"]], ids=["file", "key"])
def test_a_lazy_config_evaluates_by_the_names_of_the_weights(few_shapes, own_data, tmp_path, more):
    if not more:
        (tmp_path / "config.yaml").write_text("train: {class_names: [dog, cat]}\n")
    own_data.write()
    overrides = [f"train.init_checkpoint={tmp_path}/model.pth", f"train.output_dir={tmp_path}/out"]
    overrides += ["dataloader.test.dataset.names=val", "model.num_classes=2", *more]
    dataset = f"val={own_data.file('val')}:{own_data.images}"
    try:
        opts = [*REGNET_ON_SHAPES, *overrides]
        prepare_lazy_config(str(REGNET), opts, [dataset], eval_only=True)
        assert MetadataCatalog.get("val").thing_classes == ["dog", "cat"]
    finally:
        own_data.forget()
