"""The egress policy as pure code: names, addresses, rules, decisions. It opens no connection and resolves no name."""

from __future__ import annotations
