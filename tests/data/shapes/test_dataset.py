"""The drawn data sets: what is in them, that it is described truly, and how it gets to the disk."""

import errno
import hashlib
import importlib
import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fcos_d2.data.shapes import annotation as shapes_annotation
from fcos_d2.data.shapes import dataset as shapes_dataset
from fcos_d2.data.shapes import paint as shapes_paint
from fcos_d2.data.shapes import scene as shapes
from fcos_d2.data.shapes.annotation import annotate_scene, find_polygons
from fcos_d2.data.shapes.dataset import (
    NUM_SHAPES_IMAGES,
    load_shapes,
    make_shapes,
    register_shapes,
)
from fcos_d2.data.shapes.scene import draw_scene
from fcos_d2.data.shapes.spec import RECIPE_VERSION, SHAPE_CLASSES, SIZE_RANGE
from fcos_d2.errors import InputError

CROWD_INDEX, EMPTY_INDEX = 12, 6


@pytest.fixture(scope="module")
def scenes():
    """150 of each split, with their annotations."""
    drawn = {split: [draw_scene(split, i) for i in range(150)] for split in ("train", "val")}
    return {split: [(s, annotate_scene(s)) for s in drawn[split]] for split in drawn}


@pytest.fixture
def tiny_sets(tmp_path):
    """Registers 14 training and 13 validation images under tmp_path, the last ones with a crowd."""
    register_shapes(tmp_path, {"train": 14, "val": 13})
    yield tmp_path
    register_shapes()


def _all_pairs(scenes):
    return scenes["train"] + scenes["val"]


