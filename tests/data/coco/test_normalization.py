"""Normalization of the content of annotation files: ids, derived fields, merged categories."""

import copy

import pytest

from fcos_d2.data.coco import file_ids, normalize

SQUARE = [10, 20, 30, 20, 30, 40, 10, 40]  # the corners of the box [10, 20, 20, 20]
# A mask of 2 x 3 pixels whose left upper pixel is (1, 2), in columns of 8 pixels.
RLE = {"size": [64, 96], "counts": [66, 3, 61, 3, 6011]}
FIRST = {
    "id": 1,
    "image_id": 1,
    "category_id": 1,
    "bbox": [10, 20, 20, 20],
    "area": 400,
    "iscrowd": 0,
}


def content_of(*annotations, **lists):
    """Return the content of a file with annotations that have other fields than FIRST."""
    return {
        "info": {"year": 2026},
        "images": [{"id": i, "file_name": f"{i}.png", "width": 96, "height": 64} for i in (1, 2)],
        "annotations": [{**FIRST, **x} for x in annotations],
        "categories": [{"id": 1, "name": "cat"}],
        **lists,
    }


def without(*fields, **others):
    """Return an annotation without some of its fields."""
    entry = {**FIRST, **others}
    return {key: value for key, value in entry.items() if key not in fields}


def normalize_one(entry, **lists):
    """Normalize a file with one annotation, and return the annotation and the kinds."""
    content, findings = normalize(content_of(annotations=[entry], **lists))
    assert not any(x.is_fatal for x in findings), findings
    (annotation,) = content["annotations"]
    return annotation, [x.kind for x in findings]


def normalize_copies(content):
    """Normalize a file whose boxes are the same, and return the content and other findings."""
    normalized, findings = normalize(content)
    return normalized, [x for x in findings if x.kind != "box_repeated"]


def find(content, kind):
    """Return the finding of a kind."""
    (finding,) = (x for x in normalize(content)[1] if x.kind == kind)
    return finding


def test_valid_content_is_shared_and_not_changed():
    content = content_of({}, {"id": 2, "image_id": 2, "segmentation": [SQUARE]})
    before = copy.deepcopy(content)
    normalized, findings = normalize(content)
    nothing = {"images": {}, "annotations": {}, "categories": {}}
    assert (normalized, findings) == ({**before, "file_ids": nothing}, [])
    assert normalized["annotations"][1] is content["annotations"][1]
    assert normalized["images"][1] is content["images"][1]
    assert content == before


def test_the_argument_is_not_changed_where_entries_are():
    content = content_of({"id": 0, "segmentation": SQUARE}, {"image_id": "2"})
    before = copy.deepcopy(content)
    normalize(content)
    assert content == before


@pytest.mark.parametrize(
    ("own", "numbers"),
    [
        (["b", "a"], [2, 1]),  # in the order of texts
        (["im10", "im9"], [2, 1]),
        ([2**60 + 1, 2**60], [2, 1]),
        (["7", "3"], [7, 3]),
        ([1.0, 0], [1, 0]),
        ([-1, 5], [6, 5]),  # the next free number
        ([5, "x"], [5, 6]),
    ],
)
def test_ids_of_images_become_integers_and_the_own_ones_are_kept_beside_them(own, numbers):
    images = [{"id": i, "file_name": f"{i}.png", "width": 96, "height": 64} for i in own]
    content, _ = normalize(
        content_of(*({"id": k, "image_id": i} for k, i in enumerate(own, 1)), images=images)
    )
    assert [x["id"] for x in content["images"]] == numbers
    assert [x["image_id"] for x in content["annotations"]] == numbers
    assert all(type(x["id"]) is int for x in content["images"])
    assert file_ids(content, "images") == dict(zip(numbers, own, strict=True))


@pytest.mark.parametrize("is_text", [True, False])
def test_fields_of_the_file_that_are_called_file_id_mean_nothing(is_text):
    content = content_of({"file_id": 5}, {"id": 2, "file_id": "x"}, file_ids={"images": {1: 9}})
    for entry in (*content["images"], *content["categories"]):
        entry["file_id"] = 77
        entry["id"] = str(entry["id"]) if is_text else entry["id"]
    normalized, _ = normalize(content)
    assert list(file_ids(normalized, "annotations").values()) == [1, 2]
    for name in ("images", "categories"):
        own = [x["id"] for x in content[name]]
        assert list(file_ids(normalized, name).values()) == own
        assert {x["file_id"] for x in normalized[name]} == {77}


