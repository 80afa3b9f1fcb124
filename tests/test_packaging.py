"""The wheel and the sdist: they build offline and hold the configs."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from own_data import OwnData

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIGS = {
    str(file.relative_to(REPOSITORY))
    for suffix in ("yaml", "py")
    for file in (REPOSITORY / "configs").rglob(f"*.{suffix}")
}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Folder with the wheel and the sdist."""
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


def test_sdist_has_what_is_needed_to_build_and_train(distributions):
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert names >= CONFIGS | {"train_net.py", "pyproject.toml", "README.md", "LICENSE"}
    # What its Makefile and CI call.
    assert names >= {
        "fcos_d2_command.py",
        "Makefile",
        "constraints.txt",
        "dev/install.sh",
        ".ci/run",
    }


@pytest.fixture
def site(distributions, tmp_path):
    """A folder that the wheel is installed into."""
    (wheel,) = distributions.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")  # what installing a pure wheel does
    return tmp_path / "site"


def test_an_installed_wheel_finds_its_configs(site, tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import fcos_d2\n"
        f"assert fcos_d2.__file__.startswith({str(site)!r}), fcos_d2.__file__\n"
        "print(fcos_d2.get_config_file('lazy/fcos_R_50_FPN.py'))\n"
        "print(fcos_d2.get_config_file('fcos_R_50_FPN_1x.yaml'))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-2000:]
    for path in map(Path, process.stdout.strip().splitlines()[-2:]):
        assert path.is_file()
        assert path.is_relative_to(site)


def test_an_installed_wheel_trains_and_predicts_from_any_folder(site, tmp_path):
    data = OwnData(tmp_path)
    data.write()

    def fcos_d2(*arguments):
        code = (
            f"import sys; sys.path.insert(0, {str(site)!r}); import fcos_d2_command as command\n"
            "command.main()\n"
            f"import fcos_d2; assert fcos_d2.__file__.startswith({str(site)!r})"
        )
        process = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert process.returncode == 0, process.stderr[-2000:]

    arguments = data.arguments("DATASETS.TEST", "()")
    arguments[1] = "configs/shapes/fcos_shapes_demo.yaml"  # of the wheel: there is no such folder
    fcos_d2("train", *arguments)
    # One directory on: the config is found next to the weights.
    fcos_d2("predict", "--weights", "output/model_final.pth", "--output", "p", "images")
    assert len(list((tmp_path / "p").glob("*.png"))) == 4


def test_dependencies_do_not_name_detectron2(distributions):
    (wheel,) = distributions.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
    lines = archive.read(metadata).decode().splitlines()
    requirements = [line for line in lines if line.startswith("Requires-Dist:")]
    assert requirements
    # The extra's name says what it is for; it is no package.
    assert not [r for r in requirements if "detectron2" in r.split(";")[0]]
