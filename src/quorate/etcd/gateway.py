"""Requests to whichever member of etcd answers: failover, deadlines, authentication."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeVar

from quorate.clock import Clock
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousError,
    RendezvousLimitError,
    RendezvousProtocolError,
    RendezvousSettingsError,
)
from quorate.etcd.messages import Authenticated, decode, encode
from quorate.etcd.transport import Failure, Reply, Stream, Transport
from quorate.identity import Endpoint

__all__ = ["Credentials", "Gateway"]

# A member that is frozen costs no more than this, at first; a member that is only slow is given
# twice the time whenever all of them have failed.
ATTEMPT_S = 2.0

# Between two rounds through all members; half of it is random.
BACKOFF_S = 0.05
BACKOFF_MAX_S = 1.0

AUTHENTICATE = "/v3/auth/authenticate"

# A member without a leader refuses at once, where it would else go on with what it knows.
REQUIRE_LEADER = {"Grpc-Metadata-hasleader": "true"}

T = TypeVar("T")


@dataclass(frozen=True)
class Credentials:
    """Who asks.

    Args:
        user: The name of a user of etcd.
        password: The password.
    """

    user: str
    password: str = field(repr=False)


class Meaning(Enum):
    """What an HTTP status says about a request; bodies of errors differ between versions."""

    ANSWERED = auto()
    REFUSED = auto()
    UNAVAILABLE = auto()


class Trial:
    """One call's way through the members: whom to ask, how long, and what went wrong so far.

    Args:
        members: How many there are.
        limit_s: How long all of it may take, in seconds.
        clock: Gives the time.
    """

    def __init__(self, members: int, limit_s: float, clock: Clock) -> None:
        self._members = members
        self._limit_s = limit_s
        self._clock = clock
        self._deadline = clock.monotonic() + limit_s
        self._failures: dict[Endpoint, Failure] = {}
        self._failed_count = 0

    @property
    def left_s(self) -> float:
        """How long the call may still take, in seconds."""
        return self._deadline - self._clock.monotonic()

    @property
    def attempt_s(self) -> float:
        """How long the next attempt may take, in seconds."""
        rounds = min(self._failed_count // self._members, 10)
        return max(0.001, min(ATTEMPT_S * 2.0**rounds, self.left_s))

    def fail(self, endpoint: Endpoint, failure: Failure) -> None:
        """Note that a member failed; after a round through all of them, wait a little.

        Raises:
            RendezvousSettingsError: TLS cannot be agreed on with any of them.
            RendezvousConnectionError: The time is up.
        """
        self._failures[endpoint] = failure
        self._failed_count += 1
        if self._failed_count % self._members == 0:
            self._raise_if_distrusted()
            rounds = min(self._failed_count // self._members, 10)
            pause_s = min(BACKOFF_S * 2.0**rounds, BACKOFF_MAX_S) * random.uniform(0.5, 1)
            self._clock.sleep(max(0.0, min(pause_s, self.left_s)))
        if self.left_s <= 0:
            raise RendezvousConnectionError(
                f"etcd did not serve a request within {self._limit_s:g} s ({self._reasons()}). "
                "See whether a majority of its members is alive and reachable, and the endpoint "
                "and `protocol` are right."
            )

    def _raise_if_distrusted(self) -> None:
        if len(self._failures) == self._members and all(
            failure.is_distrust for failure in self._failures.values()
        ):
            raise RendezvousSettingsError(
                f"TLS with etcd cannot be set up ({self._reasons()}). See whether `ca_cert` is "
                "the authority of etcd's certificate, the endpoint has a name of that "
                "certificate, and `ssl_cert` and `ssl_cert_key` are what etcd asks for."
            )

    def _reasons(self) -> str:
        return "; ".join(
            f"{endpoint}: {failure.reason}" for endpoint, failure in self._failures.items()
        )


class Gateway:
    """Asks one member after the other until one answers, and stays with it; thread-safe.

    Args:
        endpoints: The members.
        transport: Carries requests to one of them.
        credentials: Who asks, None where etcd does not want to know.
        clock: Gives the time.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        transport: Transport,
        credentials: Credentials | None,
        clock: Clock,
    ) -> None:
        self._endpoints = list(endpoints)
        self._transport = transport
        self._credentials = credentials
        self._clock = clock
        # Clients that all begin with the first member of their lists would be a burden to it.
        self._current = random.randrange(len(self._endpoints))
        self._token = ""
        self._token_lock = threading.Lock()

    def read(self, path: str, body: bytes, limit_s: float) -> Reply:
        """Return the answer, of status 200 or 404, to a request that may be repeated.

        Args:
            path: Where the gateway takes it.
            body: The request.
            limit_s: How long all attempts may take, in seconds.

        Raises:
            RendezvousConnectionError: No member answered in time.
            RendezvousSettingsError: etcd refuses us: the user, the password, their permissions,
                the certificates.
            RendezvousLimitError: etcd has no space, or takes no request as large as this.
            RendezvousProtocolError: What answers is not etcd.
        """
        trial = self._trial(limit_s)
        while True:
            endpoint = self._endpoint()
            outcome = self._attempt(self._transport.exchange, endpoint, path, body, trial)
            if isinstance(outcome, Reply):
                return outcome
            self._leave(endpoint)
            trial.fail(endpoint, outcome)

    def write(self, path: str, body: bytes, limit_s: float) -> Reply | None:
        """Return the answer to a request that must not be repeated unseen.

        Returns:
            The answer; None if there is none although the request may have been carried out.

        Raises:
            RendezvousError: As `read`; the request was not carried out.
        """
        trial = self._trial(limit_s)
        while True:
            endpoint = self._endpoint()
            outcome = self._attempt(self._transport.exchange, endpoint, path, body, trial)
            if isinstance(outcome, Reply):
                return outcome
            self._leave(endpoint)
            if outcome.was_sent:
                return None
            trial.fail(endpoint, outcome)

    def open_stream(self, path: str, body: bytes, limit_s: float, silence_s: float) -> Stream:
        """Return the answer to a request as it comes.

        Args:
            path: Where the gateway takes it.
            body: The request.
            limit_s: How long all attempts may take, in seconds.
            silence_s: After how many seconds without a word the stream ends.

        Raises:
            RendezvousError: As `read`.
        """
        trial = self._trial(limit_s)
        while True:
            endpoint = self._endpoint()
            outcome = self._attempt(
                self._transport.open_stream, endpoint, path, body, trial, silence_s
            )
            if isinstance(outcome, Reply):
                raise self._refusal(endpoint, path, outcome)
            if not isinstance(outcome, Failure):
                return outcome
            self._leave(endpoint)
            trial.fail(endpoint, outcome)

    def forget_token(self) -> None:
        """Prove anew who asks at the next request."""
        with self._token_lock:
            self._token = ""

    def close(self) -> None:
        """Close every connection that is kept."""
        self._transport.close()

    def _trial(self, limit_s: float) -> Trial:
        return Trial(len(self._endpoints), limit_s, self._clock)

    def _endpoint(self) -> Endpoint:
        return self._endpoints[self._current]

    def _leave(self, endpoint: Endpoint) -> None:
        # Another thread may have left it already.
        if endpoint == self._endpoints[self._current]:
            self._current = (self._current + 1) % len(self._endpoints)

    def _attempt(
        self,
        send: Callable[..., T | Reply | Failure],
        endpoint: Endpoint,
        path: str,
        body: bytes,
        trial: Trial,
        limit_s: float | None = None,
    ) -> T | Reply | Failure:
        """Ask one member, a second time if only the proof of who asks was too old."""
        limit_s = limit_s or trial.attempt_s
        outcome, token = self._send(send, endpoint, path, body, trial, limit_s)
        if token and isinstance(outcome, Reply) and outcome.status in (400, 401):
            self._forget(token)
            outcome, _ = self._send(send, endpoint, path, body, trial, limit_s)
        if not isinstance(outcome, Reply):
            return outcome
        match meaning_of(outcome.status):
            case Meaning.ANSWERED:
                return outcome
            case Meaning.UNAVAILABLE:
                return unavailable(outcome)
            case Meaning.REFUSED:
                raise self._refusal(endpoint, path, outcome)

    def _send(
        self,
        send: Callable[..., T | Reply | Failure],
        endpoint: Endpoint,
        path: str,
        body: bytes,
        trial: Trial,
        limit_s: float,
    ) -> tuple[T | Reply | Failure, str]:
        """Ask one member once; return the outcome, and the proof that was given."""
        token = self._authenticate(endpoint, trial)
        if isinstance(token, Failure):
            return token, ""
        headers = {**REQUIRE_LEADER, **({"Authorization": token} if token else {})}
        return send(endpoint, path, body, headers, limit_s), token

    def _authenticate(self, endpoint: Endpoint, trial: Trial) -> str | Failure:
        if self._credentials is None:
            return ""
        with self._token_lock:
            if self._token:
                return self._token
            body = encode({"name": self._credentials.user, "password": self._credentials.password})
            outcome = self._transport.exchange(
                endpoint, AUTHENTICATE, body, REQUIRE_LEADER, trial.attempt_s
            )
            if isinstance(outcome, Failure):
                # The request itself was not sent yet.
                return Failure(outcome.reason, was_sent=False, is_distrust=outcome.is_distrust)
            if outcome.status == 200:
                self._token = decode(outcome.body, Authenticated).token
                return self._token
        if meaning_of(outcome.status) is Meaning.UNAVAILABLE:
            return Failure(unavailable(outcome).reason, was_sent=False)
        raise self._refusal(endpoint, AUTHENTICATE, outcome)

    def _forget(self, token: str) -> None:
        with self._token_lock:
            if self._token == token:
                self._token = ""

    def _refusal(self, endpoint: Endpoint, path: str, reply: Reply) -> RendezvousError:
        user = self._credentials.user if self._credentials else ""
        where = f"etcd at {endpoint}"
        if path == AUTHENTICATE and reply.status in (400, 401, 412):
            return RendezvousSettingsError(
                f"{where} does not accept the user {user!r} with this password: correct `user` or "
                "`password_file`, or leave them out if its authentication is not enabled."
            )
        if reply.status in (401, 403):
            return RendezvousSettingsError(
                f"{where} refuses {path} to {f'the user {user!r}' if user else 'who gives no user'}"
                f" (HTTP {reply.status}): grant the user read and write on `etcd_prefix`."
            )
        if reply.status in (413, 429):
            return RendezvousLimitError(
                f"{where} refused a request (HTTP {reply.status}): it is too large, or etcd is out "
                "of space (see `etcdctl alarm list`) or overloaded."
            )
        if reply.status in (400, 412):
            hint = (
                "" if user else ", or give `user` and `password_file` if it wants to know who asks"
            )
            return RendezvousSettingsError(
                f"{where} refused a request (HTTP {reply.status}): it may be larger than its "
                f"--max-request-bytes; see its log{hint}."
            )
        return RendezvousProtocolError(
            f"What answers at {endpoint} is not etcd 3.4 or newer (HTTP {reply.status} to {path}): "
            "correct the endpoint."
        )


def meaning_of(status: int) -> Meaning:
    """Return what an HTTP status means for a request."""
    if status in (200, 404):
        return Meaning.ANSWERED
    if status in (408, 500, 502, 503, 504):
        return Meaning.UNAVAILABLE
    return Meaning.REFUSED


def unavailable(reply: Reply) -> Failure:
    """Return the failure that a member reports of itself; what it was asked may be done yet."""
    reason = "it has no leader or no majority" if reply.status == 503 else "it failed or was slow"
    return Failure(f"{reason} (HTTP {reply.status})", was_sent=True)
