"""What is fuzzed. A target takes bytes, and fails where a promise about such bytes is broken.

`TARGETS` names them. Only errors of `quorate.errors` are caught here, and only where one is
promised: every other one is a finding. A target does the same for the same bytes in any process.
"""

from __future__ import annotations

import contextlib
import math
import typing
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec

from quorate.api import RendezvousParameters, RendezvousStoreInfo
from quorate.backends.file import HEADER as FILE_HEADER
from quorate.backends.file import MAGIC as FILE_MAGIC
from quorate.backends.file import FileRendezvousBackend, checksum
from quorate.backends.journal import SALT_BYTES, Journal, encode_body, pack_header, pack_record
from quorate.backends.memory import MemoryRendezvousBackend
from quorate.cli.run import parse_nodes, parse_workers
from quorate.codec import decode_state, encode_state
from quorate.config import (
    KEYS,
    check_keys,
    parse_labels,
    parse_rendezvous_config,
    profile_from,
    settings_from,
)
from quorate.coordinator.agent.attachment import Attachment, Phase
from quorate.coordinator.engine import Engine
from quorate.coordinator.entrance.door import Door, Keys
from quorate.coordinator.ledgers.etcd import EtcdLedger, seat_key
from quorate.coordinator.ledgers.records import (
    amendment_key,
    end_key,
    entry_key,
    parse_key,
    result_key,
    round_key,
    run_key,
    seen_key,
)
from quorate.core.node import NodeDesc, NodeProfile, natural_text
from quorate.core.settings import PROTOCOL_VERSION
from quorate.core.state import RendezvousState, WorldName, check
from quorate.credentials import (
    SECRET_BYTES_MAX,
    SECRET_BYTES_MIN,
    Secrets,
    Token,
    parse_secrets,
)
from quorate.errors import (
    RendezvousAuthenticationError,
    RendezvousError,
    RendezvousProtocolError,
    RendezvousSettingsError,
    RendezvousStateError,
)
from quorate.etcd import messages as etcd_messages
from quorate.etcd.client import EtcdClient
from quorate.etcd.correspondent import Correspondent
from quorate.etcd.gateway import Credentials
from quorate.etcd.letters import Answers, Words, read
from quorate.etcd.mailroom import Mailroom, NodeKey
from quorate.etcd.messages import (
    Compare,
    KeyValue,
    Put,
    Range,
    RangeReply,
    Transaction,
    TransactionReply,
    operation,
)
from quorate.etcd.receipt import NumberedTransaction
from quorate.etcd.transport import Failure, HttpStream
from quorate.etcd.transport import Reply as HttpReply
from quorate.etcd.watch import replies_of
from quorate.identity import (
    PORT_MAX,
    is_loopback,
    parse_rendezvous_endpoint,
    parse_rendezvous_endpoints,
)
from quorate.stores.backed import BackedStore
from quorate.stores.memory import MemoryStore
from quorate.testing import ManualClock
from quorate.wire.frames import FrameReader, frame
from quorate.wire.messages import (
    ROLE_AGENT,
    AddNumber,
    Failed,
    Hello,
    Join,
    Proof,
    Refused,
    Report,
    Request,
    decode_reply,
    decode_request,
    decode_word,
    encode,
    error_of,
)
from quorate.wire.proof import NONCE_BYTES, Side, Transcript, mac_of, secret_behind
from tests.fuzz.choices import Choices, text_of
from tests.fuzz.pipes import certificates, scratch, tls
from tests.fuzz.routes import routes
from tests.fuzz.sequences import STEPS_MAX, play, steps_of
from tests.fuzz.values import AGREED

T = TypeVar("T")
Target = Callable[[bytes], None]

FRAME_BYTES_MAX = 512
SECRET = b"a secret of 20 bytes"
NONCE = b"n" * NONCE_BYTES
HELLO = Hello(PROTOCOL_VERSION, ROLE_AGENT, "run", "s1", NodeDesc("a", 1, 0, "s1"), settings=AGREED)


def attempt(action: Callable[[], T], *promised: type[RendezvousError]) -> T | RendezvousError:
    """Return the result, or the error that was promised in its place."""
    try:
        return action()
    except promised as error:
        return error


# What travels.


