"""``fcos-d2 convert`` from file to file, and the files that it refuses."""

import json
import os
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml
from detectron2.modeling import build_backbone, build_model
from peer_fixtures import FOLDER, load_peer
from PIL import Image
from tiny import tiny_cfg

from fcos_d2.checkpoint import read_checkpoint
from fcos_d2.cli import main
from fcos_d2.config_loading import load_config

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import train_net

IMPROVED = FOLDER / "original_fcos_imprv" / "checkpoint.pth"
MMDET = FOLDER / "mmdet_fcos_tricks" / "checkpoint.pth"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convert(*arguments):
    main(["convert", *map(str, arguments)])


def refusal(*arguments):
    """What the command says before it ends."""
    before = sorted(Path().iterdir())
    with pytest.raises(SystemExit) as caught:
        convert(*arguments)
    assert sorted(Path().iterdir()) == before  # nothing is written
    return str(caught.value)


def test_weights_and_config_are_written_and_what_was_assumed_is_said(folder, capsys):
    convert(IMPROVED, "-o", "y.pth")
    printed = capsys.readouterr().out
    for text in (
        "weights of the original FCOS (tianzhi0549/FCOS), recognised by their names",
        "assumed, as the file does not say: MODEL.FCOS.BOX_ACTIVATION = relu",
        "still differs from its owner's: its NMS",
        "324 weights: y.pth; their config: y.yaml",
    ):
        assert text in printed
    weights = read_checkpoint("y.pth")["model"]
    expected = load_peer("original_fcos_imprv").converted
    assert weights.keys() == expected.weights.keys()
    assert all(torch.equal(weights[k], x) for k, x in expected.weights.items())
    text = Path("y.yaml").read_text()
    assert "#   MODEL.FCOS.BOX_ACTIVATION: relu\n" in text
    cfg = load_config("y.yaml", [])
    written = cfg.MODEL.WEIGHTS
    assert written == str(folder / "y.pth")
    cfg.MODEL.WEIGHTS = expected.cfg.MODEL.WEIGHTS
    assert cfg == expected.cfg  # nothing that was settled is lost on the way


def test_files_that_exist_are_replaced_only_if_that_is_said(folder):
    convert(IMPROVED, "-o", "y.pth")
    Path("y.yaml").write_text(f"{Path('y.yaml').read_text()}# mine\n")
    assert "y.pth exists already" in refusal(IMPROVED, "-o", "y.pth")
    Path("y.pth").unlink()
    assert "y.yaml exists already" in refusal(IMPROVED, "-o", "y.pth")
    convert(IMPROVED, "-o", "y.pth", "--overwrite")
    assert "# mine" not in Path("y.yaml").read_text()


def test_safetensors_are_read_and_written(folder, capsys):
    pytest.importorskip("safetensors")
    convert(MMDET, "-o", "y.safetensors")
    weights = read_checkpoint("y.safetensors")
    expected = load_peer("mmdet_fcos_tricks").converted.weights
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[k], x) for k, x in expected.items())
    written = load_config("y.yaml", []).MODEL.WEIGHTS
    assert written == str(folder / "y.safetensors")
    convert("y.safetensors", "--to", "mmdet", "--config-file", "y.yaml", "-o", "z.safetensors")
    assert "left out: names of the classes and config" in capsys.readouterr().out
    convert("z.safetensors", "-o", "again.pth")  # names alone are enough
    again = read_checkpoint("again.pth")["model"]
    assert all(torch.equal(again[k], x) for k, x in expected.items())


