"""The installed fonts that have the characters of labels."""

import functools
import logging
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from matplotlib.font_manager import FontEntry, FontProperties, findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font

__all__ = ["DEFAULT_FAMILIES", "DrawableNames", "drawable_names", "printable"]

logger = logging.getLogger(__name__)

DEFAULT_FAMILIES = ("DejaVu Sans",)  # it is part of matplotlib


class DrawableNames(NamedTuple):
    """
    The names of classes as pictures show them.

    Attributes:
        names (list[str]): The name of each class, or its number if no font can draw the name.
        families (list[str]): Font families for the names. A character is drawn in the first one
            that has it.
    """

    names: list[str]
    families: list[str]


def drawable_names(names: Sequence[str]) -> DrawableNames:
    """
    Find fonts for the names of classes, among those that are installed.

    A name with characters that no font has becomes "class 7", with the index of the class. A
    warning lists these classes with their names.
    """
    families, missing = _find_fonts(frozenset(printable("".join(names))))
    shown = [f"class {k}" if missing & {*name} else name for k, name in enumerate(names)]
    replaced = [f"class {k} is {name!r}" for k, name in enumerate(names) if missing & {*name}]
    if replaced:
        logger.warning(
            "%d of %d class names have characters that no installed font can draw. In pictures, "
            "%s. To see the names, install a font with these characters, such as Noto Sans CJK "
            "(the package fonts-noto-cjk of Debian and Ubuntu) or Noto Emoji.",
            len(replaced),
            len(names),
            ", ".join(replaced),
        )
    return DrawableNames(shown, families)


def printable(text: str) -> str:
    """
    Return a text in one line, without variation selectors.

    These follow emoji and are never visible, but would be drawn as boxes by fonts without them.
    """
    kept = (x for x in text if not unicodedata.name(x, "").startswith("VARIATION SELECTOR"))
    return " ".join("".join(kept).split())


def _find_fonts(characters: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """
    Find as few font families as possible for some characters, with the default font first.

    Other fonts are only opened if the default font lacks a character.

    Args:
        characters (frozenset[str]): The characters.

    Returns:
        tuple[list[str], frozenset[str]]: The families, and the characters that no font has.
    """
    families = [*DEFAULT_FAMILIES]
    missing = characters - _glyphs_of(_path_of(families[0]), characters)
    while missing:
        family, found = _best_family(missing)
        if not found:
            break
        families.append(family)
        missing -= found
    return families, missing


def _best_family(characters: frozenset[str]) -> tuple[str, frozenset[str]]:
    """Find the font family that has the most of some characters, and these characters."""
    best, most = "", frozenset[str]()
    for entry in _upright_fonts():
        found = _glyphs_of(entry.fname, characters)
        # matplotlib may use another file of the family.
        if len(found) > len(most):
            found = _glyphs_of(_path_of(entry.name), characters)
        if len(found) > len(most):
            best, most = entry.name, found
    return best, most


def _upright_fonts() -> Iterator[FontEntry]:
    """Yield a font for each file, in a fixed order, with sans-serif and regular weights first."""
    _add_new_fonts()
    entries = {x.fname: x for x in reversed(fontManager.ttflist) if x.style == "normal"}
    for entry in sorted(
        entries.values(), key=lambda x: ("Sans" not in x.name, x.weight != 400, x.name, x.fname)
    ):
        # The placeholders of matplotlib and macOS for characters that no font has.
        if not entry.name.replace(" ", "").startswith(("LastResort", ".LastResort")):
            yield entry


@functools.cache
def _add_new_fonts() -> None:
    """
    Tell matplotlib about fonts that were installed after it wrote its list of fonts.

    Texts can only have fonts of this list, which is one for the whole process. So this happens
    once, and only if a name has a character that the default font lacks.
    """
    known = {str(entry.fname) for entry in fontManager.ttflist}
    for file in sorted(set(map(str, findSystemFonts())) - known):
        try:
            fontManager.addfont(file)
        # The file cannot be opened; it is damaged, or has bitmaps only (a NotImplementedError,
        # which is a RuntimeError); or its table of names is damaged.
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            logger.debug("The font %s cannot be used: %s", file, error)


def _path_of(family: str) -> str:
    """Return the file that matplotlib uses for a font family."""
    return str(fontManager.findfont(FontProperties(family=[family])))


def _glyphs_of(file: str, characters: frozenset[str]) -> frozenset[str]:
    """Return those of some characters that a font can draw."""
    try:
        font = FT2Font(str(file))
    except (OSError, RuntimeError):  # removed since matplotlib wrote its list, or damaged
        return frozenset()
    font.set_size(12, 72)
    return frozenset(x for x in characters if x.isspace() or _has_outline(font, x))


def _has_outline(font: FT2Font, character: str) -> bool:
    """Return whether a font has a glyph that is not empty, as it is in fonts of colored glyphs."""
    if not font.get_char_index(ord(character)):
        return False
    try:
        font.load_char(ord(character))
    except RuntimeError:  # for example, a bitmap
        return False
    return len(font.get_path()[0]) > 0 or unicodedata.category(character) in ("Cf", "Zs")
