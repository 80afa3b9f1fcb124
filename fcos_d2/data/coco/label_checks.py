"""Checks that the objects of datasets have the masks and keypoints that a model learns."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from detectron2.data import MetadataCatalog

from ...errors import InputError, count_words, listed, short_repr
from ..keypoints import find_left_right_pairs, keypoint_names_of
from .class_checks import DatasetKeys, ModelLimits
from .descriptions import CheckedDataset
from .keypoint_fields import count_labeled
from .keypoint_layout import read_layout
from .normalization import file_ids
from .segmentations import DROPPED

__all__ = ["find_keypoint_faults", "find_mask_faults"]

Annotations = list[dict[str, Any]]


def find_mask_faults(
    dataset: CheckedDataset, title: str, model: ModelLimits, keys: DatasetKeys
) -> Iterator[InputError]:
    """
    Yield errors if boxes lack a segmentation for the losses, or have one in another format.

    A model that predicts masks needs one for each box. With other models, all boxes of an image may
    have none.

    Args:
        dataset (CheckedDataset): A dataset on which losses are computed.
        title (str): Its name in messages, such as "training set 'my_train'".
        model (ModelLimits): A model that uses masks.
        keys (DatasetKeys): The config keys for errors.
    """
    file = dataset.description.json_file or None
    objects = [x for x in _annotations(dataset) if not x["iscrowd"]]
    masks = [x for x in objects if x.get("segmentation")]
    reasons = [x.text for x in dataset.findings if x.kind in DROPPED]
    # What is dropped here is still in the dicts of a function, which the mapper gets.
    needs_all = model.has_mask_head or (file is None and bool(reasons))
    images = {x["image_id"] for x in (objects if needs_all else masks)}
    lacking = [x for x in objects if not x.get("segmentation") and x["image_id"] in images]
    if lacking:
        where = "" if needs_all else " in images where others have one"
        valid = "valid " if reasons else ""
        yield InputError(
            f"{keys.uses_masks} = True, but in the {title} "
            f"{count_words(len(lacking), '{box has|boxes have}')} no {valid}segmentation{where}, "
            f"the first is {_describe(lacking[0], dataset)}. {' '.join([*reasons, ''])}Add the "
            "segmentations, delete the boxes, or set the key to False.",
            key=keys.uses_masks,
            value=True,
            file=file,
        )
    rles = [x for x in masks if isinstance(x["segmentation"], Mapping)]
    if rles and model.mask_format == "polygon":
        yield InputError(
            f"{keys.mask_format} = 'polygon', but in the {title} "
            f"{count_words(len(rles), '{segmentation is an RLE|segmentations are RLEs}')}, the "
            f"first is {_describe(rles[0], dataset)}. Set the key to 'bitmask'.",
            key=keys.mask_format,
            value=model.mask_format,
            file=file,
        )


def find_keypoint_faults(
    titles: Mapping[str, str],
    with_losses: Sequence[str],
    checked: Mapping[str, CheckedDataset],
    keys: DatasetKeys,
) -> Iterator[InputError]:
    """
    Yield errors about datasets that a model with keypoints cannot be trained or evaluated on.

    Other test sets than those with losses may lack keypoints. The evaluation then computes no
    scores for them, and says so.

    Args:
        titles (dict): The name in messages of each registered dataset, such as "training set 'a'".
        with_losses (list[str]): The datasets on which losses are computed.
        checked (dict): See ``check_datasets``. Of other datasets, only the metadata are checked.
        keys (DatasetKeys): The config keys for errors.
    """
    for name, title in titles.items():
        file = checked[name].description.json_file if name in checked else None
        is_learned = name in with_losses
        for text in _find_faults(name, title, checked.get(name), is_learned=is_learned):
            yield InputError(
                f"{keys.uses_keypoints} = True, but {text}",
                key=keys.uses_keypoints,
                value=True,
                file=file or None,
            )
    yield from _find_differences(titles, with_losses, keys)


def _find_faults(
    name: str, title: str, dataset: CheckedDataset | None, *, is_learned: bool
) -> Iterator[str]:
    """Yield texts about a dataset, which messages name by its title."""
    is_file = dataset is not None and bool(dataset.description.json_file)
    if dataset is not None and is_file:
        try:
            read_layout(_categories(dataset))
        except InputError as error:
            yield f"in the {title}: {error.text}"
            return
    names = keypoint_names_of(name)
    if is_learned and not names:
        remedy = (
            'Add them to its categories ("keypoints": ["left_eye", ...])'
            if is_file
            else f"Set MetadataCatalog.get({name!r}).keypoint_names"
        )
        yield f"the {title} has no names of keypoints. {remedy}, or set the key to False."
        return
    if is_learned and MetadataCatalog.get(name).get("keypoint_flip_map") is None:
        pairs = find_left_right_pairs(names)
        yield (
            f"the metadata of the {title} do not say which keypoints a horizontal flip swaps. "
            f"By their names: MetadataCatalog.get({name!r}).keypoint_flip_map = {pairs}"
        )
    if dataset is not None and names:
        yield from _find_annotation_faults(dataset, title, len(names), is_learned=is_learned)


def _find_annotation_faults(
    dataset: CheckedDataset, title: str, count: int, *, is_learned: bool
) -> Iterator[str]:
    """Yield texts about annotations without keypoints, or with another number than ``count``."""
    annotations = _annotations(dataset)
    # The dicts of a function have keypoints for all classes; in a file, some may have none.
    named = set(dataset.description.categories)
    if dataset.description.json_file:
        named = {x["id"] for x in _categories(dataset) if x.get("keypoints")}
    lacking = [
        x
        for x in annotations
        if x["category_id"] in named and not x["iscrowd"] and not x.get("keypoints")
    ]
    if is_learned and lacking:
        yield (
            f"in the {title} {count_words(len(lacking), '{object has|objects have}')} no "
            f"keypoints, the first is {_describe(lacking[0], dataset)}. Add them (three zeros for "
            "each one that is not labeled), delete the boxes, or set the key to False."
        )
    unnamed = [x for x in annotations if x.get("keypoints") and x["category_id"] not in named]
    if unnamed:
        category = dataset.description.categories[unnamed[0]["category_id"]]
        yield (
            f"in the {title} {count_words(len(unnamed), '{object has|objects have}')} "
            f"keypoints of a category without names of keypoints, the first is "
            f"{_describe(unnamed[0], dataset)} of the category {category!r}. Add the names to the "
            "category."
        )
    wrong = [
        x
        for x in annotations
        if x.get("keypoints") and x["category_id"] in named and len(x["keypoints"]) != 3 * count
    ]
    if wrong:
        yield (
            f"in the {title} {count_words(len(wrong), '{object has|objects have}')} another "
            f"number of keypoints than there are names ({count}), the first is "
            f"{_describe(wrong[0], dataset)} with {len(wrong[0]['keypoints']) // 3}. Each needs x, "
            "y and visibility; they are three zeros for one that is not labeled."
        )
    if is_learned and not (lacking or unnamed or wrong) and not _has_labeled(annotations):
        yield f"in the {title} no keypoint is labeled: all have the visibility 0."


def _has_labeled(annotations: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether an object has a labeled keypoint."""
    objects = (x for x in annotations if not x["iscrowd"])
    return any(count_labeled(x.get("keypoints") or ()) for x in objects)