def _decode(annotation, shape):
    """The mask that an annotation's segmentation stands for, by COCO's own code."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, *shape))
    return mask_util.decode(segmentation).astype(bool)


# ---- What is drawn


@pytest.mark.parametrize(
    ("split", "expected"),
    [("train", "45bbe4ef9a4f7db8"), ("val", "e5fd8d4f8928b9f3")],
)
def test_first_scenes_are_the_known_ones(split, expected):
    """After a change on purpose, raise RECIPE_VERSION and put in the new hashes."""
    digest = hashlib.sha256(str(RECIPE_VERSION).encode())
    for index in range(20):
        scene = draw_scene(split, index)
        digest.update(scene.image.tobytes())
        digest.update(json.dumps(annotate_scene(scene)).encode())
    assert digest.hexdigest()[:16] == expected


def test_a_scene_does_not_depend_on_what_was_drawn_before():
    alone = draw_scene("val", 3)
    draw_scene("train", 3)
    again = draw_scene("val", 3)
    assert np.array_equal(alone.image, again.image)
    assert np.array_equal(alone.owner, again.owner)


def test_train_and_val_have_no_image_in_common(scenes):
    digests = [hashlib.sha256(scene.image).digest() for scene, _ in _all_pairs(scenes)]
    assert len(set(digests)) == len(digests) == 300


def test_images_are_rgb_bytes_of_192_to_256_pixels_a_side(scenes):
    for scene, _ in _all_pairs(scenes):
        assert scene.image.dtype == np.uint8
        assert scene.image.shape == (*scene.owner.shape, 3)
        assert 192 <= min(scene.owner.shape) <= max(scene.owner.shape) <= 256
    assert len({scene.owner.shape for scene, _ in _all_pairs(scenes)}) > 6


def test_one_scene_in_25_is_empty_and_one_has_a_crowd(scenes):
    for pairs in scenes.values():
        assert sum(not scene.classes for scene, _ in pairs) == 150 / 25
        assert sum(any(scene.is_crowd) for scene, _ in pairs) == 150 / 25
        assert max(sum(scene.is_crowd) for scene, _ in pairs) == 1
        assert 150 / 25 <= sum(len(scene.classes) > 20 for scene, _ in pairs) <= 2 * 150 / 25


def test_every_class_is_common_in_both_splits(scenes):
    for pairs in scenes.values():
        counts = Counter(label for scene, _ in pairs for label in scene.classes)
        assert set(counts) == set(range(len(SHAPE_CLASSES)))
        assert min(counts.values()) > 0.1 * sum(counts.values())  # a sixth each, but for the small


def test_sizes_are_spread_over_the_stated_range(scenes):
    objects = [a for _, annotations in _all_pairs(scenes) for a in annotations]
    sides = np.array([max(a["bbox"][2:]) for a in objects if not a["iscrowd"]])
    # A pixel more for edges inside pixels; a pixel less too, and 15 % that may be hidden.
    assert sides.min() >= 0.85 * SIZE_RANGE[0] - 1
    assert sides.max() <= SIZE_RANGE[1] + 1
    tiny, small, large = np.histogram(sides, [0, 16.3, 44.2, 200])[0] / len(sides)
    assert tiny > 0.04
    assert small > 0.25
    assert large > 0.4
    # By COCO's measure 41 % of COCO's objects are small.
    areas = np.array([a["area"] for a in objects if not a["iscrowd"]])
    assert 0.36 < (areas < 32**2).mean() < 0.46


def test_objects_keep_their_least_visible_area():
    canvas = shapes._Canvas(np.full((200, 300, 3), 128, np.float32))
    canvas.draw_objects(60, 120.0, np.random.Generator(np.random.PCG64(5)))
    visible = np.bincount(canvas.owner.ravel() + 1)[1:]
    assert len(visible) == len(canvas.classes) > 20
    assert np.all(visible >= canvas.least_areas)
    # Some are hidden in part: the test above is about something.
    assert np.any(visible < 1.5 * np.array(canvas.least_areas))


def test_objects_can_be_told_from_what_they_cover():
    under = np.full((8, 8, 3), (70, 120, 200), np.float32)
    for seed in range(50):
        first = shapes_paint.choose_colors(under, np.random.Generator(np.random.PCG64(seed)))[0]
        distance = np.sqrt(((first - under[0, 0]) ** 2 * np.array([2, 4, 3]) / 9).sum())
        assert distance >= shapes_paint.MIN_CONTRAST


# ---- How it is described


def test_segmentation_box_and_area_describe_the_same_pixels(scenes):
    checked = Counter()
    for scene, annotations in _all_pairs(scenes):
        assert len(annotations) == len(scene.classes)
        for index, annotation in enumerate(annotations):
            mask = scene.owner == index
            assert np.array_equal(_decode(annotation, mask.shape), mask)
            ys, xs = np.nonzero(mask)
            x, y, width, height = annotation["bbox"]
            # The last pixel is xs.max(); its right edge is one more.
            assert (x, y) == (xs.min(), ys.min())
            assert (x + width, y + height) == (xs.max() + 1, ys.max() + 1)
            assert annotation["area"] == len(xs) > 0
            assert annotation["category_id"] == scene.classes[index] + 1
            checked[annotation["iscrowd"]] += 1
    assert checked[0] > 1500
    assert checked[1] == 12


def test_box_of_columns_3_to_5_is_3_wide():
    owner = np.full((10, 12), -1, np.int16)
    owner[2:9, 3:6] = 0
    scene = shapes.Scene(np.zeros((10, 12, 3), np.uint8), owner, [1], [False])
    (annotation,) = annotate_scene(scene)
    assert annotation["bbox"] == [3.0, 2.0, 3.0, 7.0]
    assert annotation["area"] == 21.0
    (polygon,) = annotation["segmentation"]
    corners = {(3.0, 2.0), (6.0, 2.0), (6.0, 9.0), (3.0, 9.0)}
    assert set(zip(polygon[::2], polygon[1::2], strict=True)) == corners


def test_numbers_are_floats_because_transforms_scale_them_in_place(scenes):
    for _, annotations in _all_pairs(scenes):
        for annotation in annotations:
            numbers = [*annotation["bbox"], annotation["area"]]
            if not annotation["iscrowd"]:
                numbers += [n for polygon in annotation["segmentation"] for n in polygon]
            assert {type(n) for n in numbers} == {float}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_polygons_cover_any_mask_exactly(mask):
    polygons = find_polygons(mask)
    assert all(len(polygon) >= 4 for polygon in polygons)
    decoded = np.zeros_like(mask)
    for polygon in polygons:
        rles = mask_util.frPyObjects([polygon.ravel().astype(float).tolist()], *mask.shape)
        decoded |= mask_util.decode(rles)[..., 0].astype(bool)
    assert np.array_equal(decoded, mask)


# ---- How it gets to the disk


def _fail_at(index, error, monkeypatch):
    def draw(split, i):
        if i == index:
            raise error
        return draw_scene(split, i)

    monkeypatch.setattr(shapes_annotation, "draw_scene", draw)


def _visible_files(root):
    return sorted(p.name for p in (root / "shapes").iterdir() if not p.name.endswith(".lock"))


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt()])
def test_an_interrupted_drawing_leaves_nothing_and_the_next_one_works(error, tmp_path, monkeypatch):
    _fail_at(2, error, monkeypatch)
    with pytest.raises(type(error)):
        make_shapes(tmp_path, "train", 4)
    monkeypatch.undo()
    assert _visible_files(tmp_path) == []
    folder = make_shapes(tmp_path, "train", 4)
    assert _visible_files(tmp_path) == ["train"]
    assert len(list((folder / "images").iterdir())) == 4


def test_a_killed_drawing_leaves_nothing_that_counts(tmp_path, processes):
    victim = processes.Process(target=make_shapes, args=(tmp_path, "train", 1500))
    victim.start()
    _wait_for(lambda: list(tmp_path.glob("shapes/.train-*.partial/train/images/000003.png")))
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    assert len(list(tmp_path.glob("shapes/.train-*.partial"))) == 1
    assert not (tmp_path / "shapes" / "train").exists()
    make_shapes(tmp_path, "train", 2)
    assert _visible_files(tmp_path) == ["train"]


def test_two_processes_at_once_draw_one_set(tmp_path, processes):
    others = [processes.Process(target=make_shapes, args=(tmp_path, "val", 40)) for _ in range(2)]
    for other in others:
        other.start()
    folder = make_shapes(tmp_path, "val", 40)
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    assert _visible_files(tmp_path) == ["val"]
    assert len(list((folder / "images").iterdir())) == 40


@pytest.fixture
def processes():
    """Starts processes that have imported the package, without forking this one's threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fcos_d2.data.shapes.dataset"])
    return context