def test_annotations_may_refer_to_an_id_in_another_type():
    references = [{"id": i, "image_id": x} for i, x in enumerate((1, "1", 1.0, "2"), 1)]
    content, findings = normalize_copies(content_of(*references))
    assert [x["image_id"] for x in content["annotations"]] == [1, 1, 1, 2]
    assert [(x.kind, x.count) for x in findings] == [("annotation_reference_type", 3)]


@pytest.mark.parametrize("field", ["image_id", "category_id"])
@pytest.mark.parametrize("value", [True, None])
@pytest.mark.parametrize("others", [[1], [1, 9]])
def test_references_that_are_not_ids_are_fatal_whatever_the_others_are(field, value, others):
    references = [{"id": i, field: x} for i, x in enumerate((value, *others), 1)]
    kinds = {x.kind: x.count for x in normalize_copies(content_of(*references))[1]}
    assert kinds.pop("annotation_reference") == 1
    assert not kinds.keys() - {"annotation_image", "annotation_category"}


def test_ignore_means_nothing_for_a_crowd():
    _, findings = normalize(content_of({}, {"id": 2, "ignore": 1, "iscrowd": 1}))
    assert [x.kind for x in findings] == ["crowd"]


@pytest.mark.parametrize(
    ("own", "numbers", "kinds"),
    [
        ([0, 1], [2, 1], {"annotation_id_0": 1}),
        ([0, 0], [1, 2], {"annotation_id_0": 2}),
        ([3, 3, 3], [3, 4, 5], {"annotation_id_repeated": 2}),
        ([None, 4], [5, 4], {"annotation_id_missing": 1}),
        ([1.0, "2", 3], [1, 2, 3], {"annotation_id": 2}),
        ([-1, 2**60, "a"], [1, 2, 3], {"annotation_id": 3}),
        ([[1], True], [1, 2], {"annotation_id": 2}),
    ],
)
def test_annotations_without_a_unique_positive_id_get_the_next_numbers(own, numbers, kinds):
    content, findings = normalize_copies(
        content_of(*({"id": x, "area": 390 + i} for i, x in enumerate(own)))
    )
    assert [x["id"] for x in content["annotations"]] == numbers
    assert all(type(x["id"]) is int for x in content["annotations"])
    assert {x.kind: x.count for x in findings} == kinds
    kept = file_ids(content, "annotations")
    assert list(kept.values()) == [
        number if x is None else x for x, number in zip(own, numbers, strict=True)
    ]


def test_categories_that_are_listed_repeatedly_are_merged():
    categories = [
        {"id": 1, "name": "cat"},
        {"id": 4, "name": "dog"},
        {"id": 1, "name": "cat"},
        {"id": 3, "name": "dog"},
    ]
    annotations = [{"id": i, "category_id": x} for i, x in enumerate((1, 3, 4), 1)]
    content, findings = normalize_copies(content_of(*annotations, categories=categories))
    assert sorted((x["id"], x["name"]) for x in content["categories"]) == [(1, "cat"), (3, "dog")]
    assert [x["category_id"] for x in content["annotations"]] == [1, 3, 3]
    ((kind, count, text),) = [(x.kind, x.count, x.text) for x in findings]
    assert (kind, count) == ("category_repeated", 2)
    assert "'cat' with id 1)" in text
    dogs = content_of({"category_id": 3}, categories=categories[1::2])
    assert "'dog' with id 4, 3)" in find(dogs, "category_repeated").text


