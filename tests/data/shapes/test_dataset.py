"""The drawn datasets on the disk and in detectron2's catalogs."""

import errno
import importlib
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import create_keypoint_hflip_indices, read_image
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from input_errors import input_error

from fcos_d2.data.shapes import annotation as shapes_annotation
from fcos_d2.data.shapes import dataset as shapes_dataset
from fcos_d2.data.shapes.annotation import annotate_scene
from fcos_d2.data.shapes.dataset import (
    NUM_SHAPES_IMAGES,
    load_shapes,
    make_shapes,
    register_shapes,
)
from fcos_d2.data.shapes.scene import draw_scene
from fcos_d2.data.shapes.spec import KEYPOINT_NAMES, RECIPE_VERSION, SHAPE_CLASSES

CROWD_INDEX, EMPTY_INDEX = 12, 6


@pytest.fixture
def tiny_sets(tmp_path):
    """Register sets of 14 and 13 images under tmp_path; image 12 of each has a crowd."""
    register_shapes(tmp_path, {"train": 14, "val": 13})
    yield tmp_path
    register_shapes()


def fail_at(index, error, monkeypatch):
    """Make drawing one of the images raise an error."""

    def draw(split, i):
        if i == index:
            raise error
        return draw_scene(split, i)

    monkeypatch.setattr(shapes_annotation, "draw_scene", draw)


def visible_files(root):
    return sorted(p.name for p in (root / "shapes").iterdir() if not p.name.endswith(".lock"))


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt()])
def test_an_interrupted_drawing_leaves_nothing_and_the_next_one_works(error, tmp_path, monkeypatch):
    fail_at(2, error, monkeypatch)
    with pytest.raises(type(error)):
        make_shapes(tmp_path, "train", 4)
    monkeypatch.undo()
    assert visible_files(tmp_path) == []
    folder = make_shapes(tmp_path, "train", 4)
    assert visible_files(tmp_path) == ["train"]
    assert len(list((folder / "images").iterdir())) == 4


def test_a_killed_process_leaves_no_set_that_looks_complete(tmp_path, processes):
    victim = processes.Process(target=make_shapes, args=(tmp_path, "train", 1500))
    victim.start()
    wait_for(lambda: list(tmp_path.glob("shapes/.train-*.partial/train/images/000003.png")))
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    assert len(list(tmp_path.glob("shapes/.train-*.partial"))) == 1
    assert not (tmp_path / "shapes" / "train").exists()
    make_shapes(tmp_path, "train", 2)
    assert visible_files(tmp_path) == ["train"]


def test_processes_that_draw_the_same_set_at_the_same_time_draw_it_once(tmp_path, processes):
    arguments = (tmp_path, "val", 40)
    started = [processes.Process(target=make_shapes, args=arguments) for _ in range(2)]
    for process in started:
        process.start()
    folder = make_shapes(*arguments)
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0]
    assert visible_files(tmp_path) == ["val"]
    assert len(list((folder / "images").iterdir())) == 40


