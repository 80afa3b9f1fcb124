"""The dataset mapper: crowd boxes can be kept, and only faults of images are InputErrors."""

import copy
import sys
from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.data.common import MapDataset
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from input_errors import input_error
from PIL import Image
from tiny import tiny_cfg
from torch.utils.data import DataLoader

from fcos_d2.data import FCOSDatasetMapper, dataset_mapper, images
from fcos_d2.errors import find_input_error

BOXES = [[10, 20, 30, 40], [50, 5, 60, 70], [-20, -20, 30, 30]]
AUGMENTATIONS = [
    T.RandomCrop("absolute", (80, 90)),
    T.ResizeShortestEdge(123, 200),
    T.RandomFlip(prob=1.0),
]


@pytest.fixture
def record(tmp_path):
    """Return an image with an object and three crowds, which may extend beyond image or crop."""
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((100, 120, 3), dtype=np.uint8)).save(path)
    annotations = [
        {
            "bbox": box,
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": 0,
            "iscrowd": 1,
            "segmentation": {"counts": [0], "size": [100, 120]},
        }
        for box in BOXES
    ]
    annotations.append(
        {"bbox": [40, 40, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2, "iscrowd": 0}
    )
    return {"file_name": str(path), "height": 100, "width": 120, "annotations": annotations}


def mapper(keep, augmentations=(), is_train=True):
    return FCOSDatasetMapper(
        is_train, augmentations=list(augmentations), image_format="BGR", keep_crowd_boxes=keep
    )


def test_crowd_boxes_by_hand(record):
    before = copy.deepcopy(record)
    mapped = mapper(True)(record)
    # Width and height are converted to corners. The last box is clipped to the image.
    expected = [[10, 20, 40, 60], [50, 5, 110, 75], [0, 0, 10, 10]]
    assert mapped["gt_ignore_boxes"].tensor.tolist() == expected
    assert mapped["gt_ignore_boxes"].tensor.dtype == torch.float32
    assert mapped["instances"].gt_classes.tolist() == [2]
    assert record == before


@pytest.mark.filterwarnings("error")  # PyTorch warns of memory that must not be written to
def test_gray_pixels_that_are_not_resized_can_be_written_to(tmp_path):
    file = tmp_path / "gray.png"
    Image.fromarray(np.full((8, 6), 7, np.uint8)).save(file)
    gray = FCOSDatasetMapper(True, augmentations=[], image_format="L")
    pixels = gray({"file_name": str(file), "height": 8, "width": 6})["image"]
    assert pixels.shape == (1, 8, 6)
    assert pixels.add_(1).eq(8).all()


def test_crowd_boxes_are_transformed_as_the_boxes_of_objects(record):
    objects = copy.deepcopy(record)
    for annotation in objects["annotations"]:
        annotation["iscrowd"] = 0
        annotation.pop("segmentation", None)
    for seed in range(5):
        np.random.seed(seed)  # noqa: NPY002  detectron2 draws from it
        crowds = mapper(True, AUGMENTATIONS)(record)
        np.random.seed(seed)  # noqa: NPY002
        boxes = mapper(False, AUGMENTATIONS)(objects)["instances"].gt_boxes
        crowd_boxes = crowds["gt_ignore_boxes"].tensor
        torch.testing.assert_close(crowd_boxes, boxes.tensor[: len(crowd_boxes)])
        assert len(boxes) - len(crowd_boxes) == len(crowds["instances"])
        height, width = crowds["image"].shape[1:]
        assert (crowd_boxes >= 0).all()
        assert (crowd_boxes <= torch.tensor([width, height, width, height])).all()


def test_crowd_boxes_are_not_kept_by_default_and_for_evaluations(record):
    assert "gt_ignore_boxes" not in mapper(False)(record)
    assert "gt_ignore_boxes" not in mapper(True, is_train=False)(record)
    assert not FCOSDatasetMapper(tiny_cfg()).keep_crowd_boxes
    assert not FCOSDatasetMapper(
        get_cfg()
    ).keep_crowd_boxes  # the config of a project without fcos_d2
    assert FCOSDatasetMapper(tiny_cfg("FCOS_TRAIN.KEEP_CROWD_BOXES", True)).keep_crowd_boxes


def test_an_image_without_crowds_has_an_empty_entry(record):
    record["annotations"] = record["annotations"][-1:]
    assert mapper(True)(record)["gt_ignore_boxes"].tensor.shape == (0, 4)


@pytest.fixture
def labeled(record):
    """Return an image with two objects; only the first one, at (40, 40), has labels."""
    points = [41.0, 42.0, 2, 50.0, 43.0, 1, 0.0, 0.0, 0]
    square = [40.0, 40, 60, 40, 60, 60, 40, 60]
    first = {**record["annotations"][-1], "keypoints": points, "segmentation": [square]}
    second = {**record["annotations"][-1], "category_id": 1, "segmentation": [square]}
    return {**record, "annotations": [first, second]}


def keypoint_mapper(*augmentations):
    """Return a mapper for masks and for three keypoints, of which the last two are a pair."""
    return FCOSDatasetMapper(
        True,
        augmentations=list(augmentations),
        image_format="BGR",
        use_instance_mask=True,
        use_keypoint=True,
        keypoint_hflip_indices=[0, 2, 1],
    )


def test_objects_without_keypoints_have_unlabeled_ones(labeled):
    before = copy.deepcopy(labeled)
    instances = keypoint_mapper()(labeled)["instances"]
    first, second = instances.gt_keypoints.tensor
    assert first.tolist() == [[41, 42, 2], [50, 43, 1], [0, 0, 0]]
    assert second.tolist() == [[0, 0, 0]] * 3
    assert instances.gt_masks.area().tolist() == [400, 400]
    assert labeled == before


def test_a_flip_swaps_left_and_right(labeled):
    instances = keypoint_mapper(T.RandomFlip(1.0))(labeled)["instances"]
    # The image is 120 wide. The second point becomes the third one.
    assert instances.gt_keypoints.tensor[0].tolist() == [[79, 42, 2], [0, 0, 0], [70, 43, 1]]
    assert instances.gt_masks.polygons[0][0].tolist() == [80, 40, 60, 40, 60, 60, 80, 60]


def test_the_mapper_of_the_shapes_swaps_their_names(few_shapes):
    cfg = tiny_cfg({"MODEL.KEYPOINT_ON": True, "DATASETS.TRAIN": ("shapes_train",)})
    assert list(FCOSDatasetMapper(cfg).keypoint_hflip_indices) == [0, 4, 3, 2, 1]


def test_a_mapper_for_testing_needs_no_keypoints_of_the_training_set():
    cfg = tiny_cfg({"MODEL.KEYPOINT_ON": True, "DATASETS.TRAIN": ("not_registered",)})
    assert FCOSDatasetMapper(cfg, is_train=False).keypoint_hflip_indices is None
    with pytest.raises((AttributeError, KeyError)):
        FCOSDatasetMapper(cfg, is_train=True)


def test_the_model_ignores_the_crowd_boxes_that_the_mapper_keeps(record):
    torch.manual_seed(0)
    model = build_model(tiny_cfg("MODEL.FCOS.PRIOR_PROB", 0.5))
    losses = [
        model([mapper(keep)(record), mapper(keep)(record)])["loss_fcos_cls"].item()
        for keep in (False, True)
    ]
    assert losses[1] < 0.9 * losses[0]


def test_an_image_is_opened_once(record, monkeypatch):
    opened = []

    def open_image(*arguments):
        opened.append(arguments)
        return images.open_image(*arguments)

    monkeypatch.setattr(dataset_mapper, "open_image", open_image)
    assert mapper(False)(record)["image"].shape == (3, 100, 120)
    assert len(opened) == 1


@pytest.mark.parametrize("is_train", [True, False])
def test_the_result_is_that_of_detectron2s_mapper(record, is_train):
    seg = {"sem_seg_file_name": record["file_name"]}
    options = {"augmentations": AUGMENTATIONS, "image_format": "BGR"}
    mapped = []
    for one in (FCOSDatasetMapper, DatasetMapper):
        np.random.seed(0)  # noqa: NPY002  detectron2 draws from it
        mapped.append(one(is_train, **options)({**copy.deepcopy(record), **seg}))
    own, expected = mapped
    assert own.keys() == expected.keys()
    assert torch.equal(own["image"], expected["image"])
    assert torch.equal(own["sem_seg"], expected["sem_seg"])
    if is_train:
        boxes = (x["instances"].gt_boxes.tensor for x in mapped)
        torch.testing.assert_close(*boxes)


def test_gray_of_16_bits_is_scaled_by_the_white_point(record):
    Image.fromarray(np.full((100, 120), 257 * 7, np.uint16)).save(record["file_name"])
    assert mapper(False)(record)["image"].unique().tolist() == [7]
    cfg = tiny_cfg("FCOS_TRAIN.WHITE_POINT_16_BIT", 255 * 257 // 5)
    for is_train in (True, False):
        by_config = FCOSDatasetMapper(cfg, is_train)
        by_config.augmentations = T.AugmentationList([])
        assert by_config(record)["image"].unique().tolist() == [35]


def test_unreadable_images_are_skipped_only_in_training_and_counted(record, package_log):
    def skipping(is_train):
        return FCOSDatasetMapper(
            is_train, augmentations=[], image_format="BGR", skip_unreadable_images=True
        )

    good = record["file_name"]
    files = [f"{good}.{i}" for i in range(5)]
    Path(files[0]).write_bytes(Path(good).read_bytes()[:80])  # the others are missing
    training = skipping(True)
    for _ in range(2):  # epochs
        results = [training({**record, "file_name": x}) for x in (*files, good)]
        assert [x is None for x in results] == [True] * 5 + [False]
    messages = [x for x in package_log.messages if "left out" in x]
    assert [x.split()[0] for x in messages] == ["1", "2", "4"]
    assert "1 image " in messages[0]
    assert "2 images " in messages[1]
    assert all("FCOS_TRAIN.SKIP_UNREADABLE_IMAGES" in x for x in messages)
    assert files[3] in messages[-1]
    with input_error(file=files[0]):
        skipping(False)({**record, "file_name": files[0]})
    with input_error(file=good):  # an image of another size is not unreadable
        training({**record, "width": 7})
    assert FCOSDatasetMapper(
        tiny_cfg("FCOS_TRAIN.SKIP_UNREADABLE_IMAGES", True)
    ).skip_unreadable_images


def test_another_image_takes_the_place_of_a_skipped_one(record):
    one = FCOSDatasetMapper(True, augmentations=[], image_format="BGR", skip_unreadable_images=True)
    dataset = MapDataset([{**record, "file_name": "nowhere.png"}, record], one)
    assert dataset[0]["file_name"] == record["file_name"]


def test_a_missing_image_is_an_error_with_its_file(record):
    Path(record["file_name"]).unlink()
    for is_train in (True, False):
        one = FCOSDatasetMapper(is_train, augmentations=[], image_format="BGR")
        with input_error("check-dataset --decode", file=record["file_name"]) as error:
            one(record)
        assert ("SKIP_UNREADABLE_IMAGES" in error.value.text) == is_train
        assert isinstance(error.value.__cause__, FileNotFoundError)


class Faulty(T.Augmentation):
    """An augmentation of a user that has a bug."""

    def get_transform(self, image):
        return {}["no such key"]


def test_a_bug_of_an_augmentation_keeps_its_traceback_and_names_the_image(record):
    with pytest.raises(KeyError, match="no such key") as error:
        mapper(False, [Faulty()])(record)
    assert error.traceback[-1].name == "get_transform"
    if sys.version_info >= (3, 11):
        (note,) = error.value.__notes__
        assert record["file_name"] in note


def map_with_bug(batch):
    return [mapper(False, [Faulty()])(record) for record in batch]


def test_a_bug_of_an_augmentation_in_a_worker_has_its_traceback_in_the_text(record):
    batches = iter(DataLoader([record], num_workers=1, collate_fn=map_with_bug))
    with pytest.raises(KeyError) as error:
        next(batches)
    batches._shutdown_workers()  # The garbage collector could need seconds for this.
    assert find_input_error(error.value) is None
    text = str(error.value)
    assert 'return {}["no such key"]' in text
    if sys.version_info >= (3, 11):
        assert record["file_name"] in text


@pytest.mark.parametrize(
    ("augmentation", "annotation", "type_of_error"),
    [
        (T.RandomCrop("absolute", (5, -1)), {}, ValueError),
        (T.ResizeShortestEdge([800, 800], 0), {}, ValueError),
        (T.NoOpTransform(), {"bbox": [1]}, AssertionError),
    ],
    ids=["crop", "size", "bbox"],
)
def test_wrong_augmentations_and_annotations_are_not_reported_as_faults_of_the_image(
    record, augmentation, annotation, type_of_error
):
    record["annotations"][-1].update(annotation)
    with pytest.raises(type_of_error) as error:
        mapper(False, [augmentation])(record)
    assert find_input_error(error.value) is None
