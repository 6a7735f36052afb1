"""Refusals that name fields of the API, told with the options of the command line instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from keep_client import InvalidArgumentError, ProblemError
from keep_protocol.errors import Problem


@contextmanager
def fields_as_options(options: Mapping[str, str]) -> Iterator[None]:
    """Name every field in a refusal as the option that sets it: `options` by the field's path in the request."""
    try:
        yield
    except ProblemError as error:
        field = error.field.removeprefix("$.") if error.field else None
        problem = Problem(
            type="about:blank",
            title=error.code,
            status=error.status,
            detail=_worded(error.detail, options),
            code=error.code,
            field=options.get(field, field) if field else None,
            remedy=_worded(error.remedy, options) if error.remedy else None,
            trap=error.trap,
            backtrace=error.backtrace,
        )
        raise ProblemError(problem) from None
    except InvalidArgumentError as error:
        raise type(error)(_worded(str(error), options)) from error


def _worded(text: str, options: Mapping[str, str]) -> str:
    for path, option in options.items():
        text = text.replace(f"`{path.rpartition('.')[2]}`", option)
    return text
