"""``python -m conpet.cli.docs``: the help of every verb as Markdown, on standard output."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout

from conpet.cli.app import VERBS, app

INTRODUCTION = """\
# The command line

Made by `python -m conpet.cli.docs > docs/cli.md`; do not edit it by hand.

Every verb has `--json` (one JSON document on standard output, everything else on standard error).
Exit codes: 0 done, 1 a defect of conpet or a failed run of a study, 2 an error that you can mend,
130 stopped by a signal with all progress saved.
"""


def markdown() -> str:
    """The whole page."""
    parts = [INTRODUCTION, _section("conpet", [])]
    parts += [_section(f"conpet {name}", [name]) for name in VERBS]
    return "\n".join(parts)


def _section(title: str, arguments: list[str]) -> str:
    return f"## {title}\n\n```text\n{help_text(arguments)}\n```\n"


def help_text(arguments: list[str]) -> str:
    """What ``--help`` prints, for a terminal of 80 columns."""
    out = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        with redirect_stdout(out):
            app(args=[*arguments, "--help"], prog_name="conpet", standalone_mode=False)
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


if __name__ == "__main__":
    print(markdown(), end="")
