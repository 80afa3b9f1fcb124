"""Assertions on InputErrors: their fields, and key words of their texts instead of sentences."""

from contextlib import contextmanager

import pytest

from fcos_d2.errors import InputError, find_input_error

ANY = object()  # a field that a test does not check


def check_error(error, *words, key=None, value=ANY, file=ANY):
    """
    Check the fields of an InputError.

    Args:
        error (InputError): what was raised.
        words (str): the text has each of them: names, values and counts that carry the facts.
        key (str): None for an error that is not about a key or an argument.
        value: of the key.
        file (str): path of the file at fault.
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
    """Call a command that must exit with ``error: text`` and code 1; return its InputError."""
    with pytest.raises(SystemExit) as stop:
        command(*arguments)
    error = find_input_error(stop.value.__context__)
    assert error is not None, stop.value.code
    assert stop.value.code == f"error: {error.text}"  # Python's exit code is then 1
    return error
