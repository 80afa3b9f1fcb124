"""train_net.py with wrong configs and command lines: its error is about the key at fault."""

import pytest
import torch
from commands import REPOSITORY, as_arguments, run_python, subprocess_error
from input_errors import ANY, check_error


def case(arguments, key, value=ANY, *words):
    """Return a test case whose id is the command line."""
    return pytest.param(arguments.split(), key, value, words, id=arguments)


MODEL_KEYS = [
    case("MODEL.FCOS.NORM=3", "MODEL.FCOS.NORM", 3, "'GN'"),
    case("MODEL.FCOS.NORM=None", "MODEL.FCOS.NORM", None, "'GN'"),
    case("MODEL.FCOS.LOC_LOSS_TYPE=l1", "MODEL.FCOS.LOC_LOSS_TYPE", "l1", "'giou', 'diou'"),
    case("MODEL.META_ARCHITECTURE=FCSO", "MODEL.META_ARCHITECTURE", "FCSO", "META_ARCH", "'FCOS'"),
    case(
        "MODEL.BACKBONE.NAME=build_fcos_resnet_backbone",
        "MODEL.BACKBONE.NAME",
        "build_fcos_resnet_backbone",
        "'build_fcos_resnet_fpn_backbone'",
    ),
    case(
        "MODEL.FCOS.TARGET_ASSIGNER=FCOSAsigner",
        "MODEL.FCOS.TARGET_ASSIGNER",
        "FCOSAsigner",
        "'FCOSAssigner'",
    ),
    case(
        "MODEL.FCOS.SIZES_OF_INTEREST=[64]",
        "MODEL.FCOS.SIZES_OF_INTEREST",
        [64],
        "1 value",
    ),
    case(
        "MODEL.FCOS.SIZES_OF_INTEREST=[64,32,128]",
        "MODEL.FCOS.SIZES_OF_INTEREST",
        [64, 32, 128],
        "ascending",
    ),
    case(
        "MODEL.FCOS.IN_FEATURES=['p2','p3','p4','p9']",
        "MODEL.FCOS.IN_FEATURES",
        ["p2", "p3", "p4", "p9"],
        "['p9']",
    ),
    case(
        "MODEL.FCOS.IN_FEATURES=['p4','p3','p2','p5']",
        "MODEL.FCOS.IN_FEATURES",
        ["p4", "p3", "p2", "p5"],
        "coarse",
    ),
    case(
        "MODEL.FCOS.TOP_LEVELS=1 MODEL.FCOS.TOP_IN_FEATURE=res3",
        "MODEL.FCOS.TOP_IN_FEATURE",
        "res3",
    ),
    case(
        "MODEL.FPN.IN_FEATURES=['res1','res2']",
        "MODEL.FPN.IN_FEATURES",
        ["res1", "res2"],
        "bottom-up",
    ),
    case("MODEL.FPN.IN_FEATURES=[]", "MODEL.FPN.IN_FEATURES", [], "bottom-up"),
    case("MODEL.FPN.OUT_CHANNELS=0", "MODEL.FPN.OUT_CHANNELS", 0, "at least 1"),
    case("MODEL.FPN.OUT_CHANNELS=40", "MODEL.FCOS.NORM", "GN", "32 groups", "40 channels"),
    case("MODEL.RESNETS.DEPTH=20", "MODEL.RESNETS.DEPTH", 20, "(18, 34, 50"),
    case("MODEL.RESNETS.NORM=GroupNorm", "MODEL.RESNETS.NORM", "GroupNorm"),
    case("MODEL.PIXEL_MEAN=[1.0]", "MODEL.PIXEL_MEAN", [1.0], "1 value", "3 channels"),
    case("MODEL.PIXEL_STD=[1.0,0.0,1.0]", "MODEL.PIXEL_STD", [1.0, 0.0, 1.0], "above 0"),
    case("MODEL.KEYPOINT_ON=True", "MODEL.KEYPOINT_ON", True),
    case("MODEL.DEVICE=meta", "MODEL.DEVICE", "meta", "cpu, cuda or mps"),
    case("MODEL.DEVICE=gpu", "MODEL.DEVICE", "gpu", "device type"),
    case("INPUT.FORMAT=BRG", "INPUT.FORMAT", "BRG", "BGR, RGB, L"),
]
TRAINING_KEYS = [
    case("TEST.KEYPOINT_OKS_SIGMAS=[0.1,0.0]", "TEST.KEYPOINT_OKS_SIGMAS", [0.1, 0.0], "above 0"),
    case("OUTPUT_DIR=", "OUTPUT_DIR", ""),
    case("INPUT.RANDOM_FLIP=nonsense", "INPUT.RANDOM_FLIP", "nonsense", "'vertical'"),
    case(
        "INPUT.MIN_SIZE_TRAIN_SAMPLING=range",
        "INPUT.MIN_SIZE_TRAIN_SAMPLING",
        "range",
        "two values",
    ),
    case("INPUT.MIN_SIZE_TRAIN=(-3,)", "INPUT.MIN_SIZE_TRAIN", (-3,), "at least 0"),
    case("SOLVER.WEIGHT_DECAY=None", "SOLVER.WEIGHT_DECAY", None, "a number"),
    case("SOLVER.BASE_LR=fast", "SOLVER.BASE_LR", "fast", "a number"),
    case("SOLVER.BASE_LR=-0.1", "SOLVER.BASE_LR", -0.1, "at least 0"),
    case("SOLVER.MAX_ITER=0", "SOLVER.MAX_ITER", 0, "at least 1"),
    case("SOLVER.STEPS=(1,", "SOLVER.STEPS", "(1,", "a list"),
    case("SOLVER.LR_SCHEDULER_NAME=WarmupCosine", "SOLVER.LR_SCHEDULER_NAME", "WarmupCosine"),
    case("SOLVER.WARMUP_METHOD=cosine", "SOLVER.WARMUP_METHOD", "cosine", "Unknown"),
    case(
        "DATALOADER.SAMPLER_TRAIN=Sampler",
        "DATALOADER.SAMPLER_TRAIN",
        "Sampler",
        "'TrainingSampler'",
    ),
    case(
        "SOLVER.AMP.ENABLED=True FCOS_TRAIN.AMP_DTYPE=float16",
        "FCOS_TRAIN.AMP_DTYPE",
        "float16",
        "CUDA",
    ),
]
DATASETS = [
    case("DATASETS.TRAIN=('train')", "DATASETS.TRAIN", "train", "comma"),
    case("DATASETS.TRAIN=(1,)", "DATASETS.TRAIN", (1,), "names"),
    case("DATASETS.TRAIN=()", "DATASETS.TRAIN", ANY, "empty", "--dataset"),
    case("DATASETS.TEST=('vall',)", "DATASETS.TEST", ["vall"], "'vall'", "val'?"),
    case(
        "DATASETS.TRAIN=('shapes_trian',)",
        "DATASETS.TRAIN",
        ["shapes_trian"],
        "registered",
        "Did you mean 'shapes_train'?",
    ),
    case("DATASETS.TRAIN=('trian',) DATASETS.TEST=('vall',)", ANY, ANY, "'train'?", "'val'?"),
    case("MODEL.FCOS.NUM_CLASSES=5", "MODEL.FCOS.NUM_CLASSES", 5, "'train'", "2 classes"),
    case("FCOS_TRAIN.DATASETS=['mine']", "FCOS_TRAIN.DATASETS", ["mine"], "NAME=ANNOTATIONS.json"),
    case("--eval-only", "MODEL.WEIGHTS", ANY, "--eval-only"),
    case("--eval-only --resume", "MODEL.WEIGHTS", ANY, "--eval-only"),
    case("--eval-only MODEL.WEIGHTS=x.pth DATASETS.TEST=()", "DATASETS.TEST", ANY, "empty"),
    case("--dataset=mine", None, None, "'mine'", "NAME=ANNOTATIONS.json:IMAGES/"),
    case("--dataset==a.json:images", None, None, "'=a.json:images'", "NAME=ANNOTATIONS.json"),
    case("--dataset=mine=a.json", None, None, "'mine=a.json'", "NAME=ANNOTATIONS.json:IMAGES/"),
]
OVERRIDES = [
    case("MODEL.FCOS.NUM_CLASES=3", "MODEL.FCOS.NUM_CLASES", 3, "'MODEL.FCOS.NUM_CLASSES'"),
    case("SOLVER.LR=0.1", "SOLVER.LR", 0.1, "'SOLVER."),
    case("SOLVER.BASE_LR", "SOLVER.BASE_LR", ANY, "no value"),
    case("SOLVER=5", "SOLVER", 5, "section", "SOLVER.LR_SCHEDULER_NAME"),
    case("SOLVER.BASE_LR.X=5", "SOLVER.BASE_LR.X", 5, "no config key"),
    case("--num-gpus=2 SOLVER.IMS_PER_BATCH=3", "SOLVER.IMS_PER_BATCH", 3, "2 processes"),
]


