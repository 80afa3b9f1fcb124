"""The search for images whose file_name is not a path below the images' folder."""

import unicodedata

import pytest

from fcos_d2.data.coco.image_locations import locate_images, with_locations
from fcos_d2.data.coco.location_findings import find_location_findings

NFC = unicodedata.normalize("NFC", "käse.jpg")
NFD = unicodedata.normalize("NFD", "käse.jpg")


@pytest.fixture
def folder(tmp_path):
    """Return a function that makes files in a folder, and returns the folder."""

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("pixels")
        return str(tmp_path)

    return make


@pytest.mark.parametrize(
    ("name", "file", "spelling"),
    [
        (r"images\im1.jpg", "im1.jpg", "has backslashes"),
        (r"a\im1.jpg", "a/im1.jpg", "has backslashes"),
        (r"..\..\label-studio\upload\4\im1.jpg", "im1.jpg", "has backslashes"),
        (r"C:\data\im1.jpg", "im1.jpg", "is an absolute path"),
        ("/home/nobody/data/im1.jpg", "im1.jpg", "is an absolute path"),
        ("https://host/b/im1.jpg", "im1.jpg", "is a URL"),
        ("s3://bucket/my%20im1.jpg?X-Sig=a/b", "my im1.jpg", "is a URL"),
        ("my%20im%20(1).jpg", "my im (1).jpg", "is URL-encoded"),
        ("images/im1.jpg", "im1.jpg", "has other folders"),
        ("im1.jpg", "class0/im1.jpg", "lacks the subfolder"),
        ("IM1.JPG", "im1.jpg", "differs in upper and lower case"),
        ("sub/im1.jpg", "Sub/im1.jpg", "differs in upper and lower case"),
        (f"{NFD}/im1.jpg", f"{NFC}/im1.jpg", "has another Unicode form"),
        (NFD, NFC, "has another Unicode form"),
        (NFC, NFD, "has another Unicode form"),
        ("im1", "im1.jpg", "lacks the extension"),
        ("images/im1", "a/im1.png", "lacks the extension"),
        ("im1.jpg ", "im1.jpg", "has white space"),
        ("/data/local-files/?d=im1.jpg", "im1.jpg", "is a local file of Label Studio"),
        ("/data/local-files/?d=a/my%20im1.jpg", "b/my im1.jpg", "is a local file of Label Studio"),
        (
            "http://host/data/local-files/?x=1&d=im1.jpg",
            "im1.jpg",
            "is a local file of Label Studio",
        ),
    ],
)
def test_an_image_is_found_by_the_last_part_of_its_name(folder, name, file, spelling):
    root = folder(file)
    locations = locate_images([name], root)
    assert locations.found == {name: file}
    assert locations.problems == {}
    assert locations.path(name) == f"{root}/{file}"
    (finding,) = find_location_findings(locations)
    assert not finding.is_fatal
    assert (finding.count, finding.entries) == (1, [name])
    assert "1 of 1 image is" in finding.text
    assert f"1 name {spelling}" in finding.text


def test_names_that_are_paths_are_not_searched(folder, monkeypatch):
    root = folder("a/1.jpg", "1.jpg")
    monkeypatch.setattr("os.scandir", lambda _: pytest.fail("searched"))
    locations = locate_images(["a/1.jpg", "./1.jpg", f"{root}/1.jpg", "1.jpg"], root)
    assert locations.found == {}
    assert list(find_location_findings(locations)) == []


def test_equal_names_in_several_folders_are_told_apart_by_the_folders_in_the_name(folder):
    root = folder("a/1.jpg", "b/1.jpg", "b/c/1.jpg")
    names = [r"x\a\1.jpg", r"x\b\1.jpg", "x/b/c/1.jpg"]
    found = locate_images(names, root).found
    assert list(found.values()) == ["a/1.jpg", "b/1.jpg", "b/c/1.jpg"]


def test_the_same_case_is_preferred(folder):
    root = folder("a/x.JPG", "a/x.jpg")
    assert locate_images(["x.jpg", "x.JPG"], root).found == {
        "x.jpg": "a/x.jpg",
        "x.JPG": "a/x.JPG",
    }


def test_a_name_that_fits_several_files_is_a_fault(folder):
    root = folder("a/1.jpg", "b/1.jpg", "b/2.jpg")
    locations = locate_images(["1.jpg", "2.jpg"], root)
    assert locations.found == {"2.jpg": "b/2.jpg"}
    _, fault = find_location_findings(locations)
    assert fault.is_fatal
    assert "1 of 2 images" in fault.text
    assert "several files" in fault.text
    assert "there is 'a/1.jpg' and 'b/1.jpg'" in fault.text
    assert "Write the folder" in fault.text
    assert "not fit any" not in fault.text