def frames(data: bytes) -> None:
    """However bytes are cut, the same bodies or the same refusal come out; nothing is lost."""
    choices = Choices(data)
    cut = choices.fragments()
    stream = choices.rest()
    bodies, end = read_frames([stream])
    assert (bodies, end) == read_frames(cut(stream))
    assert all(len(body) <= FRAME_BYTES_MAX for body in bodies)
    framed = b"".join(map(frame, bodies))
    assert stream.startswith(framed)
    if end.endswith("are left"):
        assert end == f"{len(stream) - len(framed)} bytes are left"


def read_frames(pieces: Iterable[bytes]) -> tuple[list[bytes], str]:
    """Return the bodies, and why there are no more."""
    reader = FrameReader(FRAME_BYTES_MAX)
    bodies: list[bytes] = []
    try:
        for piece in pieces:
            bodies += reader.feed(piece)
    except RendezvousProtocolError as error:
        return bodies, str(error)
    return bodies, f"{reader.buffered} bytes are left"


def words(data: bytes) -> None:
    """A word is refused, or says the same when it is said again."""
    word = attempt(lambda: decode_word(data), RendezvousProtocolError)
    request = attempt(lambda: decode_request(data), RendezvousProtocolError)
    if isinstance(word, RendezvousError):
        assert isinstance(request, RendezvousError)
        return
    assert encode(decode_word(encode(word))) == encode(word)
    if isinstance(word, Proof):
        assert isinstance(request, RendezvousError)
    else:
        assert encode(typing.cast(Request, request)) == encode(word)


def replies(data: bytes) -> None:
    """A reply is refused, or says the same when it is said again; a failure is one of ours."""
    reply = attempt(lambda: decode_reply(data), RendezvousProtocolError)
    if isinstance(reply, RendezvousError):
        return
    assert encode(decode_reply(encode(reply))) == encode(reply)
    if isinstance(reply, Failed | Refused):
        assert isinstance(error_of(reply), RendezvousError)
    if isinstance(reply, Report):
        attempt(reply.text, RendezvousProtocolError)


def door(data: bytes) -> None:
    """Who does not prove that it knows the token has no effect, however its bytes come."""
    choices = Choices(data)
    knows = choices.below(2) == 1
    cut = choices.fragments()
    stream = choices.rest()
    if knows:
        hello = encode(HELLO)
        mac = mac_of(SECRET, Side.CLIENT, Transcript(NONCE, NONCE, hello))
        stream = frame(hello) + frame(encode(Proof(NONCE, mac))) + stream
    told = enter([stream])
    assert told == enter(cut(stream))
    assert knows or not any(request for _, request in told)
    assert not knows or told[1][1] == encode(HELLO)


def enter(pieces: Iterable[bytes]) -> list[tuple[object, object]]:
    """Return what a door answers and hands on, and how it ends."""
    reader = FrameReader(FRAME_BYTES_MAX)
    shut = Door(Keys(Token(Secrets(SECRET))), NONCE)
    told: list[tuple[object, object]] = []
    try:
        for piece in pieces:
            for body in reader.feed(piece):
                reply, request = shut.enter(decode_word(body), body)
                told.append((reply, request and encode(request)))
    except (RendezvousProtocolError, RendezvousAuthenticationError) as error:
        told.append((str(error), None))
    return told


def proofs(data: bytes) -> None:
    """A mac holds for exactly what was said; the lengths of its parts count."""
    choices = Choices(data)
    one, other = (
        Transcript(*(choices.take(choices.below(40)) for _ in range(3))) for _ in range(2)
    )
    mac = mac_of(SECRET, Side.CLIENT, one)
    found = secret_behind(mac, [b"x" * 16, SECRET], Side.CLIENT, other)
    assert found == (SECRET if one == other else None)
    assert secret_behind(mac, [SECRET], Side.COORDINATOR, one) is None


def attachment(data: bytes) -> None:
    """Whatever a coordinator sends, however it is cut: the same is understood, or refused."""
    choices = Choices(data)
    has_token = choices.below(2) == 1
    cut = choices.fragments()
    stream = choices.rest()
    whole, cut_up = hear(has_token, [stream]), hear(has_token, cut(stream))
    assert whole == cut_up
    _, outcomes, _ = whole
    settled = [request_id for request_id, _ in outcomes]
    assert sorted(set(settled)) == sorted(settled)
    assert set(settled) <= {1, 2}


