"""Tries every directive of `keep@.service` by its effect, inside a probe unit with the same directives."""

from __future__ import annotations
