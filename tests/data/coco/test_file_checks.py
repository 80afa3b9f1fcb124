"""Checks of one annotation file."""

import pytest

from fcos_d2.data.coco.file_checks import sorted_categories
from fcos_d2.errors import InputError


def test_all_faults_of_a_file_are_in_one_error(own_data, register_own):
    images, annotations = own_data.train["images"], own_data.train["annotations"]
    annotations[1]["id"] = annotations[0]["id"]
    annotations[0]["category_id"] = 9
    annotations[1]["keypoints"] = "abc"
    images[0]["file_name"] = "no.png"
    with pytest.raises(InputError) as error:
        register_own()
    files = [own_data.file("train")] * 3 + [str(own_data.images / "no.png")]
    assert [fault.file for fault in error.value.faults] == files


def test_the_error_names_the_first_wrong_entry_of_each_list(own_data, register_own):
    for entry in own_data.train["images"]:
        entry["id"] = None
    own_data.train["categories"][0].pop("name")
    with pytest.raises(InputError) as error:
        register_own()
    assert ["[0]" in fault.text for fault in error.value.faults] == [True, True]


def test_classes_are_in_the_order_of_ids_not_of_the_file(own_data):
    own_data.train["categories"].reverse()
    assert [x["name"] for x in sorted_categories(own_data.train)] == ["cat", "dog"]
