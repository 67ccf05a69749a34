"""``conpet eval``: measure a run again."""

from __future__ import annotations

from conpet.cli.common import AsJson, DeviceName, Run, emit, summary_text, work


def verb(run: Run, device: DeviceName = "auto", as_json: AsJson = False) -> None:
    """Answer all test examples again, from the folder: the last row of the accuracy matrix.

    \b
    Example:
      conpet eval runs/bank
    """
    with work():
        from conpet import api

        result = api.load(run, device=device).evaluate()
    emit(result, summary_text(result), as_json)
