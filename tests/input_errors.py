"""Assertions on InputErrors: their fields, and keywords in their texts."""

from contextlib import contextmanager

import pytest

from fcos_d2.errors import InputError, find_input_error

ANY = object()  # stands for a field that a test does not check


def check_error(error, *words, key=None, value=ANY, file=ANY):
    """
    Check the fields of an InputError.

    Args:
        error (InputError): The error that was raised.
        words (str): Names, values and counts that the text must contain.
        key (str | None): The key or argument at fault. None means that the error has no key.
        value (object): The value of the key.
        file (str | Path): The path of the file at fault.
    """
    assert key is ANY or error.key == key, (error.key, error.text)
    same_value = error.value is value or error.value == value  # NaN is not equal to itself
    assert value is ANY or same_value, (error.value, error.text)
    assert file is ANY or str(error.file) == str(file), (error.file, error.text)
    assert [word for word in words if word not in error.text] == [], error.text


@contextmanager
def input_error(*words, key=None, value=ANY, file=ANY):
    """Expect the block to raise an InputError with these fields, see ``check_error``."""
    with pytest.raises(InputError) as caught:
        yield caught
    check_error(caught.value, *words, key=key, value=value, file=file)


def command_error(command, *arguments):
    """Call a command that must exit with ``error: text``, and return its InputError."""
    with pytest.raises(SystemExit) as stop:
        command(*arguments)
    error = find_input_error(stop.value.__context__)
    assert error is not None, stop.value.code
    assert stop.value.code == f"error: {error.text}"  # Python's exit code is then 1
    return error
