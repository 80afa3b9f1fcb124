"""Reading config files and overrides: the resulting values, and the errors."""

import pytest
from commands import SHAPES_CONFIG
from input_errors import check_error, input_error

from fcos_d2 import get_config_file
from fcos_d2.config_loading import load_config, parse_overrides


@pytest.mark.parametrize(
    ("tokens", "pairs"),
    [
        ([], []),
        (["A.B", "1"], [("A.B", "1")]),
        (["A=1", "B", "2", "C=3"], [("A", "1"), ("B", "2"), ("C", "3")]),
        (["A", "x=y", "B=x=y", "C="], [("A", "x=y"), ("B", "x=y"), ("C", "")]),
        (["A", "-1", "B=-1"], [("A", "-1"), ("B", "-1")]),
    ],
)
def test_overrides_with_and_without_an_equals_sign_may_be_mixed(tokens, pairs):
    assert parse_overrides(tokens) == pairs


@pytest.mark.parametrize(
    ("tokens", "key", "word"),
    [(["A=1", "B"], "B", "no value"), (["A=1", "--resume"], "--resume", "flag")],
)
def test_the_error_about_a_token_that_is_not_an_override_names_it(tokens, key, word):
    with input_error(word, key=key):
        parse_overrides(tokens)


def test_both_forms_of_overrides_change_the_config():
    opts = ["SOLVER.MAX_ITER=4", "DATASETS.TEST", "('a',)", "SOLVER.BASE_LR=1"]
    cfg = load_config(get_config_file("fcos_R_50_FPN_1x.yaml"), opts)
    assert (cfg.SOLVER.MAX_ITER, cfg.DATASETS.TEST, cfg.SOLVER.BASE_LR) == (4, ("a",), 1.0)


def test_integers_are_accepted_for_floats(tmp_path):
    (file := tmp_path / "mine.yaml").write_text("SOLVER:\n  BASE_LR: 1\n")
    for cfg in (load_config(SHAPES_CONFIG, ["SOLVER.BASE_LR", "1"]), load_config(str(file), [])):
        assert (cfg.SOLVER.BASE_LR, type(cfg.SOLVER.BASE_LR)) == (1.0, float)


def test_all_wrong_keys_of_a_file_and_of_overrides_are_in_one_error(tmp_path):
    (file := tmp_path / "mine.yaml").write_text("SOLVER:\n  LR: 1\n  GAMMA: a\nTEST: 5\n")
    keys = ["SOLVER.LR", "SOLVER.GAMMA", "TEST", "MODEL.DEVISE", "SEED"]
    with input_error(key="SOLVER.LR") as caught:
        load_config(str(file), ["MODEL.DEVISE", "cpu", "SEED", "x"])
    assert [fault.key for fault in caught.value.faults] == keys


# name of the case: (text of the config file, key and keywords of the error)
FILES = {
    "not there": (None, None, ["mine.yaml", "exist"]),
    "not YAML": ("MODEL: [", None, ["mine.yaml", "while parsing a flow"]),
    "a text": ("just text", None, ["mine.yaml", "keys and values"]),
    "empty": ("", None, ["mine.yaml", "keys and values"]),
    "a list": ("- a\n- b\n", None, ["mine.yaml", "keys and values"]),
    "its own base": ("_BASE_: mine.yaml\n", None, ["mine.yaml", "_BASE_", "itself"]),
    "no such base": ("_BASE_: nowhere.yaml\n", None, ["mine.yaml", "_BASE_", "nowhere.yaml"]),
    "a section": ("SOLVER: 5\n", "SOLVER", ["mine.yaml", "section"]),
    "an unknown key": (
        "MODEL:\n  FCOS:\n    TOPK: 5\n",
        "MODEL.FCOS.TOPK",
        ["mine.yaml", "'MODEL.FCOS.TOPK_CANDIDATES_TEST'"],
    ),
    "a wrong type": (
        "MODEL:\n  FCOS:\n    NORM: 5\n",
        "MODEL.FCOS.NORM",
        ["mine.yaml", "'GN'"],
    ),
    "code": (
        "OUTPUT_DIR: !!python/object/apply:os.getcwd []\n",
        None,
        ["mine.yaml", "constructor"],
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_the_error_about_a_wrong_config_file_has_its_key_or_its_path(own_data, monkeypatch, case):
    text, key, words = FILES[case]
    file = own_data.folder / "mine.yaml"
    if text is not None:
        file.write_text(text)
    error = own_data.error(monkeypatch, f"--config-file={file}")
    check_error(error, *words, key=key)
    assert key or error.file == str(file)
