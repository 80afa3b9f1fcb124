"""State-dict names of released checkpoints, from tests/data."""

from pathlib import Path

FILE = Path(__file__).resolve().parent / "data" / "adelaidet_keys.txt"


def adelaidet_keys(section):
    """Return {name: shape} of the first section with this start of its title, as "27x256x3x3"."""
    for part in FILE.read_text().split("\n[")[1:]:
        title, _, lines = part.partition("]\n")
        if title.startswith(section):
            return dict(line.split() for line in lines.strip().splitlines())
    raise KeyError(section)


def shapes_of(module):
    """Return {name: shape} of a module's state dict, with shapes in the same form."""
    return {
        name: "x".join(map(str, tensor.shape)) or "scalar"
        for name, tensor in module.state_dict().items()
    }
