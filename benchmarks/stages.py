"""How long the stages of our detector take."""

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from measuring import Work

import fcos_d2.modeling.postprocessing as postprocessing

__all__ = ["time_stages"]


class _Stopwatch:
    """Adds up the seconds of stages, without those of the stages within them."""

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, float] = {}
        self._synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
        self._in_inner = [0.0]  # for each running stage, the seconds of the stages within it

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that also adds its seconds to a stage."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self._in_inner.append(0.0)
            self._synchronize()
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self._synchronize()
            total = time.perf_counter() - start
            own = total - self._in_inner.pop()
            self.seconds[stage] = self.seconds.get(stage, 0.0) + own
            self._in_inner[-1] += total
            return result

        return run


def time_stages(model: Any, work: Work, device: str, repeats: int) -> dict[str, list[float]]:
    """
    Time the stages of our detector in an inference or a training step.

    On a GPU the host waits for it before and after every stage.

    Returns:
        dict[str, list[float]]: stage -> its median milliseconds, as a list of one.
    """
    places: list[tuple[Any, str, str]] = [
        (model.backbone.bottom_up, "forward", "backbone"),
        (model.backbone, "forward", "neck"),
        (model.head, "forward", "head"),
        (model, "assigner", "targets"),
        (model.losses, "forward", "losses"),
        (torch.Tensor, "backward", "backward pass"),
        (model, "postprocessor", "selection"),
        (postprocessing, "suppress", "NMS"),
    ]
    calls = []
    for _ in range(repeats + 1):  # the first one warms up
        stopwatch, argument = _Stopwatch(device), work.prepare()
        with ExitStack() as patches:
            for owner, name, stage in places:
                timed = stopwatch.wrap(stage, getattr(owner, name))
                patches.enter_context(mock.patch.object(owner, name, timed))
            stopwatch.wrap("all else, such as the optimizer", work.run)(argument)
        calls.append(stopwatch.seconds)
    return {stage: [1000 * statistics.median(x[stage] for x in calls[1:])] for stage in calls[0]}
