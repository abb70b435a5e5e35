"""The ways in which a run ends early on purpose, and how errors are told."""

import sysconfig
import traceback
from pathlib import Path

_HARNESS = str(Path(__file__).resolve().parent.parent)
_STDLIB = sysconfig.get_path("stdlib")


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


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, after its kind where it is not one of the harness's own endings.

    Of all others the line of the plugin's code is named that raised them.
    """
    text = next(iter(str(error).splitlines()), "").strip()
    if text and isinstance(error, Infeasible | Skipped | UserError):
        return text
    where = own_place(error) if text else f", at {raised_at(error)}"
    return f"{type(error).__name__}: {text or 'without a message'}{where}"


def raised_at(error: BaseException) -> str:
    """Return file and line where an error was raised, and the code there: ``models.py, line 7: assert x``.

    Of libraries' code, and of the harness's own, the caller is named, if there is one: that is where a user can mend
    something.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "nowhere"
    not_of_libraries = [frame for frame in frames if not _of_library(frame.filename)]
    return _told((_own(error) or not_of_libraries or list(frames))[-1])


def own_place(error: BaseException) -> str:
    """Return " (FILE, line N: CODE)" of the plugin's code that an error was raised in; nothing where there is none."""
    own = _own(error)
    return f" ({_told(own[-1])})" if own else ""


def _own(error: BaseException) -> list[traceback.FrameSummary]:
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if not (_of_library(frame.filename) or frame.filename.startswith(_HARNESS))]


def _of_library(filename: str) -> bool:
    return "site-packages" in filename or filename.startswith(("<", _STDLIB))


def _told(frame: traceback.FrameSummary) -> str:
    return f"{Path(frame.filename).name}, line {frame.lineno}: {(frame.line or '').strip()}".removesuffix(": ")
