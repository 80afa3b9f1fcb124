"""The wheel and the sdist: they are built offline and contain the configs."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from commands import REPOSITORY, run_python

CONFIGS = {
    str(file.relative_to(REPOSITORY))
    for suffix in ("yaml", "py")
    for file in (REPOSITORY / "configs").rglob(f"*.{suffix}")
}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Build the wheel and the sdist, and return their folder."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    return folder


def test_wheel_has_the_package_and_the_configs(distributions):
    (wheel,) = distributions.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"fcos_d2/{config}" for config in CONFIGS} <= names
    assert "fcos_d2/modeling/fcos.py" in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "fcos_d2",
        "fcos_d2_command.py",
    }


def test_sdist_has_the_files_that_building_and_training_need(distributions):
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert names >= CONFIGS | {"train_net.py", "pyproject.toml", "README.md", "LICENSE"}
    # The Makefile and the CI in the sdist use these files.
    assert names >= {
        "fcos_d2_command.py",
        "Makefile",
        "constraints.txt",
        "dev/install.sh",
        ".ci/run",
    }


@pytest.fixture
def site(distributions, tmp_path):
    """Install the wheel into a folder, and return the folder."""
    (wheel,) = distributions.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")  # what installing a pure wheel does
    return tmp_path / "site"


def test_an_installed_wheel_trains_predicts_and_finds_its_configs_from_any_folder(site, own_data):
    own_data.write()
    folder = own_data.folder

    def fcos_d2(*arguments, after=""):
        """Run the command of the wheel, then a line of Python, and return what it prints."""
        code = (
            f"import sys; sys.path.insert(0, {str(site)!r}); import fcos_d2_command as command\n"
            "command.main()\n"
            f"import fcos_d2; assert fcos_d2.__file__.startswith({str(site)!r})\n{after}"
        )
        process = run_python("-c", code, *arguments, cwd=folder)
        assert process.returncode == 0, process.stderr[-2000:]
        return process.stdout

    arguments = own_data.arguments("DATASETS.TEST", "()")
    arguments[1] = "configs/shapes/fcos_shapes_demo.yaml"  # in the wheel
    fcos_d2("train", *arguments)
    # The config is found next to the weights.
    names = ("lazy/fcos_R_50_FPN.py", "fcos_R_50_FPN_1x.yaml")
    printed = fcos_d2(
        *("predict", "--weights", "output/model_final.pth", "--output", "p", "images"),
        after=f"print(*map(fcos_d2.get_config_file, {names}), sep='\\n')",
    )
    assert len(list((folder / "p").glob("*.png"))) == 4
    for path in map(Path, printed.splitlines()[-2:]):
        assert path.is_file()
        assert path.is_relative_to(site)


def test_dependencies_do_not_name_detectron2(distributions):
    (wheel,) = distributions.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
    lines = archive.read(metadata).decode().splitlines()
    requirements = [line for line in lines if line.startswith("Requires-Dist:")]
    assert requirements
    # The name of the extra is not that of a package.
    assert not [r for r in requirements if "detectron2" in r.split(";")[0]]
