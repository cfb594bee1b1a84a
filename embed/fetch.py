"""A picture from a web address: so large, so long, and from public addresses alone.

A name is resolved once and the connection goes to the address that was checked, so that a name which means another
machine a moment later leads nowhere. Each redirect is checked anew. Proxies of the environment are not used: they
would resolve names themselves.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from .errors import ImageError, shown

MAX_BYTES = 32 << 20
SECONDS = 20.0

_REDIRECTS = 5
_PART = 1 << 16
_PLAIN = "/?[]%:@!$&'()*+,;=~-._"


def is_address(source: object) -> bool:
    """Whether a text is a web address and no file's name.

    >>> is_address("https://example.org/a.jpg"), is_address("a.jpg")
    (True, False)
    """
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def fetch(address: str, *, max_bytes: int = MAX_BYTES, seconds: float = SECONDS) -> bytes:
    """What lies at a web address.

    >>> fetch("http://127.0.0.1/a.jpg")
    Traceback (most recent call last):
    vecstore.embed.errors.ImageError: http://127.0.0.1/a.jpg is not fetched: 127.0.0.1 is no public address
    """
    fetching = _Fetching(address, max_bytes, seconds)
    # Resolvers cannot be told to hurry, so all of it runs beside the one who waits.
    thread = threading.Thread(target=fetching.run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        fetching.stop()
        raise fetching.too_long
    if isinstance(fetching.found, BaseException):
        raise fetching.found
    return fetching.found


class _Fetching:
    """One fetch, redirects followed. What it found, or what went wrong, is left in ``found``."""

    def __init__(self, address: str, max_bytes: int, seconds: float) -> None:
        self.too_long = ImageError(f"{shown(address)} took longer than {seconds:g} seconds")
        self.found: bytes | BaseException = ImageError(f"{shown(address)} was not fetched")
        self._address, self._max_bytes, self._until = address, max_bytes, time.monotonic() + seconds
        self._socket: socket.socket | None = None

    def run(self) -> None:
        called = shown(self._address)
        try:
            self.found = self._followed()
        except ImageError as error:
            self.found = error
        except TimeoutError:
            self.found = self.too_long
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            self.found = ImageError(f"{called} cannot be fetched: {shown(reason)}")

    def stop(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _followed(self) -> bytes:
        address = self._address
        for _ in range(_REDIRECTS + 1):
            answer = self._asked(address)
            if isinstance(answer, bytes):
                return answer
            address = urljoin(address, answer)
        raise ImageError(f"{shown(self._address)} leads on more than {_REDIRECTS} times")

    def _asked(self, address: str) -> bytes | str:
        """The bytes, or where they are instead."""
        parts = urlsplit(address)
        host = parts.hostname
        if parts.scheme not in ("http", "https") or not host:
            raise ImageError(
                f"{shown(address)} is not fetched: it must begin with http:// or https:// and a name"
            )
        if parts.username is not None or parts.password is not None:
            raise ImageError(f"{shown(address)} is not fetched: names and passwords are sent to nobody")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        where = _public(host, port, address)
        self._socket = socket.create_connection((where, port), timeout=self._left())
        try:
            if parts.scheme == "https":
                self._socket = ssl.create_default_context().wrap_socket(self._socket, server_hostname=host)
            return self._answer(parts, port)
        finally:
            self._socket.close()

    def _answer(self, parts: SplitResult, port: int) -> bytes | str:
        connection = http.client.HTTPConnection(parts.hostname or "", port)
        connection.sock = self._socket
        path = quote(parts.path or "/", safe=_PLAIN) + (
            f"?{quote(parts.query, safe=_PLAIN)}" if parts.query else ""
        )
        headers = {
            "User-Agent": "vecstore",
            "Accept": "image/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        connection.request("GET", path, headers=headers)
        with contextlib.closing(connection.getresponse()) as response:
            return self._read(response, parts.geturl())

    def _read(self, response: http.client.HTTPResponse, address: str) -> bytes | str:
        if response.status in (301, 302, 303, 307, 308) and response.getheader("Location"):
            return response.getheader("Location") or ""
        if response.status != 200:
            raise ImageError(f"{shown(address)} answered {response.status} {shown(response.reason)}")
        return self._body(response, address)

    def _body(self, response: http.client.HTTPResponse, address: str) -> bytes:
        too_large = ImageError(f"{shown(address)} has more than {self._max_bytes} bytes")
        if response.length is not None and response.length > self._max_bytes:
            raise too_large
        parts, size = [], 0
        while part := response.read1(_PART):
            parts.append(part)
            size += len(part)
            if size > self._max_bytes:
                raise too_large
            self._left()
        if response.length:
            raise ImageError(f"{shown(address)} ended early: {response.length} bytes are missing")
        return b"".join(parts)

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def _public(host: str, port: int, address: str) -> str:
    """The address behind a name; one that is not public among several is reason enough to ask none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    every = [str(entry[4][0]) for entry in found]
    for text in every:
        if not _is_public(text):
            known = host if host == text else f"{shown(host)} is {text}, which"
            raise ImageError(f"{shown(address)} is not fetched: {known} is no public address")
    return every[0]


def _is_public(text: str) -> bool:
    """No private, loopback, link-local, shared, multicast or reserved address, nor one inside an IPv6 address.

    >>> [_is_public(text) for text in ("8.8.8.8", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1")]
    [True, False, False, False, False]
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return _is_public(str(inner))
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_unspecified
    )


# Where IPv6 alone is spoken, IPv4 addresses are written behind this.
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
