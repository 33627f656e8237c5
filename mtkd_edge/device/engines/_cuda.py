"""CUDA memory and streams through pycuda, in the device's primary context. The only file that imports pycuda.

The primary context is the one TensorRT uses; `pycuda.autoinit` would make a second one. The stack of contexts belongs
to a thread: whoever works pushes, and pops again, or the process aborts at its end with "context stack was not empty".
Everything made here must be freed while the context is current.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from mtkd_edge.errors import BackendError, MissingExtraError


def import_driver() -> ModuleType:
    """pycuda.driver. Raises MissingExtraError where it is not installed, BackendError where it finds no driver."""
    try:
        import pycuda.driver
    except ModuleNotFoundError as error:
        raise MissingExtraError("pycuda", "tensorrt", "running a TensorRT engine") from error
    except ImportError as error:
        raise BackendError(f"pycuda cannot be loaded: {error}", "nvidia-smi") from error
    driver: ModuleType = pycuda.driver
    return driver


class Device:
    """One GPU. `with device.current() as cuda:` gives pycuda's driver module while the context is current."""

    def __init__(self, index: int = 0) -> None:
        self._cuda = import_driver()
        with self._translated():
            self._cuda.init()
            self._context = self._cuda.Device(index).retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[Any]:
        """Makes the primary context current in this thread. Raises BackendError for what CUDA reports inside."""
        with self._translated():
            self._context.push()
            try:
                yield self._cuda
            finally:
                self._context.pop()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._cuda.Error as error:
            raise BackendError(f"CUDA reports: {error}", "nvidia-smi") from error