def test_categories_with_texts_as_ids_are_numbered_in_the_order_of_the_texts():
    categories = [{"id": "dog", "name": "a dog"}, {"id": "cat", "name": "a cat"}]
    annotations = [{"category_id": "dog"}, {"id": 2, "category_id": "cat"}]
    content, findings = normalize(content_of(*annotations, categories=categories))
    assert file_ids(content, "categories") == {1: "cat", 2: "dog"}
    assert [x["category_id"] for x in content["annotations"]] == [2, 1]
    assert [x.kind for x in findings] == ["category_id"]


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("form", [int, bool, float, str])
def test_iscrowd_may_have_any_form_of_0_and_1(value, form):
    annotation, _ = normalize_one(
        {**FIRST, "iscrowd": form(value)}, categories=[{"id": 1, "name": "cat"}]
    )
    assert annotation["iscrowd"] == value
    assert type(annotation["iscrowd"]) is int


def test_a_missing_iscrowd_is_0():
    for entry in (without("iscrowd"), {**FIRST, "iscrowd": None}):
        annotation, kinds = normalize_one(entry)
        assert annotation["iscrowd"] == 0
        assert kinds == ["iscrowd_missing"]


@pytest.mark.parametrize("wrong", [None, "400", float("nan"), float("inf"), -1, 0])
@pytest.mark.parametrize(
    ("segmentation", "area"),
    [
        ([], 400),  # of the box
        ([SQUARE], 400),
        ([[10, 20, 30, 20, 10, 40], [30, 40, 30, 30, 20, 40]], 200 + 50),
        (RLE, 6),
    ],
)
def test_an_area_that_cannot_be_used_is_that_of_the_mask_or_else_of_the_box(
    wrong, segmentation, area
):
    annotation, kinds = normalize_one({**FIRST, "area": wrong, "segmentation": segmentation})
    assert annotation["area"] == area
    assert kinds == ["area_missing"]


@pytest.mark.parametrize(
    ("area", "segmentation", "is_wrong"),
    [
        (400, [], False),
        (30, [], False),  # the object may be thin
        (2.7, [], False),  # 0.01 * 400 / 1.5 = 2.67
        (2.6, [], True),
        (1, [], True),
        (9999, [], True),
        (8, [SQUARE], True),  # the number of its coordinates
        (390.5, [SQUARE], False),
        (200, [[10, 20, 30, 20, 10, 40]], False),  # of the mask
        (400, [[10, 20, 30, 20, 10, 40]], False),  # of the box
    ],
)
def test_an_area_that_contradicts_box_and_mask_is_found(area, segmentation, is_wrong):
    annotation, kinds = normalize_one({**FIRST, "area": area, "segmentation": segmentation})
    assert kinds == (["area"] if is_wrong else [])
    assert annotation["area"] == area


def test_an_area_of_0_is_right_where_box_or_mask_has_none():
    for change in ({"bbox": [1, 2, 0, 4]}, {"segmentation": [[10, 20, 30, 40, 20, 30]]}):
        _, findings = normalize(content_of({}, {"id": 2, "area": 0, **change}))
        assert "area_missing" not in {x.kind for x in findings}


@pytest.mark.parametrize("missing", [{}, {"bbox": None}, {"bbox": []}])
@pytest.mark.parametrize(
    ("segmentation", "bbox"),
    [
        ([SQUARE], [10, 20, 20, 20]),
        ([SQUARE, [0, 1, 5, 1, 5, 2]], [0, 1, 30, 39]),
        (SQUARE, [10, 20, 20, 20]),
        (RLE, [1, 2, 2, 3]),
    ],
)
def test_a_missing_box_is_the_box_around_the_segmentation(missing, segmentation, bbox):
    entry = without("bbox", "area", "iscrowd", segmentation=segmentation) | missing
    annotation, kinds = normalize_one(entry)
    assert annotation["bbox"] == bbox
    assert "box_missing" in kinds


@pytest.mark.parametrize("segmentation", [[[1, 2, 3, 4]], [[]], [[1, 2, 3, 4, 5, 6, 7]], [1, 2]])
def test_the_box_of_polygons_that_are_not_valid_is_kept_without_them(segmentation):
    annotation, kinds = normalize_one({**FIRST, "segmentation": segmentation})
    assert annotation == FIRST
    assert "segmentation_no_polygon" in kinds


