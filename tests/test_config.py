"""Config keys and config files."""

from pathlib import Path

import pytest
from commands import REPOSITORY
from detectron2.config import get_cfg

from fcos_d2 import add_fcos_config, add_train_config, get_config_file, new_cfg


def test_the_keys_and_defaults_of_detectron2_are_unchanged():
    cfg = new_cfg()
    # detectron2's samplers read these two keys, but detectron2 does not define them.
    del cfg.DATASETS["TRAIN_REPEAT_FACTOR"]
    del cfg.DATALOADER["RANDOM_SUBSET_RATIO"]
    del cfg.MODEL["FCOS"]
    del cfg.MODEL["TIMM"]
    del cfg.MODEL["BIFPN"]
    del cfg["FCOS_TRAIN"]
    assert cfg == get_cfg()


def test_a_config_with_the_keys_of_both_functions_reads_the_config_of_a_training(tmp_path):
    cfg = get_cfg()
    add_fcos_config(cfg)
    add_train_config(cfg)
    file = tmp_path / "config.yaml"
    file.write_text(new_cfg().dump())
    cfg.merge_from_file(str(file))
    assert {"TRAIN_REPEAT_FACTOR", "FCOS_TRAIN"} <= {*cfg.DATASETS, *cfg}


def test_config_files_are_found_by_name():
    path = Path(get_config_file("fcos_R_50_FPN_1x.yaml"))
    assert path.samefile(REPOSITORY / "configs" / "fcos_R_50_FPN_1x.yaml")
    assert Path(get_config_file("shapes/fcos_shapes_demo.yaml")).is_file()


def test_an_unknown_name_is_an_error_that_lists_the_files():
    with pytest.raises(FileNotFoundError, match=r"nope\.yaml") as error:
        get_config_file("nope.yaml")
    for name in ("Base-FCOS.yaml, ", "adelaidet/MS_R_101_2x.yaml, "):
        assert name in str(error.value)
