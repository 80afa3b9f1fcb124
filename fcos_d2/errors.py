"""The error for what a user can fix: a value, a file, a dataset; and how it travels to the edge."""

import difflib
import json
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = [
    "Collector",
    "InputError",
    "find_input_error",
    "listed",
    "nearest",
]

# Data loader workers and spawned processes hand over nothing but the text of a traceback. There
# the text of an InputError ends in one line that begins with this and has its fields as JSON.
_MARK = "fcos_d2.errors.InputError "


class InputError(ValueError):
    """
    What is wrong, where (key, file, value), and what to do about it.

    ``train_net.py`` and ``fcos-d2`` print its text and nothing else: a traceback would hide it.

    Attributes:
        text (str): a line for each fault.
        key (str): of the config, or the name of an argument; None if it is about neither.
        value: what the key has, where there is a key.
        file (str): that is at fault, or None.
        faults (tuple[InputError]): each by itself; a single one is its own only fault.
    """

    def __init__(
        self, text: str, *, key: str | None = None, value: Any = None, file: str | None = None
    ) -> None:
        super().__init__(text)
        self.text = text
        self.key = key
        self.value = value
        self.file = file
        self.faults: tuple[InputError, ...] = (self,)

    @classmethod
    def of(cls, faults: Iterable["InputError"]) -> "InputError":
        """All of several faults as one error, each once; its fields are those of the first."""
        each = tuple({fault.text: fault for error in faults for fault in error.faults}.values())
        first = each[0]
        if len(each) == 1:
            return first
        text = "\n".join(fault.text for fault in each)
        error = cls(text, key=first.key, value=first.value, file=first.file)
        error.faults = each
        return error

    def __str__(self) -> str:
        if multiprocessing.parent_process() is None:
            return self.text
        return f"{self.text}\n{_MARK}{json.dumps([_fields(x) for x in self.faults], default=repr)}"


class Collector:
    """Calls functions, and keeps what InputErrors they raise until the last was called."""

    def __init__(self) -> None:
        self.faults: list[InputError] = []

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what the function does, or None after an InputError."""
        try:
            return function(*args, **kwargs)
        except InputError as error:
            self.faults.append(error)
            return None

    def check(self) -> None:
        """Raise all InputErrors as one, if there were any."""
        if self.faults:
            raise InputError.of(self.faults)


def _fields(error: InputError) -> dict[str, Any]:
    return {"text": error.text, "key": error.key, "value": error.value, "file": error.file}


def find_input_error(error: BaseException) -> InputError | None:
    """
    The InputError that an exception is, or that it brings as text from a data loader's worker or a
    process that was started. None if the exception is anything else, whatever its text says.
    """
    text = error.text if isinstance(error, InputError) else str(error)
    last_line = text.rstrip().rpartition("\n")[2]
    if last_line.startswith(_MARK):
        try:
            faults = [InputError(**x) for x in json.loads(last_line.removeprefix(_MARK))]
            return find_input_error(InputError.of(faults))  # which may be of a worker of a process
        except (ValueError, TypeError, IndexError):
            return None  # somebody else's text
    return error if isinstance(error, InputError) else None


def nearest(name: str, known: Iterable[str]) -> str:
    """``Did you mean 'x'?``, with the most similar of the known names; "" if there are none."""
    by_lower_case = {x.lower(): x for x in known}
    wanted = str(name).lower()
    longer = sorted(x for x in by_lower_case if x.startswith(wanted))  # its end was forgotten
    matches = longer or difflib.get_close_matches(wanted, by_lower_case, n=1, cutoff=0.0)
    return f"Did you mean {by_lower_case[matches[0]]!r}?" if matches else ""


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first of many names, and how many there are."""
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
