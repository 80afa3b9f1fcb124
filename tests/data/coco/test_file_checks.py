"""Checks of the files of one dataset."""

import pytest

from fcos_d2.data.coco.file_checks import find_image_faults
from fcos_d2.errors import InputError


def test_all_faults_of_a_dataset_are_in_one_error(own_data, register_own):
    images, annotations = own_data.train["images"], own_data.train["annotations"]
    annotations[0]["category_id"] = 9
    annotations[1]["keypoints"] = "abc"
    images[0]["file_name"] = "no.png"
    with pytest.raises(InputError) as error:
        register_own()
    files = [own_data.file("train")] * 2 + [str(own_data.images / "no.png")]
    assert [fault.file for fault in error.value.faults] == files


def test_all_missing_images_are_in_one_finding(tmp_path):
    files = [str(tmp_path / f"{i}.png") for i in range(3)]
    (tmp_path / "1.png").write_bytes(b"1")
    (finding,) = find_image_faults(files)
    assert (finding.count, finding.entries) == (2, [files[0], files[2]])
    assert finding.file == files[0]
    assert "2 of 3 images" in finding.text
