"""Configs and command lines that cannot work: each case says what the user is told."""

import os
import subprocess
import sys

import pytest
import torch
from own_data import CONFIG, REPOSITORY, OwnData

from fcos_d2.engine import load_config
from fcos_d2.errors import InputError


@pytest.fixture
def own_data(tmp_path):
    return OwnData(tmp_path)


OVERRIDES = [
    (
        ("MODEL.FCOS.NUM_CLASES", "3"),
        r"no config key MODEL.FCOS.NUM_CLASES. Did you mean 'MODEL.FC"
        r"OS.NUM_CLASSES'\?",
    ),
    (("SOLVER.LR", "0.1"), r"no config key SOLVER.LR. Did you mean 'SOLVER."),
    (("SOLVER.BASE_LR",), r"'SOLVER.BASE_LR' has no value"),
    (("SOLVER.BASE_LR", "fast"), r"SOLVER.BASE_LR = 'fast' must be a number"),
    (("SOLVER", "5"), r"SOLVER is a section of keys, such as SOLVER.LR_SCHEDULER_NAME"),
    (("SOLVER.BASE_LR.X", "5"), r"no config key SOLVER.BASE_LR.X"),
    (("DATASETS.TRAIN", "('train')"), r"DATASETS.TRAIN = 'train' must be a list.* comma"),
    (("DATASETS.TRAIN", "(1,)"), r"DATASETS.TRAIN = \(1,\) must be a list of names"),
    (("INPUT.RANDOM_FLIP", "nonsense"), r"must be one of \('none', 'horizontal', 'vertical'\)"),
    (("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"), r"SAMPLING = 'range': .*two values"),
    (("MODEL.KEYPOINT_ON", "True"), r"MODEL.KEYPOINT_ON = True: FCOS detects boxes"),
    (("MODEL.FPN.OUT_CHANNELS", "0"), r"OUT_CHANNELS = 0 must be an integer of at least 1"),
    (("SOLVER.WEIGHT_DECAY", "None"), r"WEIGHT_DECAY = None must be a number, such as 0"),
    (("OUTPUT_DIR", ""), r"OUTPUT_DIR = '' must be a name"),
    (("MODEL.DEVICE", "meta"), r"MODEL.DEVICE = 'meta' must be cpu, cuda or mps"),
    (("SOLVER.BASE_LR", "-0.1"), r"SOLVER.BASE_LR = -0.1 must be a number of at"),
    (("SOLVER.MAX_ITER", "0"), r"SOLVER.MAX_ITER = 0 must be an integer of at least 1"),
    (("SOLVER.STEPS", "(1,"), r"SOLVER.STEPS = '\(1,' must be a list, such as"),
    (("MODEL.FCOS.NORM", "3"), r"MODEL.FCOS.NORM = 3 must be a text, such as 'GN'"),
    (("MODEL.FCOS.NORM", "None"), r"MODEL.FCOS.NORM = None must be a text"),
    (("MODEL.FCOS.LOC_LOSS_TYPE", "l1"), r"= 'l1' must be one of \('giou', 'diou', 'ciou'"),
    (
        ("MODEL.META_ARCHITECTURE", "FCSO"),
        r"'FCSO' is not registered in META_ARCH. Did you mean "
        r"'FCOS'\?",
    ),
    (
        ("MODEL.BACKBONE.NAME", "build_fcos_resnet_backbone"),
        r"not registered in BACKBONE. Did you "
        r"mean 'build_fcos_resnet_fpn_backbone'\?",
    ),
    (("MODEL.FCOS.TARGET_ASSIGNER", "FCOSAsigner"), r"ASSIGNER. Did you mean 'FCOSAssigner'"),
    (("MODEL.FCOS.SIZES_OF_INTEREST", "[64]"), r"has 1 values, but 4 levels need 3"),
    (("MODEL.FCOS.SIZES_OF_INTEREST", "[64, 32, 128]"), r"a list of positive and ascending"),
    (("MODEL.FCOS.IN_FEATURES", "['p2', 'p3', 'p4', 'p9']"), r"the backbone has no \['p9'\]"),
    (("MODEL.FCOS.IN_FEATURES", "['p4', 'p3', 'p2', 'p5']"), r"must go from fine to coarse"),
    (("MODEL.FCOS.TOP_LEVELS", "1", "MODEL.FCOS.TOP_IN_FEATURE", "res3"), r"'res3' must be the"),
    (("MODEL.FPN.IN_FEATURES", "['res1', 'res2']"), r"'res2'\] must be maps of the bottom-up"),
    (("MODEL.FPN.IN_FEATURES", "[]"), r"IN_FEATURES = \[\] must be maps of the bottom-up"),
    (("MODEL.FPN.OUT_CHANNELS", "40"), r"normalises 32 groups, but the towers have 40"),
    (("MODEL.RESNETS.DEPTH", "20"), r"MODEL.RESNETS.DEPTH = 20 must be one of \(18, 34, 50"),
    (("MODEL.RESNETS.NORM", "GroupNorm"), r"RESNETS.NORM = 'GroupNorm' must be a norm that"),
    (("MODEL.PIXEL_MEAN", "[1.0]"), r"MODEL.PIXEL_MEAN = \[1.0\] has 1 values, but images"),
    (("MODEL.PIXEL_STD", "[1.0, 0.0, 1.0]"), r"each is a number above 0"),
    (("INPUT.FORMAT", "BRG"), r"INPUT.FORMAT = 'BRG' must be BGR, RGB, L"),
    (("SOLVER.LR_SCHEDULER_NAME", "WarmupCosine"), r"_NAME = 'WarmupCosine': .*Unknown"),
    (("SOLVER.WARMUP_METHOD", "cosine"), r"WARMUP_METHOD = 'cosine': .*Unknown warm"),
    (("DATALOADER.SAMPLER_TRAIN", "Sampler"), r"'Sampler' must be one of \('TrainingSampler'"),
    (("INPUT.MIN_SIZE_TRAIN", "(-3,)"), r"a list in which each is an integer of at least 0"),
    (("MODEL.DEVICE", "gpu"), r"MODEL.DEVICE = 'gpu': .*device type"),
    (("MODEL.FCOS.NUM_CLASSES", "5"), r"NUM_CLASSES = 5, but the dataset 'train' has 2 classes"),
    (("DATASETS.TRAIN", "()"), r"DATASETS.TRAIN is empty. Name a dataset"),
    (("DATASETS.TEST", "('vall',)"), r"'vall' is not registered. Did you mean '.*val"),
    (("DATASETS.TRAIN", "('shapes_trian',)"), r"'shapes_trian' .*is not registered"),
    (("FCOS_TRAIN.DATASETS", "['mine']"), r"each is a text NAME=ANNOTATIONS.json:IMAGES/"),
    (("SOLVER.AMP.ENABLED", "True", "FCOS_TRAIN.AMP_DTYPE", "float16"), r"'float16' needs CUDA"),
    (("--eval-only",), r"--eval-only evaluates a checkpoint, but MODEL.WEIGHTS is empty"),
    (("--eval-only", "MODEL.WEIGHTS", "x.pth", "DATASETS.TEST", "()"), r"DATASETS.TEST is empty"),
    (("--dataset=mine",), r"The dataset 'mine' must be given as NAME=ANNOTATIONS.json:IMAGES/"),
    (("--dataset==a.json:images",), r"must be given as NAME=ANNOTATIONS.json:IMAGES/"),
    (("--dataset=mine=a.json",), r"must be given as NAME=ANNOTATIONS.json:IMAGES/"),
]


