"""Host functions by interface: what they take and give, and how wasmtime calls them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app_loader.component_binding import HostComponentFunction, component_library
from app_loader.wasi_http.binding import ResourceDestructor
from app_loader.wasi_http.errors import ErrorResult, GuestFaultError
from app_loader.wasi_http.resources import Resource
from app_loader.wasi_http.values import Kind, Place, Result

if TYPE_CHECKING:
    from app_loader.wasi_http.host import Host

Work = Callable[..., Any]
"""Takes the host and the lifted arguments. For a `result` it returns the ok value or raises `ErrorResult`."""


@dataclass(frozen=True, slots=True)
class HostFunction:
    """One function of an interface."""

    takes: tuple[Kind, ...]
    gives: Kind | None
    work: Work


class Interface:
    """One interface of WASI as far as it is implemented here, without its version."""

    def __init__(self, name: str, **resources: type[Resource]) -> None:
        self.name = name
        self.resources = {spelled.replace("_", "-"): resource for spelled, resource in resources.items()}
        self.functions: dict[str, HostFunction] = {}

    def function(self, name: str, *takes: Kind, gives: Kind | None = None) -> Callable[[Work], Work]:
        """Let the decorated function be `name`, spelled as in core modules: `[method]fields.get`."""

        def define(work: Work) -> Work:
            self.functions[name] = HostFunction(takes, gives, work)
            return work

        return define


def callback(host: Host, function: HostFunction) -> Any:
    """`function` as wasmtime calls it. It lives as long as it is referenced."""
    takes = tuple(enumerate(kind.lift for kind in function.takes))
    gives, work = function.gives, function.work
    is_result = isinstance(gives, Result)

    def call(_data: Any, context: int, _type: Any, arguments: Any, _count: int, results: Any, _size: int) -> int | None:
        try:
            place = Place(context, host.resources)
            given = [lift(place, arguments[index]) for index, lift in takes]
            try:
                outcome = work(host, *given)
                if is_result:
                    outcome = (True, outcome)
            except ErrorResult as error:
                outcome = (False, error.value)
            if gives is not None:
                gives.lower(place, results[0], outcome)
        except BaseException as error:  # beyond this frame there is only wasmtime
            return _as_trap(host, error)
        return None

    return HostComponentFunction(call)


def refusing(host: Host, name: str) -> Any:
    """A function that traps: what nobody can call without a resource that is never given out."""

    def call(*_: Any) -> int:
        return _as_trap(host, GuestFaultError(f"a keep does not have {name} for HTTP workloads"))

    return HostComponentFunction(call)


def destructor(host: Host) -> Any:
    """What wasmtime calls when a guest drops a handle."""

    def drop(_data: Any, _context: Any, number: int) -> int | None:
        try:
            if (gone := host.resources.take(number)) is not None:
                gone.drop()
        except BaseException as error:
            return _as_trap(host, error)
        return None

    return ResourceDestructor(drop)


def _as_trap(host: Host, error: BaseException) -> int:
    """A `wasmtime_error_t`. The guest's own faults are its trap's message, all else is told by the host later."""
    if not isinstance(error, GuestFaultError):
        host.failure = error
    message = str(error) or type(error).__name__
    return int(component_library().wasmtime_error_new(message.encode().replace(b"\0", b"")))
