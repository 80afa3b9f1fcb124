"""Which of the datasets on the command line are the training and the test set."""

import pytest
from input_errors import check_error

from fcos_d2 import new_cfg
from fcos_d2.engine.dataset_roles import assign_datasets, find_empty_datasets


def cfg_with(train, test):
    cfg = new_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = train, test
    return cfg


@pytest.mark.parametrize(
    ("train", "test", "names", "opts", "eval_only", "expected"),
    [
        ((), (), "ab", (), False, (("a",), ("b",))),
        ((), (), "a", (), False, (("a",), ())),
        ((), (), "aa", (), False, (("a",), ())),
        ((), ("b",), "ab", (), False, (("a",), ("b",))),
        (("b",), (), "ab", (), False, (("b",), ("a",))),
        (("x",), ("y",), "ab", (), False, (("x",), ("y",))),
        ((), (), "abc", (), False, ((), ())),
        (("a",), (), "abc", (), False, (("a",), ())),
        (("a",), (), "ab", ["DATASETS.TEST=()"], False, (("a",), ())),
        ((), (), "ab", ["DATASETS.TRAIN", "()"], False, ((), ())),
        ((), (), "ab", ["DATASETS.TEST"], False, (("a",), ("b",))),  # an error of its own
        ((), (), "a", (), True, ((), ("a",))),
        ((), (), "ab", (), True, ((), ())),
    ],
)
def test_empty_lists_get_the_datasets_that_are_not_named(
    train, test, names, opts, eval_only, expected
):
    cfg = cfg_with(train, test)
    assign_datasets(cfg, names, opts, eval_only=eval_only)
    found = (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    assert found == expected


@pytest.mark.parametrize(
    ("names", "eval_only", "key", "words"),
    [
        ("", False, "DATASETS.TRAIN", ["--dataset my_train="]),
        ("", True, "DATASETS.TEST", ["--dataset my_test="]),
        ("abc", False, "DATASETS.TRAIN", ["(a, b, c)", "DATASETS.TRAIN \"('a',)\""]),
        ("ab", True, "DATASETS.TEST", ["(a, b)"]),
    ],
)
def test_an_empty_list_is_reported_with_the_datasets_to_choose_from(names, eval_only, key, words):
    cfg = cfg_with((), ())
    (fault,) = find_empty_datasets(cfg, names, eval_only=eval_only)
    check_error(fault, *words, key=key)
    assert find_empty_datasets(cfg_with(("a",), ("b",)), names, eval_only=eval_only) == []
