"""Datasets with other classes than each other or than the model."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from input_errors import input_error

from fcos_d2.data.coco import ModelLimits, check_datasets, check_has_classes, normalize
from fcos_d2.data.coco.descriptions import CheckedDataset, CocoDataset
from fcos_d2.engine.run_keys import LAZY_KEYS, YAML_KEYS

KEYS = ("DATASETS.TRAIN", "DATASETS.TEST", "MODEL.FCOS.NUM_CLASSES", "FCOS_TRAIN.DROP_CLASSES")
TRAIN, TEST, NUM_CLASSES, DROP = KEYS


@pytest.fixture
def register_classes():
    """Return a function that registers datasets with classes but without files."""
    names = []

    def register(**classes):
        for name, thing_classes in classes.items():
            names.append(name)
            DatasetCatalog.register(name, list)
            MetadataCatalog.get(name).thing_classes = thing_classes

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def faults_of(model, train_names, test_names, checked=(), keys=YAML_KEYS.datasets):
    """Return the key and the text of each error."""
    try:
        check_datasets(model, train_names, test_names, dict(checked), keys)
    except ValueError as error:
        return [(x.key, x.text) for x in error.faults]
    return []


CLASSES = ["red", "blue"]
# case: (classes of the second dataset, keywords)
DIFFERENCES = {
    "fewer": (["red"], ["lacks 'blue'"]),
    "more": (["red", "blue", "green"], ["has 'green'"]),
    "another name": (["red", "Cyan"], ["lacks 'blue'", "has 'Cyan'"]),
    "another spelling": (["Red", "blue "], ["'Red' and 'red'", "'blue ' and 'blue'", "only in"]),
    "a repeated name": (["red", "blue", "blue"], ["has 'blue' in addition"]),
    "another order": (["blue", "red"], ["order", "class 0 is 'blue' instead of 'red'"]),
}


@pytest.mark.parametrize("key", [TRAIN, TEST])
@pytest.mark.parametrize("case", DIFFERENCES)
def test_the_error_names_the_difference_and_no_other_number_of_classes(register_classes, key, case):
    classes, words = DIFFERENCES[case]
    register_classes(first=CLASSES, second=classes)
    names = (["first", "second"], []) if key == TRAIN else (["first"], ["second"])
    ((fault_key, text),) = faults_of(ModelLimits(2), *names)
    assert fault_key == key
    assert [x for x in ["'first'", "'second'", *words] if x not in text] == []
    assert NUM_CLASSES not in text


def test_a_class_of_the_detector_that_is_left_out_names_the_key(register_classes):
    register_classes(val=["red"])
    model = ModelLimits(2, CLASSES, drop_classes=["blue"])
    ((key, text),) = faults_of(model, [], ["val"])
    assert key == DROP
    assert f"{DROP} leaves out 'blue'" in text


def make_checked(name, classes, json_file):
    """Make the result of the check of a dataset; "" for the file of one of a Python function."""
    categories = dict(enumerate(classes))
    box = {"image_id": 1, "category_id": 0, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": f"{name}.png", "width": 20, "height": 20}],
        "annotations": [{"id": 1, **box}],
        "categories": [{"id": i, "name": x} for i, x in categories.items()],
    }
    description = CocoDataset(name, json_file, "", categories, {}, frozenset())
    return CheckedDataset(description, normalize(content)[0], [])


@pytest.mark.parametrize("first_file", ["a.json", ""])
@pytest.mark.parametrize("second_file", ["b.json", ""])
@pytest.mark.parametrize(
    ("classes", "is_trained", "helps_first", "helps_second"),
    [
        (["red"], False, True, False),
        (["red"], True, False, False),  # the detector keeps its classes
        (["red", "blue", "green"], False, False, True),
        (["red", "blue", "green"], True, False, True),
        (["red", "Blue "], False, False, False),  # only other spellings
        (["red", "Blue ", "green"], False, False, True),
        (["blue", "red"], False, False, False),
        (["blue", "red"], True, False, False),
    ],
)
def test_leaving_classes_out_is_advised_only_where_it_helps(
    register_classes, classes, is_trained, helps_first, helps_second, first_file, second_file
):
    register_classes(first=CLASSES, second=classes)
    checked = {
        "first": make_checked("first", CLASSES, first_file),
        "second": make_checked("second", classes, second_file),
    }
    if is_trained:
        model = ModelLimits(2, class_names=CLASSES)
        ((_, text),) = faults_of(model, [], ["second"], checked)
    else:
        ((_, text),) = faults_of(ModelLimits(2), ["first"], ["second"], checked)
    # Only files can leave out classes.
    helps = (helps_first and first_file) or (helps_second and second_file)
    assert (DROP in text) == bool(helps), text


def test_errors_name_the_keys_of_the_config(register_classes, own_data, register_own):
    register_classes(first=["red"])
    model = ModelLimits(2, class_names=CLASSES)
    ((key, text),) = faults_of(model, [], ["first"], keys=LAZY_KEYS.datasets)
    assert key == "train.class_names"
    assert key in text
    for annotation in own_data.train["annotations"]:
        annotation["category_id"] = 1
    checked = register_own()
    dropped = checked["train"].description._replace(categories={2: "dog"})
    checked["train"] = checked["train"]._replace(description=dropped)
    ((_, text),) = faults_of(ModelLimits(2), ["train"], [], checked, keys=LAZY_KEYS.datasets)
    assert "train.drop_classes leaves out" in text


def test_a_dataset_whose_classes_are_all_left_out_is_an_error(register_own):
    checked = register_own()["train"]
    check_has_classes(checked, ["cat"], DROP)
    none = checked._replace(description=checked.description._replace(categories={}))
    with input_error("'train'", "cat, dog", key="some.key", value=["dog", "cat"]):
        check_has_classes(none, ["dog", "cat"], "some.key")


def test_an_evaluation_needs_the_classes_of_the_detector(register_classes):
    register_classes(first=["red"])
    model = ModelLimits(2, class_names=CLASSES)
    ((key, text),) = faults_of(model, [], ["first"])
    assert key == "FCOS_TRAIN.CLASS_NAMES"
    assert "lacks 'blue'" in text


@pytest.mark.parametrize(("train_names", "advice"), [(["first"], "Set the key"), ([], "weights")])
def test_the_number_of_classes_must_be_that_of_all_datasets(register_classes, train_names, advice):
    register_classes(first=CLASSES, second=CLASSES)
    ((key, text),) = faults_of(ModelLimits(3), train_names, ["second"])
    assert key == NUM_CLASSES
    assert advice in text
    assert faults_of(ModelLimits(2), train_names, ["second"]) == []


def test_other_ids_of_the_same_classes_cause_one_warning(own_data, register_own, package_log):
    own_data.val["categories"][1]["id"] = 7
    for annotation in own_data.val["annotations"]:
        annotation["category_id"] = {1: 1, 2: 7}[annotation["category_id"]]
    assert faults_of(ModelLimits(2), ["train"], ["val"], register_own()) == []
    (warning,) = (x.getMessage() for x in package_log.records if x.levelname == "WARNING")
    words = ["1 of 2", "'val'", "'train'", "'dog' with id 7 instead of 2"]
    assert [x for x in words if x not in warning] == []


def test_a_class_cannot_be_left_out_of_a_dataset_that_is_not_given_as_a_file(register_classes):
    register_classes(first=CLASSES)
    ((key, text),) = faults_of(ModelLimits(2, drop_classes=["blue"]), ["first"], [])
    assert key == DROP
    assert "blue" in text
    assert "'first'" in text


def test_the_error_about_an_unknown_class_has_the_nearest_name(register_own):
    checked = register_own()
    ((key, text),) = faults_of(ModelLimits(2, drop_classes=["dgo"]), ["train"], ["val"], checked)
    assert key == DROP
    assert "'dog'?" in text
    # An evaluation does not read the training set, which may have the class.
    assert faults_of(ModelLimits(2, drop_classes=["dgo"]), [], ["val"], checked) == []