def test_the_way_back_is_laid_out_as_its_project_expects(folder):
    convert(MMDET, "-o", "y.pth")
    convert("y.pth", "--to", "mmdet", "--config-file", "y.yaml", "-o", "z.pth")
    back, theirs = (torch.load(x, weights_only=True) for x in ("z.pth", MMDET))
    assert back["meta"]["dataset_meta"]["classes"] == theirs["meta"]["dataset_meta"]["classes"]
    weights = {k: x for k, x in theirs["state_dict"].items() if "num_batches" not in k}
    assert back["state_dict"].keys() == weights.keys()
    assert all(torch.equal(back["state_dict"][k], x) for k, x in weights.items())
    convert("y.pth", "--to", "adelaidet", "--config-file", "y.yaml", "-o", "a.pth")
    theirs = torch.load(FOLDER / "adelaidet_gn_ctrness" / "checkpoint.pth", weights_only=True)
    keys = {k for k in theirs["model"] if not k.startswith("pixel_")}
    assert torch.load("a.pth", weights_only=True)["model"].keys() == keys


def test_the_way_back_finds_the_config_next_to_the_weights(folder, capsys):
    convert(MMDET, "-o", "y.pth")
    convert("y.pth", "--to", "mmdet", "-o", "z.pth")
    assert "found next to the weights: y.yaml" in capsys.readouterr().out
    convert("y.pth", "--to", "mmdet", "--config-file", "y.yaml", "-o", "named.pth")
    found, named = (torch.load(x, weights_only=True)["state_dict"] for x in ("z.pth", "named.pth"))
    assert found.keys() == named.keys()


def test_evaluating_a_converted_checkpoint(folder):
    """The command of the documentation, on the two images of the recorded outputs."""
    peer = load_peer("original_fcos_imprv")
    (folder / "images").mkdir()
    for image, pixels in enumerate(peer.per_image("image")):
        rgb = pixels.flip(0).permute(1, 2, 0).numpy()
        Image.fromarray(rgb).save(folder / "images" / f"{image}.png")
    boxes = [peer.per_image("gt.boxes")[i] for i in (0, 1)]
    dataset = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": h, "width": w}
            for i, (h, w) in enumerate(peer.image_sizes)
        ],
        "annotations": [
            {
                "id": 100 * i + k + 1,
                "image_id": i,
                "category_id": int(c) + 1,
                "iscrowd": 0,
                "area": float((x2 - x1) * (y2 - y1)),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }
            for i in (0, 1)
            for k, ((x1, y1, x2, y2), c) in enumerate(
                zip(boxes[i].tolist(), peer.per_image("gt.classes")[i], strict=True)
            )
        ],
        "categories": [{"id": k + 1, "name": f"class{k}"} for k in range(11)],
    }
    (folder / "val.json").write_text(json.dumps(dataset))
    convert(IMPROVED, "-o", "y.pth")
    args = train_net.build_parser().parse_args(
        [
            "--config-file",
            "y.yaml",
            "--eval-only",
            "--dataset",
            "peer_val=val.json:images/",
            "MODEL.WEIGHTS",
            "y.pth",
            "DATASETS.TEST",
            "('peer_val',)",
            "MODEL.DEVICE",
            "cpu",
            "DATALOADER.NUM_WORKERS",
            "0",
            "OUTPUT_DIR",
            str(folder / "out"),
        ]
    )
    results = train_net.main(args)
    assert "AP" in results["bbox"]
    found = json.loads((folder / "out" / "inference" / "coco_instances_results.json").read_text())
    assert {x["image_id"] for x in found} == {0, 1}
    assert len(found) == 200


