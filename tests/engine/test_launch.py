"""Starting the processes of a run: one checks the run for all of them."""

import os
import subprocess
import sys

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from own_data import REPOSITORY, OwnData

from fcos_d2.cli.train import build_parser
from fcos_d2.data.coco import registered_datasets, registration
from fcos_d2.engine import launch_run


@pytest.fixture
def own_data(tmp_path):
    data = OwnData(tmp_path)
    data.write()
    yield data
    for dataset in registered_datasets():
        DatasetCatalog.remove(dataset.name)
        MetadataCatalog.remove(dataset.name)


def torchrun(own_data, *extra):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(REPOSITORY / "train_net.py")]
    command += own_data.arguments(*extra)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=env)


def test_processes_of_torchrun_train_together(own_data):
    process = torchrun(own_data, "DATASETS.TEST", "()")
    assert process.returncode == 0, process.stderr[-3000:]
    assert (own_data.output / "model_final.pth").is_file()
    assert "World size: 2" in (own_data.output / "log.txt").read_text()


def test_only_the_first_process_of_torchrun_prints_the_faults(own_data):
    process = torchrun(own_data, "MODEL.FCOS.NORM", "LN", "SOLVER.IMS_PER_BATCH", "3")
    assert process.returncode == 1
    assert process.stderr.count("MODEL.FCOS.NORM = 'LN'") == 1
    assert process.stderr.count("SOLVER.IMS_PER_BATCH = 3") == 1
    assert not own_data.output.exists()


@pytest.fixture
def parses(monkeypatch):
    """Collect the annotation files that are parsed, in their order."""
    files = []
    parse = registration.parse_json
    monkeypatch.setattr(registration, "parse_json", lambda file: files.append(file) or parse(file))
    monkeypatch.setattr(
        "fcos_d2.data.coco.file_checks.parse_json", lambda file: files.append(file) or parse(file)
    )
    return files


def arguments_of(own_data, *extra):
    return build_parser().parse_args(own_data.arguments(*extra))


def test_a_single_process_parses_each_annotation_file_once(own_data, parses):
    def run(cfg, args):
        return [len(DatasetCatalog.get(name)) for name in ("train", "val")]

    assert launch_run(run, arguments_of(own_data)) == [2, 2]
    assert len(parses) == 2


def test_started_processes_get_the_checked_config_and_check_nothing(own_data, parses, monkeypatch):
    cfgs = []

    def start(main, *_, args, **__):  # in place of detectron2's launch, in this process
        assert len(parses) == 2
        assert [DatasetCatalog[name].content for name in ("train", "val")] == [None, None]
        main(*args)

    monkeypatch.setattr("fcos_d2.engine.launch.launch", start)
    launch_run(lambda cfg, args: cfgs.append(cfg), arguments_of(own_data, "--num-gpus=2"))
    (cfg,) = cfgs
    assert cfg.MODEL.FCOS.NUM_CLASSES == 2
    assert cfg.FCOS_TRAIN.CLASS_NAMES == ["cat", "dog"]
    assert len(parses) == 2
    assert len(DatasetCatalog.get("train")) == 2  # which the process reads itself
    assert len(parses) == 3
