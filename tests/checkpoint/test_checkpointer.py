"""Loading weights files that are damaged or dangerous, or that do not fit the model."""

import pickle

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from input_errors import input_error
from tiny import tiny_cfg
from weights_files import MakesFolder, assert_same_weights, saved_bytes

from fcos_d2.checkpoint import FCOSCheckpointer
from fcos_d2.engine import Trainer
from fcos_d2.modeling import FCOSLosses, LossTerm, LossTerms


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(tiny_cfg())


HTML = b"<html>404 Not Found</html>"
ARRAYS = pickle.dumps({"w": np.ones(5000)})
# name of the case: (name of the file, function that returns its content, keywords of the error)
FILES = {
    "empty": ("a.pth", lambda: b"", ["empty (0 bytes)"]),
    "empty pickle": ("a.pkl", lambda: b"", ["empty (0 bytes)"]),
    "HTML": ("a.pth", lambda: HTML, ["damaged"]),
    "HTML as a pickle": ("a.pkl", lambda: HTML, ["damaged"]),
    "truncated": (
        "a.pth",
        lambda: saved_bytes({"model": {"w": torch.ones(5000)}})[:9000],
        ["damaged"],
    ),
    "truncated pickle": ("a.pkl", lambda: ARRAYS[:9000], ["damaged"]),
    "code in a pickle": (
        "a.pkl",
        lambda: pickle.dumps({"w": MakesFolder()}, 2),
        ["refused", ".mkdir"],
    ),
    "code instead of a dict": (
        "a.pkl",
        lambda: pickle.dumps(MakesFolder(), 4),
        ["refused", ".mkdir"],
    ),
    "code": (
        "a.pth",
        lambda: saved_bytes({"model": {"w": MakesFolder()}}),
        ["refused", ".mkdir"],
    ),
    "code of pycls": (
        "a.pyth",
        lambda: saved_bytes({"model_state": {"w": MakesFolder()}}),
        ["refused"],
    ),
    "a function": ("a.pkl", lambda: pickle.dumps({"w": print}, 2), ["refused", ".print"]),
    "a list": ("a.pth", lambda: saved_bytes([torch.ones(2)]), ["a list"]),
    "a list in a pickle": ("a.pkl", lambda: pickle.dumps([1, 2]), ["a list"]),
    "no weights": ("a.pth", lambda: saved_bytes({"model": {}}), ["weights by name"]),
    "no tensor": ("a.pth", lambda: saved_bytes({"epoch": 3}), ["weights by name", "epoch"]),
    "a number as a name": ("a.pth", lambda: saved_bytes({1: torch.ones(3)}), ["a dict"]),
    "a number as a weight's name": (
        "a.pth",
        lambda: saved_bytes({"model": {1: torch.ones(3)}}),
        ["weights by name", " 1"],
    ),
    "a list of blobs": (
        "a.pkl",
        lambda: pickle.dumps({"blobs": [1]}),
        ["weights by name", "blobs"],
    ),
    "a number of pycls": (
        "a.pyth",
        lambda: saved_bytes({"model_state": 5}),
        ["weights by name", "model_state"],
    ),
    "another model": (
        "a.pth",
        lambda: saved_bytes({"fc1.weight": torch.ones(3)}),
        ["weights backbone.*", "fc1.weight"],
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_used_is_refused(folder, model, case):
    name, content, words = FILES[case]
    (folder / name).write_bytes(content())
    with input_error(name, *words):
        FCOSCheckpointer(model).load(name, checkpointables=[])
    assert not (folder / "executed").exists()


def test_a_missing_file_is_an_error_about_the_key_of_the_weights(folder, model):
    with input_error("'a.pth' cannot be opened", key="MODEL.WEIGHTS", value="a.pth"):
        FCOSCheckpointer(model).load("a.pth", checkpointables=[])


def test_the_checkpointer_of_detectron2_would_have_run_the_code(folder, model):
    # If this fails, detectron2 has become safe, and FCOSCheckpointer need not check files itself.
    (folder / "a.pkl").write_bytes(pickle.dumps({"w": MakesFolder()}))
    with pytest.raises(Exception):  # noqa: B017, PT011  # The type is not documented.
        DetectionCheckpointer(model).load("a.pkl")
    assert (folder / "executed").exists()


def backbone_of(model):
    return {k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}


def test_a_file_whose_head_does_not_fit_is_refused(folder, model):
    torch.save({"model": {**backbone_of(model), "head.conv.weight": torch.ones(1)}}, "a.pth")
    with input_error("a.pth", "19 weights head.*"):
        FCOSCheckpointer(model).load("a.pth")


def test_a_file_with_only_a_backbone_is_accepted_for_training_but_not_for_evaluation(folder, model):
    torch.save({"model": backbone_of(model)}, "a.pth")
    FCOSCheckpointer(model).load("a.pth")
    num_head = sum(k.startswith("head.") for k in model.state_dict())
    with input_error("a.pth", f"{num_head} weights", "head.cls_tower"):
        FCOSCheckpointer(model, complete=True).load("a.pth")


def test_all_weights_of_another_number_of_classes_are_an_error_about_the_classes(folder, model):
    torch.save({"model": model.state_dict()}, "a.pth")
    other = build_model(tiny_cfg("MODEL.FCOS.NUM_CLASSES", model.num_classes + 2))
    words = [f"for {model.num_classes} classes", f"has {model.num_classes + 2}", "test set"]
    with input_error("a.pth", *words):
        FCOSCheckpointer(other, complete=True).load("a.pth")


def test_weights_under_state_dict_are_loaded(folder, model):
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, "a.pth")
    torch.manual_seed(1)
    other = build_model(tiny_cfg())
    FCOSCheckpointer(other, complete=True).load("a.pth")
    assert_same_weights(other.state_dict(), model.state_dict())


@pytest.mark.parametrize(
    "pack",
    [
        lambda arrays: arrays,
        lambda arrays: {"model": arrays},
        lambda arrays: {"model": arrays, "__author__": "me"},
    ],
)
def test_a_pickle_of_the_arrays_of_a_model_is_loaded(folder, model, pack):
    arrays = {name: x.numpy() for name, x in model.state_dict().items()}
    (folder / "a.pkl").write_bytes(pickle.dumps(pack(arrays)))
    check_loads(model, "a.pkl")


def check_loads(model, file):
    """Check that a model with other weights gets those of a file."""
    torch.manual_seed(1)
    other = build_model(tiny_cfg())
    FCOSCheckpointer(other, complete=True).load(file)
    assert_same_weights(other.state_dict(), model.state_dict())


WRAPPED = {
    "DistributedDataParallel": ("module.", "model"),
    "torch.compile": ("_orig_mod.", "model"),
    "Lightning": ("model.", "state_dict"),
    "both": ("module._orig_mod.", "model_state_dict"),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_the_prefixes_of_wrappers_are_removed(folder, model, wrapper):
    prefix, key = WRAPPED[wrapper]
    weights = {f"{prefix}{k}": x for k, x in model.state_dict().items()}
    torch.save({key: weights, "epoch": 1}, "a.pth")
    check_loads(model, "a.pth")


def test_the_weights_of_an_averaged_model_are_loaded(folder, model):
    torch.save(torch.optim.swa_utils.AveragedModel(model).state_dict(), "a.pth")
    check_loads(model, "a.pth")


def test_a_model_whose_own_names_begin_like_a_wrapper_is_loaded(folder, model):
    wrapper = torch.nn.ModuleDict({"model": model})
    torch.save(wrapper.state_dict(), "a.pth")
    other = torch.nn.ModuleDict({"model": build_model(tiny_cfg())})
    FCOSCheckpointer(other, complete=True).load("a.pth")
    assert_same_weights(other.state_dict(), wrapper.state_dict())


def test_an_evaluation_needs_the_statistics_of_frozen_norms_too(folder):
    model = build_model(tiny_cfg("MODEL.RESNETS.NORM", "FrozenBN"))
    state = model.state_dict()
    torch.save({k: v for k, v in state.items() if "running_" not in k}, "a.pth")
    num_statistics = sum("running_" in k for k in state)
    with input_error(f"{num_statistics} weights", "running_mean"):
        FCOSCheckpointer(model, complete=True).load("a.pth")
    with input_error("MODEL.WEIGHTS", "empty", key="MODEL.WEIGHTS", value=""):
        FCOSCheckpointer(model, complete=True).load("")


def test_a_checkpoint_that_is_resumed_must_fit(tmp_path, model):
    FCOSCheckpointer(model, str(tmp_path)).save("model_0000001")
    other = build_model(tiny_cfg("MODEL.FCOS.NUM_CLASSES", 3))
    with input_error("model_0000001.pth", "for 5 classes", "has 3"):
        FCOSCheckpointer(other, str(tmp_path)).resume_or_load("", resume=True)


def test_a_class_layer_for_other_classes_is_not_loaded_and_causes_a_warning(
    folder, model, package_log
):
    torch.save({"model": model.state_dict()}, "a.pth")
    torch.manual_seed(1)
    other = build_model(tiny_cfg("MODEL.FCOS.NUM_CLASSES", 3))
    before = other.head.cls_logits.weight.clone()
    FCOSCheckpointer(other).load("a.pth")
    assert_warned_of_classes(package_log, 5, 3)
    assert torch.equal(other.head.cls_logits.weight, before)
    assert torch.equal(other.head.bbox_pred.weight, model.head.bbox_pred.weight)
    with input_error("a.pth", "for 5 classes", "has 3"):
        FCOSCheckpointer(other, complete=True).load("a.pth")


def assert_warned_of_classes(log, num_in_file, num_in_model):
    (record,) = (x for x in log.records if "classes" in x.getMessage())
    assert record.levelname == "WARNING"
    assert [x for x in record.args if isinstance(x, int)] == [num_in_file, num_in_model]


def test_the_error_about_an_unreachable_address_names_it(folder, model, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("iopath.common.file_io.HTTPURLHandler._get_local_path", refuse)
    address = "https://example.org/a.pth"
    with input_error(repr(address), "no route", key="MODEL.WEIGHTS", value=address):
        FCOSCheckpointer(model).load(address)


def test_the_error_about_a_missing_last_checkpoint_names_the_file_that_points_to_it(
    tmp_path, model
):
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    words = ("model_0000009.pth", f"{tmp_path}/last_checkpoint", "another checkpoint")
    with input_error(*words) as caught:
        FCOSCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)
    assert "!." not in caught.value.text


def test_an_interrupted_save_leaves_the_old_file(tmp_path, model, monkeypatch):
    checkpointer = FCOSCheckpointer(model, str(tmp_path))
    checkpointer.save("model_final")
    before = (tmp_path / "model_final.pth").read_bytes()

    def interrupt(content, file):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("model_final")
    assert (tmp_path / "model_final.pth").read_bytes() == before
    assert sorted(x.name for x in tmp_path.iterdir()) == ["last_checkpoint", "model_final.pth"]


@pytest.mark.parametrize(
    ("opts", "warned"),
    [
        (("MODEL.RESNETS.NORM", "FrozenBN"), True),
        (("MODEL.BACKBONE.FREEZE_AT", 2), True),
        ((), False),
    ],
)
def test_frozen_random_weights_cause_a_warning(few_shapes, tmp_path, package_log, opts, warned):
    cfg = tiny_cfg("MODEL.FCOS.NUM_CLASSES", 6, "OUTPUT_DIR", str(tmp_path), *opts)
    cfg.DATASETS.TRAIN = ("shapes_train",)
    cfg.DATALOADER.NUM_WORKERS = 0
    Trainer(cfg).resume_or_load(resume=False)
    assert ("RANDOM WEIGHTS ARE FROZEN" in package_log.text) == warned


class TwoStage(torch.nn.Module):
    """A model that has the FCOS as its proposal generator."""

    def __init__(self, model):
        super().__init__()
        self.backbone = model.backbone
        self.proposal_generator = model
        del model.backbone


@pytest.mark.parametrize("changes", ["shapes", "names"])
def test_a_head_that_does_not_fit_is_refused_in_any_part_of_the_model(folder, changes):
    torch.manual_seed(0)
    two_stage = TwoStage(build_model(tiny_cfg()))
    state = two_stage.state_dict()
    prefix = "proposal_generator.head."
    if changes == "shapes":
        state = {k: x[None] if k.startswith(prefix) else x for k, x in state.items()}
    else:
        state = {k.replace(prefix, f"{prefix}old_"): x for k, x in state.items()}
    torch.save({"model": state}, "x.pth")
    with input_error("weights proposal_generator.head.*"):
        FCOSCheckpointer(two_stage).load("x.pth")


def test_a_class_layer_of_a_proposal_generator_may_be_for_other_classes(folder, package_log):
    two_stage, other = (
        TwoStage(build_model(tiny_cfg("MODEL.FCOS.NUM_CLASSES", k))) for k in (5, 7)
    )
    torch.save({"model": other.state_dict()}, "x.pth")
    FCOSCheckpointer(two_stage).load("x.pth")
    assert_warned_of_classes(package_log, 7, 5)


def test_one_weight_of_another_shape_is_in_the_singular(folder, model, package_log):
    state = {**model.state_dict(), "head.centerness.bias": torch.zeros(2)}
    torch.save({"model": state}, "x.pth")
    FCOSCheckpointer(model).load("x.pth")
    assert "another shape of 1 weight of the model, which is not loaded" in package_log.text


def test_a_head_that_the_file_does_not_have_causes_a_warning(folder, model, package_log):
    two_stage = TwoStage(build_model(tiny_cfg()))
    state = {k.replace("head.", "rpn_head."): x for k, x in model.state_dict().items()}
    torch.save({"model": state}, "x.pth")
    FCOSCheckpointer(two_stage).load("x.pth")
    num_head = sum(k.startswith("head.") for k in model.state_dict())
    expected = f"{num_head} weights proposal_generator.head.*"
    assert [x.levelname for x in package_log.records if expected in x.getMessage()] == ["WARNING"]
    # They are not listed again.
    assert "proposal_generator.head.scales" not in package_log.text


class Bias(torch.nn.Module):
    """A loss term with a weight."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(()))

    def forward(self, predictions, targets):
        return LossTerms({"loss_w": LossTerm(self.w**2, "positives")}, {})


def test_a_complete_file_must_contain_the_weights_of_loss_terms_too(folder):
    model = build_model(tiny_cfg("MODEL.FCOS.LOSS_NORMALIZER", "moving_fg"))
    torch.save({"model": model.state_dict()}, "x.pth")
    model.losses = FCOSLosses(
        levels=model.levels, loss_normalizer="moving_fg", extra_terms=[Bias()]
    )
    with input_error("1 weight of", "losses.extra_term0.w"):
        FCOSCheckpointer(model, complete=True).load("x.pth")


@pytest.mark.parametrize("prefix", ["backbone.", ""])
def test_a_file_of_a_backbone_causes_no_warning_about_the_head(folder, model, package_log, prefix):
    state = model.backbone.bottom_up.state_dict()
    names = {f"{prefix}bottom_up.{k}" if prefix else k: x for k, x in state.items()}
    torch.save({"model": names, "matching_heuristics": not prefix}, "x.pth")
    FCOSCheckpointer(model).load("x.pth?matching_heuristics=True" if not prefix else "x.pth")
    assert "head.*" not in package_log.text
