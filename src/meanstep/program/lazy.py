"""Public names of a package whose modules are heavy: each is loaded when it is used (PEP 562)."""

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazily(package: str, file: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package: its public names and their modules are what its file imports from itself, for typing alone."""
    nodes = [node for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    homes = {alias.name: str(node.module) for node in nodes for alias in node.names if str(node.module).startswith(f"{package}.")}

    def found(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return found