def hear(
    has_token: bool, pieces: Iterable[bytes]
) -> tuple[str, list[tuple[int, str]], tuple[object, ...]]:
    """Return how an attachment refuses, settles two requests, and what it says and believes."""
    token = Token(Secrets(SECRET)) if has_token else None
    hello = msgspec.msgpack.decode(msgspec.msgpack.encode(HELLO), type=Hello)
    heard = Attachment(lambda _: hello, 1.0, lambda: 0.5, token, lambda count: b"c" * count)
    heard.connected("192.0.2.1", 0.0)
    heard.request(heard.next_id(), Join(1, None, 5.0, NodeProfile()), 0.0)
    heard.request(heard.next_id(), AddNumber(2, ("e", 0), "n", 1), 0.0)
    refusal = ""
    try:
        for piece in pieces:
            if not refusal:
                heard.received(piece, 0.0)
    except (RendezvousProtocolError, RendezvousAuthenticationError) as error:
        refusal = str(error)
        heard.end(error)
    outcomes = [
        (outcome.request_id, repr(outcome.answer or type(outcome.error)))
        for outcome in heard.take_outcomes()
    ]
    if has_token and heard.phase is Phase.ATTACHED:
        raise AssertionError("a coordinator is believed that cannot know the token")
    beliefs = (heard.phase, heard.waiting, heard.closed, heard.redirected_to, heard.broken)
    return refusal, outcomes, (heard.take_output(), *beliefs, repr(heard.explanation))


# What is stored.


def state(data: bytes) -> None:
    """A state is refused, or is one that is written back as it was, and that an engine can use."""
    found = attempt(lambda: decode_state(data), RendezvousStateError)
    if isinstance(found, RendezvousError):
        return
    again = encode_state(found)
    assert decode_state(again) == found
    assert encode_state(decode_state(again)) == again
    require_sound(found)
    run_on({run_key("run"): data})


def require_sound(found: RendezvousState) -> None:
    if found.agreed is not None:
        check(found, found.agreed.to_settings("run"))


def ledger(data: bytes) -> None:
    """A coordinator refuses what is not its ledger, or goes on with it and breaks no rule."""
    choices = Choices(data)
    records: dict[str, bytes] = {}
    kinds: tuple[Callable[[], str], ...] = (
        lambda: run_key("run"),
        lambda: seen_key("run"),
        lambda: entry_key("run", ("e1", choices.below(3)), text_of(choices.take(2))),
        lambda: result_key("run", "s1"),
        lambda: text_of(choices.take(choices.below(20))),
        lambda: amendment_key("run", choices.below(3)),
        lambda: round_key("run", choices.below(3)),
        lambda: end_key("run", choices.below(3)),
    )
    while choices.left:
        key = choices.one_of(kinds)()
        records[key] = choices.take(choices.below(4096))
        with contextlib.suppress(ValueError):
            require_same_key(key)
    run_on(records)


def require_same_key(text: str) -> None:
    """A key that is understood is the one that is written, and deleted, for what it means."""
    key = parse_key(text)
    made = {"run": run_key, "seen": seen_key}
    numbered = {"amendment": amendment_key, "round": round_key, "end": end_key}
    if key.kind in made:
        assert made[key.kind](key.run_id) == text
    elif key.kind in numbered:
        assert numbered[key.kind](key.run_id, key.number) == text
    elif key.space is not None:
        assert entry_key(key.run_id, key.space, key.name) == text
    elif key.kind == "result":
        assert result_key(key.run_id, key.name) == text


def run_on(records: dict[str, bytes]) -> None:
    """Let an engine load records, and members of the run come back, join and use the store."""
    clock = ManualClock()
    engine = attempt(lambda: Engine(records, clock, lambda: "e9"), RendezvousStateError)
    if isinstance(engine, RendezvousError):
        return
    nodes = [*engine.runs["run"].sessions][:3] if "run" in engine.runs else []
    agreed, name = AGREED, WorldName("e1", 1)
    if nodes:
        loaded = engine.runs["run"].state
        agreed, name = loaded.agreed or AGREED, loaded.name
    for number, node in enumerate([*nodes, NodeDesc("new", 1, 0, "s")], 1):
        engine.opened(number)
        engine.receive(number, Hello(1, ROLE_AGENT, "run", "s1", node, settings=agreed))
        engine.receive(number, Join(1, name if number > 1 else None, 1.0, NodeProfile()))
        engine.receive(number, AddNumber(2, name, "k", 1))
    for _ in range(4):
        clock.advance(0.9)
        engine.tick()
        batch = engine.take_batch()
        if batch is not None:
            engine.settle(batch)
        for send in engine.take_sends():
            assert send.message is None or encode(send.message)
        for run in engine.runs.values():
            if run.state.agreed is not None:
                check(run.state, run.settings)


