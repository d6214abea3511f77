"""Who may come in, word by word: proofs, their copies, two secrets, operators."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from quorate.coordinator.entrance.door import Door, Entry, Keys
from quorate.credentials import Secrets, Token
from quorate.errors import RendezvousAuthenticationError, RendezvousProtocolError
from quorate.wire.messages import (
    ROLE_AGENT,
    ROLE_OPERATOR,
    ROLE_STORE,
    Challenge,
    Hello,
    Ping,
    Proof,
    Proven,
    Status,
    Word,
    encode,
)
from quorate.wire.proof import NONCE_BYTES, Side, Transcript, mac_of, secret_behind

OURS, NEXT, OPERATORS, STRANGE = (name * 16 for name in (b"o", b"n", b"p", b"s"))
SERVER_NONCE, CLIENT_NONCE = b"\1" * NONCE_BYTES, b"\2" * NONCE_BYTES
HELLO = Hello(1, ROLE_AGENT, "run", "session")


def token(*secrets: bytes) -> Token:
    return Token(Secrets(*secrets))


def door(*secrets: bytes, operators: bytes | None = None, nonce: bytes = SERVER_NONCE) -> Door:
    return Door(Keys(token(*secrets), token(operators) if operators else None), nonce)


def say(door: Door, word: Word) -> Entry:
    return door.enter(word, encode(word))


def transcript(hello: Hello, nonce: bytes = SERVER_NONCE) -> Transcript:
    return Transcript(nonce, CLIENT_NONCE, encode(hello))


def proof(secret: bytes, hello: Hello = HELLO, nonce: bytes = SERVER_NONCE) -> Proof:
    return Proof(CLIENT_NONCE, mac_of(secret, Side.CLIENT, transcript(hello, nonce)))


def come_in(door: Door, secret: bytes, hello: Hello = HELLO) -> Entry:
    assert say(door, hello) == Entry(Challenge(SERVER_NONCE), None)
    return say(door, proof(secret, hello))


def assert_shut(door: Door, word: Word, reason: str) -> None:
    with pytest.raises(RendezvousAuthenticationError, match=reason):
        say(door, word)
    assert not door.is_open


def test_without_a_token_everybody_may_come_in_at_once() -> None:
    open_door = Door(Keys(), SERVER_NONCE)
    for word in (HELLO, Ping(1), HELLO):
        assert say(open_door, word) == Entry(None, word)
    assert open_door.is_open
    assert open_door.may_act


def test_r15_a_hello_is_handed_on_once_it_is_proved() -> None:
    shut = door(OURS)
    reply, request = come_in(shut, OURS)
    assert request == HELLO
    assert shut.is_open
    assert isinstance(reply, Proven)
    assert secret_behind(reply.mac, [OURS], Side.COORDINATOR, transcript(HELLO)) == OURS
    assert say(shut, Ping(1)) == Entry(None, Ping(1))


@pytest.mark.parametrize("secret", [STRANGE, OURS[:-1], OURS + b"x"])
def test_r15_another_secret_does_not_open(secret: bytes) -> None:
    shut = door(OURS)
    say(shut, HELLO)
    assert_shut(shut, proof(secret), "does not accept this node's token")


def test_r15_a_recorded_handshake_is_of_no_use_on_another_connection() -> None:
    recorded = proof(OURS)
    first, second = door(OURS), door(OURS, nonce=b"\3" * NONCE_BYTES)
    say(first, HELLO)
    assert say(first, recorded).request == HELLO
    say(second, HELLO)
    assert_shut(second, recorded, "does not accept")


def test_r15_a_proof_is_for_its_own_hello() -> None:
    shut = door(OURS)
    say(shut, Hello(1, ROLE_OPERATOR, "run", "session"))
    assert_shut(shut, proof(OURS, HELLO), "does not accept")


def test_r15_the_coordinators_own_proof_does_not_open() -> None:
    shut = door(OURS)
    say(shut, HELLO)
    reflected = mac_of(OURS, Side.COORDINATOR, transcript(HELLO))
    assert_shut(shut, Proof(CLIENT_NONCE, reflected), "does not accept")


@pytest.mark.parametrize("word", [HELLO, Ping(1), Status(1), Proof(b"", b"")], ids=repr)
def test_r15_without_a_proof_nothing_is_taken(word: Word) -> None:
    shut = door(OURS)
    say(shut, HELLO)
    assert_shut(shut, word, "wants a token")


@pytest.mark.parametrize("word", [Ping(1), Proof(CLIENT_NONCE, b"")], ids=repr)
def test_the_first_word_is_a_hello(word: Word) -> None:
    with pytest.raises(RendezvousProtocolError, match="must be a hello"):
        say(door(OURS), word)


def test_a_proof_that_nobody_asked_for_is_refused() -> None:
    for open_door in (Door(Keys(), SERVER_NONCE), door(OURS)):
        if not open_door.is_open:
            come_in(open_door, OURS)
        with pytest.raises(RendezvousProtocolError, match="nobody has asked"):
            say(open_door, proof(OURS))


@pytest.mark.parametrize("secret", [OURS, NEXT])
def test_either_of_two_secrets_opens_and_the_answer_is_made_with_it(secret: bytes) -> None:
    reply, _ = come_in(door(OURS, NEXT), secret)
    assert isinstance(reply, Proven)
    assert secret_behind(reply.mac, [OURS, NEXT], Side.COORDINATOR, transcript(HELLO)) == secret


def test_a_secret_counts_that_is_valid_when_it_is_proved() -> None:
    class Changing(Token):
        def current(self) -> Secrets:
            return Secrets(next(secrets))

    secrets = iter([NEXT])
    shut = Door(Keys(Changing(Secrets(OURS))), SERVER_NONCE)
    assert come_in(shut, NEXT).request == HELLO


class Comer(NamedTuple):
    """Who comes with what, whether it is let in, and whether it may act."""

    role: str
    secret: bytes
    comes_in: bool
    acts: bool


@pytest.mark.parametrize(
    "comer",
    [
        Comer(ROLE_OPERATOR, OPERATORS, comes_in=True, acts=True),
        Comer(ROLE_OPERATOR, OURS, comes_in=True, acts=False),
        Comer(ROLE_AGENT, OURS, comes_in=True, acts=False),
        Comer(ROLE_AGENT, OPERATORS, comes_in=False, acts=False),
        Comer(ROLE_STORE, OPERATORS, comes_in=False, acts=False),
    ],
    ids=lambda comer: f"{comer.role} with {comer.secret[:1]!r}",
)
def test_where_operators_have_a_token_of_their_own(comer: Comer) -> None:
    shut = door(OURS, operators=OPERATORS)
    hello = Hello(1, comer.role, "run", "session")
    if not comer.comes_in:
        say(shut, hello)
        assert_shut(shut, proof(comer.secret, hello), "does not accept")
        return
    assert come_in(shut, comer.secret, hello).request == hello
    assert shut.may_act == comer.acts


def test_where_operators_have_none_the_token_will_do() -> None:
    shut = door(OURS)
    come_in(shut, OURS, Hello(1, ROLE_OPERATOR, "", "session"))
    assert shut.may_act
