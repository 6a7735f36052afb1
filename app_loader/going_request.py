"""One HTTP request to the workload, from when it came to its end, and what is remembered of it."""

from __future__ import annotations

from app_loader.clock import rfc3339
from app_loader.messages import Request
from app_loader.served import MAX_NAME, Going
from keep_protocol.served_api import RequestRecord


class GoingRequest(Going):
    """The first `below` segments of its path are the keep's."""

    __slots__ = ("_method", "_path", "status")

    def __init__(self, request: Request, below: int) -> None:
        super().__init__()
        path = b"/" + b"/".join(request.segments[below:])
        self._method = request.method[:MAX_NAME]
        # Without the query, in which there are tokens now and then.
        self._path = path.decode("ascii", "backslashreplace")[:MAX_NAME]
        self.status: int | None = None
        """Of the response, once it has begun."""

    def record(self) -> RequestRecord:
        """See `Going`."""
        return RequestRecord(
            at=rfc3339(self.at),
            method=self._method,
            path=self._path,
            outcome=self.outcome,
            status=self.status,
            usage=self.usage,
            code=self.code,
            trap=self.trap,
            message=self.message,
        )
