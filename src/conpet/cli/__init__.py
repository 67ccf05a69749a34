"""The command line: one file a verb. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

from conpet.cli.app import app, main

__all__ = ["app", "main"]
