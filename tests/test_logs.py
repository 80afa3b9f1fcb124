"""The lines that a run prints, and the lines of its log file."""

import logging

import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json

from fcos_d2.cli import train
from fcos_d2.logs import log_to_terminal


def test_a_second_run_in_the_process_has_its_own_log_and_prints_each_line_once(
    own_data, monkeypatch, capsys
):
    own_data.write()

    def run(name):
        output = own_data.folder / name
        own_data.run(monkeypatch, own_data.arguments("OUTPUT_DIR", str(output)))
        return output / "log.txt"

    line = "Starting training from iteration 0"
    first = run("first")
    before = first.read_text()
    capsys.readouterr()
    second = run("second")
    assert first.read_text() == before
    assert before.count(line) == second.read_text().count(line) == 1
    assert capsys.readouterr().out.count(line) == 1
    third = run("first")  # detectron2 has kept the stream of the first log file
    assert third.read_text().count(line) == 2
    assert second.read_text().count(line) == 1
    assert capsys.readouterr().out.count(line) == 1


@pytest.mark.parametrize("name", ["fcos_d2", "detectron2"])
def test_handlers_that_the_user_has_added_to_a_logger_are_kept(own_data, monkeypatch, name):
    own_data.write()
    handler = logging.StreamHandler()
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        own_data.run(monkeypatch, own_data.arguments())
        assert handler in logger.handlers
    finally:
        logger.removeHandler(handler)


def damaged_images(own_data):
    """Cut off the pixels of the training images; their headers stay."""
    for name in ("1.png", "2.png"):
        file = own_data.images / name
        file.write_bytes(file.read_bytes()[:60])
    return []


def no_weights(own_data):
    """Return the override that sets a missing weights file."""
    return [f"MODEL.WEIGHTS={own_data.folder}/nowhere.pth"]


# The first error is raised in the training loop of detectron2, the second one before the loop.
@pytest.mark.parametrize("damage", [damaged_images, no_weights])
def test_the_log_keeps_the_traceback_of_an_input_error_and_the_terminal_does_not(
    own_data, monkeypatch, capsys, damage
):
    error = own_data.error(monkeypatch, *damage(own_data))
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    log = (own_data.output / "log.txt").read_text()
    assert "Traceback" in log
    assert error.text.splitlines()[0] in log


def test_a_bug_is_raised_unchanged_and_its_traceback_is_in_the_log(own_data, monkeypatch, capsys):
    own_data.write()
    own_data.output.mkdir()
    monkeypatch.setattr(train.Trainer, "train", lambda _: {}["bug"])
    with pytest.raises(KeyError, match="bug"):
        own_data.run(monkeypatch, own_data.arguments())
    assert (
        "Traceback" not in capsys.readouterr().out
    )  # Python would print it when the process ends.
    log = (own_data.output / "log.txt").read_text()
    assert log.count("KeyError: 'bug'") == 1


def test_category_ids_that_do_not_count_from_1_cause_no_warning(own_data, package_log):
    for category in own_data.train["categories"]:
        category["id"] -= 1
    for annotation in own_data.train["annotations"]:
        annotation["category_id"] -= 1
    own_data.write()
    log_to_terminal()
    assert len(load_coco_json(own_data.file("train"), str(own_data.images), "from_0")) == 2
    MetadataCatalog.remove("from_0")
    assert [x for x in package_log.records if x.levelname == "WARNING"] == []
