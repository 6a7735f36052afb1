"""Sockets of keeps: a port is taken once and found again, and never shared."""

from __future__ import annotations

import socket

import pytest

from keep_manager.endpoints import bind_new, bind_recorded, endpoint_of, split_endpoint
from keep_manager.errors import EndpointTakenError


def test_the_kernel_chooses_and_the_same_endpoint_is_bound_again() -> None:
    with bind_new("127.0.0.1", None) as first:
        endpoint = endpoint_of(first)
    with bind_recorded(endpoint) as second:
        assert endpoint_of(second) == endpoint


def test_a_taken_endpoint_is_refused() -> None:
    with bind_new("127.0.0.1", None) as first, pytest.raises(EndpointTakenError, match="something else listens"):
        bind_recorded(endpoint_of(first))


def test_an_endpoint_with_connections_in_time_wait_is_bound_again() -> None:
    with bind_new("127.0.0.1", None) as listener:
        endpoint = endpoint_of(listener)
        with socket.create_connection(split_endpoint(endpoint)) as client:
            listener.setblocking(True)
            accepted, _ = listener.accept()
            accepted.close()  # we close first, so TIME_WAIT is on our side
            assert client.recv(1) == b""
    bind_recorded(endpoint).close()


def test_nobody_can_share_a_keeps_port() -> None:
    with bind_new("127.0.0.1", None) as listener, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(listener.getsockname())


def test_a_used_up_range_is_an_error_that_names_it() -> None:
    with bind_new("127.0.0.1", None) as first:
        _, port = split_endpoint(endpoint_of(first))
        with pytest.raises(EndpointTakenError, match=f"from {port} to {port}"):
            bind_new("127.0.0.1", (port, port))
    with bind_new("127.0.0.1", (port, port)) as second:
        assert second.getsockname()[1] == port


def test_ipv6_endpoints_have_brackets() -> None:
    try:
        listener = bind_new("::1", None)
    except OSError:
        pytest.skip("this host has no IPv6")
    with listener:
        endpoint = endpoint_of(listener)
        assert endpoint.startswith("[::1]:")
        assert split_endpoint(endpoint) == ("::1", listener.getsockname()[1])


def test_sockets_are_not_inherited() -> None:
    with bind_new("127.0.0.1", None) as listener:
        assert not listener.get_inheritable()
