"""The names of the pictures that the commands write."""

from pathlib import Path

from input_errors import input_error

from fcos_d2.output_files import flat_names, name_outputs


def test_a_picture_has_the_stem_of_its_image_or_the_whole_name_if_stems_are_equal():
    def names_of(*files):
        return [x.name for x in name_outputs(flat_names(files), files, Path("nowhere"))]

    assert names_of("in/x.jpg", "in/y.png") == ["x.png", "y.png"]
    assert names_of("in/x.jpg", "in/x.png", "in/y.png") == ["x.jpg.png", "x.png.png", "y.png"]
    assert names_of("in/a/x.png", "in/b/x.png") == ["a_x.png", "b_x.png"]
    with input_error("in/x.jpg and in/x.jpg.webp", "x.jpg.png"):
        names_of("in/x.jpg", "in/x.png", "in/x.jpg.webp")


def test_names_are_relative_to_the_images_folder(tmp_path):
    assert flat_names([tmp_path / "a" / "x.png"], tmp_path) == ["a_x.png"]
    assert flat_names(["/one/a/x.png", "/one/b/y.png"], tmp_path) == ["a_x.png", "b_y.png"]
    assert flat_names([]) == []
