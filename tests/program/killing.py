"""A kill at an operation on a file, for the hook `disk.before`."""

from pathlib import Path


class Killed(BaseException):
    """Stands for a kill: nothing is done after it."""


class Fate:
    """Kills at the operation `at`, and lets nothing be written after it."""

    def __init__(self, at: int) -> None:
        self.at, self.done, self.what = at, 0, ""

    def __call__(self, operation: str, path: Path) -> None:
        self.done += 1
        if self.done > self.at:
            if self.done == self.at + 1:
                self.what = f"{operation} {path.name}"
                if operation == "append":
                    with path.open("a") as file:  # the half of a line that a kill leaves
                        file.write('{"kind": "tr')
            raise Killed
