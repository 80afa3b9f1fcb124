"""Checks that datasets have the same classes as each other and as a model."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from detectron2.data import MetadataCatalog

from ...errors import InputError, agree, count_words, listed, nearest
from .descriptions import CheckedDataset
from .normalization import file_ids

__all__ = [
    "DatasetKeys",
    "ModelLimits",
    "check_has_classes",
    "find_class_faults",
    "find_drop_faults",
]

logger = logging.getLogger(__name__)


class DatasetKeys(NamedTuple):
    """The config keys of the arguments of ``check_datasets``, for errors."""

    num_classes: str = "MODEL.FCOS.NUM_CLASSES"
    train: str = "DATASETS.TRAIN"
    test: str = "DATASETS.TEST"
    drop_classes: str = "FCOS_TRAIN.DROP_CLASSES"
    class_names: str = "FCOS_TRAIN.CLASS_NAMES"
    detections_per_image: str = "TEST.DETECTIONS_PER_IMAGE"
    uses_masks: str = "MODEL.MASK_ON"
    mask_format: str = "INPUT.MASK_FORMAT"
    uses_keypoints: str = "MODEL.KEYPOINT_ON"
    kpt_oks_sigmas: str = "TEST.KEYPOINT_OKS_SIGMAS"


class _Classes(NamedTuple):
    """
    A list of class names, and who has it.

    Attributes:
        owner (str): Who has the classes, such as "training set 'my_train'".
        names (list[str]): The names, in the order of class indices.
        ids (dict): The category id of each name in the annotation file, as far as it is known.
        can_drop (bool): Whether DROP_CLASSES can leave out classes, which is so for files.
    """

    owner: str
    names: list[str]
    ids: Mapping[str, Any]
    can_drop: bool = False


class ModelLimits(NamedTuple):
    """
    What a model can detect.

    Attributes:
        num_classes (int): K, the number of its classes.
        class_names (Sequence[str]): The classes that it was trained for; empty if they are unknown
            or if it is yet to be trained.
        drop_classes (Sequence[str]): The classes that are left out of all datasets.
        detections_per_image (int): The number of detections that it returns for an image.
        uses_masks (bool): Whether it is trained with masks.
        has_mask_head (bool): Whether it predicts masks, so that each object needs one.
        mask_format (str): The format of the masks in training: "polygon" or "bitmask", which any
            segmentation can become.
        uses_keypoints (bool): Whether it is trained with keypoints.
    """

    num_classes: int
    class_names: Sequence[str] = ()
    drop_classes: Sequence[str] = ()
    detections_per_image: int = 100
    uses_masks: bool = False
    has_mask_head: bool = False
    mask_format: str = "bitmask"
    uses_keypoints: bool = False


def find_class_faults(
    model: ModelLimits,
    train_names: Sequence[str],
    test_names: Sequence[str],
    checked: Mapping[str, CheckedDataset],
    keys: DatasetKeys,
) -> Iterator[InputError]:
    """
    Yield errors about datasets with other classes than the first one, or than the trained model.

    Only if all datasets have the same classes, compare their number with that of the model: a
    number that fits one of two datasets would not fit the other.
    """
    known = [
        (key, names, classes)
        for key, kind, names in (
            (keys.train, "training set", train_names),
            (keys.test, "test set", test_names),
        )
        for name in names
        if (classes := _classes_of(name, kind, checked)) is not None
    ]
    if not known:
        return
    expected = known[0][2]
    if model.class_names:
        expected = _Classes(f"trained detector ({keys.class_names})", list(model.class_names), {})
    is_consistent = True
    for key, names, classes in known:
        difference = _find_difference(classes, expected)
        if difference is None:
            _warn_of_other_ids(classes, expected)
            continue
        is_consistent = False
        dropped = [x for x in difference.lacking if x in model.drop_classes]
        text = f"The {classes.owner} has other classes than the {expected.owner}: {difference.text}"
        if model.class_names and dropped:
            yield _dropped_by_key(text, dropped, model, keys)
            continue
        yield InputError(
            f"{text}. {_describe_remedy(classes, expected, difference, keys)}",
            key=keys.class_names if model.class_names else key,
            value=expected.names if model.class_names else list(names),
        )
    if is_consistent and len(expected.names) != model.num_classes:
        yield _wrong_number(model, expected, keys, is_training=bool(train_names))


def _dropped_by_key(
    text: str, dropped: Sequence[str], model: ModelLimits, keys: DatasetKeys
) -> InputError:
    """Make the error about classes that are left out, although the evaluated model has them."""
    names = listed([repr(x) for x in dropped])
    remedy = agree("The detector has {it|them}: remove {it|them} from that key", len(dropped))
    return InputError(
        f"{text}. {keys.drop_classes} leaves out {names}. {remedy}.",
        key=keys.drop_classes,
        value=list(model.drop_classes),
    )


def _wrong_number(
    model: ModelLimits, expected: _Classes, keys: DatasetKeys, *, is_training: bool
) -> InputError:
    """Make the error about a model with another number of classes than the datasets."""
    remedy = (
        f"Set the key to {len(expected.names)}; in a YAML config, -1 means the number of the "
        "training set."
        if is_training
        else "The key must be the number of classes of the weights, and a test set must have "
        "the same categories as their training set."
    )
    return InputError(
        f"{keys.num_classes} = {model.num_classes}, but the {expected.owner} has "
        f"{count_words(len(expected.names), '{class|classes}')} ({listed(expected.names)}). "
        f"{remedy}",
        key=keys.num_classes,
        value=model.num_classes,
    )


def _classes_of(name: str, kind: str, checked: Mapping[str, CheckedDataset]) -> _Classes | None:
    """Return the classes of a dataset; None if its metadata do not have them."""
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is None:
        return None
    ids = {}
    if name in checked:
        own_ids = file_ids(checked[name].content, "categories")
        ids = {x: own_ids[i] for i, x in checked[name].description.categories.items()}
    is_file = name in checked and bool(checked[name].description.json_file)
    return _Classes(f"{kind} {name!r}", list(classes), ids, can_drop=is_file)


class _Difference(NamedTuple):
    """
    How a list of classes differs from the expected one.

    Attributes:
        lacking (list[str]): The names that it lacks in any spelling.
        extra (list[str]): The names that only it has in any spelling.
        is_respelled (bool): Whether names differ only in case or in spaces around them.
        text (str): A description, such as "it lacks 'blue' (id 2), and it has 'red' (id 3) in
            addition".
    """

    lacking: list[str]
    extra: list[str]
    is_respelled: bool
    text: str


def _find_difference(classes: _Classes, expected: _Classes) -> _Difference | None:
    """Return how a list of classes differs from the expected one; None if they are equal."""

    def quoted(names: Sequence[str], ids: Mapping[str, Any]) -> str:
        """Return names with their ids."""
        return listed([f"{x!r} (id {ids[x]!r})" if x in ids else repr(x) for x in names])

    if classes.names == expected.names:
        return None
    counts, expected_counts = Counter(classes.names), Counter(expected.names)
    lacking = list((expected_counts - counts).elements())
    extra = list((counts - expected_counts).elements())
    texts = []
    if lacking:
        texts.append(f"it lacks {quoted(lacking, expected.ids)}")
    if extra:
        texts.append(f"it has {quoted(extra, classes.ids)} in addition")
    respelled = {x: y for x in extra for y in lacking if _fold(x) == _fold(y)}
    if respelled:
        named = listed([f"{x!r} and {y!r}" for x, y in respelled.items()])
        texts.append(f"{named} differ only in upper and lower case or in spaces")
    if not texts:
        pairs = enumerate(zip(classes.names, expected.names, strict=True))
        i, (x, y) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
        texts.append(f"the order is different (class {i} is {x!r} instead of {y!r})")
    return _Difference(
        [x for x in lacking if x not in respelled.values()],
        [x for x in extra if x not in respelled],
        bool(respelled),
        ", and ".join(texts),
    )


def _fold(name: str) -> str:
    """Return a name without its case and the spaces around it."""
    return name.strip().casefold()


def _describe_remedy(
    classes: _Classes, expected: _Classes, difference: _Difference, keys: DatasetKeys
) -> str:
    """Return what to do about a difference."""
    is_dropped = (classes.can_drop and bool(difference.extra)) or (
        expected.can_drop and bool(difference.lacking)
    )
    sentences = ["Write such names in the same way."] if difference.is_respelled else []
    sentences.append(
        f"The datasets need the same list of categories as the {expected.owner}; a category needs "
        "no annotation."
    )
    if is_dropped:
        sentences.append(f"{keys.drop_classes} leaves out classes of annotation files.")
    return " ".join(sentences)


def _warn_of_other_ids(classes: _Classes, expected: _Classes) -> None:
    """Log that categories have other ids than those of the first dataset."""
    different = [
        name
        for name, own_id in classes.ids.items()
        if name in expected.ids and own_id != expected.ids[name]
    ]
    if different:
        first = different[0]
        logger.warning(
            "%d of %s of the %s differ in the id from the %s, the first is %r with id "
            "%r instead of %r. Categories are matched by their names.",
            len(different),
            count_words(len(classes.names), "{category|categories}"),
            classes.owner,
            expected.owner,
            first,
            classes.ids[first],
            expected.ids[first],
        )


def find_drop_faults(
    model: ModelLimits,
    train_names: Sequence[str],
    test_names: Sequence[str],
    checked: Mapping[str, CheckedDataset],
    keys: DatasetKeys,
) -> Iterator[InputError]:
    """Yield errors about classes that no dataset has, or that a dataset cannot leave out."""
    dropped = list(model.drop_classes)
    known: dict[str, None] = {}
    for name in (*train_names, *test_names):
        classes = MetadataCatalog.get(name).get("thing_classes", [])
        kept = [x for x in dropped if x in classes]
        if kept:
            yield InputError(
                f"{keys.drop_classes} cannot leave {listed(kept)} out of the dataset {name!r}, but "
                "only out of datasets in COCO's format that are given by --dataset.",
                key=keys.drop_classes,
                value=dropped,
            )
        known.update(dict.fromkeys(classes))
        if name in checked:
            known.update(dict.fromkeys(x["name"] for x in checked[name].content["categories"]))
    # In an evaluation, the training set that has the class is not read.
    unknown = [x for x in dropped if x not in known] if train_names else []
    for name in unknown:
        yield InputError(
            f"{keys.drop_classes} has {name!r}, which is not a class of the datasets. "
            f"{nearest(name, known)}",
            key=keys.drop_classes,
            value=dropped,
        )


def check_has_classes(dataset: CheckedDataset, drop_classes: Sequence[str], key: str) -> None:
    """
    Check that a dataset has classes that are not left out.

    Args:
        dataset (CheckedDataset): The dataset.
        drop_classes (Sequence[str]): See ``ModelLimits``.
        key (str): Their config key.

    Raises:
        InputError: If all classes are left out.
    """
    if not dataset.description.categories:
        names = [x["name"] for x in dataset.content["categories"]]
        raise InputError(
            f"{key} leaves out all classes of the dataset {dataset.description.name!r}: "
            f"{listed(names)}.",
            key=key,
            value=list(drop_classes),
        )
