"""Values that no change of structure may change: see golden.py."""

import pytest
from golden import CONFIGS, differences


@pytest.mark.parametrize("name", CONFIGS)
def test_every_value_is_what_it_was(name):
    if name == "timm":
        pytest.importorskip("timm")
    assert differences(name) == []
