"""Fonts of class names: from what is installed, with numbers where nothing fits."""

import logging

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from fcos_d2.drawing import drawable_names, fonts


def write_font(file, family, characters, is_empty=False):
    """Write a font whose glyphs are squares, or empty as in fonts of colored glyphs."""
    pen = TTGlyphPen(None)
    if not is_empty:
        for index, corner in enumerate([(0, 0), (0, 700), (700, 700), (700, 0)]):
            (pen.lineTo if index else pen.moveTo)(corner)
        pen.closePath()
    glyph = pen.glyph()
    names = {ord(x): f"u{ord(x):X}" for x in characters}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap(names)
    builder.setupGlyf(dict.fromkeys((".notdef", *names.values()), glyph))
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", *names.values()), (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(file)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a font; at first, only DejaVu Sans is installed."""
    default = [x for x in fontManager.ttflist if x.name == "DejaVu Sans"]
    monkeypatch.setattr(fontManager, "ttflist", default)
    files = []
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: files)
    fonts._add_new_fonts.cache_clear()

    def add(family, characters, **options):
        files.append(str(tmp_path / f"{family}.ttf"))
        write_font(files[-1], family, characters, **options)

    yield add
    fonts._add_new_fonts.cache_clear()


@pytest.mark.parametrize("name", ["cat", "кошка", "$x^2$ \\alpha", "größe", "two\nlines", ""])
def test_the_default_font_is_enough_for_most_names(install, name, caplog):
    assert drawable_names([name]) == ([name], ["DejaVu Sans"])
    assert caplog.text == ""


def test_a_font_that_matplotlib_does_not_know_yet_is_found(install, caplog):
    install("One Sign", "猫")
    install("Two Signs", "猫犬")
    assert drawable_names(["猫", "犬", "dog"]) == (
        ["猫", "犬", "dog"],
        ["DejaVu Sans", "Two Signs"],  # the fewest fonts
    )
    assert caplog.text == ""


def test_several_fonts_are_combined(install):
    install("Chinese", "猫")
    install("Emoji", "\N{SLICE OF PIZZA}")
    names = ["猫 \N{SLICE OF PIZZA}"]
    shown, families = drawable_names(names)
    assert shown == names
    assert sorted(families) == ["Chinese", "DejaVu Sans", "Emoji"]


@pytest.mark.parametrize("other", ["none", "empty", "Last Resort"])
def test_names_without_a_font_become_numbers_with_a_legend_in_the_log(install, other, caplog):
    if other != "none":
        install(
            "Last Resort" if other == "Last Resort" else "Color", "猫犬", is_empty=other == "empty"
        )
    with caplog.at_level(logging.WARNING, logger="fcos_d2"):
        shown, families = drawable_names(["cat", "猫", "dog", "a 犬"])
    assert shown == ["cat", "class 1", "dog", "class 3"]
    assert families == ["DejaVu Sans"]
    (record,) = caplog.records
    message = record.getMessage()
    assert "2 of 4" in message
    assert "class 1 is '猫', class 3 is 'a 犬'" in message


def test_new_fonts_are_searched_once(install, monkeypatch):
    install("Chinese", "猫")
    searches = []
    find = fonts.findSystemFonts
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: searches.append(1) or find())
    drawable_names(["cat"])
    assert not searches
    for _ in range(2):
        assert drawable_names(["猫"]).families == ["DejaVu Sans", "Chinese"]
    assert len(searches) == 1
    assert sum(x.name == "Chinese" for x in fontManager.ttflist) == 1


def damage_names(content):
    """Return the content of a font with a name in UTF-16 that has an odd number of bytes."""
    start = int.from_bytes(content[content.index(b"name") + 8 :][:4], "big")
    count = int.from_bytes(content[start + 2 :][:2], "big")
    damaged = bytearray(content)
    for record in range(start + 6, start + 6 + 12 * count, 12):
        if damaged[record : record + 2] == b"\x00\x03":
            damaged[record + 9] -= 1
    return bytes(damaged)


@pytest.mark.parametrize(
    "damage",
    [lambda _: b"no font", lambda _: b"", lambda x: x[: len(x) // 2], damage_names],
    ids=["text", "empty", "half", "names"],
)
def test_a_damaged_font_is_left_out(install, tmp_path, damage):
    install("Damaged", "猫")
    install("Sound", "犬")
    file = tmp_path / "Damaged.ttf"
    file.write_bytes(damage(file.read_bytes()))
    assert drawable_names(["猫", "犬"]) == (["class 0", "犬"], ["DejaVu Sans", "Sound"])


@pytest.mark.parametrize("error", [PermissionError, NotImplementedError])
def test_a_font_that_matplotlib_refuses_is_left_out(install, monkeypatch, error):
    install("Refused", "猫")
    monkeypatch.setattr(fontManager, "addfont", fail_with(error))
    assert drawable_names(["猫"]) == (["class 0"], ["DejaVu Sans"])


def test_a_bug_is_no_damaged_font(install, monkeypatch):
    install("Sound", "猫")
    monkeypatch.setattr(fontManager, "addfont", fail_with(TypeError))
    with pytest.raises(TypeError):
        drawable_names(["猫"])


def fail_with(error):
    """Return a function that raises an error."""

    def fail(file):
        raise error(file)

    return fail


def test_variation_selectors_and_line_breaks_are_not_drawn():
    assert fonts.printable("❤\N{VARIATION SELECTOR-16} two\n lines\t") == "❤ two lines"