@pytest.mark.parametrize("rle", [{**RLE, "size": [96, 64]}, {**RLE, "counts": "ooo"}])
def test_the_box_of_a_mask_that_does_not_fit_is_kept_and_a_box_that_depends_on_it_is_missed(rle):
    annotation, kinds = normalize_one({**FIRST, "segmentation": rle})
    assert annotation == FIRST
    assert kinds == ["segmentation_rle"]
    content = content_of(annotations=[without("bbox", segmentation=rle)])
    assert find(content, "box_unknown").is_fatal


@pytest.mark.parametrize("number", ["3", -1, None, 2.0, True])
def test_a_number_of_keypoints_that_is_not_valid_is_counted(number):
    points = {"keypoints": [1, 2, 2, 3, 4, 0, 5, 6, 1]}
    entry, kinds = normalize_one({**FIRST, **points, "num_keypoints": number})
    assert (entry["num_keypoints"], kinds) == (2, ["num_keypoints"])
    without_points, kinds = normalize_one({**FIRST, "num_keypoints": number})
    assert (without_points["num_keypoints"], kinds) == (0, ["num_keypoints"])


@pytest.mark.parametrize(
    ("segmentation", "kind"),
    [
        ({**RLE, "size": [64, 96.5]}, "segmentation"),
        ({**RLE, "size": [96.0, 64.0]}, "segmentation_rle"),
        ([RLE], "segmentation_form"),
        ([None], "segmentation_form"),
        ([[1, 2, 3, 4]], "segmentation_no_polygon"),
        ({**RLE, "size": [96, 64]}, "segmentation_rle"),
        ([1, 2, 3, 4], "segmentation_no_polygon"),
    ],
)
def test_a_segmentation_that_is_dropped_is_not_reported_where_the_box_is_unknown(
    segmentation, kind
):
    annotation, kinds = normalize_one({**FIRST, "segmentation": segmentation})
    assert annotation == FIRST
    assert kind in kinds
    content = content_of(annotations=[FIRST, without("bbox", id=2, segmentation=segmentation)])
    assert [x.kind for x in normalize(content)[1]] == ["box_unknown"]
    content["annotations"].append({**FIRST, "id": 3, "segmentation": segmentation})
    assert find(content, kind).entries == [3]


@pytest.mark.parametrize("bbox", [[0, 0, 0, 0], [10, 20, 0, 5], [10, 20, 5, 0]])
def test_a_box_without_area_is_derived_like_a_missing_one(bbox):
    annotation, kinds = normalize_one({**FIRST, "bbox": bbox, "segmentation": [SQUARE]})
    assert annotation["bbox"] == [10, 20, 20, 20]
    assert kinds == ["box_missing"]
    line = {**FIRST, "bbox": bbox, "segmentation": [[1, 2, 3, 2, 1, 2]], "area": 0}
    assert normalize_one(line)[0]["bbox"] == bbox


def test_identical_annotations_are_dropped():
    fields = {"segmentation": [SQUARE]}
    other = {"id": 1, **fields, "area": 390}
    content, findings = normalize_copies(
        content_of(fields, fields, other, {"id": 2}, fields, other)
    )
    assert [(x["id"], x["area"]) for x in content["annotations"]] == [(1, 400), (3, 390), (2, 400)]
    assert {x.kind: (x.count, x.entries) for x in findings} == {
        "annotation_identical": (3, [1, 1, 1]),
        "annotation_id_repeated": (1, [1]),
    }


def test_identical_annotations_without_an_id_are_kept():
    content, _ = normalize(content_of(annotations=[without("id"), without("id")]))
    assert len(content["annotations"]) == 2


@pytest.mark.parametrize("first_ids", [{"id": 1}, {}])
def test_boxes_that_are_annotated_twice_are_counted_and_kept(first_ids):
    one = without("id", **first_ids)
    others = [
        without("id", image_id=2),
        without("id", bbox=[10, 20, 20, 21]),
        without("id", category_id=2),
        without("id", iscrowd=1),
        without("id", iscrowd=1, area=390),
    ]
    copies = [
        {**FIRST, "id": 50, "segmentation": [SQUARE]},
        {**FIRST, "id": 51, "bbox": [10.0, 20, 20, 20]},
    ]
    content = content_of(
        annotations=[one, *others, *copies], categories=[{"id": i, "name": str(i)} for i in (1, 2)]
    )
    assert len(normalize(content)[0]["annotations"]) == 8
    finding = find(content, "box_repeated")
    assert not finding.is_fatal
    assert (finding.count, finding.entries, finding.value) == (2, [50, 51], FIRST["bbox"])
    assert "2 of 6 boxes" in finding.text
    assert "the first is annotation 50 of '1.png'" in finding.text
    assert "Delete the copies" in finding.text


