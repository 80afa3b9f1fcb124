"""Kinds of findings in the list of annotations, but those of boxes and segmentations."""

from .findings import Kind

__all__ = [
    "AREA",
    "BOX_DERIVED",
    "CROWD_VALUE",
    "FRACTIONS",
    "IDENTICAL",
    "ID_KINDS",
    "IGNORE",
    "KEYPOINTS",
    "MISSING_AREA",
    "MISSING_CROWD",
    "NOT_AN_OBJECT",
    "NO_BOX",
    "NO_CATEGORY",
    "NO_IMAGE",
    "NO_REFERENCE",
    "NUM_KEYPOINTS",
    "REFERENCE_TYPE",
    "REPEATED_BOX",
    "SCALES",
    "SOME_FRACTIONS",
    "TINY",
    "VISIBILITY",
]

NOT_AN_OBJECT = Kind(
    "annotation_entry",
    "{annotation is|annotations are} not {an object|objects} with fields",
    "Delete {it|them}.",
    is_fatal=True,
)
NO_REFERENCE = Kind(
    "annotation_reference",
    "{annotation has|annotations have} no image_id or no category_id that is a number or a text",
    "Add {it|them}.",
    is_fatal=True,
)
NO_IMAGE = Kind(
    "annotation_image",
    "{annotation belongs|annotations belong} to no image of the file",
    "{It is|They are} left out. Is an image missing in the list 'images'?",
    field="image_id",
)
NO_CATEGORY = Kind(
    "annotation_category",
    "{annotation is|annotations are} of a category that the file does not have",
    "Add the category to the file.",
    is_fatal=True,
    field="category_id",
)
REFERENCE_TYPE = Kind(
    "annotation_reference_type",
    "{annotation has|annotations have} another type of image_id or category_id than the ids of the "
    "file",
    "Equal numbers and texts are taken as the same id.",
)
IDENTICAL = Kind(
    "annotation_identical",
    "{annotation is|annotations are} listed more than once with the same id and content",
    "Only the first of each is used.",
)
_ID_REMEDY = "{It gets a new id|They get new ids}, which results do not contain."
ID_KINDS = {
    "missing": Kind("annotation_id_missing", "{annotation has|annotations have} no id", _ID_REMEDY),
    "zero": Kind(
        "annotation_id_0",
        "{annotation has|annotations have} the id 0",
        f"COCO's evaluation reads 0 as 'no match'. {_ID_REMEDY}",
    ),
    "repeated": Kind(
        "annotation_id_repeated",
        "{annotation has|annotations have} the id of an earlier annotation",
        _ID_REMEDY,
        field="id",
    ),
    "other": Kind(
        "annotation_id",
        "{annotation has an id|annotations have ids} that {is not an integer|are not integers} "
        "from 1 to 2^53",
        "1.0 and '1' keep their value, others get new ids; results do not contain them.",
        field="id",
    ),
}
MISSING_CROWD = Kind(
    "iscrowd_missing", "{annotation has|annotations have} no iscrowd", "It is taken as 0."
)
CROWD_VALUE = Kind(
    "iscrowd",
    "{annotation has|annotations have} another iscrowd than 0 and 1",
    "It must be 0 for a single object or 1 for a crowd.",
    is_fatal=True,
    field="iscrowd",
)
IGNORE = Kind(
    "ignore",
    "{annotation has|annotations have} the key 'ignore', which is not supported",
    "Delete the key, or mark the annotation with iscrowd = 1.",
    is_fatal=True,
    field="ignore",
)
MISSING_AREA = Kind(
    "area_missing",
    "{annotation has|annotations have} no area, or one that is not a finite number above 0",
    "It is computed from the mask, or else from the box.",
    field="area",
)
AREA = Kind(
    "area",
    "{annotation has|annotations have} an area that does not fit box or mask",
    "Training does not use it, but the AP of small, medium and large objects will be wrong. Delete "
    "the area to let it be computed.",
    field="area",
)
BOX_DERIVED = Kind(
    "box_missing",
    "{annotation has|annotations have} a segmentation and no bbox, or one without area",
    "The box around the segmentation is used.",
)
NO_BOX = Kind(
    "box_unknown",
    "{annotation has|annotations have} no bbox and no valid segmentation",
    "Add the bbox [x, y, width, height] in pixels, or delete the annotation.",
    is_fatal=True,
)
FRACTIONS = Kind(
    "box_fractions",
    "{box has|boxes have} only values from 0 to 1",
    "Are they fractions of the image? A bbox is [x, y, width, height] in pixels: multiply by the "
    "size of the image.",
    is_fatal=True,
    field="bbox",
)
SOME_FRACTIONS = FRACTIONS._replace(is_fatal=False)
TINY = Kind(
    "box_tiny",
    "{box is|boxes are} smaller than 2 pixels",
    "A bbox is [x, y, width, height] in pixels. Is it in another unit?",
    field="bbox",
)
REPEATED_BOX = Kind(
    "box_repeated",
    "{box is|boxes are} the same as an earlier one of the same class in the same image",
    "Delete the copies: an evaluation counts each as another object that must be found, which "
    "lowers the AP.",
    field="bbox",
)
SCALES = (FRACTIONS, SOME_FRACTIONS, TINY)  # that boxes have in common
KEYPOINTS = Kind(
    "keypoints",
    "{annotation has|annotations have} keypoints that are not a list of three numbers for each",
    "Keypoints are [x1, y1, visibility1, ...]. Fix or delete them; detection does not need them.",
    is_fatal=True,
    field="keypoints",
)
VISIBILITY = Kind(
    "keypoint_visibility",
    "{annotation has|annotations have} keypoints with another visibility than 0, 1 and 2",
    "0 means not labeled, 1 hidden and 2 visible. All values above 0 are taken as labeled.",
    field="keypoints",
)
NUM_KEYPOINTS = Kind(
    "num_keypoints",
    "{annotation has|annotations have} a num_keypoints that is not an integer from 0",
    "The labeled keypoints are counted instead.",
    field="num_keypoints",
)
