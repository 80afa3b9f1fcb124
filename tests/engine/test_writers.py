"""The file metrics.json."""

import json
import math

from detectron2.utils.events import EventStorage

from fcos_d2.engine.writers import MetricsWriter, build_writers


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def test_each_line_is_json_and_each_value_is_written_once(tmp_path):
    with EventStorage() as storage:
        *_, writer, _ = build_writers(str(tmp_path), 9)
        assert isinstance(writer, MetricsWriter)
        storage.put_scalars(AP=math.nan, inf=math.inf, smoothing_hint=False)
        writer.write()
        storage.step()
        storage.put_scalar("loss", 2.0)
        writer.write()
        writer.write()
        writer.close()
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    assert [json.loads(line, parse_constant=refuse) for line in lines] == [
        {"AP": None, "inf": None, "iteration": 0},
        {"loss": 2.0, "iteration": 1},
    ]