@pytest.mark.parametrize("image_id", [1, "a"])
def test_identical_images_are_dropped_and_others_with_the_same_id_are_fatal(image_id):
    image = {"id": image_id, "file_name": "1.png", "width": 96, "height": 64}
    content = content_of({"image_id": image_id}, images=[image, {**image}, {**image}])
    normalized, findings = normalize(content)
    assert len(normalized["images"]) == 1
    found = {x.kind: x for x in findings}
    assert found["image_identical"].entries == ["1.png", "1.png"]
    assert not any(x.is_fatal for x in findings)
    assert "image_repeated" not in found
    content["images"][1]["width"] = 95
    assert find(content, "image_id_repeated").is_fatal


@pytest.mark.parametrize("keypoints", [[1, 2], [1, 2, 2, 3], "abc", [1, 2, None]])
def test_keypoints_are_three_numbers_each(keypoints):
    finding = find(content_of({"keypoints": keypoints}), "keypoints")
    assert finding.is_fatal
    assert finding.value == keypoints


@pytest.mark.parametrize("visibility", [3, 0.5, -1])
def test_another_visibility_than_0_1_and_2_is_found(visibility):
    finding = find(content_of({"keypoints": [1, 2, 2, 3, 4, visibility]}), "keypoint_visibility")
    assert not finding.is_fatal
    assert finding.count == 1


@pytest.mark.parametrize("keypoints", [[1, 2, 0, 3, 4, 1, 5, 6, 2.0], [0, 0, 0], [], None])
def test_valid_keypoints_are_not_found(keypoints):
    assert normalize_one({**FIRST, "keypoints": keypoints})[1] == []


def test_valid_polygons_beside_others_are_kept():
    annotation, _ = normalize_one({**FIRST, "segmentation": [[1, 2], SQUARE]})
    assert annotation["segmentation"] == [SQUARE]


@pytest.mark.parametrize(
    "size", [{}, {"width": -1, "height": -1}, {"width": 0, "height": 64}, {"width": "96"}]
)
def test_a_size_that_cannot_be_used_is_read(size):
    asked = []

    def read_size(name):
        asked.append(name)
        return 96, 64

    images = [{"id": 1, "file_name": "1.png", **size}]
    content, (finding,) = normalize(content_of({}, images=images), read_size)
    assert content["images"] == [{"id": 1, "file_name": "1.png", "width": 96, "height": 64}]
    assert asked == ["1.png"]
    assert (finding.kind, finding.entries) == ("image_size_read", ["1.png"])


def test_a_size_in_floats_becomes_integers_without_a_finding():
    images = [{"id": 1, "file_name": "1.png", "width": 96.0, "height": 64.0}]
    content, findings = normalize(content_of({}, images=images))
    assert repr(content["images"][0]["width"]) == "96"
    assert findings == []


def test_an_unknown_size_is_fatal():
    content = content_of({}, images=[{"id": 1, "file_name": "1.png"}])
    assert find(content, "image_size_unknown").is_fatal


@pytest.mark.parametrize(
    ("bbox", "kind"),
    [
        ([float("nan"), 2, 3, 4], "box_not_finite"),
        ([1, 2, 10**400, 4], "box_not_finite"),
        ([1, 2, -3, 4], "box_negative"),
    ],
)
def test_boxes_that_no_coco_file_can_have_are_left_out(bbox, kind):
    content, (finding,) = normalize(content_of({}, {"id": 2, "bbox": bbox}))
    assert [x["id"] for x in content["annotations"]] == [1]
    assert (finding.kind, finding.is_fatal, finding.entries) == (kind, False, [2])