def journal(data: bytes) -> None:
    """Whatever became of a journal's end, a prefix of what was written is there, or it says no."""
    choices = Choices(data)
    salt = b"quorates"[:SALT_BYTES]
    content = pack_header(salt)
    live: dict[str, bytes] = {}
    prefixes: list[dict[str, bytes]] = [{}]
    ends = [len(content)]
    for _ in range(choices.below(5)):
        key, value = choices.one_of("abc"), choices.take(choices.below(9))
        body, synced = encode_body({key: value or None}), choices.one_of(ends)
        content += pack_record(body, salt, synced)
        live = {k: v for k, v in (live | {key: value}).items() if v}
        prefixes.append(live)
        ends.append(len(content))
    garbled, is_torn = garble(choices, content)
    with opened_journal(garbled) as found:
        if isinstance(found, RendezvousError):
            assert not is_torn or len(garbled) < ends[0], "a torn end was taken for damage"
            return
        loaded = found.load()
        assert loaded in (prefixes if garbled else [{}])
        if is_torn and garbled:
            whole = max(number for number, end in enumerate(ends) if end <= len(garbled))
            assert loaded == prefixes[whole]
        found.commit({"new": b"1"})
        found.close()
        again = Journal(journal_path())
        assert again.load() == loaded | {"new": b"1"}
        again.close()


def garble(choices: Choices, content: bytes) -> tuple[bytes, bool]:
    """Return bytes with something done to them, and whether they were only cut off."""
    kind = choices.below(3)
    at = choices.number(2) % (len(content) + 1)
    if kind == 0:
        return content[:at], True
    if kind == 1:
        return content + choices.rest(), False
    changed = choices.rest()
    return content[:at] + changed + content[at + len(changed) :], False


@contextlib.contextmanager
def opened_journal(content: bytes) -> Iterator[Journal | RendezvousError]:
    path = journal_path()
    path.write_bytes(content)
    found = attempt(lambda: Journal(path), RendezvousStateError)
    try:
        yield found
    finally:
        if isinstance(found, Journal):
            found.close()


def journal_path() -> Path:
    return scratch() / "journal"


def file_backend(data: bytes) -> None:
    """A state file gives what was written, whole, or is refused."""
    choices = Choices(data)
    is_garbled = choices.below(2) == 1
    written, version = choices.take(choices.below(64)), b"v" * 16
    header = FILE_HEADER.pack(FILE_MAGIC, version, checksum(version, written), len(written))
    content = garble(choices, header + written)[0] if is_garbled else choices.rest()
    path = scratch() / "state"
    path.write_bytes(content)
    backend = FileRendezvousBackend(path)
    found = attempt(backend.get_state, RendezvousStateError)
    if isinstance(found, RendezvousError):
        assert isinstance(attempt(lambda: backend.set_state(b"x"), RendezvousStateError), Exception)
        return
    assert found is not None
    assert not is_garbled or found[0] == written
    answer = backend.set_state(b"new", found[1])
    assert answer is not None
    assert answer[2]
    assert backend.get_state() == answer[:2]


def backed_store(data: bytes) -> None:
    """What stands in a backend is a store, or refused; a store keeps what it held."""
    backend = MemoryRendezvousBackend()
    backend.set_state(data)
    store = BackedStore(backend, timeout_s=0.0, clock=ManualClock())
    held = attempt(store.num_keys, RendezvousStateError)
    if isinstance(held, RendezvousError):
        return
    added = attempt(lambda: store.add("n", 1), RendezvousError)
    if not isinstance(added, RendezvousError):
        assert store.get("n") == b"%d" % added
    store.set("k", b"v")
    assert store.get("k") == b"v"
    assert store.num_keys() >= held


