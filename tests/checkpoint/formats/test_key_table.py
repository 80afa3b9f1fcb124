"""Tables of names, which translate in both directions."""

from fcos_d2.checkpoint.formats.key_table import KeyTable


def test_a_table_translates_names_in_both_directions():
    table = KeyTable([("a.{i}.b{n}.", "x{i+1}.y.{3*n+1}."), ("c.", "z.")])
    assert table.to_ours("a.4.b2.weight") == "x5.y.7.weight"
    assert table.to_theirs("x5.y.7.weight") == "a.4.b2.weight"
    assert table.to_theirs("x0.y.7.weight") is None  # i would be -1
    assert table.to_theirs("x5.y.8.weight") is None  # n would be a fraction
    assert table.to_ours("c.1.bias") == "z.1.bias"
    assert table.to_ours("d.1.bias") is None
    assert table.to_ours("aa.4.b2.weight") is None
