"""Packages that only a part of this project needs, which do not come along with it: how to get each."""

from __future__ import annotations

from typing import NamedTuple

from bench import environment
from bench.errors import MissingPackage


class Extra(NamedTuple):
    """What a package is for, and what to type to have it."""

    purpose: str
    how: str


EXTRAS = {
    "numba": Extra("fused memories on the CPU", "pip install 'mannbench[fast]'"),
    "triton": Extra("GPU kernels", "pip install 'mannbench[gpu]' (Linux)"),
    "learn2learn": Extra(
        "its algorithms on our tasks",
        "make learn2learn in a clone, elsewhere pip install 'mannbench[learn2learn]', then pip install --no-deps "
        "--use-pep517 --config-settings=--build-option=build_ext learn2learn==0.2.0, with a C compiler",
    ),
    "submitit": Extra("bench run --executor slurm", "pip install 'mannbench[slurm]'"),
    "ray": Extra("bench run --executor ray", "pip install 'mannbench[ray]'"),
    "tensorboard": Extra("bench export --tensorboard", "pip install 'mannbench[tensorboard]'"),
    "pytest": Extra("the tests", "pip install -e '.[dev]'"),
}


def require(user: str, package: str, version: str) -> None:
    """Make sure that a package is installed, in the version that its user is made for.

    Raises:
        MissingPackage: it is not, or in another version; the message says how to get it.
    """
    found = environment.package(package)
    if found != version:
        state = f"but {found} is" if found else "which is not"
        how = EXTRAS[package].how if package in EXTRAS else f"pip install {package}=={version}"
        raise MissingPackage(f"{user} needs {package} {version}, {state} installed here: {how}")
