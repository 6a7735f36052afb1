"""What the runner keeps of a loaded workload, and its children instantiate: a module or a component."""

from __future__ import annotations

from typing import Any, Protocol

from app_loader.engine import Engine
from app_loader.runner_messages import Report


class Held:
    """The instance that a store holds, once it has one; it answers what comes after."""

    def __init__(self) -> None:
        self.instance: Any = None


class Program(Protocol):
    """A workload, linked as far as it can be before it is run. `context` is a `wasmtime_context_t`."""

    engine: Engine
    max_instances: int
    """Of core modules that one instantiation may make."""
    max_memories: int

    def run(self, context: int, memory: int) -> Report:
        """Run it as a command. `memory` is its limit in bytes."""

    def call(self, context: int, function: str, arguments: list[Any], memory: int, held: Held) -> Any:
        """Call an exported function with decoded JSON; its result is encodable as JSON.

        `held` is what `context` holds: empty, or left by an earlier call that has returned.
        Raises `CallError`, and `RefusalError` for arguments that do not fit.
        """

    def close(self) -> None:
        """Free it."""