def bootstrap(data: bytes) -> None:
    """What rank 0 has left in a store is an address and a port, or is refused."""
    addr, _, port = data.partition(b"\n")
    store = MemoryStore()
    store.set(RendezvousStoreInfo.MASTER_ADDR_KEY, addr)
    store.set(RendezvousStoreInfo.MASTER_PORT_KEY, port)
    info = attempt(lambda: RendezvousStoreInfo.build(1, store, None), RendezvousStateError)
    if isinstance(info, RendezvousStoreInfo):
        assert info.master_addr.encode() == addr
        assert 0 <= info.master_port <= PORT_MAX


# etcd.

ETCD_REPLIES = tuple(
    kind
    for name, kind in vars(etcd_messages).items()
    if name in etcd_messages.__all__
    and isinstance(kind, type)
    and issubclass(kind, msgspec.Struct)
    and kind not in {Compare, Put, Range}
)


def etcd_replies(data: bytes) -> None:
    """What etcd's gateway answers is of the type that it must have, or refused."""
    choices = Choices(data)
    kind = choices.one_of(ETCD_REPLIES)
    body = choices.rest()
    reply = attempt(lambda: etcd_messages.decode(body, kind), RendezvousProtocolError)
    if isinstance(reply, TransactionReply):
        write = NumberedTransaction(b"r", 1, 2, b"1", Transaction())
        for judge in (write.judge_first, write.judge_again, write.judge_void):
            attempt(lambda judge=judge: judge(reply), RendezvousProtocolError)


