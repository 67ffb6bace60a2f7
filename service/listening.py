"""The socket that a server listens on: `rtmdet serve` opens it, `rtmdet doctor` tries whether it
could."""

import socket


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound and does not listen yet. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def reason_of(error: OSError) -> str:
    """Why there is no such socket. A name that is not found has a number that is no errno."""
    return error.strerror or str(error)