def _wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_complete_set_is_not_drawn_again(tmp_path, monkeypatch):
    folder = make_shapes(tmp_path, "val", 2)
    (tmp_path / "shapes" / "val.lock").unlink()  # as on a disk that is mounted for reading only
    _fail_at(0, AssertionError("drawn again"), monkeypatch)
    assert make_shapes(tmp_path, "val", 2) == folder
    assert _visible_files(tmp_path) == os.listdir(tmp_path / "shapes") == ["val"]


@pytest.mark.parametrize("content", [None, "{", "{}", '{"info": {"version": 0}}'])
def test_a_folder_that_is_not_ours_is_an_error_and_stays(content, tmp_path):
    folder = tmp_path / "shapes" / "train"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("precious")
    if content is not None:
        (folder / "annotations.json").write_text(content)
    with pytest.raises(InputError, match="DETECTRON2_DATASETS") as caught:
        make_shapes(tmp_path, "train", 2)
    assert caught.value.file == str(folder)
    assert (folder / "mine.txt").read_text() == "precious"


def test_a_set_of_another_recipe_or_size_is_an_error(tmp_path, monkeypatch):
    make_shapes(tmp_path, "train", 2)
    with pytest.raises(InputError, match="does not hold the 3 images"):
        make_shapes(tmp_path, "train", 3)
    monkeypatch.setattr(shapes_dataset, "RECIPE_VERSION", RECIPE_VERSION + 1)
    with pytest.raises(InputError, match=rf"recipe {RECIPE_VERSION + 1}.*version': 1"):
        make_shapes(tmp_path, "train", 2)


def test_an_unwritable_place_is_named_with_the_way_out(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="DETECTRON2_DATASETS") as caught:
        make_shapes(tmp_path / "file", "train", 2)
    assert caught.value.file == str(tmp_path / "file" / "shapes" / "train")


