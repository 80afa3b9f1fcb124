"""Starting the processes of a run: one process checks the run for all of them."""

import pytest
import torch
from commands import REPOSITORY, run_python
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from fcos_d2.cli.train import build_parser
from fcos_d2.data.coco import normalized_content, registered_datasets
from fcos_d2.engine import launch_run


@pytest.fixture
def own_data(own_data):
    """Write the annotation files, and remove the registered datasets after the test."""
    own_data.write()
    yield own_data
    for dataset in registered_datasets():
        DatasetCatalog.remove(dataset.name)
        MetadataCatalog.remove(dataset.name)


def torchrun(own_data, *extra):
    """Run train_net.py in two processes of torchrun."""
    flags = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    return run_python(*flags, REPOSITORY / "train_net.py", *own_data.arguments(*extra))


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


def in_no_group():
    """Return whether this process is in no process group, and detectron2's cache has none."""
    is_cached = comm._get_global_gloo_group.cache_info().currsize > 0
    return not torch.distributed.is_initialized() and not is_cached


@pytest.fixture
def join_group(tmp_path):
    """Return a function that joins a group of one process; leave the group after the test."""

    def join():
        store = f"file://{tmp_path}/group"
        torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)

    yield join
    comm._get_global_gloo_group.cache_clear()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_a_process_of_torchrun_leaves_its_process_group(own_data, monkeypatch, join_group):
    def run(cfg, args):
        assert torch.distributed.is_initialized()
        return comm._get_global_gloo_group()  # detectron2 puts the group into its cache

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr("fcos_d2.engine.launch._join_torchrun", join_group)
    assert launch_run(run, arguments_of(own_data)) is not None
    assert in_no_group()


def arguments_of(own_data, *extra):
    return build_parser().parse_args(own_data.arguments(*extra))


def test_a_single_process_parses_each_annotation_file_once(own_data, parsed_files):
    def run(cfg, args):
        evaluated = [(len(DatasetCatalog.get("val")), normalized_content("val")) for _ in range(2)]
        return [len(DatasetCatalog.get("train")), *(x for x, _ in evaluated)]

    assert launch_run(run, arguments_of(own_data)) == [2, 2, 2]
    assert len(parsed_files) == 2


def test_started_processes_get_the_checked_config_and_do_not_check_it_again(
    own_data, parsed_files, monkeypatch, join_group
):
    cfgs = []

    def run(cfg, args):
        comm._get_global_gloo_group()  # detectron2 puts the group into its cache
        cfgs.append(cfg)

    def start(main, *_, args, **__):  # replaces detectron2's launch and runs in this process
        assert len(parsed_files) == 2
        assert [DatasetCatalog[name].content for name in ("train", "val")] == [None, None]
        join_group()
        main(*args)
        assert in_no_group()

    monkeypatch.setattr("fcos_d2.engine.launch.launch", start)
    launch_run(run, arguments_of(own_data, "--num-gpus=2"))
    (cfg,) = cfgs
    assert cfg.MODEL.FCOS.NUM_CLASSES == 2
    assert cfg.FCOS_TRAIN.CLASS_NAMES == ["cat", "dog"]
    assert len(parsed_files) == 2
    assert len(DatasetCatalog.get("train")) == 2  # The process reads the file itself.
    assert len(parsed_files) == 3