@pytest.fixture
def processes():
    """Return a multiprocessing context whose processes have already imported the package."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fcos_d2.data.shapes.dataset"])
    return context


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_complete_set_is_not_drawn_again(tmp_path, monkeypatch):
    folder = make_shapes(tmp_path, "val", 2)
    (tmp_path / "shapes" / "val.lock").unlink()  # as on a read-only disk
    fail_at(0, AssertionError("drawn again"), monkeypatch)
    assert make_shapes(tmp_path, "val", 2) == folder
    assert visible_files(tmp_path) == os.listdir(tmp_path / "shapes") == ["val"]


@pytest.mark.parametrize("content", [None, "{", "{}", '{"info": {"version": 0}}'])
def test_a_folder_with_other_content_is_an_error_and_is_kept(content, tmp_path):
    folder = tmp_path / "shapes" / "train"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("precious")
    if content is not None:
        (folder / "annotations.json").write_text(content)
    with input_error("DETECTRON2_DATASETS", file=folder):
        make_shapes(tmp_path, "train", 2)
    assert (folder / "mine.txt").read_text() == "precious"


def test_a_set_of_another_recipe_or_size_is_an_error(tmp_path, monkeypatch):
    make_shapes(tmp_path, "train", 2)
    folder = tmp_path / "shapes" / "train"
    with input_error("3 images", file=folder):
        make_shapes(tmp_path, "train", 3)
    monkeypatch.setattr(shapes_dataset, "RECIPE_VERSION", RECIPE_VERSION + 1)
    with input_error(f"recipe {RECIPE_VERSION + 1}", "'version': 1", file=folder):
        make_shapes(tmp_path, "train", 2)


def test_earlier_annotations_are_updated_and_images_are_kept(tmp_path, package_log):
    folder = make_shapes(tmp_path, "train", 3)
    file, image = folder / "annotations.json", folder / "images" / "000001.png"
    current = file.read_text()
    earlier = json.loads(current)
    del earlier["info"]["annotation_version"]
    for annotation in earlier["annotations"]:
        del annotation["keypoints"], annotation["num_keypoints"]
    file.write_text(json.dumps(earlier))
    image.write_bytes(b"kept")
    package_log.clear()
    make_shapes(tmp_path, "train", 3)
    assert file.read_text() == current
    assert image.read_bytes() == b"kept"
    assert len([x for x in package_log.messages if str(folder) in x]) == 1
    make_shapes(tmp_path, "train", 3)
    assert len([x for x in package_log.messages if str(folder) in x]) == 1


def test_the_metadata_describe_the_keypoints():
    metadata = MetadataCatalog.get("shapes_train")
    assert metadata.keypoint_names == KEYPOINT_NAMES
    pairs = (("upper_left", "upper_right"), ("lower_left", "lower_right"))
    assert {*metadata.keypoint_flip_map} == {*pairs}
    assert len(metadata.keypoint_connection_rules) == 5
    assert create_keypoint_hflip_indices(["shapes_train", "shapes_val"]) == [0, 4, 3, 2, 1]


def test_the_error_about_an_unwritable_folder_names_it_and_the_environment_variable(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "shapes" / "train"
    with input_error("DETECTRON2_DATASETS", file=folder):
        make_shapes(tmp_path / "file", "train", 2)


def test_the_error_about_a_full_disk_names_the_environment_variable_and_no_files_are_left(
    tmp_path, monkeypatch
):
    def write_bytes(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    folder = tmp_path / "shapes" / "train"
    with input_error("No space left", "DETECTRON2_DATASETS", file=folder) as caught:
        make_shapes(tmp_path, "train", 2)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert visible_files(tmp_path) == []


def test_unknown_split_and_number_are_errors(tmp_path):
    with input_error(key="split", value="test"):
        make_shapes(tmp_path, "test")
    with input_error(key="num_images", value=0):
        make_shapes(tmp_path, "val", 0)


def test_the_catalog_loads_the_annotations_of_the_drawn_scenes(tiny_sets):
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


def test_png_files_have_the_drawn_pixels(tiny_sets):
    record = load_shapes(tiny_sets, "val", 13)[5]
    assert np.array_equal(read_image(record["file_name"], "RGB"), draw_scene("val", 5).image)


def test_registering_again_changes_the_folder_of_the_sets_also_after_a_reload(
    tmp_path, monkeypatch
):
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


def test_a_name_that_another_module_registered_is_not_replaced(monkeypatch):
    monkeypatch.setitem(DatasetCatalog.data, "shapes_train", lambda: [])
    with input_error(__name__, key="name", value="shapes_train"):
        register_shapes()


def test_default_sets_have_1500_and_300_images():
    assert dict(NUM_SHAPES_IMAGES) == {"train": 1500, "val": 300}
    for split, count in NUM_SHAPES_IMAGES.items():
        assert DatasetCatalog[f"shapes_{split}"].args[1:] == (split, count)


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 100.0), (1000.0, 0.0)])
def test_the_evaluator_computes_100_for_the_ground_truth_and_0_for_shifted_boxes(
    tiny_sets, shift, expected
):
    dicts = DatasetCatalog.get("shapes_val")
    evaluator = COCOEvaluator("shapes_val", tasks=("bbox",), distributed=False, use_fast_impl=False)
    evaluator.reset()
    for record in dicts:
        objects = [a for a in record["annotations"] if not a["iscrowd"]]
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4) + shift)
        instances.pred_classes = torch.tensor(
            [a["category_id"] for a in objects], dtype=torch.int64
        )
        instances.scores = torch.ones(len(objects))
        evaluator.process([record], [{"instances": instances}])
    results = evaluator.evaluate()["bbox"]
    assert results["AP"] == pytest.approx(expected)
    assert {f"AP-{name}" for name in SHAPE_CLASSES} <= set(results)
