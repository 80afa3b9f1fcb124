"""``fcos-d2 check-dataset``: its description of a dataset, its warnings and its errors."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from input_errors import check_error, command_error
from PIL import Image

from fcos_d2 import cli

NO_MISTAKE = "No mistake"  # begins the last line if training could start


def check_dataset(*arguments):
    cli.main(["check-dataset", *map(str, arguments)])


@pytest.fixture
def check(own_data, package_log, monkeypatch):
    """Return a function that checks the training set and returns the text of the warnings."""
    # With detectron2's logger setup, the lines would not reach caplog.
    monkeypatch.setattr(cli, "log_to_terminal", lambda: None)

    def run(*flags):
        own_data.write()
        package_log.clear()
        check_dataset(own_data.file("train"), own_data.images, *flags)
        return package_log.text

    return run


def test_a_good_dataset_gives_no_warning_and_stays_unregistered(check, capsys):
    assert check("--decode") == ""
    assert NO_MISTAKE in capsys.readouterr().out
    assert "train" not in DatasetCatalog


def test_the_description_counts_images_boxes_and_sizes_of_classes(own_data, capsys):
    own_data.train["annotations"][0]["bbox"] = [3, 3, 0, 5]
    own_data.write()
    check_dataset(own_data.file("train"), own_data.images)
    printed = capsys.readouterr().out
    assert "2 images, 0 of them without boxes; 4 boxes" in printed
    (row,) = (line for line in printed.splitlines() if line.startswith("| cat"))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["cat", "1", "0", "0", "0", "1"]
    assert NO_MISTAKE in printed


def test_class_names_are_printed_as_they_are_and_break_no_table(own_data, capsys):
    names = ["007", "1e3", "a|b", "a\nb", "\x1b[31mred", "\u732b"]
    own_data.train["categories"] += [{"id": i, "name": x} for i, x in enumerate(names, 7)]
    own_data.write()
    check_dataset(own_data.file("train"), own_data.images)
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("| ")]
    cells = [re.split(r"(?<!\\)\|", line) for line in lines]
    assert {len(x) for x in cells} == {8}
    printed = [x[1].strip() for x in cells]
    assert printed == [
        *("class", "cat", "dog", "007", "1e3", "a\\|b", "a\\nb", "\\x1b[31mred", "\u732b")
    ]


def test_damaged_images_are_found_only_by_decoding(own_data):
    own_data.write()
    file = own_data.images / "2.png"
    file.write_bytes(file.read_bytes()[:3000])
    arguments = [own_data.file("train"), own_data.images]
    check_dataset(*arguments)
    error = command_error(check_dataset, *arguments, "--decode")
    check_error(error, "1 of 2 images", "damaged", "2.png", "truncated", file=file)


def test_the_headers_of_all_images_are_read_with_a_progress_bar(own_data, capsys):
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(own_data.images / "2.png")
    own_data.write()
    error = command_error(check_dataset, own_data.file("train"), own_data.images)
    check_error(error, "1 of 2 images", "9 x 9", "96 x 64", file=own_data.images / "2.png")
    assert "2/2" in capsys.readouterr().err


def test_without_images_there_is_no_progress_bar(own_data, capsys):
    for image in own_data.train["images"]:
        image["file_name"] = f"no{image['id']}.png"
    own_data.write()
    error = command_error(check_dataset, own_data.file("train"), own_data.images)
    check_error(error, "2 of 2 images", file=own_data.images / "no1.png")
    assert "headers" not in capsys.readouterr().err


def test_swapped_arguments_are_recognized(own_data):
    own_data.write()
    file, folder = own_data.file("train"), str(own_data.images)
    check_error(command_error(check_dataset, folder, file), f"{folder} is a folder", "wrong way")
    error = command_error(check_dataset, folder, folder)
    check_error(error, f"{folder} is a folder")
    assert "wrong way" not in error.text
    check_error(command_error(check_dataset, file, file), f"{file} is a file")


def test_overrides_are_refused_because_there_is_no_config(tmp_path):
    error = command_error(check_dataset, "a.json", tmp_path, "MODEL.DEVICE", "cpu")
    check_error(error, key="MODEL.DEVICE")


def test_errors_call_the_dataset_by_the_stem_of_its_annotation_file(own_data):
    own_data.write()
    nowhere = own_data.folder / "nowhere"
    error = command_error(check_dataset, own_data.file("train"), nowhere)
    check_error(error, "'train'", "exist", file=nowhere)


def test_the_file_may_have_the_name_of_a_registered_dataset(own_data, few_shapes, capsys):
    own_data.write()
    file = (own_data.folder / "train.json").rename(own_data.folder / "shapes_val.json")
    check_dataset(file, own_data.images)
    assert NO_MISTAKE in capsys.readouterr().out
    assert "shapes_val" in DatasetCatalog


def test_a_dataset_without_boxes_is_refused(check, own_data, capsys):
    own_data.train["annotations"] = []
    check_error(
        command_error(check), "no box to learn from", "is empty", file=own_data.file("train")
    )
    assert NO_MISTAKE not in capsys.readouterr().out
    assert "train" not in DatasetCatalog


def test_all_faults_and_warnings_of_a_file_are_in_one_report(check, own_data, capsys, package_log):
    first, second = own_data.train["annotations"][:2]
    first["category_id"], first["area"], second["bbox"] = 9, None, "nothing"
    error = command_error(check)
    check_error(error, "category_id = 9", "bbox = 'nothing'", file=own_data.file("train"))
    assert "area = None" in package_log.text
    assert NO_MISTAKE not in capsys.readouterr().out


def test_json_has_all_findings_with_the_ids_of_all_entries(check, own_data, capsys):
    for entry in own_data.train["annotations"]:
        del entry["iscrowd"]
    own_data.train["annotations"][0]["bbox"] = [3, 3, 0, 5]
    check("--json")
    (crowd, area) = json.loads(capsys.readouterr().out)["findings"]
    assert (crowd["kind"], crowd["count"]) == ("iscrowd_missing", 4)
    assert crowd["entries"] == [10, 11, 20, 21]
    assert (area["kind"], area["value"], area["file_name"]) == (
        "box_no_area",
        [3, 3, 0, 5],
        "1.png",
    )
    assert "1 box " in area["text"]
    assert not area["is_fatal"]


def test_json_is_printed_before_an_error(check, own_data, capsys):
    own_data.train["annotations"][0]["category_id"] = 9
    command_error(check, "--json")
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["kind"], finding["is_fatal"]) == ("annotation_category", True)
    own_data.train = None
    Path(own_data.file("train")).unlink()
    command_error(check, "--json")
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["file"] == own_data.file("train")


def test_json_has_no_values_that_json_does_not_have(check, own_data, capsys):
    own_data.train["annotations"][0]["bbox"] = [float("nan"), 2, 3, 4]
    own_data.train["annotations"][1]["area"] = float("inf")
    own_data.train["annotations"][2]["id"] = float("nan")
    check("--json")
    text = capsys.readouterr().out
    values = [x["value"] for x in json.loads(text, parse_constant=pytest.fail)["findings"]]
    assert sorted(values) == ["[nan, 2, 3, 4]", "inf", "nan"]


def test_only_decoding_reads_pixels(check, capsys):
    check()
    assert "No pixel was read" in capsys.readouterr().out
    check("--decode")
    assert "No pixel" not in capsys.readouterr().out


def test_a_test_set_without_annotations_is_accepted_for_an_evaluation(check, own_data, capsys):
    del own_data.train["annotations"]
    assert "'annotations'" in check()
    printed = capsys.readouterr().out
    assert "2 images, 2 of them without boxes; 0 boxes" in printed
    assert "an evaluation" in printed


def test_a_file_that_is_listed_twice_causes_a_warning(check, own_data):
    own_data.train["images"][1]["file_name"] = "./1.png"
    (warning,) = check().splitlines()
    assert "1 file " in warning
    assert "'1.png'" in warning


def test_annotations_of_unlisted_images_are_not_counted(check, own_data, capsys):
    own_data.train["annotations"][0].update(image_id=99, bbox="nothing")
    (warning,) = check().splitlines()
    assert "1 annotation " in warning
    assert "image_id = 99" in warning
    assert "2 images, 0 of them without boxes; 3 boxes" in capsys.readouterr().out


def test_gray_of_16_bits_is_a_warning_with_the_range(check, own_data, capsys):
    Image.fromarray(np.full((64, 96), 999, np.uint16)).save(own_data.images / "1.tif")
    own_data.train["images"][0]["file_name"] = "1.tif"
    (warning,) = check("--decode").splitlines()
    assert "1 of 2 images" in warning
    assert "16 bits" in warning
    assert "from 999 to 999" in warning
    assert NO_MISTAKE in capsys.readouterr().out


def test_pixels_of_32_bits_are_refused(check, own_data):
    Image.fromarray(np.full((64, 96), 999, np.float32)).save(own_data.images / "1.tif")
    own_data.train["images"][0]["file_name"] = "1.tif"
    error = command_error(check)
    check_error(error, "32 bits", "from 999 to 999", file=own_data.images / "1.tif")