def _find_differences(
    titles: Mapping[str, str], with_losses: Sequence[str], keys: DatasetKeys
) -> Iterator[InputError]:
    """Yield an error for each dataset that has other keypoints than the first one."""
    with_names = [name for name in titles if keypoint_names_of(name)]
    for name in with_names[1:]:
        first = with_names[0]
        names, expected = keypoint_names_of(name), keypoint_names_of(first)
        if names != expected:
            text = (
                f"the keypoints of the {titles[name]} ({listed(names)}) are not those of the "
                f"{titles[first]} ({listed(expected)}). All datasets of a run need the same names "
                "in the same order."
            )
        elif name in with_losses and _flip_rules(name) != _flip_rules(first):
            text = (
                "keypoint_names and keypoint_flip_map in the metadata must have the same values "
                f"and types, but they are {_flip_rules(name)} for the {titles[name]} "
                f"and {_flip_rules(first)} for the {titles[first]}."
            )
        else:
            continue
        yield InputError(
            f"{keys.uses_keypoints} = True, but {text}", key=keys.uses_keypoints, value=True
        )


def _flip_rules(name: str) -> tuple[Any, Any]:
    """Return the metadata for flips, which detectron2 compares between training sets."""
    metadata = MetadataCatalog.get(name)
    return metadata.get("keypoint_names"), metadata.get("keypoint_flip_map")


def _annotations(dataset: CheckedDataset) -> Annotations:
    """Return the annotations of the classes that are used."""
    categories = dataset.description.categories
    return [x for x in dataset.content.get("annotations", ()) if x["category_id"] in categories]


def _categories(dataset: CheckedDataset) -> list[dict[str, Any]]:
    """Return the categories that are used."""
    categories = dataset.description.categories
    return [x for x in dataset.content["categories"] if x["id"] in categories]


def _describe(annotation: Mapping[str, Any], dataset: CheckedDataset) -> str:
    """Return the name of an annotation, such as "annotation 3 of '1.png'"."""
    names = {x["id"]: x["file_name"] for x in dataset.content["images"]}
    own_id = short_repr(file_ids(dataset.content, "annotations")[annotation["id"]])
    return f"annotation {own_id} of {short_repr(names[annotation['image_id']])}"