@pytest.mark.parametrize(
    ("arguments", "key", "value", "words"), [*MODEL_KEYS, *TRAINING_KEYS, *DATASETS, *OVERRIDES]
)
def test_the_error_about_a_wrong_argument_has_its_key_and_value(
    own_data, monkeypatch, arguments, key, value, words
):
    error = own_data.error(monkeypatch, *arguments)
    fault = next((x for x in error.faults if x.key == key), error)  # There may be several faults.
    check_error(fault, *words, key=key, value=value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_error_about_a_missing_cuda_device_suggests_the_cpu(own_data, monkeypatch):
    error = own_data.error(monkeypatch, "MODEL.DEVICE=cuda")
    check_error(error, "MODEL.DEVICE cpu", key="MODEL.DEVICE", value="cuda")


def test_all_faults_of_a_config_are_in_one_error_before_annotations_are_read(own_data, monkeypatch):
    own_data.train = None  # there is no annotation file
    wrong = {
        "MODEL.FCOS.NORM": "LN",
        "SOLVER.BASE_LR": -1,
        "INPUT.FORMAT": "BRG",
        "MODEL.DEVICE": "gpu",
        "FCOS_TRAIN.EMA_DECAY": 1,
        "MODEL.RESNETS.DEPTH": 51,
        "SOLVER.IMS_PER_BATCH": 3,
        "SOLVER.GAMMA": "x",
        "DATASETS.TRAIN": "y",
        "SOLVER.LR_SCHEDULER_NAMES": "z",
    }
    error = own_data.error(monkeypatch, "--num-gpus=2", *as_arguments(wrong))
    assert {fault.key: fault.value for fault in error.faults} == wrong
    assert len(error.text.splitlines()) == len(wrong)


def test_the_error_about_an_output_directory_that_cannot_be_made_names_it(own_data, monkeypatch):
    (own_data.folder / "file").write_text("")
    folder = str(own_data.folder / "file" / "output")
    error = own_data.error(monkeypatch, "OUTPUT_DIR", folder)
    check_error(error, "cannot be written", key="OUTPUT_DIR", value=folder)


def test_the_command_prints_the_error_once_without_a_traceback_and_exits_with_code_1(own_data):
    own_data.write()
    arguments = own_data.arguments("--num-gpus=2", "MODEL.FCOS.NUM_CLASSES", "9")
    process = run_python(REPOSITORY / "train_net.py", *arguments)
    assert "MODEL.FCOS.NUM_CLASSES = 9" in subprocess_error(process)
    assert process.stderr.count("error: ") == 1
