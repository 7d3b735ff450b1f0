"""TensorBoard."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from tasks.train.curve import CurveRow
from tasks.train.loggers.facts import RunFacts, figures


class TensorBoardLogger:
    """Event files in ``<train.tensorboard>/<name>``; those of earlier attempts are gone on from."""

    def __init__(self, target: str, facts: RunFacts, folder: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = Path(folder, target, facts.name)
        path.mkdir(parents=True, exist_ok=True)
        self._last = self._last_step(path)
        # A kill may have cut a row short: from the first that is not whole on, what is there is thrown away.
        self._writer: Any = SummaryWriter(str(path), purge_step=self._last + 1 if self._last >= 0 else None)
        if self._last < 0:
            lines = [f"| {name} | {value} |" for name, value in facts.settings.items()]
            self._writer.add_text("settings", "\n".join(["| setting | value |", "| --- | --- |", *lines]), 0)
            self._writer.flush()

    @staticmethod
    def _last_step(path: Path) -> int:
        """The last step of which all figures are there, -1 without any."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        tags = [f"train/{field.name}" for field in fields(CurveRow) if field.name != "step"]
        there = events.Tags()["scalars"]
        return min(max(event.step for event in events.Scalars(tag)) if tag in there else -1 for tag in tags)

    def log(self, row: CurveRow, waiting: float | None) -> None:
        """Append a row and hand it to the file system."""
        if row.step <= self._last:
            return
        for name, value in figures(row, waiting).items():
            self._writer.add_scalar(name, value, row.step)
        self._writer.flush()

    def close(self, failed: bool) -> None:
        """Close the file."""
        self._writer.close()