class Response:
    """An answer of HTTP that comes in pieces."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    def read1(self, _: int) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


def etcd_watch(data: bytes) -> None:
    """However the lines of a watch are cut, the same changes come out, or the same refusal."""
    choices = Choices(data)
    cut = choices.fragments()
    stream = choices.rest()
    assert watched([stream]) == watched(cut(stream))


def watched(pieces: Iterable[bytes]) -> list[str]:
    told = []
    try:
        for reply in replies_of(HttpStream(typing.cast(typing.Any, Response(pieces))).lines()):
            told.append(repr(reply))
    except RendezvousProtocolError as error:
        told.append(str(error))
    return told


class HostileMember:
    """Answers every request with what the fuzzer says."""

    def __init__(self, choices: Choices, clock: ManualClock) -> None:
        self._choices = choices
        self._clock = clock

    def exchange(self, *_: object) -> HttpReply | Failure:
        choices = self._choices
        self._clock.advance(0.1)
        status = choices.one_of([200, 200, 200, 200, 400, 401, 404, 412, 413, 429, 500, 503, 302])
        if choices.below(16) == 15:
            return Failure("it did not answer", was_sent=choices.below(2) == 1)
        return HttpReply(status, choices.take(choices.below(256)))

    def open_stream(self, *_: object) -> HttpStream | HttpReply | Failure:
        reply = self.exchange()
        if isinstance(reply, Failure) or reply.status != 200:
            return reply
        stream = typing.cast(typing.Any, Response([reply.body]))
        stream.close = stream.shutdown = lambda: None
        return HttpStream(stream)

    def close(self) -> None:
        pass


def etcd_client(data: bytes) -> None:
    """Whatever answers in the place of etcd, a caller sees a result or one of our errors."""
    choices = Choices(data)
    clock = ManualClock()
    member = typing.cast(typing.Any, HostileMember(choices, clock))
    who = Credentials("u", "p") if choices.below(2) else None
    endpoints = parse_rendezvous_endpoints("a:1", 1)
    client = EtcdClient(endpoints, who, timeout_s=1.0, clock=clock, transport=member)
    calls: tuple[Callable[[], object], ...] = (
        lambda: client.range(b"k"),
        lambda: client.put(b"k", b"v", 7),
        lambda: client.delete(b"k"),
        lambda: client.transact(success=[operation(Range(b"k"))]),
        lambda: client.grant_lease(5),
        lambda: client.keep_alive(7),
        lambda: client.time_to_live(7),
        lambda: client.revoke_lease(7),
        client.members,
        client.status,
        lambda: client.is_healthy(1.0),
        lambda: client.watch(b"k", 1).next(0.5),
        lambda: load_ledger(client),
    )
    for _ in range(4):
        attempt(choices.one_of(calls), RendezvousError)


def load_ledger(client: EtcdClient) -> dict[str, bytes]:
    return EtcdLedger(client, "/q", 1, lambda: True, ManualClock()).load()


class StoredKeys:
    """As much of a client of etcd as the loading of a ledger needs, over given keys."""

    def __init__(self, keys: dict[bytes, bytes]) -> None:
        self.keys = keys

    def range(self, key: bytes, range_end: bytes = b"", *, limit: int = 0) -> RangeReply:
        found = sorted(k for k in self.keys if k == key or key <= k < range_end)
        return RangeReply(kvs=[KeyValue(k, self.keys[k]) for k in found[: limit or None]])

    def try_transaction(self, transaction: Transaction, _: float) -> TransactionReply:
        for step in transaction.success:
            if step.request_put is not None:
                self.keys[step.request_put.key] = step.request_put.value
        return TransactionReply(succeeded=True)


def etcd_ledger(data: bytes) -> None:
    """What a ledger in etcd holds is loaded as it was written, or refused."""
    choices = Choices(data)
    etcd = StoredKeys({seat_key("/q"): b""})
    client = typing.cast(typing.Any, etcd)
    prefixes: list[dict[str, bytes]] = [{}]
    writer = EtcdLedger(client, "/q", 1, lambda: True, ManualClock())
    for _ in range(choices.below(4)):
        writer.commit({choices.one_of("abc"): choices.take(choices.below(9)) or None})
        prefixes.append(dict(writer._live))
    assert load_ledger(client) == prefixes[-1]
    names = (b"log/", b"part/", b"snapshot/", b"snapshot", b"log/%016x" % choices.below(6))
    key = b"/q/" + choices.one_of(names) + choices.take(choices.below(20))
    etcd.keys[key] = etcd_value(choices)
    loaded = attempt(lambda: load_ledger(client), RendezvousStateError)
    if isinstance(loaded, dict):
        assert all(isinstance(value, bytes) for value in loaded.values())


def etcd_value(choices: Choices) -> bytes:
    kind = choices.below(4)
    if kind == 0:
        return choices.rest()
    numbers = choices.number(4) - 4, choices.number(4) - 4
    if kind == 1:
        return msgspec.msgpack.encode((zlib.compress(choices.rest()), 0))
    if kind == 2:
        return msgspec.msgpack.encode((choices.rest(), numbers[0]))
    return msgspec.msgpack.encode(numbers)


def letters(data: bytes) -> None:
    """What lies in the keys of nodes is read or left; whoever decides and the nodes go on."""
    choices = Choices(data)
    engine = Engine({}, ManualClock(), lambda: "e1")
    mailroom = Mailroom(engine, "run", term=5)
    hello = msgspec.msgpack.decode(msgspec.msgpack.encode(HELLO), type=Hello)
    heard = Correspondent(Attachment(lambda _: hello, 1.0, lambda: 0.5))
    heard.begin("192.0.2.1", 0.0)
    if choices.below(2):
        mailroom.put("s1", NodeKey(heard.words(), 1, 1))
    while choices.left:
        name = choices.one_of(["s1", "s2"])
        value = letter(choices)
        mailroom.put(name, NodeKey(value, choices.below(3), 1))
        batch = engine.take_batch()
        if batch is not None:
            engine.settle(batch)
        mailroom.deliver(engine.take_sends())
        for answer in mailroom.take_answers():
            assert read(answer.value, Answers).term == 5
        attempt(lambda value=value: heard.take(value, 0.0), RendezvousProtocolError)
        for kind in (Words, Answers):
            read_letter = attempt(lambda k=kind, v=value: read(v, k), RendezvousProtocolError)
            if not isinstance(read_letter, RendezvousError):
                assert read(msgspec.msgpack.encode(read_letter), kind) == read_letter


def letter(choices: Choices) -> bytes:
    """Return the value of a key: raw, or words and answers with raw frames in them."""
    kind = choices.below(4)
    content = choices.take(choices.below(512))
    numbers = [choices.below(8) for _ in range(3)]
    if kind == 0:
        return content
    if kind == 1:
        return msgspec.msgpack.encode(Words(*numbers, frame(encode(HELLO)) + content))
    if kind == 2:
        return msgspec.msgpack.encode(Words(*numbers, frame(encode(HELLO)) + frame(content)))
    replies_told = [(numbers[2], frame(content))]
    return msgspec.msgpack.encode(Answers(1, numbers[1], numbers[0] == 1, replies_told))


# What people write.


def endpoint(data: bytes) -> None:
    """A text is refused, or an endpoint that is read again from how it is written."""
    text = text_of(data)
    found = attempt(lambda: parse_rendezvous_endpoint(text, 29400), RendezvousSettingsError)
    if not isinstance(found, RendezvousError):
        assert parse_rendezvous_endpoint(str(found), 1) == found
        assert 0 <= found.port <= PORT_MAX
        assert found.host.isprintable()
        assert not set(found.host) & set(" /@,[]\\")
        assert is_loopback(found.host) in {True, False}
    several = attempt(lambda: parse_rendezvous_endpoints(text, 29400), RendezvousSettingsError)
    if not isinstance(several, RendezvousError):
        assert parse_rendezvous_endpoints(",".join(map(str, several)), 1) == several


def configuration(data: bytes) -> None:
    """A configuration is refused, or gives settings and a profile that travel unchanged."""
    choices = Choices(data)
    backend = choices.one_of(["quorate", "c10d", "etcd", "static"])
    least, most = choices.one_of([(1, 1), (2, 8), (1, 2**31), (2**70, 2**70)])
    environment = {"GROUP_RANK": text_of(choices.take(choices.below(32)))}
    text = text_of(choices.rest())
    attempt(lambda: configured(text, backend, least, most, environment), RendezvousSettingsError)


def configured(text: str, backend: str, least: int, most: int, environment: dict[str, str]) -> None:
    config = parse_rendezvous_config(text)
    again = ",".join(f"{key}={value}" for key, value in config.items())
    assert parse_rendezvous_config(again) == config
    check_keys(config, backend)
    params = RendezvousParameters(backend, "", "run", least, most, **config)
    for key in KEYS:
        for get in (params.get_as_bool, params.get_as_int, params.get_as_float):
            attempt(lambda get=get, key=key: get(key.name), RendezvousSettingsError)
    settings = settings_from(params)
    assert math.isfinite(settings.silence_s)
    agreed = settings.agreed
    profile = profile_from(params, environment)
    hello = msgspec.structs.replace(HELLO, settings=agreed, profile=profile)
    assert decode_request(encode(hello)) == hello
    assert agreed.to_settings("run").agreed == agreed


def labels(data: bytes) -> None:
    """Labels are refused, or read again from how they are written."""
    text = text_of(data)
    found = attempt(lambda: parse_labels(text), RendezvousSettingsError)
    if isinstance(found, dict):
        assert all(name and value for name, value in found.items())
        again = ";".join(f"{name}:{value}" for name, value in found.items())
        assert parse_labels(again) == found


def numbers(data: bytes) -> None:
    """Numbers of nodes and workers are refused, or in order."""
    text = text_of(data)
    nodes = attempt(lambda: parse_nodes(text), RendezvousSettingsError)
    if isinstance(nodes, tuple):
        assert 1 <= nodes[0] <= nodes[1]
        assert parse_nodes(f"{nodes[0]}:{nodes[1]}") == nodes
    workers = attempt(lambda: parse_workers(text, 8, 64), RendezvousSettingsError)
    assert isinstance(workers, RendezvousError) or workers >= 1


def secrets(data: bytes) -> None:
    """A file of tokens is refused, or holds one or two that it gives when written again."""
    found = attempt(lambda: parse_secrets(data, "the file"), RendezvousSettingsError)
    if isinstance(found, RendezvousError):
        assert not any(line and line in str(found).encode() for line in data.split() if line[15:])
        return
    assert 1 <= len(found.accepted) <= 2
    for secret in found.accepted:
        assert SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX
        assert b"\n" not in secret
    written = b"\n".join(found.accepted)
    assert parse_secrets(written, "it").accepted == found.accepted


def natural(data: bytes) -> None:
    """The natural order is an order: of two texts one comes first, unless they are the same."""
    one, _, other = text_of(data).partition("\n")
    first, second = natural_text(one), natural_text(other)
    assert (first < second) + (second < first) + (first == second) == 1
    assert (first == second) == (one == other)


def engine(data: bytes) -> None:
    """See `sequences`: an engine that is told anything, in any order."""
    play(islice(steps_of(Choices(data)), STEPS_MAX))


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        frames,
        words,
        replies,
        door,
        proofs,
        attachment,
        tls,
        certificates,
        routes,
        state,
        ledger,
        journal,
        file_backend,
        backed_store,
        bootstrap,
        etcd_replies,
        etcd_watch,
        etcd_client,
        etcd_ledger,
        letters,
        endpoint,
        configuration,
        labels,
        numbers,
        secrets,
        natural,
        engine,
    )
}
