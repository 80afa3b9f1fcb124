"""``fcos-d2 convert`` from files of other projects, and its errors."""

import json
import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from commands import as_arguments
from convert_command import check_refusal, convert
from peer_fixtures import load_peer
from PIL import Image
from tiny import read_detections
from weights_files import IMPROVED, MMDET, MakesFolder, assert_same_weights, saved_bytes

import train_net
from fcos_d2.checkpoint import read_checkpoint
from fcos_d2.config_loading import load_config


def test_weights_and_config_are_written_and_assumed_values_are_printed(folder, capsys):
    convert(IMPROVED, "-o", "y.pth")
    printed = capsys.readouterr().out
    assert "tianzhi0549/FCOS" in printed
    assert "MODEL.FCOS.BOX_ACTIVATION = relu" in printed
    assert "its NMS" in printed  # a note about a difference
    assert "324 weights: y.pth" in printed
    assert "y.yaml" in printed
    expected = load_peer("original_fcos_imprv").converted
    assert_same_weights(read_checkpoint("y.pth")["model"], expected.weights)
    assert "#   MODEL.FCOS.BOX_ACTIVATION: relu\n" in Path("y.yaml").read_text()
    cfg = load_config("y.yaml", [])
    assert str(folder / "y.pth") == cfg.MODEL.WEIGHTS
    cfg.MODEL.WEIGHTS = expected.cfg.MODEL.WEIGHTS
    assert cfg == expected.cfg  # the file has every key that was set


def test_existing_files_are_replaced_only_with_overwrite(folder):
    convert(IMPROVED, "-o", "y.pth")
    Path("y.yaml").write_text(f"{Path('y.yaml').read_text()}# mine\n")
    check_refusal(IMPROVED, "-o", "y.pth", words=["y.pth", "--overwrite"])
    Path("y.pth").unlink()
    check_refusal(IMPROVED, "-o", "y.pth", words=["y.yaml", "--overwrite"])
    convert(IMPROVED, "-o", "y.pth", "--overwrite")
    assert "# mine" not in Path("y.yaml").read_text()


def test_safetensors_are_read_and_written(folder, capsys):
    pytest.importorskip("safetensors")
    convert(MMDET, "-o", "y.safetensors")
    expected = load_peer("mmdet_fcos_tricks").converted.weights
    assert_same_weights(read_checkpoint("y.safetensors"), expected)
    written = load_config("y.yaml", []).MODEL.WEIGHTS
    assert written == str(folder / "y.safetensors")
    capsys.readouterr()
    convert("y.safetensors", "--to", "mmdet", "--config-file", "y.yaml", "-o", "z.safetensors")
    assert "left out: names of the classes" in capsys.readouterr().out
    convert(
        "z.safetensors", "-o", "again.pth"
    )  # The names of the weights show that the file is of mmdet.
    assert_same_weights(read_checkpoint("again.pth")["model"], expected)


def make_coco_dataset(peer):
    """Return the two images of the recorded outputs and their boxes in COCO's format."""
    boxes, classes = peer.per_image("gt.boxes"), peer.per_image("gt.classes")
    return {
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
                zip(boxes[i].tolist(), classes[i], strict=True)
            )
        ],
        "categories": [{"id": k + 1, "name": f"class{k}"} for k in range(11)],
    }


def test_a_converted_checkpoint_is_evaluated_with_the_command_of_the_documentation(folder):
    peer = load_peer("original_fcos_imprv")
    (folder / "images").mkdir()
    for image, pixels in enumerate(peer.per_image("image")):
        rgb = pixels.flip(0).permute(1, 2, 0).numpy()
        Image.fromarray(rgb).save(folder / "images" / f"{image}.png")
    (folder / "val.json").write_text(json.dumps(make_coco_dataset(peer)))
    convert(IMPROVED, "-o", "y.pth")
    flags = ["--config-file", "y.yaml", "--eval-only", "--dataset", "peer_val=val.json:images/"]
    opts = as_arguments(
        {
            "DATASETS.TEST": ("peer_val",),
            "MODEL.DEVICE": "cpu",
            "DATALOADER.NUM_WORKERS": 0,
            "MODEL.WEIGHTS": "y.pth",
            "OUTPUT_DIR": folder / "out",
        }
    )
    results = train_net.main(train_net.build_parser().parse_args([*flags, *opts]))
    assert "AP" in results["bbox"]
    detections = read_detections(folder / "out")
    assert {x["image_id"] for x in detections} == {0, 1}
    assert len(detections) == 200


def self_containing_content():
    content = {"w": torch.ones(3)}
    content["model"] = content
    return content


