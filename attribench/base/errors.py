"""The ways in which a run ends early on purpose, and how errors are told."""

import traceback
from pathlib import Path


class UserError(Exception):
    """Bad input: one line that says what was expected, what came, and what to do. The command line exits with 2."""


class StorageError(UserError):
    """A folder that cannot be read or written: nothing that follows could be kept, so the run ends."""


class Infeasible(Exception):  # noqa: N818 - an outcome, not a mistake
    """A method found no explanation that meets its own constraint; the cell is reported as ``infeasible``."""


class Skipped(Exception):  # noqa: N818 - an outcome, not a mistake
    """A method found that it is not made for a problem of this kind; the cell is reported as ``skipped``."""


def printable(text: str) -> str:
    """Return text that a terminal shows as it is, on one line."""
    return "".join(character if character.isprintable() else "?" for character in text)


def raised_at(error: BaseException) -> str:
    """Return file and line where an error was raised, and the code there: ``models.py, line 7: assert x``.

    Of libraries' code the caller is named, if there is one: that is where a user can mend something.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and not frame.filename.startswith("<")]
    if not frames:
        return "nowhere"
    frame = (own or list(frames))[-1]
    return f"{Path(frame.filename).name}, line {frame.lineno}: {(frame.line or '').strip()}".removesuffix(": ")
