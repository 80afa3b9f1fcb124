"""Training with images that cannot be used: the error names the file, also from a worker."""

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
        (write_text, ["identify"]),
        (swap_sides, ["(64, 96)", "EXIF"]),
        (replace_by_32_x_32, ["(32, 32)", "(96, 64)"]),
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
    check_error(error, str(file), *words, file=file)
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err
    assert "Traceback" in (own_data.output / "log.txt").read_text()
