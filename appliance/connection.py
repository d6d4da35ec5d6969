"""What every call goes through: TLS, the hospital's signature, and answers of bounded length."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from federation.errors import ConfigError, IdentityError, TransportError, from_problem
from federation.files import storage_errors
from federation.messages import Problem
from federation.request_signing import sign_request

IMPOSTOR = "Is a proxy in between, or another service at this address?"
_IDENTITY = {"Accept-Encoding": "identity"}
_PROXY_FORM = "Such as http://proxy.example:3128, or http://user:password@proxy.example:3128."
_MAX_ANSWER = 8 << 20
_CHUNK = 1 << 18
"""Bytes of a download that are kept at a time: what a cut connection loses at most."""
_UNKNOWN_SIGNATURE = 401
_RETRY_AFTER_DIGITS = 9
_LONGEST_RETRY_AFTER = 3600
_RETRYABLE = frozenset({408, 429, 500, 502, 503, 504, 507})


def tls_context(ca_certificate: str | None, ca_file: str) -> ssl.SSLContext:
    """Trust the federation's own CA where it has one, else the system's; plus ``ca_file``.

    Turning verification off is not possible. Raises IdentityError for a federation's CA that is
    no certificate, ConfigError for a file that is not PEM.
    """
    try:
        context = ssl.create_default_context(cadata=ca_certificate)
    except (ssl.SSLError, TypeError) as error:
        raise IdentityError(
            f"The invite's CA certificate (ca_certificate) is not a certificate in PEM: {error}.",
            hint="Ask the coordinator for the invite again, as `coordinator invite` wrote it.",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:
            raise ConfigError(
                f"network.ca_file {ca_file!r} is not a CA in PEM: {error}."
            ) from error
    return context


@dataclass(frozen=True)
class Answer:
    """A whole answer, no longer than ``_MAX_ANSWER`` bytes."""

    status: int
    headers: httpx2.Headers
    content: bytes


def _retry_after(answer: Answer) -> int:
    """Seconds that the answer asks to wait; 0 where it does not say so in seconds."""
    stated = answer.headers.get("retry-after", "")
    if not (stated.isascii() and stated.isdigit() and len(stated) <= _RETRY_AFTER_DIGITS):
        return 0
    return min(int(stated), _LONGEST_RETRY_AFTER)


def _translate(error: httpx2.TransportError, url: str, proxy: str | None) -> TransportError:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return TransportError(
            f"What answers at {url} does not have the federation's certificate: {error}.",
            hint="A proxy that inspects TLS? Set network.ca_file; never continue without a check.",
        )
    if isinstance(error, httpx2.ProxyError):
        # The message begins with the proxy's status: 5xx passes, 403 and 407 stay.
        return TransportError(
            f"The proxy refused the connection to {url}: {error}.",
            hint="Check network.proxy.",
            retryable=str(error).startswith("5"),
        )
    if proxy:
        return TransportError(
            f"No answer from {url} through the proxy {proxy}: {error or type(error).__name__}.",
            hint="Does that proxy run, is it the right one (network.proxy), and does it let this "
            "machine through?",
            retryable=True,
        )
    return TransportError(
        f"No answer from the coordinator at {url}: {error or type(error).__name__}.",
        hint="Is it running, and does the firewall let this machine reach it?",
        retryable=True,
    )


@dataclass(frozen=True)
class Successor:
    """Keys that may have taken the place of those in use; ``adopted`` is called when so."""

    key: Ed25519PrivateKey
    adopted: Callable[[], None]


def _place(proxy: str | None) -> str | None:
    """The proxy's host and port, without the password that its URL may have.

    Raises ConfigError unless it is an http:// or https:// URL.
    """
    if proxy is None:
        return None
    try:
        url = httpx2.URL(proxy)
    except httpx2.InvalidURL as error:
        raise ConfigError(f"network.proxy is not a URL: {error}.", hint=_PROXY_FORM) from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError("network.proxy is not an http:// or https:// URL.", hint=_PROXY_FORM)
    return url.host if url.port is None else f"{url.host}:{url.port}"


class Connection:
    """Signed requests to one coordinator. Methods raise TransportError when there is no usable
    answer, and the coordinator's own error when it refuses; ``retryable`` says which may pass.

    ``successors`` is asked when the coordinator does not know the key any more.
    """

    def __init__(
        self,
        *,
        url: str,
        hospital: str,
        key: Ed25519PrivateKey,
        verify: ssl.SSLContext,
        proxy: str | None = None,
        timeout_seconds: float = 30.0,
        successors: Callable[[], Sequence[Successor]] = tuple,
        transport: httpx2.BaseTransport | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.url = url.rstrip("/")
        self._hospital = hospital
        self._key = key
        self._successors = successors
        self._changing = threading.Lock()
        self._clock = clock
        self.bytes_sent = 0
        self.bytes_received = 0
        self._proxy = _place(proxy)
        # trust_env is off: an environment variable must not divert a hospital's traffic.
        self._http = httpx2.Client(
            verify=verify,
            proxy=proxy,
            timeout=timeout_seconds,
            transport=transport,
            trust_env=False,
        )

    def close(self) -> None:
        """Drop the connection."""
        self._http.close()

    def send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        """One request and its answer, whatever its status."""
        used = self._key
        answer = self._exchange(method, path, body, headers, used)
        if answer.status == _UNKNOWN_SIGNATURE and self._adopt_successor(used):
            answer = self._exchange(method, path, body, headers, self._key)
        return answer

    def _adopt_successor(self, used: Ed25519PrivateKey) -> bool:
        """Whether other keys than ``used``, which the coordinator refused, are in use now."""
        with self._changing:
            if self._key is not used:
                return True
            for successor in self._successors():
                if successor.key.public_key() == used.public_key():
                    continue
                # Only a request that they alone signed shows that the coordinator knows them.
                asked = self._exchange("GET", "/v1/rounds/current", b"", {}, successor.key)
                if 200 <= asked.status < 300:
                    successor.adopted()
                    self._key = successor.key
                    return True
            return False

    def _exchange(
        self, method: str, path: str, body: bytes, headers: dict[str, str], key: Ed25519PrivateKey
    ) -> Answer:
        signed = headers | _IDENTITY | self._signed(method, path, body, key)
        url = self.url + path
        try:
            with self._http.stream(method, url, content=body, headers=signed) as response:
                answer = self._read(response)
        except httpx2.TransportError as error:
            raise _translate(error, self.url, self._proxy) from error
        self.bytes_sent += len(body)
        return answer

    def raise_problem(self, answer: Answer) -> None:
        """Raise the error that an answer states; nothing for a 2xx."""
        if 200 <= answer.status < 300:
            return
        retryable = answer.status in _RETRYABLE
        try:
            problem = Problem.model_validate_json(answer.content)
        except ValidationError as error:
            raise TransportError(
                f"{self.url} answered HTTP {answer.status}, not as a coordinator does.",
                hint=IMPOSTOR,
                retryable=retryable,
            ) from error
        raised = from_problem(problem.type, problem.detail, problem.hint)
        raised.retryable = retryable
        raised.retry_after = _retry_after(answer)
        raise raised

    def download(
        self,
        path: str,
        partial: Path,
        have: int,
        length: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Append to (or begin) ``partial`` until it is the whole file of ``length`` bytes.

        ``have`` bytes of it are there. A file that turns out longer is removed and refused.
        """
        used = self._key
        try:
            self._download(path, partial, have, length, progress)
        except IdentityError:
            if not self._adopt_successor(used):
                raise
            self._download(path, partial, have, length, progress)

    def _download(
        self,
        path: str,
        partial: Path,
        have: int,
        length: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        headers = _IDENTITY | self._signed("GET", path, b"", self._key)
        if have:
            headers["Range"] = f"bytes={have}-"
        try:
            with self._http.stream("GET", self.url + path, headers=headers) as response:
                if response.status_code not in (200, 206):
                    if response.status_code == 416:
                        # The coordinator's file is shorter than this part: the part is damaged.
                        partial.unlink(missing_ok=True)
                    self.raise_problem(self._read(response))
                resumed = response.status_code == 206
                done = have if resumed else 0
                with storage_errors(partial), partial.open("ab" if resumed else "wb") as file:
                    for chunk in response.iter_raw(_CHUNK):
                        done += len(chunk)
                        self.bytes_received += len(chunk)
                        if done > length:
                            break
                        file.write(chunk)
                        if progress:
                            progress(done, length)
        except httpx2.TransportError as error:
            raise _translate(error, self.url, self._proxy) from error
        if done > length:
            partial.unlink()
            raise TransportError(
                f"{self.url}{path} sends more than the adapter's {length} bytes.", hint=IMPOSTOR
            )

    def _signed(
        self, method: str, path: str, body: bytes, key: Ed25519PrivateKey
    ) -> dict[str, str]:
        # The server sees the path behind the URL's own prefix, if it has one.
        url = httpx2.URL(self.url + path)
        query, now = url.query.decode(), int(self._clock())
        return sign_request(key, self._hospital, method, url.path, query, body, now)

    def _read(self, response: httpx2.Response) -> Answer:
        # Raw and counted: neither a compressed nor an endless answer can fill the memory.
        content = bytearray()
        for chunk in response.iter_raw():
            content += chunk
            self.bytes_received += len(chunk)
            if len(content) > _MAX_ANSWER:
                raise TransportError(
                    f"{self.url} answered with more than {_MAX_ANSWER} bytes.", hint=IMPOSTOR
                )
        return Answer(response.status_code, response.headers, bytes(content))
