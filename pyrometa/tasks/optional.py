"""Packages that only some sources of tasks need."""

from __future__ import annotations

from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

__all__ = ["find_package", "import_package"]


def find_package(package: str, what: str, requirement: str) -> ModuleSpec:
    """Where a package is, without importing it; ModuleNotFoundError that says how to install it if it is not there."""
    spec = find_spec(package)
    if spec is None:
        cure = f'pip install "{requirement}"'
        raise ModuleNotFoundError(f"{what} needs {package}, not installed: {cure}", name=package)
    return spec


def import_package(module: str, what: str, requirement: str) -> ModuleType:
    """Import what a source of tasks is read with, or raise as :func:`find_package` does."""
    find_package(module.split(".")[0], what, requirement)
    return import_module(module)
