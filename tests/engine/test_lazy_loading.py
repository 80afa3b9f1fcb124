"""Running the file of a LazyConfig, and setting its keys from the command line."""

import pytest
from tiny_lazy import REGNET, REGNET_ON_SHAPES, run_lazy

from fcos_d2.engine import prepare_lazy_config
from fcos_d2.errors import InputError

# (override, key of the error, value of the error, text that the message must contain)
OVERRIDES = [
    ("SOLVER.MAX_ITER", "SOLVER.MAX_ITER", None, "KEY=VALUE"),
    ("train.max_itr=3", "train.max_itr", None, "'train.max_iter'?"),
    ("trian.max_iter=3", "trian.max_iter", None, "'train.max_iter'?"),
    ("train.max_iter.x=3", "train.max_iter.x", None, "no key"),
    ("train.max_iter=[", "train.max_iter", "[", "applied"),
    ("~train.max_iter=", "~train.max_iter", None, "no key"),
    (
        "dataloader.train.mapper.augmentations.7.prob=1",
        "dataloader.train.mapper.augmentations.7.prob",
        None,
        "no key",
    ),
]


@pytest.mark.parametrize(("override", "key", "value", "word"), OVERRIDES)
def test_an_override_that_cannot_be_applied_is_an_error(
    few_shapes, tmp_path, override, key, value, word
):
    with pytest.raises(InputError) as caught:
        run_lazy(tmp_path, override)
    assert (caught.value.key, caught.value.value) == (key, value)
    assert word in caught.value.text


# (content of mine.py, texts that the message must contain)
FILES = [
    (None, ["mine.py", "does not exist"]),
    ("train = dict(", ["mine.py", "SyntaxError"]),
    ("train = dict()\nmodel = nothing\n", ["mine.py, line 2", "NameError", "'nothing'"]),
    ("from .other import model\n", ["mine.py, line 1", "ImportError", "other.py"]),
]


@pytest.mark.parametrize(("content", "words"), FILES)
def test_a_file_that_cannot_be_run_is_an_error_with_its_line(tmp_path, content, words):
    file = tmp_path / "mine.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError) as caught:
        prepare_lazy_config(str(file), [])
    assert caught.value.file == str(file)
    assert all(word in caught.value.text for word in words)


def test_the_error_about_a_file_without_some_parts_names_them(tmp_path):
    (tmp_path / "mine.py").write_text("train = 5\n")
    with pytest.raises(InputError, match=r"model, train\.device, train\.output_dir") as caught:
        prepare_lazy_config(str(tmp_path / "mine.py"), [])
    assert caught.value.key == "model"


def test_a_plus_adds_a_new_key(few_shapes, tmp_path):
    keys = [*REGNET_ON_SHAPES, f"train.output_dir={tmp_path}", "+train.seed=3"]
    assert prepare_lazy_config(str(REGNET), keys).train.seed == 3


def test_a_file_may_import_names_that_are_not_parts_of_the_config(few_shapes, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from detectron2.config import LazyConfig\n"
        f"base = LazyConfig.load({str(REGNET)!r})\n"
        "model, dataloader, optimizer = base.model, base.dataloader, base.optimizer\n"
        "lr_multiplier, train = base.lr_multiplier, base.train\n"
    )
    keys = [*REGNET_ON_SHAPES, f"train.output_dir={tmp_path}"]
    assert prepare_lazy_config(str(file), keys).model.num_classes == 6


def test_a_bug_in_an_imported_module_is_reported_with_its_place(tmp_path, monkeypatch):
    (tmp_path / "lib_with_bug.py").write_text("x = 1\ny = x.nothing\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text("import lib_with_bug\n")
    with pytest.raises(InputError, match=r"lib_with_bug.py, line 2: AttributeError"):
        prepare_lazy_config(str(file), [])
