"""The loss curve: rows as CSV, and as a drawing."""

from __future__ import annotations

import csv
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from conpet.runtime import write_bytes_atomic


class Curve:
    """One row per stretch of steps, with the same columns; ``loss.csv`` and ``loss.svg``."""

    def __init__(self, folder: Path) -> None:
        self.rows: list[dict[str, Any]] = []
        self._folder = folder

    def write(self) -> None:
        """Replace both files; nothing is written while there is no row."""
        if not self.rows:
            return
        text = StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})
        write_bytes_atomic(self._folder / "loss.csv", text.getvalue().encode())
        write_bytes_atomic(self._folder / "loss.svg", self._drawing())

    def _drawing(self) -> bytes:
        import matplotlib as mpl
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.add_subplot()
        steps = [row["step"] for row in self.rows]
        for name in (key for key in self.rows[0] if key.endswith("_loss")):
            label = {"train_loss": "training", "valid_loss": "held out"}[name]
            axes.plot(steps, [row[name] for row in self.rows], label=label)
        for name in (key for key in self.rows[0] if key.startswith("valid_") and "loss" not in key):
            losses = [row[name] for row in self.rows]
            axes.plot(steps, losses, ":", label=f"held out, {name.removeprefix('valid_')}")
        axes.set(xlabel="step", ylabel="loss per token (nats)")
        axes.legend(frameon=False)
        drawn = BytesIO()
        with mpl.rc_context({"svg.hashsalt": "nano", "svg.fonttype": "none"}):
            figure.savefig(drawn, format="svg", metadata={"Date": None})
        return drawn.getvalue()