@pytest.mark.parametrize("names", [["train/1.jpg", "val/1.jpg"], ["1.jpg", "val/1.jpg"]])
def test_two_names_do_not_get_the_same_file(folder, names):
    locations = locate_images(names, folder("1.jpg"))
    assert locations.found == {}
    assert "val/1.jpg" in locations.problems
    (fault,) = find_location_findings(locations)
    assert "fits another name" in fault.text
    assert "there is '1.jpg'" in fault.text
    assert "not fit any" not in fault.text


def test_a_file_that_a_name_is_another_spelling_of_is_taken(folder):
    root = folder("a/1.jpg")
    locations = locate_images(["./a/../a/1.jpg", r"b\1.jpg"], root)
    assert locations.found == {}
    assert list(locations.problems) == [r"b\1.jpg"]


def test_an_image_in_another_folder_is_shown_first(folder):
    root = folder("1.jpg", "val/2.jpg")
    names = ["images/1.jpg", "train/2.jpg"]
    (finding,) = find_location_findings(locate_images(names, root))
    assert finding.entries == names[::-1]
    assert "'train/2.jpg', found as 'val/2.jpg'" in finding.text
    assert "1 name is of another folder" in finding.text


def test_a_file_with_another_extension_is_named_but_not_used(folder):
    root = folder("a/1.png")
    locations = locate_images(["1.jpg"], root)
    assert locations.found == {}
    (fault,) = find_location_findings(locations)
    assert fault.is_fatal
    assert fault.kind == "unusable_image_extension"
    assert "another extension" in fault.text
    assert "there is 'a/1.png'" in fault.text
    assert "write file_name as the file is named" in fault.text
    assert "folder of the images" not in fault.text


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("train/9.jpg", "val/9.jpg"),
        ("9.jpg", "masks/9.jpg"),
        ("/elsewhere/9.jpg", "masks/9.jpg"),
        ("https://host/train/9.jpg", "val/9.jpg"),
        (r"C:\data\train\9.jpg", "val/9.jpg"),
    ],
)
@pytest.mark.parametrize(
    ("others", "is_used"),
    [
        ([], True),
        (["1.jpg", "val/1.jpg", "train/1.jpg"], False),
        (["1", "val/1", "train/1"], False),
    ],
)
def test_a_file_in_another_folder_is_used_only_if_most_names_give_wrong_folders(
    folder, name, file, others, is_used
):
    root = folder(file, "1.jpg", "train/1.jpg", "val/1.jpg")
    locations = locate_images([name, *others], root)  # the name "1" lacks the extension
    (finding, *_) = sorted(find_location_findings(locations), key=lambda x: -x.is_fatal)
    if is_used:
        assert locations.found == {name: file}
        return
    assert name not in locations.found
    assert (finding.kind, finding.is_fatal) == ("unusable_image_elsewhere", True)
    assert finding.entries == [name]
    assert f"there is '{file}'" in finding.text
    assert root + "/https:" not in finding.text


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (r"C:\x\sub\9.jpg", "sub/9.jpg"),
        ("/home/x/sub/9.jpg", "sub/9.jpg"),
        ("https://host/sub/9.jpg", "sub/9.jpg"),
        ("images/sub/9.jpg", "sub/9.jpg"),
        ("/home/x/9.jpg", "9.jpg"),
        ("images/9.jpg", "9.jpg"),
        ("https://host/b/9.jpg?x=1", "9.jpg"),
    ],
)
def test_a_name_with_a_folder_that_does_not_exist_is_found_beside_other_images(folder, name, file):
    root = folder(file, "sub/1.jpg", "sub/2.jpg", "1.jpg")
    in_place = ["1.jpg", "sub/1.jpg", "sub/2.jpg"]
    assert locate_images([name, *in_place], root).found == {name: file}


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("9.jpg", "masks/9.jpg", "1 name lacks the subfolder"),
        ("train/9.jpg", "val/9.jpg", "1 name is of another folder"),
        ("/home/x/9.jpg", "masks/9.jpg", "1 name is an absolute path"),
        ("https://host/9.jpg", "masks/9.jpg", "1 name is a URL"),
    ],
)
def test_names_of_images_in_other_folders_are_described(folder, name, file, text):
    root = folder(file, "1.jpg", "train/1.jpg", "val/1.jpg")
    (fault,) = find_location_findings(
        locate_images([name, "1.jpg", "train/1.jpg", "val/1.jpg"], root)
    )
    assert fault.kind == "unusable_image_elsewhere"
    assert text in fault.text


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a/IM9.jpg", "a/im9.jpg"),
        ("a/im9", "a/im9.jpg"),
        ("a/my%209.jpg", "a/my 9.jpg"),
        (r"a\im9.jpg", "a/im9.jpg"),
        ("A/im9.jpg ", "a/im9.jpg"),
        ("/data/local-files/?d=a/im9.jpg", "a/im9.jpg"),
    ],
)
def test_other_spellings_in_the_same_folder_are_always_used(folder, name, file):
    root = folder(file, "b/" + file, "1.jpg", "2.jpg")
    locations = locate_images(["1.jpg", "2.jpg", name], root)
    assert locations.found == {name: file}
    # A name that gives another folder is not in the way.
    locations = locate_images(["1.jpg", "2.jpg", name, r"c\im9.jpg"], root)
    assert locations.found == {name: file}


