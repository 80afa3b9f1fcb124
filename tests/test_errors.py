"""What a user is told, however the error arrives."""

import logging
import sys

import pytest
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
    loader = iter(DataLoader(_Broken(), num_workers=1))
    with pytest.raises(InputError, match="Traceback") as caught:
        next(loader)
    assert text_for_user(caught.value) == "The image a.png cannot be used.\nMend it."


def _fail(rank):
    raise InputError("MODEL.FCOS.NORM is wrong.")


def test_an_error_of_a_started_process_keeps_its_text():
    with pytest.raises(mp.ProcessRaisedException) as caught:
        mp.start_processes(_fail, nprocs=1, start_method="fork")
    assert text_for_user(caught.value) == "MODEL.FCOS.NORM is wrong."


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
