"""Training with images that cannot be used: the error names the file, or they are left out."""

from pathlib import Path

import numpy as np
import pytest
from input_errors import check_error
from PIL import Image


def truncate(file):
    file.write_bytes(file.read_bytes()[:3000])


def write_text(file):
    file.write_text("<html>404</html>")


def replace_by_32_x_32(file):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(file)


def swap_sides(file):
    Image.fromarray(np.zeros((96, 64, 3), np.uint8)).save(file)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, ["truncated"]),
        (write_text, ["HTML page"]),
        (swap_sides, ["64 x 96", "swapped in the annotations"]),
        (replace_by_32_x_32, ["32 x 32", "96 x 64"]),
    ],
    ids=["truncated", "text", "swapped", "another size"],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_the_error_about_a_damaged_image_names_its_file(
    own_data, monkeypatch, capfd, damage, words, workers
):
    file = own_data.images / "1.png"
    damage(file)
    error = own_data.error(monkeypatch, f"DATALOADER.NUM_WORKERS={workers}")
    check_error(error, file.name, *words, file=file)
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err
    if damage is truncate:  # the others are found before training
        assert "Traceback" in (own_data.output / "log.txt").read_text()


@pytest.mark.parametrize("workers", [0, 1])
def test_missing_and_damaged_images_of_the_training_set_are_left_out_on_request(
    own_data, monkeypatch, package_log, workers
):
    for i in range(3, 6):  # copies of the good image 2.png
        own_data.train["images"].append({**own_data.train["images"][1], "id": i + 10})
    good = own_data.train["images"][1:]
    for name, damage in (("no.png", None), ("page.png", write_text), ("cut.png", truncate)):
        own_data.train["images"].append({**good[0], "id": len(name) + 20, "file_name": name})
        if damage:
            (own_data.images / name).write_bytes((own_data.images / "2.png").read_bytes())
            damage(own_data.images / name)
    own_data.write()
    skip = ["FCOS_TRAIN.SKIP_UNREADABLE_IMAGES=True", f"DATALOADER.NUM_WORKERS={workers}"]
    own_data.run(monkeypatch, own_data.arguments(*skip, "SOLVER.MAX_ITER=6"))
    assert (own_data.output / "model_final.pth").is_file()
    missing = [x for x in package_log.messages if "left out" in x or "leaves them out" in x]
    assert any("no.png" in x for x in missing)
    assert any("page.png" in x for x in missing)


SKIP = "FCOS_TRAIN.SKIP_UNREADABLE_IMAGES"


@pytest.mark.parametrize("is_set", [False, True])
def test_images_of_the_test_set_are_never_left_out(own_data, monkeypatch, is_set):
    own_data.val["images"][0]["file_name"] = "no.png"
    error = own_data.error(monkeypatch, f"{SKIP}={is_set}")
    check_error(error, "no.png", "folder", file=own_data.images / "no.png")
    assert SKIP not in error.text


@pytest.mark.parametrize(("name", "damage"), [("no.png", Path.unlink), ("cut.png", write_text)])
def test_leaving_out_images_is_advised_where_it_would_help(own_data, monkeypatch, name, damage):
    (own_data.images / name).write_bytes(b"")
    damage(own_data.images / name)
    own_data.train["images"][0]["file_name"] = name
    check_error(own_data.error(monkeypatch), f"{SKIP} True", file=own_data.images / name)
    for image in own_data.train["images"]:
        image["file_name"] = name
    error = own_data.error(monkeypatch, f"{SKIP}=True")
    check_error(error, name, file=own_data.images / name)
    assert SKIP not in error.text


def test_a_training_set_in_which_nothing_can_be_decoded_is_refused(own_data, monkeypatch):
    for name in ("1.png", "2.png"):
        truncate(own_data.images / name)
    error = own_data.error(monkeypatch, "FCOS_TRAIN.SKIP_UNREADABLE_IMAGES=True")
    check_error(error, "2 of 2", "1.png", file=own_data.images / "1.png")
