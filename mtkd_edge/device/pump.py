"""The thread of a source: what it captures goes, as a frame of the engine's size, into the mailbox."""

from __future__ import annotations

from mtkd_edge.bundle import Manifest
from mtkd_edge.device.health import Health
from mtkd_edge.device.mailbox import Mailbox
from mtkd_edge.device.prepare import prepare
from mtkd_edge.device.sources.base import Captured, Loss, Source
from mtkd_edge.device.task import Task
from mtkd_edge.errors import SourceError

OTHER_SHAPE = "so scores mean little: set the source to their shape, or train with its photos"


class Pump:
    """Starts at once and runs until the source ends, fails or is stopped."""

    def __init__(self, source: Source, mailbox: Mailbox, health: Health, model: Manifest) -> None:
        self.live = source.live
        self._source, self._health, self._model = source, health, model
        self._leave = mailbox.offer if source.live else mailbox.put
        self._stopped = False
        self._task = Task(f"source {source.name}", self._work)

    def stop(self) -> None:
        """Nothing more is captured. Harmless once the source has ended."""
        self._stopped = True
        self._source.close()

    @property
    def failed(self) -> SourceError | None:
        """What the source ended with. Raises any other error: a defect, and not the source's own failure."""
        error = self._task.error
        if error is None or isinstance(error, SourceError):
            return error
        raise error

    def is_over(self) -> bool:
        """Whether no frame is missed by not waiting any longer: a camera stopped in the middle of a read has none."""
        return self.failed is not None or not self._task.is_alive() or (self._stopped and self.live)

    def _lost(self, reason: str, loss: Loss = Loss.CONNECTION, /) -> None:
        self._health.lost(self._source.name, reason, loss)

    def _remark(self, captured: Captured) -> str | None:
        """What to say of its shape; None without a photo."""
        if captured.photo is None:
            return None
        other = self._model.other_shape(*captured.photo.shape[:2])
        return f"{other}; {OTHER_SHAPE}" if other else ""

    def _work(self) -> None:
        name = self._source.name
        try:
            for captured in self._source.frames(self._lost):
                self._health.frame(name, self._remark(captured))
                if not self._leave(prepare(captured, self._model.frame)):
                    break
        except SourceError as error:
            self._health.ended(name, error.message)
            raise
        if not self._stopped:  # else it was cut off, and has not come to its end
            self._health.ended(name, "")
