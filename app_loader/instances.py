"""The instance of a process that serves a workload: fresh for each call or request, or kept for the next."""

from __future__ import annotations

from app_loader.guest import new_store, wasi_configuration
from app_loader.program import Held, Program
from app_loader.runner_messages import Assignment
from app_loader.wasmtime_binding import library


class Instances:
    """At most one at a time."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._store: int | None = None
        self._made_for: Assignment | None = None
        self.held = Held()

    def take(self, assignment: Assignment, *, reuse: bool) -> int:
        """A `wasmtime_context_t` for this assignment; with `reuse` that which was kept, if it fits."""
        if self._store is None or not reuse or assignment != self._made_for:
            self.discard()
            wasi = wasi_configuration(assignment, [])
            self._store = new_store(self._program, assignment.memory, wasi)
            self._made_for = assignment
        return int(library().wasmtime_store_context(self._store))

    def discard(self) -> None:
        """The instance has failed, or is not to be kept."""
        if self._store is not None:
            library().wasmtime_store_delete(self._store)
        self._store = None
        self.held = Held()
