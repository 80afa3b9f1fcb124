"""The error for mistakes of users, its transport between processes, and words of messages."""

import difflib
import json
import multiprocessing
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = [
    "MOST_LINES",
    "Collector",
    "InputError",
    "agree",
    "count_words",
    "find_input_error",
    "listed",
    "nearest",
    "short_repr",
]

# Data loader workers and spawned processes pass on only the text of a traceback. In them, the text
# of an InputError ends with one line that starts with this mark and has the error's fields as JSON.
_MARK = "fcos_d2.errors.InputError "

MOST_LINES = 20  # of the text of an error


class InputError(ValueError):
    """
    An error in a value, a file or a dataset of the user.

    The text says what is wrong, where, and what to do. ``train_net.py`` and ``fcos-d2`` print only
    the text, without a traceback.

    Attributes:
        text (str): One line for each fault.
        key (str): The config key or the argument with the fault, or None.
        value: The value of the key, if there is a key.
        file (str): The file with the fault, or None.
        faults (tuple[InputError]): The faults as separate errors. A single error contains itself.
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
    def of(cls, faults: Iterable["InputError"], most_lines: int = MOST_LINES) -> "InputError":
        """
        Join errors into one, without repeated faults.

        Args:
            faults (Iterable[InputError]): At least one error.
            most_lines (int): The greatest number of lines of the text.

        Returns:
            InputError: An error with the fields of the first fault.
        """
        distinct = tuple({fault.text: fault for error in faults for fault in error.faults}.values())
        first = distinct[0]
        if len(distinct) == 1:
            return first
        lines = "\n".join(fault.text for fault in distinct).splitlines()
        if len(lines) > most_lines:
            rest = len(lines) - most_lines + 1
            hint = " `fcos-d2 check-dataset --json` lists all that is wrong with a dataset."
            has_files = any(fault.file is not None for fault in distinct)
            last = f"... and {rest} more lines.{hint if has_files else ''}"
            lines = [*lines[: most_lines - 1], last]
        text = "\n".join(lines)
        error = cls(text, key=first.key, value=first.value, file=first.file)
        error.faults = distinct
        return error

    def with_prefix(self, prefix: str, *, file: str) -> "InputError":
        """Return this error with a text before its own, and the file that it is about."""
        return InputError.of(
            InputError(f"{prefix}{x.text}", key=x.key, value=x.value, file=x.file or file)
            for x in self.faults
        )

    def __str__(self) -> str:
        if multiprocessing.parent_process() is None:
            return self.text
        return f"{self.text}\n{_MARK}{json.dumps([_fields(x) for x in self.faults], default=repr)}"


class Collector:
    """
    A caller of functions that collects their InputErrors.

    Attributes:
        faults (list[InputError]): The errors so far.
    """

    def __init__(self) -> None:
        self.faults: list[InputError] = []

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function and return its result, or None after an InputError."""
        try:
            return function(*args, **kwargs)
        except InputError as error:
            self.faults.append(error)
            return None

    def check(self) -> None:
        """Raise the collected InputErrors as one, if there are any."""
        if self.faults:
            raise InputError.of(self.faults)


def _fields(error: InputError) -> dict[str, Any]:
    """Return the arguments of the constructor that make an equal error."""
    return {"text": error.text, "key": error.key, "value": error.value, "file": error.file}


def find_input_error(error: BaseException) -> InputError | None:
    """
    Find the InputError in an exception.

    The exception may be an InputError, or another exception with the text of one from a data loader
    worker or a spawned process.

    Args:
        error (BaseException): The exception.

    Returns:
        InputError | None: The error; None if the exception is anything else.
    """
    text = error.text if isinstance(error, InputError) else str(error)
    last_line = text.rstrip().rpartition("\n")[2]
    if last_line.startswith(_MARK):
        try:
            faults = [InputError(**x) for x in json.loads(last_line.removeprefix(_MARK))]
            # The text may contain another mark, if a worker of a spawned process raised the error.
            return find_input_error(InputError.of(faults))
        except (ValueError, TypeError, IndexError):
            return None  # a string that only looks like a mark
    return error if isinstance(error, InputError) else None


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``Did you mean 'x'?`` with the most similar known name; "" if there is none."""
    by_lower_case = {x.lower(): x for x in known}
    lower_name = str(name).lower()
    completions = sorted(x for x in by_lower_case if x.startswith(lower_name))
    matches = completions or difflib.get_close_matches(lower_name, by_lower_case, n=1, cutoff=0.0)
    return f"Did you mean {by_lower_case[matches[0]]!r}?" if matches else ""


def listed(names: Sequence[str], most: int = 8) -> str:
    """Join names for a message: at most the first ``most``, and then the number of all."""
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def agree(text: str, count: int) -> str:
    """Choose between the forms of ``{singular|plural}`` in a text."""
    return re.sub(r"\{([^|{}]*)\|([^|{}]*)\}", lambda x: x[1 if count == 1 else 2], text)


def count_words(count: int, text: str) -> str:
    """Return a number and a text in the form for it, such as "1 box" of ``{box|boxes}``."""
    return f"{count} {agree(text, count)}"


def short_repr(value: Any, length: int = 200) -> str:
    """Return the repr of a value, truncated for messages."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
