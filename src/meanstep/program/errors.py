"""A user's mistakes: what is printed as one line. Knows no console."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

WORD, WHOLE = 300, 3000
"""Characters of one word and of a whole message that are printed."""
LARGEST = 2**63 - 1
"""Whole numbers beyond it are held by no tensor."""


class UserError(Exception):
    """A user's mistake: printed as one line, exit code 2. What it echoes is cut where it is long, and shows no control character raw."""

    code = 2

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class Interrupted(UserError):
    """The user's own Ctrl-C, or another signal's number, with what to do next: printed as one line, exit code 128 plus the signal's."""

    def __init__(self, message: str, number: int = 2) -> None:
        super().__init__(message)
        self.code = 128 + number


@contextlib.contextmanager
def naming(flag: str) -> Iterator[None]:
    """Within it a `UserError` names the option whose value is wrong, if it does not do so by itself."""
    try:
        yield
    except UserError as error:
        if type(error) is not UserError or flag in str(error):
            raise
        raise UserError(f"{flag}: {error}") from None


def printable(text: str) -> str:
    """A text on one line that no terminal obeys: what is long is cut in its middle, so that the remedy at the end stays."""
    text = re.sub(rf"\S{{{WORD},}}", lambda found: cut(found[0], WORD), text)
    return cut(re.sub(r"[^\x20-\U0010ffff]|[\x7f-\x9f\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], text), WHOLE)


def cut(text: str, most: int) -> str:
    """A text of at most about so many characters: the beginning, dots, the last third."""
    return text if len(text) <= most else f"{text[: 2 * most // 3]}...{text[-most // 3 :]}"


def shown(value: Any, most: int = 120) -> str:
    """A value as a message echoes it; a number of thousands of digits, and what nobody can show, by its type."""
    try:
        found = repr(value)
    except (ValueError, RecursionError):
        return f"{type(value).__name__} that is too large to show"
    return cut(found, most)


def first_line(error: BaseException, width: int = 160) -> str:
    """An exception in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= width else f"{text[: width - 3]}..."
