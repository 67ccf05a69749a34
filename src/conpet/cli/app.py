"""The program ``conpet``: its verbs, and what becomes of errors."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

import typer

from conpet.cli import (
    doctor,
    eval,
    init,
    learn,
    ls,
    predict,
    report,
    route,
    run,
    show,
    study,
    validate,
)
from conpet.cli.common import print_json
from conpet.errors import ConpetError

VERBS: dict[str, ModuleType] = {
    "run": run,
    "learn": learn,
    "predict": predict,
    "route": route,
    "eval": eval,
    "report": report,
    "study": study,
    "ls": ls,
    "show": show,
    "init": init,
    "validate": validate,
    "doctor": doctor,
}

INTERRUPTED = 130

app = typer.Typer(
    name="conpet",
    help="Teach one frozen language model task after task, without forgetting.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for _name, _module in VERBS.items():
    app.command(_name)(_module.verb)


UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""Unknown verbs and options; typer has no name of its own for the class."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave: 0 done, 2 an error to be mended, 130 interrupted, else 1."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = app(args=arguments, prog_name="conpet", standalone_mode=False) or 0
    except Exception as error:
        code = _tell(error)
        if "--json" in arguments:
            kind = UsageError if isinstance(error, UsageError) else type(error)
            print_json({"error": {"type": kind.__name__, "message": str(error)}})
    sys.exit(code)


def _tell(error: Exception) -> int:
    """Say on standard error what went wrong; the exit code."""
    if isinstance(error, UsageError):
        error.show()  # type: ignore[attr-defined]
        return 2
    if isinstance(error, typer.Abort):
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    if isinstance(error, ConpetError):
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        trainer = sys.modules.get("conpet.training.trainer")  # not there: nothing was interrupted
        return INTERRUPTED if trainer and isinstance(error, trainer.Interrupted) else 2
    traceback.print_exception(error)
    return 1
