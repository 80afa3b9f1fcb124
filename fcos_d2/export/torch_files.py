"""Writing and running of .pt2 files: programs of torch.export and packages of AOTInductor."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ..errors import InputError
from .program_info import ProgramInfo
from .running import RunFunction
from .suppression import without_nms_warning

__all__ = ["check_compiler", "load_pt2", "save_aoti", "save_pt2"]

_INFO_FILE = "fcos_d2.json"
_ARCHIVE_FILE = "archive_format"  # is in each archive of PyTorch
_COMPILERS = ("g++", "clang++", "c++")


def save_pt2(program: ExportedProgram, info: ProgramInfo, file: Path) -> str:
    """
    Write a program of torch.export to a file.

    Args:
        program (ExportedProgram): A program of ``tracing.trace``.
        info (ProgramInfo): The metadata of the file.
        file (Path): The file, .pt2.

    Returns:
        str: A description of the file.
    """
    program.example_inputs = None  # the file does not need them
    torch.export.save(program, file, extra_files={_INFO_FILE: json.dumps(info.to_strings())})
    return f"torch.export of PyTorch {torch.__version__}"


def check_compiler() -> None:
    """
    Check that there is a C++ compiler.

    Raises:
        InputError: If there is none.
    """
    names = (os.environ["CXX"],) if os.environ.get("CXX") else _COMPILERS
    if not any(map(shutil.which, names)):
        raise InputError(
            "The format aoti compiles the model, but there is no C++ compiler "
            f"({', '.join(names)}). Install one, such as g++, or choose another format."
        )


def save_aoti(program: ExportedProgram, info: ProgramInfo, file: Path) -> str:
    """
    Compile a program with AOTInductor for this kind of machine, and write it to a file.

    Args:
        program (ExportedProgram): A program of ``tracing.trace``.
        info (ProgramInfo): The metadata of the file.
        file (Path): The file, .pt2.

    Returns:
        str: A description of the file.
    """
    settings = {
        "aot_inductor.metadata": info.to_strings(),
        # Weights are constants, which saves 15 % of the time on a CPU.
        "freezing": True,
    }
    with without_nms_warning(), torch.no_grad():
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(file), inductor_configs=settings
        )
    return f"AOTInductor of PyTorch {torch.__version__}, for {info.device}"


def load_pt2(file: Path) -> tuple[RunFunction, ProgramInfo]:
    """Load a file that ``save_pt2`` or ``save_aoti`` wrote, see ``loading.load_exported``."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{file} is not a .pt2 file: {error}", file=str(file)) from error
    if not any(name.endswith(_ARCHIVE_FILE) for name in names):
        raise InputError(f"{file} has no program of PyTorch in it.", file=str(file))
    load = _load_aoti if any("/aotinductor/" in name for name in names) else _load_program
    try:
        module, strings = load(file)
    except Exception as error:  # a damaged archive can raise anything
        raise InputError(
            f"PyTorch {torch.__version__} cannot load {file}: {str(error)[:300]}", file=str(file)
        ) from error
    info = ProgramInfo.from_strings(strings, str(file))

    def run(images: Tensor) -> Sequence[Tensor]:
        """Run the program."""
        with torch.no_grad():
            return module(images.to(info.device))

    return run, info


def _load_program(file: Path) -> tuple[Callable[[Tensor], Sequence[Tensor]], Any]:
    """Load a file of ``save_pt2``; return the program and its metadata."""
    extra_files = {_INFO_FILE: ""}
    program = torch.export.load(file, extra_files=extra_files)
    try:
        strings = json.loads(extra_files[_INFO_FILE])
    except ValueError:
        strings = None  # not metadata of this package
    return program.module(), strings


def _load_aoti(file: Path) -> tuple[Callable[[Tensor], Sequence[Tensor]], Any]:
    """Load a file of ``save_aoti``; return the program and its metadata."""
    package = torch._inductor.aoti_load_package(str(file))
    return package, package.get_metadata()
