"""Weights files that are missing, damaged, dangerous, or of another model."""

import os
import pickle
import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from own_data import OwnData
from tiny import tiny_cfg

from fcos_d2.checkpoint import FCOSCheckpointer, read_checkpoint
from fcos_d2.engine import Trainer
from fcos_d2.errors import InputError
from fcos_d2.modeling import FCOSLosses, LossTerm, LossTerms


class Evil:
    """Unpickling it runs a command."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(tiny_cfg())


def pickled(content, protocol=2):
    return pickle.dumps(content, protocol=protocol)


def saved(content):
    torch.save(content, "x.tmp")
    with open("x.tmp", "rb") as file:
        return file.read()


FILES = [
    ("a.pth", None, r"MODEL.WEIGHTS = 'a.pth' cannot be opened: .*a.pth not found"),
    ("a.pth", lambda: b"", r"a.pth is empty \(0 bytes\)"),
    ("a.pkl", lambda: b"", r"a.pkl is empty \(0 bytes\)"),
    ("a.pth", lambda: b"<html>404 Not Found</html>", r"a.pth cannot be read: it is damaged"),
    ("a.pkl", lambda: b"<html>404 Not Found</html>", r"a.pkl cannot be read: it is damaged"),
    ("a.pth", lambda: saved({"model": {"w": torch.ones(5000)}})[:9000], r"a.pth cannot be read"),
    ("a.pkl", lambda: pickled({"w": np.ones(5000)})[:9000], r"a.pkl cannot be read"),
    ("a.pkl", lambda: pickled({"w": Evil()}), r"a.pkl is refused: .* (posix|nt).mkdir"),
    ("a.pkl", lambda: pickled(Evil(), 4), r"a.pkl is refused: it wants to use (posix|nt).mkdir"),
    ("a.pth", lambda: saved({"model": {"w": Evil()}}), r"a.pth is refused: .* (posix|nt).mkdir"),
    ("a.pyth", lambda: saved({"model_state": {"w": Evil()}}), r"a.pyth is refused: "),
    ("a.pkl", lambda: pickled({"w": print}), r"refused: .* (__builtin__|builtins).pri"),
    ("a.pth", lambda: saved([torch.ones(2)]), r"a.pth holds a list, not weights by name"),
    ("a.pkl", lambda: pickled([1, 2]), r"a.pkl holds a list, not weights by name"),
    ("a.pth", lambda: saved({"model": {}}), r"a.pth has no weights by name"),
    ("a.pth", lambda: saved({"epoch": 3}), r"a.pth has no weights by name: epoch are none"),
    ("a.pth", lambda: saved({1: torch.ones(3)}), r"a.pth holds a dict, not weights by name"),
    ("a.pth", lambda: saved({"model": {1: torch.ones(3)}}), r"no weights by name: 1 are none"),
    ("a.pkl", lambda: pickled({"blobs": [1]}), r"no weights by name: blobs are none"),
    ("a.pyth", lambda: saved({"model_state": 5}), r"no weights by name: model_state are none"),
    (
        "a.pth",
        lambda: saved({"fc1.weight": torch.ones(3)}),
        r"another architecture: none of the \d+"
        r" weights backbone.\* of the model .*the model has: backbone.*the file has:  fc1.weight",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), FILES)
def test_a_file_that_cannot_be_used_is_refused(folder, model, name, content, message):
    if content is not None:
        (folder / name).write_bytes(content())
    with pytest.raises(InputError) as caught:
        FCOSCheckpointer(model).load(name, checkpointables=[])
    assert re.search(message, str(caught.value), re.DOTALL), caught.value
    assert not (folder / "executed").exists()


def test_detectron2s_own_checkpointer_would_have_run_it(folder, model):
    # If this ever fails, ours has become needless.
    from detectron2.checkpoint import DetectionCheckpointer

    (folder / "a.pkl").write_bytes(pickled({"w": Evil()}))
    with pytest.raises(Exception):  # noqa: B017, PT011  # whatever it says: None is no weight
        DetectionCheckpointer(model).load("a.pkl")
    assert (folder / "executed").exists()


class ForgedArray:
    """An array of objects made from bytes: to NumPy, these bytes are pointers."""

    def __reduce__(self):
        return np.ndarray, ((1,), np.dtype("O"), b"AAAAAAAA")


class ForgedState:
    def __reduce__(self):
        reconstruct = np.empty(0).__reduce__()[0]
        state = (1, (4,), np.dtype("O"), False, b"A" * 32)
        return reconstruct, (np.ndarray, (0,), b"b"), state


class TooLong:
    """More numbers than there are bytes."""

    def __reduce__(self):
        reconstruct = np.empty(0).__reduce__()[0]
        return reconstruct, (np.ndarray, (0,), b"b"), (1, (9,), np.dtype("f8"), False, b"A" * 8)


@pytest.mark.parametrize("forged", [ForgedArray, ForgedState, TooLong])
@pytest.mark.parametrize("protocol", [2, 4])
def test_forged_arrays_are_refused(folder, forged, protocol):
    (folder / "a.pkl").write_bytes(pickled({"w": forged()}, protocol))
    with pytest.raises(InputError, match=r"a.pkl (is refused|cannot be read)"):
        read_checkpoint("a.pkl")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(3, dtype=np.int64),
        np.zeros((0, 4), np.float16),
        np.array([True, False]),
    ],
    ids=["big-endian", "fortran", "scalar", "empty", "bool"],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_every_layout_are_read(folder, array, protocol):
    (folder / "a.pkl").write_bytes(pickled({"w": array}, protocol))
    read = read_checkpoint("a.pkl")["w"]
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_of_every_pickle_protocol_are_read(folder, protocol):
    content = {"b": OrderedDict(x=np.arange(6, dtype=np.float32).reshape(2, 3)), "n": np.float64(2)}
    (folder / "a.pkl").write_bytes(pickled(content, protocol))
    read = read_checkpoint("a.pkl")
    np.testing.assert_array_equal(read["b"]["x"], content["b"]["x"])
    assert read["n"] == 2


def test_a_file_whose_head_fits_nowhere_is_refused(folder, model):
    weights = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}
    torch.save({"model": {**weights, "head.conv.weight": torch.ones(1)}}, "a.pth")
    with pytest.raises(InputError, match=r"none of the \d+ weights head.\*"):
        FCOSCheckpointer(model).load("a.pth")


def test_a_backbone_alone_starts_training_but_is_not_evaluated(folder, model):
    weights = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}
    torch.save({"model": weights}, "a.pth")
    FCOSCheckpointer(model).load("a.pth")
    with pytest.raises(InputError, match=r"a.pth lacks \d+ weights .*random ones .*head.cls_tower"):
        FCOSCheckpointer(model, complete=True).load("a.pth")


def test_weights_under_state_dict_are_taken(folder, model):
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, "a.pth")
    FCOSCheckpointer(model, complete=True).load("a.pth")


def test_an_evaluation_needs_the_statistics_of_frozen_norms_too(folder):
    model = build_model(tiny_cfg("MODEL.RESNETS.NORM", "FrozenBN"))
    weights = {k: v for k, v in model.state_dict().items() if "running_" not in k}
    torch.save(weights, "a.pth")
    with pytest.raises(InputError, match=r"lacks \d+ weights of the model.*running_mean"):
        FCOSCheckpointer(model, complete=True).load("a.pth")
    with pytest.raises(InputError, match=r"MODEL.WEIGHTS is empty: the weights would be random"):
        FCOSCheckpointer(model, complete=True).load("")


def test_what_is_resumed_must_fit(tmp_path, model):
    FCOSCheckpointer(model, str(tmp_path)).save("model_0000001")
    other = build_model(tiny_cfg("MODEL.FCOS.NUM_CLASSES", 3))
    with pytest.raises(InputError, match=r"lacks 2 weights of the model, or has them in another"):
        FCOSCheckpointer(other, str(tmp_path)).resume_or_load("", resume=True)


def test_a_class_layer_for_other_classes_stays_new_and_that_is_said(folder, model, caplog):
    torch.save({"model": model.state_dict()}, "a.pth")
    torch.manual_seed(1)
    other = build_model(tiny_cfg("MODEL.FCOS.NUM_CLASSES", 3))
    before = other.head.cls_logits.weight.clone()
    FCOSCheckpointer(other).load("a.pth")
    assert "trained for 5 classes, the model has 3: its class layer is not taken" in caplog.text
    assert torch.equal(other.head.cls_logits.weight, before)
    assert torch.equal(other.head.bbox_pred.weight, model.head.bbox_pred.weight)
    with pytest.raises(InputError, match=r"lacks 2 weights of the model.*head.cls_logits"):
        FCOSCheckpointer(other, complete=True).load("a.pth")


def test_an_unreachable_address_is_explained(folder, model, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("iopath.common.file_io.HTTPURLHandler._get_local_path", refuse)
    with pytest.raises(
        InputError, match=r"MODEL.WEIGHTS = 'https://example.org/a.pth' cannot be op"
    ):
        FCOSCheckpointer(model).load("https://example.org/a.pth")


def test_what_a_resume_wants_but_is_gone_is_explained(tmp_path, model):
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    with pytest.raises(
        InputError, match=r"model_0000009.pth, which .*last_checkpoint names, cannot"
    ):
        FCOSCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)


def test_an_interrupted_save_leaves_the_old_file(tmp_path, model, monkeypatch):
    checkpointer = FCOSCheckpointer(model, str(tmp_path))
    checkpointer.save("model_final")
    before = (tmp_path / "model_final.pth").read_bytes()

    def interrupted(content, file):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
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
def test_frozen_random_weights_are_warned_of(few_shapes, tmp_path, caplog, opts, warned):
    cfg = tiny_cfg(
        "DATASETS.TRAIN",
        ("shapes_train",),
        "DATALOADER.NUM_WORKERS",
        0,
        "OUTPUT_DIR",
        str(tmp_path),
        "MODEL.FCOS.NUM_CLASSES",
        6,
        *opts,
    )
    Trainer(cfg).resume_or_load(resume=False)
    assert ("RANDOM WEIGHTS ARE FROZEN" in caplog.text) == warned


def test_the_command_line_refuses_too(tmp_path, monkeypatch):
    own_data = OwnData(tmp_path)
    (tmp_path / "a.pkl").write_bytes(pickled({"w": Evil()}))
    monkeypatch.chdir(tmp_path)
    own_data.check_error(monkeypatch, r"a.pkl is refused", "MODEL.WEIGHTS", "a.pkl")
    own_data.check_error(monkeypatch, r"a.pkl is refused", "--eval-only", "MODEL.WEIGHTS", "a.pkl")
    own_data.check_error(monkeypatch, r"MODEL.WEIGHTS = 'b.pth' cannot", "MODEL.WEIGHTS", "b.pth")
    assert not (tmp_path / "executed").exists()


class Owner(torch.nn.Module):
    """A model that has an FCOS where two-stage models have their proposal generator."""

    def __init__(self, model):
        super().__init__()
        self.backbone = model.backbone
        self.proposal_generator = model
        del model.backbone


@pytest.mark.parametrize("changes", ["shapes", "names"])
def test_a_head_is_found_wherever_it_is(folder, changes):
    torch.manual_seed(0)
    owner = Owner(build_model(tiny_cfg()))
    state = owner.state_dict()
    prefix = "proposal_generator.head."
    if changes == "shapes":
        state = {k: x[None] if k.startswith(prefix) else x for k, x in state.items()}
    else:
        state = {k.replace(prefix, f"{prefix}old_"): x for k, x in state.items()}
    torch.save({"model": state}, "x.pth")
    with pytest.raises(InputError, match=r"none of the \d+ weights proposal_generator\.head\.\*"):
        FCOSCheckpointer(owner).load("x.pth")


def test_a_class_layer_of_a_proposal_generator_may_be_for_other_classes(folder, caplog):
    owner, other = (Owner(build_model(tiny_cfg("MODEL.FCOS.NUM_CLASSES", k))) for k in (5, 7))
    torch.save({"model": other.state_dict()}, "x.pth")
    FCOSCheckpointer(owner).load("x.pth")
    assert "was trained for 7 classes, the model has 5" in caplog.text


def test_a_head_that_the_file_has_nothing_for_is_named(folder, model, caplog):
    owner = Owner(build_model(tiny_cfg()))
    torch.save({"model": model.state_dict()}, "x.pth")  # backbone.* and head.*
    FCOSCheckpointer(owner).load("x.pth")
    assert re.search(
        r"none of the \d+ weights proposal_generator\.head\.\*: they stay", caplog.text
    )


class Bias(torch.nn.Module):
    """A loss term with a weight."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(()))

    def forward(self, predictions, targets):
        return LossTerms({"loss_w": LossTerm(self.w**2, "positives")}, {})


def test_weights_of_a_loss_term_must_be_there_too(folder):
    model = build_model(tiny_cfg("MODEL.FCOS.LOSS_NORMALIZER", "moving_fg"))
    torch.save({"model": model.state_dict()}, "x.pth")
    model.losses = FCOSLosses(
        levels=model.levels, loss_normalizer="moving_fg", extra_terms=[Bias()]
    )
    with pytest.raises(InputError, match=r"lacks 1 weights of the model.*losses\.extra_term0\.w"):
        FCOSCheckpointer(model, complete=True).load("x.pth")


@pytest.mark.parametrize("prefix", ["backbone.", ""])
def test_of_a_backbone_alone_no_head_is_missed(folder, model, caplog, prefix):
    state = model.backbone.bottom_up.state_dict()
    names = {f"{prefix}bottom_up.{k}" if prefix else k: x for k, x in state.items()}
    torch.save({"model": names, "matching_heuristics": not prefix}, "x.pth")
    FCOSCheckpointer(model).load("x.pth?matching_heuristics=True" if not prefix else "x.pth")
    assert "stay random" not in caplog.text