@pytest.mark.parametrize(("arguments", "message"), OVERRIDES, ids=lambda x: str(x)[:50])
def test_an_override_that_cannot_work_is_explained(own_data, monkeypatch, arguments, message):
    own_data.check_error(monkeypatch, message, *arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_cuda_device_is_explained(own_data, monkeypatch):
    own_data.check_error(
        monkeypatch, r"no usable CUDA device here.*MODEL.DEVICE cpu", "MODEL.DEVICE", "cuda"
    )


FILES = [
    (None, r"The config file .*mine.yaml does not exist"),
    ("MODEL: [", r"cannot be read: while parsing a flow|while parsing a flow"),
    ("just text", r"mine.yaml must hold keys and values"),
    ("", r"mine.yaml must hold keys and values"),
    ("- a\n- b\n", r"mine.yaml must hold keys and values"),
    ("_BASE_: mine.yaml\n", r"_BASE_ leads back to the file itself"),
    ("SOLVER: 5\n", r"mine.yaml: SOLVER is a section of keys"),
    (
        "MODEL:\n  FCOS:\n    TOPK: 5\n",
        r"no config key MODEL.FCOS.TOPK. Did you mean 'MODEL.FCOS.T",
    ),
    ("MODEL:\n  FCOS:\n    NORM: 5\n", r"mine.yaml: MODEL.FCOS.NORM = 5 must be a text"),
    ("OUTPUT_DIR: !!python/object/apply:os.getcwd []\n", r"could not determine a constructor"),
    ("_BASE_: nowhere.yaml\n", r"mine.yaml or its _BASE_ cannot be read: .*nowhere.yaml"),
]


@pytest.mark.parametrize(("text", "message"), FILES, ids=lambda x: str(x)[:30])
def test_a_config_file_that_cannot_work_is_explained(own_data, monkeypatch, text, message):
    file = own_data.folder / "mine.yaml"
    if text is not None:
        file.write_text(text)
    own_data.check_error(monkeypatch, message, f"--config-file={file}")


def test_whole_numbers_do_for_floats(tmp_path):
    (file := tmp_path / "mine.yaml").write_text("SOLVER:\n  BASE_LR: 1\n")
    for cfg in (load_config(CONFIG, ["SOLVER.BASE_LR", "1"]), load_config(str(file), [])):
        assert (cfg.SOLVER.BASE_LR, type(cfg.SOLVER.BASE_LR)) == (1.0, float)


def test_all_that_is_wrong_with_a_config_is_said_before_annotations_are_read(own_data, monkeypatch):
    own_data.train = None  # there is no annotation file
    text = own_data.error(
        monkeypatch,
        "MODEL.FCOS.NORM",
        "LN",
        "SOLVER.BASE_LR",
        "-1",
        "INPUT.FORMAT",
        "BRG",
        "MODEL.DEVICE",
        "gpu",
        "FCOS_TRAIN.EMA_DECAY",
        "1",
        "MODEL.RESNETS.DEPTH",
        "51",
        "SOLVER.IMS_PER_BATCH",
        "3",
        "--num-gpus=2",
        "SOLVER.GAMMA",
        "x",
        "DATASETS.TRAIN",
        "y",
        "SOLVER.LR_SCHEDULER_NAMES",
        "z",
    )
    keys = [
        "MODEL.FCOS.NORM",
        "SOLVER.BASE_LR",
        "INPUT.FORMAT",
        "MODEL.DEVICE",
        "FCOS_TRAIN.EMA_DECAY",
        "MODEL.RESNETS.DEPTH",
        "SOLVER.IMS_PER_BATCH",
        "SOLVER.GAMMA",
        "DATASETS.TRAIN",
    ]
    assert [key for key in keys if f"{key} = " not in text] == []
    assert "no config key SOLVER.LR_SCHEDULER_NAMES" in text
    assert len(text.splitlines()) == len(keys) + 1


def test_all_keys_that_a_file_and_overrides_have_wrong_are_said_at_once(tmp_path):
    (file := tmp_path / "mine.yaml").write_text("SOLVER:\n  LR: 1\n  GAMMA: a\nTEST: 5\n")
    with pytest.raises(InputError) as caught:
        load_config(str(file), ["MODEL.DEVISE", "cpu", "SEED", "x"])
    assert [fault.key for fault in caught.value.faults] == [
        "SOLVER.LR",
        "SOLVER.GAMMA",
        "TEST",
        "MODEL.DEVISE",
        "SEED",
    ]


def test_resuming_nothing_is_no_evaluation(own_data, monkeypatch):
    own_data.check_error(monkeypatch, "MODEL.WEIGHTS is empty", "--eval-only", "--resume")


def test_a_batch_that_processes_cannot_share_is_explained(own_data, monkeypatch):
    own_data.check_error(
        monkeypatch,
        r"IMS_PER_BATCH = 3 cannot be shared evenly by 2 processes",
        "--num-gpus=2",
        "SOLVER.IMS_PER_BATCH",
        "3",
    )


@pytest.mark.parametrize("number", ["0", "-1"])
def test_there_must_be_a_process(own_data, monkeypatch, capsys, number):
    own_data.write()
    with pytest.raises(SystemExit):
        own_data.run(monkeypatch, own_data.arguments(f"--num-gpus={number}"))
    assert f"--num-gpus: {number} is not from 1" in capsys.readouterr().err


def test_an_output_directory_that_cannot_be_made_is_explained(own_data, monkeypatch):
    (own_data.folder / "file").write_text("")
    folder = str(own_data.folder / "file" / "output")
    own_data.check_error(monkeypatch, r"OUTPUT_DIR = .*cannot be written to", "OUTPUT_DIR", folder)


def test_the_command_exits_with_1_and_shows_no_traceback(own_data):
    own_data.write()
    command = [sys.executable, str(REPOSITORY / "train_net.py"), *own_data.arguments()]
    process = subprocess.run(
        [*command, "MODEL.FCOS.NORM", "LN"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("error: MODEL.FCOS.NORM = 'LN' must be one")
    assert "Traceback" not in process.stderr + process.stdout


def test_several_processes_say_it_once(own_data):
    own_data.write()
    command = [sys.executable, str(REPOSITORY / "train_net.py"), "--num-gpus", "2"]
    process = subprocess.run(
        [*command, *own_data.arguments("MODEL.FCOS.NUM_CLASSES", "9")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 1
    assert process.stderr.count("NUM_CLASSES = 9, but the dataset 'train'") == 1
    assert "Traceback" not in process.stderr
