"""Runs in the guest's Python: prints which files of the standard library the guest's code imports.

`trace_imports.py PACKAGE…` imports every module of the packages, and whatever functions of theirs import, and prints
the paths below the library's folder.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
from pathlib import Path
from types import ModuleType


def main(packages: list[str]) -> None:
    library = Path(sys.prefix) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    for package in packages:
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            _import_inside_functions(importlib.import_module(module.name))
    files = {Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    for file in sorted(str(path.relative_to(library)) for path in files if path.is_relative_to(library)):
        print(file)


def _import_inside_functions(module: ModuleType) -> None:
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            importlib.import_module(node.module)


if __name__ == "__main__":
    main(sys.argv[1:])
