"""What a user is told, however the error arrives."""

import logging
import sys

import torch.multiprocessing as mp
from torch.utils.data import DataLoader

from fcos_d2.errors import InputError, WithoutInputErrors, nearest, text_for_user


def test_the_nearest_known_name_is_suggested():
    assert nearest("FCSO", ["RetinaNet", "FCOS"]) == "Did you mean 'FCOS'?"
    assert nearest("TOPK", ["NORM", "TOPK_CANDIDATES_TEST"]) == (
        "Did you mean 'TOPK_CANDIDATES_TEST'?"
    )
    assert nearest("x", []) == ""


class _Broken:
    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise OSError("truncated")
        except OSError as error:
            raise InputError("The image a.png cannot be used.\nMend it.") from error


def test_an_error_of_a_data_loaders_worker_keeps_its_text():
    try:
        next(iter(DataLoader(_Broken(), num_workers=1)))
    except InputError as error:
        assert text_for_user(error) == "The image a.png cannot be used.\nMend it."
    else:
        raise AssertionError("nothing was raised")


def _fail(rank):
    raise InputError("MODEL.FCOS.NORM is wrong.")


def test_an_error_of_a_started_process_keeps_its_text():
    try:
        mp.start_processes(_fail, nprocs=1, start_method="fork")
    except mp.ProcessRaisedException as error:
        assert text_for_user(error) == "MODEL.FCOS.NORM is wrong."
    else:
        raise AssertionError("nothing was raised")


def test_other_errors_are_not_taken_for_the_users():
    assert text_for_user(RuntimeError("out of memory")) is None
    assert text_for_user(InputError("plain")) == "plain"


def test_the_filter_drops_input_errors_only():
    def record(error):
        try:
            raise error
        except Exception:
            return logging.LogRecord("x", logging.ERROR, "", 0, "failed", (), sys.exc_info())

    assert not WithoutInputErrors().filter(record(InputError("x")))
    assert WithoutInputErrors().filter(record(RuntimeError("x")))
    assert WithoutInputErrors().filter(logging.LogRecord("x", 40, "", 0, "failed", (), None))
