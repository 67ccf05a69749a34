"""Streams of tasks: named ones, and a user's own data."""

from conpet.streams.base import Stream, task_fingerprint
from conpet.streams.load import load_inputs, load_stream
from conpet.streams.schema import Card, Fields

__all__ = ["Card", "Fields", "Stream", "load_inputs", "load_stream", "task_fingerprint"]
