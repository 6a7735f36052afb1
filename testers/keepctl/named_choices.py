"""Options whose value is one of a closed set of words."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

_Word = TypeVar("_Word", bound=StrEnum)


def word_of(words: type[_Word]) -> Callable[[str], _Word]:
    """A `type` for argparse, whose `choices` come too late to say what is known: they are for help and completion."""

    def convert(text: str) -> _Word:
        try:
            return words(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(words)}") from None

    return convert
