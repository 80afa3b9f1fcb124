"""InputErrors of workers and started processes keep their fields."""

import pytest
import torch.multiprocessing as mp
from torch.utils.data import DataLoader

from fcos_d2.errors import InputError, find_input_error, nearest


def test_the_most_similar_known_name_is_suggested():
    assert "'FCOS'" in nearest("FCSO", ["RetinaNet", "FCOS"])
    assert "'TOPK_CANDIDATES_TEST'" in nearest("TOPK", ["NORM", "TOPK_CANDIDATES_TEST"])
    assert nearest("x", []) == ""


class _Broken:
    """A dataset of one item, which raises an error."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise OSError("truncated")
        except OSError as error:
            raise self.error from error


def _fail(rank, error):
    raise error


def _fail_in_loader(rank, error):
    batches = iter(DataLoader(_Broken(error), num_workers=1))
    try:
        next(batches)
    finally:
        batches._shutdown_workers()


TWO_LINES = InputError("The image a.png cannot be used.\nFix it.", file="a.png")
ERRORS = [
    InputError("MODEL.FCOS.NORM is wrong.", key="MODEL.FCOS.NORM", value=None),
    TWO_LINES,
    InputError.of([InputError("a", key="A", value=[1]), TWO_LINES]),
]


def fields(error):
    return [(x.text, x.key, x.value, x.file) for x in error.faults]


@pytest.mark.parametrize("error", ERRORS, ids=["one", "two lines", "two faults"])
def test_an_error_of_a_data_loaders_worker_keeps_its_fields(error):
    batches = iter(DataLoader(_Broken(error), num_workers=1))
    with pytest.raises(InputError, match="Traceback") as caught:
        next(batches)
    batches._shutdown_workers()  # The garbage collector could need seconds for this.
    assert fields(find_input_error(caught.value)) == fields(error)


@pytest.mark.parametrize("error", ERRORS, ids=["one", "two lines", "two faults"])
@pytest.mark.parametrize("function", [_fail, _fail_in_loader])
def test_an_error_of_a_started_process_keeps_its_fields(error, function):
    with pytest.raises(mp.ProcessRaisedException) as caught:
        mp.start_processes(function, (error,), nprocs=1, start_method="fork")
    assert fields(find_input_error(caught.value)) == fields(error)


def test_the_text_does_not_contain_the_encoded_fields_in_the_process_that_raises_the_error():
    assert str(TWO_LINES) == TWO_LINES.text
    assert find_input_error(TWO_LINES) is TWO_LINES


def test_joining_several_errors_removes_duplicate_faults():
    a, b = InputError("a", key="A", value=1), InputError("b", key="B")
    error = InputError.of([InputError.of([a, b]), a, InputError("c")])
    assert error.text == "a\nb\nc"
    assert [x.key for x in error.faults] == ["A", "B", None]
    assert InputError.of([a, a]) is a


def _raise_while_handling(rank):
    try:
        raise TWO_LINES
    except InputError:
        raise KeyError("bug of the user") from None


def _raise_about_an_error(rank):
    raise RuntimeError("InputError: line of source, not an error")


@pytest.mark.parametrize("function", [_raise_while_handling, _raise_about_an_error])
def test_errors_of_other_types_are_not_taken_for_input_errors(function):
    with pytest.raises(mp.ProcessRaisedException) as caught:
        mp.start_processes(function, nprocs=1, start_method="fork")
    assert find_input_error(caught.value) is None
    assert find_input_error(RuntimeError("out of memory")) is None


@pytest.mark.parametrize("fields", ["no JSON", "[]", "3", '[{"unknown": 1}]'])
def test_the_name_of_the_error_without_valid_fields_is_not_an_error(fields):
    assert find_input_error(RuntimeError(f"text\nfcos_d2.errors.InputError {fields}")) is None


def test_the_text_of_many_errors_has_at_most_20_lines():
    error = InputError.of(InputError(f"fault {i}") for i in range(25))
    lines = error.text.splitlines()
    assert len(lines) == 20
    assert lines[18] == "fault 18"
    assert "6 more" in lines[19]
    assert len(error.faults) == 25
    assert InputError.of(InputError(f"fault {i}") for i in range(20)).text.endswith("fault 19")