def test_several_spellings_in_one_folder_need_another_remedy(folder):
    root = folder("Im0.png", "im0.png")
    (fault,) = find_location_findings(locate_images(["IM0.PNG"], root))
    assert fault.kind == "unusable_image_spelling"
    assert "there is 'Im0.png' and 'im0.png'" in fault.text
    assert "folder into file_name" not in fault.text


def test_links_to_nothing_are_named_and_not_found(folder, tmp_path):
    root = folder("0.jpg")
    (tmp_path / "1.jpg").symlink_to("nowhere.jpg")
    locations = locate_images(["1.jpg", r"a\1.jpg"], root)
    assert locations.found == {}
    (link, other) = find_location_findings(locations)
    assert "links to nothing" in link.text
    assert "folder of the images" not in link.text
    assert "do not exist" in other.text
    assert locate_images([r"a\1.jpg"], root).found == {}


def test_links_to_folders_are_searched_once(folder, tmp_path_factory, tmp_path):
    root = folder("z/1.jpg")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "2.jpg").write_text("pixels")
    (tmp_path / "b").symlink_to(elsewhere)
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "z" / "loop").symlink_to(tmp_path)
    found = locate_images(["1.jpg", "2.jpg"], root).found
    assert found == {"1.jpg": "z/1.jpg", "2.jpg": "b/2.jpg"}


def test_long_names_are_shortened(folder):
    (fault,) = find_location_findings(locate_images(["a/" * 500 + "1.jpg"], folder()))
    assert len(fault.text) < 600


def test_all_missing_images_are_listed_with_the_spelling_of_their_names(folder):
    root = folder("0.jpg", "empty.jpg")
    with open(f"{root}/empty.jpg", "w"):
        pass
    names = ["0.jpg", "empty.jpg", *(f"https://host/{i}.jpg" for i in range(1, 31)), r"a\b.jpg"]
    missing, empty = sorted(
        find_location_findings(locate_images(names, root)), key=lambda x: -x.count
    )
    assert missing.is_fatal
    assert missing.entries == names[2:]
    assert "31 of 33 images do not exist" in missing.text
    assert "'https://host/1.jpg', 'https://host/2.jpg', " in missing.text
    assert "(31 in all); `fcos-d2 check-dataset --json`" in missing.text
    assert "folder of the images" not in empty.text
    assert "30 names are URLs, 1 name has backslashes" in missing.text
    assert missing.file == f"{root}/https://host/1.jpg"
    assert "empty (0 bytes)" in empty.text
    assert empty.entries == ["empty.jpg"]


def test_missing_images_are_left_out_only_if_there_are_others(folder):
    root = folder("0.jpg")
    (finding,) = find_location_findings(
        locate_images(["0.jpg", "no.jpg"], root), skip_unreadable=True
    )
    assert not finding.is_fatal
    assert "left out" in finding.text
    (fault,) = find_location_findings(locate_images(["no.jpg"], root), skip_unreadable=True)
    assert fault.is_fatal
    assert "1 of 1 image does not exist" in fault.text


@pytest.mark.parametrize("name", ["/no/where.jpg", "where.jpg"])
def test_missing_paths_of_a_dataset_without_a_folder_are_not_described(name):
    (fault,) = find_location_findings(locate_images([name], ""))
    assert "1 image does not exist" in fault.text.replace("1 of 1", "1")
    assert "1 name" not in fault.text
    assert "Is file_name correct?" in fault.text


def test_content_gets_the_found_paths_and_loses_what_is_left_out():
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(3)],
        "annotations": [{"id": 7 + i, "image_id": i} for i in range(3)],
    }
    changed = with_locations(content, {"0.jpg": "a/0.jpg"}, {"1.jpg"})
    assert [x["file_name"] for x in changed["images"]] == ["a/0.jpg", "2.jpg"]
    assert [x["id"] for x in changed["annotations"]] == [7, 9]
    assert content["images"][0]["file_name"] == "0.jpg"
    assert with_locations(changed, {"0.jpg": "a/0.jpg"}, {"1.jpg"}) == changed
    assert with_locations(content, {}, frozenset()) == content
