"""The values that the model computes are unchanged, see golden.py."""

import pytest
from golden import CONFIGS, differences


@pytest.mark.parametrize("name", CONFIGS)
def test_every_value_is_unchanged(name):
    if name == "timm":
        pytest.importorskip("timm")
    assert differences(name) == []
