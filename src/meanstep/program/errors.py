"""A user's mistakes: what is printed as one line. Knows no console."""


class UserError(Exception):
    """A user's mistake: printed as one line, exit code 2."""

    code = 2


class Interrupted(UserError):
    """The user's own Ctrl-C, or another signal's number, with what to do next: printed as one line, exit code 128 plus the signal's."""

    def __init__(self, message: str, number: int = 2) -> None:
        super().__init__(message)
        self.code = 128 + number


def first_line(error: BaseException, width: int = 160) -> str:
    """An exception in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= width else f"{text[: width - 3]}..."