@pytest.mark.parametrize(
    ("bbox", "kind"),
    [
        ([1, 2, 0, 4], "box_no_area"),
        ([96, 2, 3, 4], "box_outside"),
        ([90, 2, 8, 4], "box_reaches_out"),
    ],
)
def test_other_boxes_are_kept_for_the_evaluation(bbox, kind):
    content, (finding,) = normalize(content_of({}, {"id": 2, "bbox": bbox, "area": 12}))
    assert [x["id"] for x in content["annotations"]] == [1, 2]
    assert (finding.kind, finding.file_name, finding.value) == (kind, "1.png", bbox)


def test_boxes_as_fractions_of_the_image_are_fatal():
    boxes = [[0, 0, 1, 0.5], [0.25, 0.5, 0.5, 0.5]]
    content = content_of(*({"id": i, "bbox": x} for i, x in enumerate(boxes, 1)))
    finding = find(content, "box_fractions")
    assert (finding.is_fatal, finding.count) == (True, 2)


def test_boxes_that_are_all_tiny_are_found_and_a_single_one_is_not():
    tiny = {"id": 2, "bbox": [3, 4, 1.5, 1], "area": 1.5}
    finding = find(content_of(tiny), "box_tiny")
    assert (finding.is_fatal, finding.count) == (False, 1)
    assert normalize(content_of({}, tiny))[1] == []


def test_crowds_are_counted_among_all_boxes():
    finding = find(content_of({}, {"id": 2, "iscrowd": 1}), "crowd")
    assert finding.text.startswith("1 of 2 boxes ")
    assert "CVAT" in finding.text


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"iscrowd": 1}, "CVAT"),
        ({"image_id": 7}, "no image"),
        ({"bbox": [200, 2, 3, 4]}, "outside"),
    ],
)
def test_the_reason_why_no_box_can_be_used_is_given_once(change, word):
    _, findings = normalize(content_of(change, {"id": 2, **change}))
    (finding,) = (x for x in findings if word in x.text)
    assert (finding.kind, finding.count) == ("no_usable_box", 2)


def test_classes_without_a_box_are_named_in_one_finding():
    categories = [{"id": i, "name": x} for i, x in enumerate(("all", "cat", "dog"))]
    finding = find(content_of({}, categories=categories), "class_unused")
    assert finding.entries == ["all", "dog"]
    assert finding.text.startswith("2 of 3 classes ")


def test_a_missing_list_of_annotations_stays_missing():
    content = content_of()
    del content["annotations"]
    normalized, (finding,) = normalize(content)
    assert "annotations" not in normalized
    assert (finding.kind, finding.is_fatal) == ("no_annotations", False)


def test_all_kinds_of_faults_are_found_at_once():
    content = content_of(
        {"category_id": 9},
        {"id": 2, "iscrowd": 2},
        {"id": 3, "bbox": "text"},
        {"id": 5, "ignore": 1},
        {"id": 6, "keypoints": "abc"},
        images=[{"id": 1}, {"id": 1, "file_name": "1.png"}],
    )
    fatal = {x.kind for x in normalize(content)[1] if x.is_fatal}
    assert fatal == {
        "image_entry",
        "image_size_unknown",
        "annotation_category",
        "iscrowd",
        "box_numbers",
        "ignore",
        "keypoints",
    }


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ([{"image_id": 1, "category_id": 1, "bbox": [], "score": 0.5}], "detections"),
        ([FIRST], "'annotations' alone"),
        ({"version": "5.0", "shapes": [], "imagePath": "1.png"}, "labelme"),
        ({"_via_settings": {}, "_via_img_metadata": {}}, "VIA"),
        ({"1.png123": {"filename": "1.png", "regions": []}}, "VIA"),
        ([{"id": 1, "data": {}, "annotations": []}], "Label Studio"),
        ([{"image": "1.png", "annotations": []}], "CreateML"),
        ({"images": []}, "'categories'"),
        ({"images": {}, "categories": []}, "'images' must be a list"),
        (5, "int"),
    ],
)
def test_content_of_another_format_is_named(content, word):
    normalized, (finding,) = normalize(content)
    assert finding.is_fatal
    assert word in finding.text
    assert normalized["images"] == []


