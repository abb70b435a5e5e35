"""What tests of several files ask for: the command line in this process."""

import pytest
from command_helpers import Command, exit_code


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process; return exit code, standard output and error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = exit_code(*arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
