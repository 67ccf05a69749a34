"""Streams of tasks: named ones, and a user's own data."""

from conpet.streams.base import Stream, task_fingerprint
from conpet.streams.load import load_inputs, load_stream
from conpet.streams.schema import Card, Fields
from conpet.streams.template import PLAIN, template_problem

__all__ = [
    "PLAIN",
    "Card",
    "Fields",
    "Stream",
    "load_inputs",
    "load_stream",
    "task_fingerprint",
    "template_problem",
]