def test_a_full_disk_is_named_with_the_way_out_and_left_clean(tmp_path, monkeypatch):
    def write_bytes(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(InputError, match=r"No space left.*DETECTRON2_DATASETS") as caught:
        make_shapes(tmp_path, "train", 2)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert _visible_files(tmp_path) == []


def test_unknown_split_and_number_are_errors(tmp_path):
    with pytest.raises(InputError) as caught:
        make_shapes(tmp_path, "test")
    assert (caught.value.key, caught.value.value) == ("split", "test")
    with pytest.raises(InputError) as caught:
        make_shapes(tmp_path, "val", 0)
    assert (caught.value.key, caught.value.value) == ("num_images", 0)


# ---- How detectron2 sees it


def test_catalog_loads_what_was_drawn(tiny_sets):
    dicts = DatasetCatalog.get("shapes_train")
    assert [record["image_id"] for record in dicts] == list(range(14))
    assert dicts[EMPTY_INDEX]["annotations"] == []
    assert [a["iscrowd"] for a in dicts[CROWD_INDEX]["annotations"]].count(1) == 1
    scene = draw_scene("train", 1)
    annotations = annotate_scene(scene)
    assert dicts[1]["file_name"].endswith("000001.png")
    assert (dicts[1]["height"], dicts[1]["width"]) == scene.owner.shape
    assert [a["category_id"] for a in dicts[1]["annotations"]] == scene.classes
    assert [a["bbox"] for a in dicts[1]["annotations"]] == [a["bbox"] for a in annotations]


def test_png_files_hold_the_drawn_pixels(tiny_sets):
    record = load_shapes(tiny_sets, "val", 13)[5]
    assert np.array_equal(read_image(record["file_name"], "RGB"), draw_scene("val", 5).image)


def test_registering_again_moves_the_sets_also_after_a_reload(tmp_path, monkeypatch):
    register_shapes(tmp_path / "a")
    register_shapes(tmp_path / "b", {"val": 2})
    assert MetadataCatalog.get("shapes_train").image_root.startswith(str(tmp_path / "a"))
    assert MetadataCatalog.get("shapes_val").json_file.startswith(str(tmp_path / "b"))
    assert not list(tmp_path.iterdir())  # nothing is drawn
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/somewhere")
    importlib.reload(shapes_dataset).register_shapes()
    expected = os.path.expanduser("~/somewhere/shapes/val/annotations.json")
    assert MetadataCatalog.get("shapes_val").json_file == expected
    monkeypatch.undo()
    register_shapes()
    assert MetadataCatalog.get("shapes_val").evaluator_type == "coco"


def test_a_name_that_someone_else_registered_is_not_taken(monkeypatch):
    monkeypatch.setitem(DatasetCatalog.data, "shapes_train", lambda: [])
    with pytest.raises(InputError, match=f"'shapes_train' is registered already, by {__name__}"):
        register_shapes()


def test_default_sets_have_1500_and_300_images():
    assert dict(NUM_SHAPES_IMAGES) == {"train": 1500, "val": 300}
    for split, count in NUM_SHAPES_IMAGES.items():
        assert DatasetCatalog[f"shapes_{split}"].args[1:] == (split, count)


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 100.0), (1000.0, 0.0)])
def test_evaluator_gives_100_to_the_ground_truth_and_0_to_nonsense(tiny_sets, shift, expected):
    dicts = DatasetCatalog.get("shapes_val")
    evaluator = COCOEvaluator("shapes_val", tasks=("bbox",), distributed=False, use_fast_impl=False)
    evaluator.reset()
    for record in dicts:
        wanted = [a for a in record["annotations"] if not a["iscrowd"]]
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in wanted]
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4) + shift)
        instances.pred_classes = torch.tensor([a["category_id"] for a in wanted], dtype=torch.int64)
        instances.scores = torch.ones(len(wanted))
        evaluator.process([record], [{"instances": instances}])
    results = evaluator.evaluate()["bbox"]
    assert results["AP"] == pytest.approx(expected)
    assert {f"AP-{name}" for name in SHAPE_CLASSES} <= set(results)
