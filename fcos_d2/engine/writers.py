"""The event writers of a training run."""

import json
import math
import os
from collections import defaultdict
from typing import Any

from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from detectron2.utils.file_io import PathManager

__all__ = ["MetricsWriter", "build_writers"]


def build_writers(output_dir: str, max_iter: int) -> list[EventWriter]:
    """
    Build the writers of detectron2's ``default_writers``, with MetricsWriter for metrics.json.

    Args:
        output_dir (str): Folder of the files.
        max_iter (int): Total number of iterations.
    """
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        MetricsWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]


class MetricsWriter(JSONWriter):
    """
    detectron2's JSONWriter with null for numbers that are not finite.

    Python would write NaN, which is not JSON. An evaluation has such values, for example the AP of
    large objects if there are none.
    """

    _last_write: int

    def write(self) -> None:
        """Write the scalars that are new since the last call, with a line for each iteration."""
        by_iteration: dict[int, dict[str, Any]] = defaultdict(dict)
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        for name, (value, iteration) in latest.items():
            if iteration > self._last_write:
                by_iteration[iteration][name] = value if math.isfinite(value) else None
        for iteration, scalars in by_iteration.items():
            line = json.dumps({**scalars, "iteration": iteration}, sort_keys=True, allow_nan=False)
            self._file_handle.write(f"{line}\n")
        self._last_write = max(by_iteration, default=self._last_write)
        self._file_handle.flush()