class Evil:
    """Unpickling it runs a command."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def saved(content):
    torch.save(content, "x.tmp")
    data = Path("x.tmp").read_bytes()
    Path("x.tmp").unlink()
    return data


def endless():
    content = {"w": torch.ones(3)}
    content["model"] = content
    return content


BAD_FILES = [
    ("a.pth", lambda: saved(endless()), "a.pth cannot be read: it is damaged"),
    ("a.pth", None, "The weights file a.pth does not exist"),
    ("a.pth", lambda: b"", "a.pth is empty (0 bytes)"),
    ("a.safetensors", lambda: b"", "a.safetensors is empty (0 bytes)"),
    ("a.pth", lambda: b"<html>404</html>", "a.pth cannot be read: it is damaged"),
    ("a.safetensors", lambda: b"<html>404</html>", "a.safetensors cannot be read: it is damaged"),
    ("a.pth", lambda: IMPROVED.read_bytes()[:500_000], "a.pth cannot be read: it is damaged"),
    ("a.pth", lambda: saved({"model": {"w": Evil()}}), "a.pth is refused: it wants to use"),
    ("a.pkl", lambda: pickle.dumps({"model": {"w": Evil()}}), "a.pkl is refused: it wants to use"),
    (
        "a.pkl",
        lambda: (
            b"cnumpy.core.numeric\n_frombuffer\n(I1500000000\ncnumpy\ndtype\n(S'f4'\n"
            b"tRI375000000\nS'C'\ntR."
        ),
        "it wants to use an array made from int",
    ),
    (
        "a.pkl",
        lambda: (
            b"\x80\x02cnumpy.core.numeric\n_frombuffer\nN}X\x0c\x00\x00\x00__defaults__"
            b"X\x01\x00\x00\x00Z\x85s\x86b."
        ),
        "it wants to use attributes of a function",
    ),
    (
        "a.pth",
        lambda: saved({"model": {"w": torch.ones(1).half().expand(10**11)}}),
        "model.w claims more numbers than the file has",
    ),
    ("a.pth", lambda: saved([1]), "a.pth holds a list"),
    ("a.pth", lambda: saved({"a": 1}), "a.pth: it has no weights by name, but a"),
    ("a.pth", lambda: saved({"w": torch.ones(3)}), "a.pth: its weights are of no FCOS that is"),
    (
        "a.pth",
        lambda: saved(torchvision.models.resnet18(weights=None).state_dict()),
        "Weights of a backbone alone need --config-file",
    ),
    (
        "a.pth",
        lambda: saved(
            {
                "proposal_generator.fcos_head.cls_logits.weight": torch.ones(8, 32, 3, 3),
                "backbone.fpn_lateral3.weight": torch.ones(32, 8, 1, 1),
                "controller.bias": torch.ones(3),
            }
        ),
        "bottom-up network is none that the converter knows",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_a_file_that_cannot_be_used_is_refused_and_nothing_is_written(
    folder, name, content, message
):
    if content is not None:
        Path(name).write_bytes(content())
    assert message in refusal(name, "-o", "y.pth")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "y.txt"), "must end in one of .pth, .safetensors"),
        (("-o", "no/y.pth"), "the folder no does not exist"),
        (("-o", "mine.pth"), "mine.yaml exists already: choose another name, or add --overwrite"),
        (("-o", "b.pth"), "b.pth exists already"),
        (("-o", "b.pth", "--to", "mmdet", "--config-file", "mine.yaml"), "b.pth exists already"),
        (("-o", "/proc/y.pth"), "--output /proc/y.pth cannot be written to"),
        (("-o", "a.pth", "--overwrite"), "a.pth would take the place of what is read"),
        (("-o", "dir.pth"), "dir.pth would be written, but there is a folder"),
        (("-o", "a.pth"), "a.pth would take the place of what is read"),
        (("-o", "y.pth", "--to", "mmdet"), "There is no a.yaml or config.yaml next to a.pth"),
        (
            ("-o", "y.pth", "--config-file", "mine.yaml", "--recipe", "iccv"),
            "--recipe has no meaning with a config",
        ),
        (
            ("-o", "y.pth", "--config-file", "mine.yaml", "--from", "mmdet"),
            "--from has no meaning with a config",
        ),
        (
            ("-o", "y.pth", "--opts", "MODEL.FCOS.NUM_CLASSES", "5"),
            "of another shape: rpn.head.cls_logits.weight (11, 32, 3, 3), not (5, 32, 3, 3)",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(folder, arguments, message):
    Path("a.pth").write_bytes(IMPROVED.read_bytes())
    Path("mine.yaml").write_bytes(b"\xff\xfe")
    Path("b.pth").write_bytes(b"precious")
    Path("dir.pth").mkdir()
    assert message in refusal("a.pth", *arguments)


@pytest.mark.parametrize(
    ("target", "opts", "message"),
    [
        ("torchvision", [], "STRIDE_IN_1X1 = True, but torchvision's FCOS has only False"),
        ("adelaidet", ["MODEL.FCOS.BOX_ACTIVATION", "exp"], "BOX_ACTIVATION = 'exp', but Adelai"),
        ("mmdet", ["MODEL.FCOS.NUM_CLASSES", "5"], "it is not of the model of --config-file"),
        ("mmdet", ["MODEL.FCOS.NORM", "BN"], "MODEL.FCOS.NORM = 'BN', but mmdetection has only"),
    ],
)
def test_a_model_that_the_other_project_does_not_have_is_refused(folder, target, opts, message):
    convert(MMDET, "-o", "y.pth")
    arguments = ["y.pth", "--to", target, "--config-file", "y.yaml", "-o", "z.pth"]
    assert message in refusal(*arguments, *(["--opts", *opts] if opts else []))


def save_own(*opts):
    """own.pth and own.yaml: a tiny model of this project with random weights."""
    cfg = tiny_cfg(*opts)
    torch.save({"model": build_model(cfg).state_dict()}, "own.pth")
    Path("own.yaml").write_text(cfg.dump())


AS_TORCHVISION = [
    "MODEL.RESNETS.STRIDE_IN_1X1",
    False,
    "INPUT.FORMAT",
    "RGB",
    "MODEL.PIXEL_MEAN",
    [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD",
    [58.395, 57.12, 57.375],
    "MODEL.FCOS.LOCATION_OFFSET",
    0.0,
    "MODEL.FCOS.USE_SCALE",
    False,
]
OTHER_MODELS = [
    ("adelaidet", ["MODEL.FCOS.LOCATION_OFFSET", 0.0], "LOCATION_OFFSET = 0.0, but AdelaiDet has"),
    ("adelaidet", ["MODEL.FCOS.HEAD_CHANNELS", 32], "HEAD_CHANNELS = 32, .* has only 0 or 64"),
    ("adelaidet", ["MODEL.FCOS.TOP_IN_FEATURE", "res5"], "TOP_IN_FEATURE = 'res5'"),
    ("adelaidet", ["MODEL.FCOS.BOX_QUALITY", "none"], "BOX_QUALITY = 'none', but AdelaiDet has"),
    (
        "adelaidet",
        ["MODEL.BACKBONE.NAME", "build_fcos_resnet_bifpn_backbone", "MODEL.BIFPN.OUT_CHANNELS", 64],
        "MODEL.BACKBONE.NAME = ",
    ),
    (
        "adelaidet",
        ["MODEL.BACKBONE.NAME", "build_fcos_timm_fpn_backbone", "MODEL.TIMM.NAME", "resnet18"],
        "MODEL.TIMM.NAME = 'resnet18'",
    ),
    ("mmdet", ["MODEL.FPN.NORM", "GN"], "MODEL.FPN.NORM = 'GN', but mmdetection has only ''"),
    ("mmdet", ["MODEL.FPN.FUSE_TYPE", "avg"], "FUSE_TYPE = 'avg', but mmdetection has only 'sum'"),
    ("mmdet", ["MODEL.FCOS.BOX_QUALITY", "none"], "BOX_QUALITY = 'none'"),
    ("mmdet", ["MODEL.FCOS.NUM_BOX_CONVS", 2], "NUM_BOX_CONVS = 2, but mmdetection has only 1"),
    (
        "mmdet",
        [
            "MODEL.RESNETS.NORM",
            "GN",
            "MODEL.RESNETS.STEM_OUT_CHANNELS",
            32,
            "MODEL.RESNETS.RES2_OUT_CHANNELS",
            32,
            "MODEL.RESNETS.WIDTH_PER_GROUP",
            32,
        ],
        "MODEL.RESNETS.NORM = 'GN'",
    ),
    ("torchvision", ["MODEL.FPN.NORM", "GN"], "MODEL.FPN.NORM = 'GN'"),
    ("torchvision", ["MODEL.FPN.FUSE_TYPE", "avg"], "MODEL.FPN.FUSE_TYPE = 'avg'"),
    ("torchvision", ["MODEL.FCOS.BOX_QUALITY", "none"], "BOX_QUALITY = 'none'"),
    ("torchvision", ["MODEL.FCOS.NUM_CLS_CONVS", 2], "NUM_BOX_CONVS = 1, but .* has only 2"),
    ("torchvision", ["MODEL.FCOS.HEAD_CHANNELS", 32], "HEAD_CHANNELS = 32, .* has only 0 or 64"),
    ("torchvision", ["MODEL.RESNETS.NUM_GROUPS", 4], "MODEL.RESNETS.NUM_GROUPS = 4"),
    (
        "torchvision",
        [
            "MODEL.FCOS.TOP_LEVELS",
            0,
            "MODEL.FCOS.IN_FEATURES",
            ["p3", "p4", "p5"],
            "MODEL.FCOS.SIZES_OF_INTEREST",
            [64, 128],
        ],
        "MODEL.FCOS.TOP_LEVELS = 0",
    ),
]


@pytest.mark.parametrize(("target", "opts", "message"), OTHER_MODELS)
def test_a_model_that_would_compute_something_else_there_is_refused(folder, target, opts, message):
    if "MODEL.TIMM.NAME" in opts:
        pytest.importorskip("timm")
    save_own(*(AS_TORCHVISION if target == "torchvision" else []), *opts)
    said = refusal("own.pth", "--to", target, "--config-file", "own.yaml", "-o", "z.pth")
    assert re.search(message, said), said


def test_what_a_model_learns_by_does_not_matter_for_the_way_back(folder):
    save_own(
        *AS_TORCHVISION,
        "MODEL.FCOS.LOC_LOSS_TYPE",
        "diou",
        "MODEL.FCOS.CENTER_SAMPLING_RADIUS",
        0.0,
    )
    convert("own.pth", "--to", "torchvision", "--config-file", "own.yaml", "-o", "z.pth")
    assert Path("z.pth").is_file()


@pytest.mark.parametrize("num_convs", [1, 7])
def test_mmdet_is_told_what_the_weights_do_not(folder, capsys, num_convs):
    """Biases start at zero and stay, or are gone: then the recipe would seem that of ICCV."""
    save_own(
        "MODEL.FCOS.NUM_CLS_CONVS",
        num_convs,
        "MODEL.FCOS.NUM_BOX_CONVS",
        num_convs,
        "MODEL.PIXEL_STD",
        [1.5, 2.0, 3.0],
        "INPUT.FORMAT",
        "RGB",
        "MODEL.RESNETS.STRIDE_IN_1X1",
        False,
        "MODEL.FCOS.NMS_THRESH_TEST",
        0.7,
    )
    convert("own.pth", "--to", "mmdet", "--config-file", "own.yaml", "-o", "z.pth")
    assert "to be set there: MODEL.FCOS.BOX_ACTIVATION = 'relu'" in capsys.readouterr().out
    names = torch.load("z.pth", weights_only=True)["state_dict"]
    assert not [x for x in names if re.fullmatch(r"bbox_head\.\w+_convs\.\d\.conv\.bias", x)]
    convert("z.pth", "-o", "again.pth")
    ours, again = (load_config(x, []) for x in ("own.yaml", "again.yaml"))
    assert again.MODEL.FCOS.BOX_ACTIVATION == ours.MODEL.FCOS.BOX_ACTIVATION == "relu"
    assert again.MODEL.FCOS.CENTERNESS_ON == ours.MODEL.FCOS.CENTERNESS_ON
    assert again.MODEL.FCOS.NMS_THRESH_TEST == 0.7
    assert again.MODEL.PIXEL_STD == [1.5, 2.0, 3.0]
    assert again.INPUT.FORMAT == "RGB"
    assert not again.MODEL.RESNETS.STRIDE_IN_1X1
    weights, before = (read_checkpoint(x)["model"] for x in ("again.pth", "own.pth"))
    assert all(torch.equal(x, before[k]) for k, x in weights.items())


def test_what_the_other_project_must_be_told_is_said(folder, capsys):
    save_own("MODEL.FPN.FUSE_TYPE", "avg", "MODEL.PIXEL_STD", [57.375, 57.12, 58.395])
    convert("own.pth", "--to", "adelaidet", "--config-file", "own.yaml", "-o", "z.pth")
    printed = capsys.readouterr().out
    assert "to be set there: MODEL.FPN.FUSE_TYPE = 'avg' (taken for 'sum')" in printed
    assert "to be set there: MODEL.PIXEL_STD = [57.375, 57.12, 58.395] (taken for [1" in printed


@pytest.mark.parametrize(
    "opts",
    [
        ["MODEL.FPN.FUSE_TYPE", "avg"],
        ["MODEL.BACKBONE.NAME", "build_fcos_resnet_bifpn_backbone", "MODEL.BIFPN.OUT_CHANNELS", 64],
    ],
)
def test_an_own_model_is_complete_under_its_config(folder, capsys, opts):
    save_own(*opts)
    convert("own.pth", "--config-file", "own.yaml", "-o", "y.pth")
    weights, before = (read_checkpoint(x)["model"] for x in ("y.pth", "own.pth"))
    assert weights.keys() == {k for k in before if not k.startswith("losses.")}
    assert all(torch.equal(x, before[k]) for k, x in weights.items())
    assert "all weights of a model of this project" in capsys.readouterr().out
    more = ["--opts", "MODEL.FCOS.NUM_CLASSES", "7"]
    said = refusal("own.pth", "--config-file", "own.yaml", "-o", "z.pth", *more)
    assert "own.pth: it is not of the model of --config-file" in said


def test_without_its_config_what_an_own_model_is_built_of_is_not_guessed(folder, capsys):
    save_own(
        "MODEL.BACKBONE.NAME", "build_fcos_resnet_bifpn_backbone", "MODEL.BIFPN.OUT_CHANNELS", 64
    )
    assert "With --config-file, its config, it is taken as it is" in refusal(
        "own.pth", "-o", "y.pth"
    )
    save_own()
    convert("own.pth", "-o", "y.pth")
    assert "as the file does not say: MODEL.FPN.FUSE_TYPE = sum" in capsys.readouterr().out


def test_a_detector_of_another_project_has_no_use_for_a_config(folder):
    save_own()
    said = refusal(MMDET, "--config-file", "own.yaml", "-o", "y.pth")
    assert "has a whole detector of mmdetection" in said


def test_scales_that_torchvision_has_no_place_for_are_refused(folder):
    convert(MMDET, "-o", "y.pth")
    opts = [
        "MODEL.RESNETS.STRIDE_IN_1X1",
        "False",
        "INPUT.FORMAT",
        "RGB",
        "MODEL.PIXEL_MEAN",
        "[123.675,116.28,103.53]",
        "MODEL.PIXEL_STD",
        "[58.395,57.12,57.375]",
        "MODEL.FCOS.LOCATION_OFFSET",
        "0.0",
    ]
    arguments = ["y.pth", "--to", "torchvision", "--config-file", "y.yaml", "-o", "z.pth"]
    assert "head.scales.0.scale, " in refusal(*arguments, "--opts", *opts)


def backbone_config(name, *opts):
    Path(name).write_text(yaml.safe_dump(yaml.safe_load(tiny_cfg(*opts).dump())))
    return name


def test_a_classifier_becomes_the_backbone_of_a_detector(folder, capsys):
    source = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(source, "resnet18.pth")
    config = backbone_config(
        "model.yaml",
        "MODEL.RESNETS.DEPTH",
        18,
        "MODEL.RESNETS.STEM_OUT_CHANNELS",
        64,
        "MODEL.RESNETS.RES2_OUT_CHANNELS",
        64,
        "MODEL.FCOS.NUM_CLASSES",
        -1,
    )
    convert("resnet18.pth", "--config-file", config, "-o", "y.pth")
    weights = read_checkpoint("y.pth")["model"]
    assert torch.equal(
        weights["backbone.bottom_up.res3.0.conv2.weight"], source["layer2.0.conv2.weight"]
    )
    assert all(name.startswith("backbone.bottom_up.") for name in weights)
    assert len(weights) == len(source) - 2  # without the classifier
    printed = capsys.readouterr().out
    for text in (
        "MODEL.RESNETS.STRIDE_IN_1X1 = False, the config has True",
        "INPUT.FORMAT = 'RGB', the config has 'BGR'",
        "MODEL.PIXEL_STD = [58.395, 57.12, 57.375]",
    ):
        assert f"warning: torchvision trained them with {text}" in printed
    recipe = Path(__file__).resolve().parent.parent / "configs/torchvision/fcos_resnet50_fpn.yaml"
    assert (
        f"--config-file {'/'.join(recipe.parts[-3:])} -o backbone.pth"
        in (recipe.parents[2] / "docs" / "checkpoints.md").read_text()
    )
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), "resnet50.pth")
    convert("resnet50.pth", "--config-file", recipe, "-o", "backbone.pth")
    assert "warning" not in capsys.readouterr().out


def test_a_backbone_of_detectron2s_model_zoo(folder):
    """Caffe2's names, of which the statistics of norms are missing."""
    config = backbone_config("model.yaml", "MODEL.RESNETS.NORM", "FrozenBN")
    cfg = load_config(config, [])
    rng = np.random.default_rng(0)
    shapes = {k: x.shape for k, x in build_backbone(cfg).bottom_up.state_dict().items()}
    blobs = {}
    for name, shape in shapes.items():
        if "running" in name:
            continue
        blob = name.replace(".shortcut.", "_branch1.")
        for k, branch in enumerate("abc", start=1):
            blob = re.sub(rf"(res.*)\.conv{k}\.", rf"\1_branch2{branch}.", blob)
        blob = blob.replace("stem.conv1.norm.", "res_conv1_bn_").replace("stem.", "")
        blob = blob.replace(".", "_").replace("_norm_", "_bn_")
        blob = blob.replace("bn_weight", "bn_s").replace("bn_bias", "bn_b")
        blobs[blob.replace("_weight", "_w")] = rng.normal(size=shape).astype(np.float32)
    Path("R-50.pkl").write_bytes(pickle.dumps({"blobs": blobs}))
    convert("R-50.pkl", "--config-file", config, "-o", "y.pth")
    weights = read_checkpoint("y.pth")["model"]
    assert len(weights) == len(shapes)
    expected = torch.from_numpy(blobs["res3_0_branch2b_w"])
    assert torch.equal(weights["backbone.bottom_up.res3.0.conv2.weight"], expected)
    del blobs["res3_0_branch2b_w"]
    Path("R-50.pkl").write_bytes(pickle.dumps({"blobs": blobs}))
    assert "lacks weights: backbone.bottom_up.res3.0.conv2.weight" in refusal(
        "R-50.pkl", "--config-file", config, "-o", "z.pth"
    )
