"""Reading annotation files: the dataset dicts are those of detectron2's load_coco_json."""

import bz2
import copy
import gc
import gzip
import json
import lzma
import pickle
import random

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json
from input_errors import input_error

from fcos_d2.data.coco import make_dataset_dicts, normalize
from fcos_d2.data.coco.reading import parse_json
from fcos_d2.errors import InputError

TRIANGLE, LINE, ODD = [1.0, 2.0, 9.5, 2.0, 5.0, 8.0], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]
SEGMENTATIONS = [
    [],
    None,
    "",
    {},
    [TRIANGLE],
    [TRIANGLE, LINE, ODD, TRIANGLE],
    {"counts": [10, 20, 6114], "size": [64, 96]},
    {"counts": "0PP6", "size": [64, 96]},
]
KEYPOINTS = [[], None, [3, 4, 2], [1.5, 2, 0, 7, 8, 1]]


def annotation(annotation_id, image_id, **more):
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 7,
        "area": 4.0,
        "bbox": [1, 2.5, 3, 4],
        **more,
    }


def content_of(annotations):
    """Return the content of a file whose images and categories are not in the order of ids."""
    return {
        "images": [
            {"id": 9, "file_name": "a/b/9.png", "height": 64, "width": 96.0, "license": 1},
            {"id": 2, "file_name": "2.png", "height": 64, "width": 96},
            {"id": 5, "file_name": "/elsewhere/5.png", "height": 64, "width": 96},
        ],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


CASES = {
    "none": [],
    "interleaved": [annotation(4, 9), annotation(3, 2), annotation(1, 9), annotation(2, 2)],
    "unknown image": [annotation(1, 77), annotation(2, 9)],
    "crowd": [annotation(1, 9, iscrowd=1), annotation(2, 9, iscrowd=0), annotation(3, 2)],
    "categories": [annotation(1, 9, category_id=3), annotation(2, 9, category_id=7)],
    "segmentation": [annotation(i, 9, segmentation=x) for i, x in enumerate(SEGMENTATIONS, 1)],
    "keypoints": [annotation(i, 9, keypoints=x) for i, x in enumerate(KEYPOINTS, 1)],
    "other fields": [annotation(1, 2, num_keypoints=0, score=0.5, ignore=0)],
}


def load_with_detectron2(tmp_path, content, name="oracle"):
    file = tmp_path / "oracle.json"
    file.write_text(json.dumps(content))
    try:
        dicts = load_coco_json(str(file), "images/of", name)
    finally:
        MetadataCatalog.remove(name)
    for entry in (x for image in dicts for x in image["annotations"]):
        entry.setdefault("iscrowd", 0)  # as in normalized content
    return dicts


def make_normalized_dicts(content):
    """Make the dataset dicts of content that is normalized before."""
    normalized, findings = normalize(copy.deepcopy(content))
    assert not any(x.is_fatal for x in findings), findings
    return make_dataset_dicts(normalized, "images/of", {3: 0, 7: 1})


@pytest.mark.parametrize("case", CASES)
def test_dataset_dicts_are_those_of_detectron2(tmp_path, case):
    content = content_of(CASES[case])
    dicts = make_normalized_dicts(content)
    assert dicts == load_with_detectron2(tmp_path, content)
    assert [x["image_id"] for x in dicts] == [2, 5, 9]


@pytest.mark.parametrize("seed", range(5))
def test_random_dataset_dicts_are_those_of_detectron2(tmp_path, seed):
    rng = random.Random(seed)
    annotations = [
        annotation(
            i,
            rng.choice([2, 5, 9, 77]),
            category_id=rng.choice([3, 7]),
            **rng.choice([{}, {"iscrowd": rng.randrange(2)}]),
            **rng.choice([{}, {"segmentation": rng.choice(SEGMENTATIONS)}]),
            **rng.choice([{}, {"keypoints": rng.choice(KEYPOINTS)}]),
        )
        for i in range(1, 80)
    ]
    content = content_of(annotations)
    dicts = make_normalized_dicts(content)
    assert dicts == load_with_detectron2(tmp_path, content)


def test_making_dataset_dicts_does_not_change_the_content_of_the_file():
    content = content_of([annotation(1, 9, keypoints=[3, 4, 2], segmentation=[TRIANGLE, LINE])])
    before = copy.deepcopy(content)
    make_dataset_dicts(content, "", {3: 0, 7: 1})
    assert content == before


def test_boxes_with_polygons_of_two_points_are_kept_without_them():
    # detectron2 drops such boxes.
    content = content_of([annotation(1, 9, segmentation=[LINE]), annotation(2, 9)])
    first, second = make_normalized_dicts(content)[2]["annotations"]
    assert first.pop("iscrowd") == second.pop("iscrowd") == 0
    assert first == second
    assert "segmentation" not in first


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (gzip.compress(b"{}"), "gzip"),
        (b"PK\x03\x04 and more", "ZIP"),
        (b"PK\x05\x06" + bytes(18), "empty ZIP"),
        (b"<annotation>\n\t<folder>", "XML"),
        (b"\x28\xb5\x2f\xfd\x04", "Zstandard"),
        (pickle.dumps({}), "JSON"),
        *((pickle.dumps(x, protocol), "pickle") for x in ({"a": 1}, [1]) for protocol in (0, 1)),
        (pickle.dumps(np.zeros(2), 0), "pickle"),
        (b"PAR1\x15\x04", "Parquet"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "HTML"),
        (b'<?xml version="1.0"?><annotations>', "XML"),
        (bz2.compress(b"{}"), "bzip2"),
        (lzma.compress(b"{}"), "xz"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (b"train.json".ljust(257, b"\0") + b"ustar\x0000", "tar"),
        (b"%PDF-1.7", "PDF"),
        (b"\x89PNG\r\n\x1a\n\0\0", "an image"),
        (b"\xff\xd8\xff\xe0", "an image"),
    ],
    ids=[
        "gzip",
        "zip",
        "empty zip",
        "VOC",
        "zstd",
        "pickle",
        "dict in pickle 0",
        "dict in pickle 1",
        "list in pickle 0",
        "list in pickle 1",
        "array in pickle 0",
        "Parquet",
        "LFS",
        "HTML",
        "XML",
        "bz2",
        "xz",
        "7z",
        "tar",
        "PDF",
        "PNG",
        "JPEG",
    ],
)
def test_files_that_are_not_json_are_named_by_their_first_bytes(tmp_path, raw, word):
    file = tmp_path / "train.json"
    file.write_bytes(raw)
    with input_error(word, file=file):
        parse_json(file)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf_8_is_read_with_and_without_a_mark_at_its_start(tmp_path, encoding):
    file = tmp_path / "train.json"
    file.write_text('["\u00e4"]', encoding=encoding)
    assert parse_json(file) == ["\u00e4"]


def test_parsing_restores_garbage_collection(tmp_path):
    file = tmp_path / "bad.json"
    file.write_text("{")
    with pytest.raises(InputError):
        parse_json(file)
    assert gc.isenabled()
    file.write_text("[[1]]")
    gc.disable()
    try:
        assert parse_json(file) == [[1]]
        assert not gc.isenabled()  # the state before
    finally:
        gc.enable()