def test_entries_are_right_beyond_the_first_chunk(monkeypatch):
    monkeypatch.setattr("fcos_d2.data.coco.annotation_list._CHUNK", 2)
    annotations = [{"id": i, "image_id": 1 + i % 2} for i in range(5)]
    annotations[3]["bbox"] = [1, 2, -3, 4]
    annotations[4]["iscrowd"] = 1
    content, findings = normalize_copies(content_of(*annotations))
    assert [x["id"] for x in content["annotations"]] == [5, 1, 2, 4]
    assert [x["image_id"] for x in content["annotations"]] == [1, 2, 1, 1]
    assert {x.kind: x.entries for x in findings} == {
        "annotation_id_0": [0],
        "box_negative": [3],
        "crowd": [4],
    }


@pytest.mark.parametrize(
    ("fractions", "others", "kind", "is_fatal"),
    [
        (8, 0, "box_fractions", True),
        (8, 1, "box_fractions", True),
        (1, 8, "box_fractions", False),
        (1, 200, None, False),
        (0, 8, None, False),
    ],
)
def test_a_large_share_of_boxes_that_are_fractions_is_found(fractions, others, kind, is_fatal):
    center = {"bbox": [0.8, 0.8, 0.5, 0.5], "area": 0.25}  # YOLO: reaches beyond 1
    entries = [center] * fractions + [{}] * others
    _, findings = normalize_copies(content_of(*({**x, "id": i} for i, x in enumerate(entries, 1))))
    findings = [x for x in findings if x.kind.startswith("box")]
    assert [x.kind for x in findings] == ([kind] if kind else [])
    for finding in findings:
        assert (finding.is_fatal, finding.count) == (is_fatal, fractions)
        assert f"{fractions} of {fractions + others} boxes" in finding.text


def test_crowds_are_not_counted_as_fractions():
    fraction = {"bbox": [0.1, 0.1, 0.2, 0.2], "area": 0.04}
    content = content_of({**fraction, "id": 2}, {"id": 3, "iscrowd": 1})
    assert "1 of 1 box " in find(content, "box_fractions").text


def test_a_finding_about_a_derived_box_shows_it():
    line = [5, 5, 9, 5, 5, 5]
    content = content_of(annotations=[without("bbox", segmentation=[line])])
    finding = find(content, "no_usable_box")
    assert finding.value == [5, 5, 4, 0]
    assert "bbox = [5, 5, 4, 0]" in finding.text


@pytest.mark.parametrize("entry", [{**FIRST, "id": None}, without("id")])
def test_entries_without_an_id_are_named_by_their_position(entry):
    content = content_of(annotations=[FIRST, entry])
    assert find(content, "annotation_id_missing").entries == ["annotations[1]"]


def test_entries_that_are_not_valid_are_named_by_their_position():
    content = content_of(annotations=[FIRST, 5], images=[7], categories=["x"])
    _, findings = normalize(content)
    names = {x.kind: x.entries for x in findings}
    assert names["image_entry"] == ["images[0]"]
    assert names["category_entry"] == ["categories[0]"]
    assert names["annotation_entry"] == ["annotations[1]"]


@pytest.mark.parametrize(
    ("lists", "cause"),
    [
        ({"images": []}, "no_images"),
        ({"images": [{"id": 1}]}, "image_entry"),
        ({"categories": []}, "no_categories"),
        ({"categories": [{"id": 1}]}, "category_entry"),
    ],
)
def test_consequences_of_a_fault_are_not_reported(lists, cause):
    _, findings = normalize(content_of({}, **lists))
    assert [x.kind for x in findings] == [cause]


def test_long_ids_and_names_are_shortened():
    images = [{"id": "i" * 999, "file_name": "n" * 999, "width": 96, "height": 64}]
    content = content_of({"image_id": "i" * 999, "id": "a" * 999}, images=images)
    _, findings = normalize(content)
    assert {x.kind for x in findings} == {"image_id", "annotation_id"}
    assert all(len(x.text) < 800 for x in findings)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"bbox": [1, 2, 0, 4]}, "Correct those"),
        ({"bbox": [500, 2, 9, 4]}, "Correct those"),
        ({"image_id": 99}, "missing in the list"),
    ],
)
def test_the_reason_for_no_usable_box_has_a_remedy(damage, words):
    assert words in find(content_of(damage), "no_usable_box").text