# A pickle of 100 bytes that makes a NumPy array of 1.5 GB, and one that changes a function.
HUGE_ARRAY = (
    b"cnumpy.core.numeric\n_frombuffer\n(I1500000000\ncnumpy\ndtype\n(S'f4'\n"
    b"tRI375000000\nS'C'\ntR."
)
CHANGED_FUNCTION = (
    b"\x80\x02cnumpy.core.numeric\n_frombuffer\nN}X\x0c\x00\x00\x00__defaults__"
    b"X\x01\x00\x00\x00Z\x85s\x86b."
)
UNKNOWN_BACKBONE = {
    "proposal_generator.fcos_head.cls_logits.weight": torch.ones(8, 32, 3, 3),
    "backbone.fpn_lateral3.weight": torch.ones(32, 8, 1, 1),
    "controller.bias": torch.ones(3),
}
HTML = b"<html>404</html>"
# name of the case: (name of the file, function that returns its content, keywords of the error)
BAD_FILES = {
    "contains itself": ("a.pth", lambda: saved_bytes(self_containing_content()), ["damaged"]),
    "missing": ("a.pth", None, ["exist"]),
    "empty": ("a.pth", lambda: b"", ["empty (0 bytes)"]),
    "empty safetensors": ("a.safetensors", lambda: b"", ["empty (0 bytes)"]),
    "HTML": ("a.pth", lambda: HTML, ["damaged"]),
    "HTML in safetensors": ("a.safetensors", lambda: HTML, ["damaged"]),
    "truncated": ("a.pth", lambda: IMPROVED.read_bytes()[:500_000], ["damaged"]),
    "code": (
        "a.pth",
        lambda: saved_bytes({"model": {"w": MakesFolder()}}),
        ["refused", "mkdir"],
    ),
    "code in a pickle": (
        "a.pkl",
        lambda: pickle.dumps({"model": {"w": MakesFolder()}}),
        ["refused", "mkdir"],
    ),
    "a huge array": ("a.pkl", lambda: HUGE_ARRAY, ["refused", "array made from int"]),
    "a changed function": ("a.pkl", lambda: CHANGED_FUNCTION, ["refused", "function"]),
    "an expanded tensor": (
        "a.pth",
        lambda: saved_bytes({"model": {"w": torch.ones(1).half().expand(10**11)}}),
        ["refused", "model.w"],
    ),
    "a list": ("a.pth", lambda: saved_bytes([1]), ["list"]),
    "no weights": ("a.pth", lambda: saved_bytes({"a": 1}), ["no weights by name", "but a"]),
    "other weights": (
        "a.pth",
        lambda: saved_bytes({"w": torch.ones(3)}),
        ["mmdet, torchvision", "--from"],
    ),
    "a backbone": (
        "a.pth",
        lambda: saved_bytes(torchvision.models.resnet18(weights=None).state_dict()),
        ["backbone", "--config-file"],
    ),
    "an unknown backbone": (
        "a.pth",
        lambda: saved_bytes(UNKNOWN_BACKBONE),
        ["bottom-up network", "controller.bias"],
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_cannot_be_used_is_refused_and_nothing_is_written(folder, case):
    name, content, words = BAD_FILES[case]
    if content is not None:
        Path(name).write_bytes(content())
    check_refusal(name, "-o", "y.pth", words=[name, *words])


# arguments after a.pth: keywords of the error
REFUSED_COMMANDS = {
    "-o y.txt": ["--output y.txt", ".pth, .safetensors"],
    "-o no/y.pth": ["--output no/y.pth", "folder no ", "exist"],
    "-o mine.pth": ["mine.yaml", "--overwrite"],
    "-o b.pth": ["b.pth", "--overwrite"],
    "-o b.pth --to mmdet --config-file mine.yaml": ["b.pth", "--overwrite"],
    "-o /proc/y.pth": ["--output /proc/y.pth", "written"],
    "-o a.pth --overwrite": ["a.pth", "read"],
    "-o dir.pth": ["dir.pth", "folder"],
    "-o a.pth": ["a.pth", "read"],
    "-o y.pth --to mmdet": ["a.yaml", "config.yaml", "--config-file"],
    "-o y.pth --opts MODEL.FCOS.NUM_CLASSES 5": [
        "shape: rpn.head.cls_logits.weight (11, 32, 3, 3), not (5, 32, 3, 3)"
    ],
}


@pytest.mark.parametrize("command", REFUSED_COMMANDS)
def test_arguments_that_cannot_be_applied_are_refused_and_nothing_is_written(folder, command):
    Path("a.pth").write_bytes(IMPROVED.read_bytes())
    Path("mine.yaml").write_bytes(b"\xff\xfe")
    Path("b.pth").write_bytes(b"precious")
    Path("dir.pth").mkdir()
    check_refusal("a.pth", *command.split(), words=REFUSED_COMMANDS[command])


@pytest.mark.parametrize("flag", ["--recipe iccv", "--from mmdet"])
def test_flags_that_have_no_meaning_with_a_config_are_refused(folder, flag):
    Path("a.pth").write_bytes(IMPROVED.read_bytes())
    Path("mine.yaml").write_bytes(b"\xff\xfe")
    arguments = ["a.pth", "-o", "y.pth", "--config-file", "mine.yaml", *flag.split()]
    check_refusal(*arguments, words=["no meaning with a config"], key=flag.split()[0])
