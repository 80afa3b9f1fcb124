"""``fcos-d2 visualize``: pictures of detections next to annotations."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from input_errors import check_error, command_error
from PIL import Image
from shapes_results import write_results

from fcos_d2 import cli


def visualize(dataset, results, output, *flags):
    """Run the command, and return the names of the files in the output."""
    arguments = ["--dataset", dataset, "--results", results, "--output", output, *flags]
    cli.main(["visualize", *map(str, arguments)])
    return sorted(x.name for x in output.iterdir())


@pytest.fixture
def results_file(few_shapes, tmp_path):
    return write_results(tmp_path / "results.json")


def test_pictures_of_some_images_are_written(results_file, tmp_path, capsys):
    output = tmp_path / "pictures"
    files = visualize("shapes_val", results_file, output, "--num-images", 3)
    assert len(files) == 3
    assert all(Image.open(output / file).size[0] > 640 for file in files)
    assert "3 pictures in" in capsys.readouterr().out
    visualize("shapes_val", results_file, tmp_path / "one", "--num-images", 1)
    assert "1 picture in" in capsys.readouterr().out


def test_the_dataset_may_be_given_as_annotation_file_and_image_folder(own_data, package_log):
    own_data.write()
    results = own_data.folder / "results.json"
    detection = {"image_id": 3, "category_id": 2, "bbox": [5, 5, 20, 20], "score": 0.9}
    results.write_text(json.dumps([detection]))
    dataset = f"vis={own_data.file('val')}:{own_data.images}"
    assert visualize(dataset, results, own_data.folder / "pictures") == ["3.png", "4.png"]
    assert len([x for x in package_log.messages if "images of the dataset" in x]) == 1
    DatasetCatalog.remove("vis")
    MetadataCatalog.remove("vis")


def test_an_annotation_file_is_parsed_once(own_data, parsed_files):
    own_data.write()
    results = own_data.folder / "results.json"
    results.write_text("[]")
    dataset = f"vis={own_data.file('val')}:{own_data.images}"
    visualize(dataset, results, own_data.folder / "pictures")
    assert parsed_files == [str(own_data.file("val"))]
    DatasetCatalog.remove("vis")
    MetadataCatalog.remove("vis")


def test_faults_of_a_dataset_do_not_advise_settings_of_trainings(own_data, package_log):
    for annotation in own_data.val["annotations"]:
        annotation["category_id"] = 1
    own_data.val["images"][0]["file_name"] = "nowhere.png"
    own_data.write()
    results = own_data.folder / "results.json"
    results.write_text("[]")
    dataset = f"vis={own_data.file('val')}:{own_data.images}"
    arguments = ["--dataset", dataset, "--results", str(results), "--output", "pictures"]
    error = command_error(cli.main, ["visualize", *arguments])
    check_error(error, "nowhere.png", file=own_data.images / "nowhere.png")
    messages = [error.text, *package_log.messages]
    assert not any("FCOS_TRAIN" in x for x in messages), messages


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--results", "nowhere.json", ["--results", "nowhere.json"]),
        ("--num-images", "0", ["--num-images 0", "1"]),
        ("--dataset", "shapes_vall", ["registered", "'shapes_val'"]),
        ("--output", __file__, [f"--output {__file__}", "written"]),
    ],
)
def test_the_error_about_a_wrong_argument_names_it(results_file, tmp_path, flag, value, words):
    arguments = {
        "--dataset": "shapes_val",
        "--results": str(results_file),
        "--output": str(tmp_path / "pictures"),
        flag: value,
    }
    command = ["visualize", *(x for pair in arguments.items() for x in pair)]
    check_error(command_error(cli.main, command), *words)


@pytest.fixture
def subfolders(tmp_path):
    """Write a dataset of images with the same name in two folders, and return its folder."""
    images = tmp_path / "images"
    for folder in ("a", "b"):
        (images / folder).mkdir(parents=True)
        Image.new("RGB", (96, 64)).save(images / folder / "x.png")
    content = {
        "images": [
            {"id": i, "file_name": f"{folder}/x.png", "height": 64, "width": 96}
            for i, folder in ((1, "a"), (2, "b"))
        ],
        "annotations": [],
        "categories": [{"id": 7, "name": "cat"}],
    }
    (tmp_path / "sub.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text("[]")  # nothing was detected
    yield tmp_path
    if "sub" in DatasetCatalog:
        DatasetCatalog.remove("sub")
        MetadataCatalog.remove("sub")


def visualize_subfolders(folder, output):
    return visualize(f"sub={folder}/sub.json:{folder}/images", folder / "results.json", output)


def test_pictures_of_subfolders_do_not_replace_each_other(subfolders):
    files = visualize_subfolders(subfolders, subfolders / "out")
    assert files == ["a_x.png", "b_x.png"]


def test_a_picture_does_not_replace_an_image_of_the_dataset(subfolders):
    images = subfolders / "images"
    for folder in ("a", "b"):
        (images / folder / "x.png").rename(images / f"{folder}.png")
    text = (subfolders / "sub.json").read_text().replace("/x.png", ".png")
    (subfolders / "sub.json").write_text(text)
    before = (images / "a.png").read_bytes()
    check_error(command_error(visualize_subfolders, subfolders, images), "a.png", "--output")
    assert (images / "a.png").read_bytes() == before


def test_the_error_about_a_damaged_image_names_its_file(subfolders):
    file = subfolders / "images" / "a" / "x.png"
    file.write_text("no image")
    error = command_error(visualize_subfolders, subfolders, subfolders / "out")
    check_error(error, str(file), file=file)


DETECTION = {"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}
PREDICTIONS = [{"file": "x.png", "class": "cat", "score": 1, "bbox": []}]
BAD_RESULTS = {
    "not JSON": ("{", ["JSON"]),
    "not a list": ("{}", ["list", "coco_instances_results.json"]),
    "the file of predict": (PREDICTIONS, ["detection 0 ", "'image_id'"]),
    "a number": ([3], ["detection 0 ", "object"]),
    "unknown class": (
        [DETECTION, {**DETECTION, "category_id": 8}],
        ["detection 1 ", "category_id = 8", "'sub'"],
    ),
    "class 0": ([{**DETECTION, "category_id": 0}], ["category_id = 0"]),
    "class in a list": ([{**DETECTION, "category_id": [7]}], ["category_id = [7]"]),
    "unknown image": ([{**DETECTION, "image_id": 33}], ["image_id = 33", "'sub'"]),
    "box of three": ([{**DETECTION, "bbox": [1, 2, 3]}], ["bbox = [1, 2, 3]", "four"]),
    "box with NaN": ([{**DETECTION, "bbox": [1, 2, 3, float("nan")]}], ["nan]", "four"]),
    "score is a text": ([{**DETECTION, "score": "high"}], ["score = 'high'"]),
    "polygon": (
        [DETECTION, {**DETECTION, "segmentation": [[1, 2, 3, 4, 5, 6]]}],
        ["detection 1 ", "segmentation = [[1, 2, 3", "run-length"],
    ),
    "mask without size": ([{**DETECTION, "segmentation": {"counts": "a"}}], ["segmentation = {"]),
    "keypoints in a row": ([{**DETECTION, "keypoints": [1, 2, 3, 4]}], ["[1, 2, 3, 4]", "three"]),
    "keypoints in pairs": ([{**DETECTION, "keypoints": [[1, 2, 3]]}], ["[[1, 2, 3]]", "three"]),
    "no keypoints": ([{**DETECTION, "keypoints": None}], ["keypoints = None"]),
}


@pytest.mark.parametrize("case", BAD_RESULTS)
def test_the_error_about_a_wrong_results_file_names_the_entry_at_fault(subfolders, case):
    content, words = BAD_RESULTS[case]
    file = subfolders / "results.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    error = command_error(visualize_subfolders, subfolders, subfolders / "out")
    check_error(error, *words, file=file)
    assert not (subfolders / "out").exists()


def test_a_skeleton_with_an_unknown_name_is_refused(results_file, tmp_path, monkeypatch):
    metadata = vars(MetadataCatalog.get("shapes_val"))
    monkeypatch.setitem(metadata, "keypoint_names", ["head", "tail"])
    rules = [("head", "tale", (255, 0, 0))]
    monkeypatch.setitem(metadata, "keypoint_connection_rules", rules)
    error = command_error(visualize, "shapes_val", results_file, tmp_path / "pictures")
    check_error(error, "'tale'", "'tail'", value="tale")


def test_detections_of_images_outside_of_the_dataset_are_ignored(subfolders):
    content = [DETECTION, {**DETECTION, "image_id": 33}]
    (subfolders / "results.json").write_text(json.dumps(content))
    assert len(visualize_subfolders(subfolders, subfolders / "out")) == 2
