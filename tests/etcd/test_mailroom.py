"""The mailroom, driven by hand: keys that come, come again, come late and go; seats that change."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.errors import (
    RendezvousLimitError,
    RendezvousProtocolError,
    RendezvousReplacedError,
    RendezvousSettingsError,
)
from quorate.etcd import letters
from quorate.etcd.letters import Answers, Words, read
from quorate.etcd.mailroom import NodeKey
from quorate.wire.frames import FrameReader, frame
from quorate.wire.messages import (
    FAILED,
    Changed,
    Flag,
    GetWorld,
    Hello,
    Join,
    Ping,
    Reply,
    Welcome,
    WorldRecord,
    decode_reply,
    encode,
)
from tests.etcd.post import RUN, Node, Post


def places(nodes: Sequence[Node]) -> list[tuple[int, int, int]]:
    return [(node.place.round, node.place.rank, node.place.size) for node in nodes]


def test_nodes_that_join_get_their_places() -> None:
    post = Post(2, 3)
    nodes = [post.node(name) for name in ("a", "b", "c")]
    for node in nodes:
        node.join()
    assert places(nodes) == [(0, 0, 3), (0, 1, 3), (0, 2, 3)]
    assert len({node.place.digest for node in nodes}) == 1


@pytest.mark.parametrize("size", [4, 40])
def test_a_join_costs_the_same_whatever_the_number_of_nodes(size: int) -> None:
    post = Post(size, size)
    names = [f"n{number}" for number in range(size)]
    for name in names:
        post.node(name)
    for name in names:
        post.nodes[name].join()
    assert all(node.place.size == size for node in post.nodes.values())
    # Said: hello, join, and that the answer was read. Told: welcome, and the place.
    assert post.puts == {"node": 3 * size, "answer": 2 * size}
    assert max(len(key.value) for key in post.keys.values()) < 1024
    assert max(map(len, post.answers.values())) < 512


def told(post: Post, name: str) -> list[Reply]:
    """Return what a node's answer key says."""
    reader = FrameReader()
    replies = read(post.answers[name], Answers).replies
    return [decode_reply(body) for _, said in replies for body in reader.feed(said)]


def test_a_request_is_handed_on_once_however_often_its_key_is_read() -> None:
    post = Post()
    node, _ = post.world("a", "b")
    node.deaf = True
    node.correspondent.request(99, GetWorld(99), 0.0)
    value = node.correspondent.words()
    for _ in range(3):
        post.put("a", value)
    post.carry()
    assert told(post, "a") == [WorldRecord(99, post.state.world)]


def test_what_a_node_has_read_is_not_told_again() -> None:
    post = Post()
    a, _ = post.world("a", "b")
    for number in (50, 51):
        a.ask(GetWorld(number))
    assert told(post, "a") == [WorldRecord(51, post.state.world)]


def test_what_a_node_has_read_of_a_former_one_says_nothing_about_the_next_one() -> None:
    post = Post()
    a, _ = post.world("a", "b")
    for number in range(50, 60):
        a.ask(GetWorld(number))
    a.deaf = True
    post.take_seat()
    a.correspondent.request(99, GetWorld(99), 0.0)
    post.put("a", a.correspondent.words())
    post.carry()
    assert [type(reply) for reply in told(post, "a")] == [Welcome, Changed, WorldRecord]


def test_of_what_is_pushed_to_one_who_does_not_read_only_the_newest_is_kept() -> None:
    post = Post(1, 4)
    a, *others = post.world("a", "b", "c", "d")
    a.deaf = True
    for other in others:
        other.die()
        post.remove(other.name)
        post.let_pass(3)
    (changed,) = (reply for reply in told(post, "a") if isinstance(reply, Changed))
    assert all(f"{other.desc}" in changed.reason for other in others)


def test_answers_hang_on_the_lease_that_the_key_has_now() -> None:
    post = Post()
    a, _ = post.world("a", "b")
    a.correspondent.request(99, GetWorld(99), 0.0)
    post.mailroom.put("a", post.keys["a"]._replace(value=a.correspondent.words(), lease=8))
    post.mailroom.deliver(post.engine.take_sends())
    assert post.engine.take_batch() is None
    post.mailroom.deliver(post.engine.take_sends())
    assert [answer.lease for answer in post.mailroom.take_answers()] == [8]


def test_a_key_that_is_gone_is_a_node_that_is_lost() -> None:
    post = Post()
    a, b = post.world("a", "b")
    b.die()
    post.let_pass(60)
    assert a.attachment.waiting == 0, "its lease lives"
    post.remove("b")
    post.let_pass(1.5)
    assert a.attachment.waiting == 0, "it may come back"
    post.let_pass(3)
    assert a.attachment.waiting > 0
    assert "b_1_0 lost: its process ended" in a.attachment.changed_reason


def test_a_node_that_leaves_is_no_loss_and_the_rest_regroups() -> None:
    post = Post(1, 3)
    a, b = post.world("a", "b")
    asked = b.leave()
    assert [o.answer for o in b.outcomes if o.request_id == asked] == [Flag(asked, True)]
    b.die()
    post.remove("b")
    assert a.attachment.changed_reason == "b_1_0 left: done"
    a.join()
    assert places([a]) == [(1, 0, 1)]


def test_r17_worlds_and_places_stand_when_another_node_decides() -> None:
    post = Post()
    nodes = post.world("a", "b")
    before = post.state.world
    told = [node.attachment.waiting for node in nodes]
    post.take_seat()
    post.let_pass(60)
    assert post.state.world == before
    assert [node.attachment.waiting for node in nodes] == told == [0, 0]
    assert all(node.attachment.attached for node in nodes)
    assert [len(node.places) for node in nodes] == [1, 1]


def test_r17_a_node_whose_key_was_gone_meanwhile_gets_a_full_window() -> None:
    post = Post()
    a, b = post.world("a", "b")
    b.die()
    del post.keys["b"]
    post.take_seat()
    post.let_pass(post.settings.silence_s - 1.5)
    assert a.attachment.waiting == 0
    post.let_pass(3)
    assert a.attachment.waiting > 0


def test_r14_what_was_stored_and_not_told_is_told_by_the_next_one() -> None:
    post = Post()
    a, b, c = (post.node(name) for name in "abc")
    a.join()
    b.join()
    post.silent = True
    c.join()
    assert not a.places
    assert post.state.complete
    post.take_seat()
    assert places([a, b, c]) == [(0, 0, 3), (0, 1, 3), (0, 2, 3)]


def test_what_was_answered_is_not_asked_of_the_next_one() -> None:
    post = Post()
    a, b = post.world("a", "b")
    (hello,) = a.said()
    assert isinstance(hello, Hello)
    assert hello.holding == a.place.world
    b.die()
    del post.keys["b"]
    post.take_seat()
    post.let_pass(60)
    assert a.attachment.waiting > 0
    assert len(a.places) == 1
    assert set(post.state.participants) == {a.desc}


def test_words_that_come_late_are_ignored_and_said_again_when_the_next_one_reads_them() -> None:
    post = Post()
    a, _ = post.world("a", "b")
    a.deaf = True
    a.correspondent.request(90, GetWorld(90), 0.0)
    late = a.correspondent.words()
    a.deaf = False
    a.correspondent.lost("etcd did not answer", 0.0)
    a.correspondent.forget(90)
    a.begin()
    a.join()
    post.put("a", late)
    post.carry()
    assert a.attachment.attached
    assert [type(request) for request in a.said()] == [Hello, GetWorld]
    assert not any(isinstance(reply, WorldRecord) for reply in told(post, "a"))
    post.take_seat()
    assert [type(request) for request in a.said()] == [Hello, Join]


def test_answers_of_a_former_one_are_not_read() -> None:
    post = Post()
    a, b = post.world("a", "b")
    stale = post.answers["a"]
    post.take_seat()
    b.die()
    post.remove("b")
    post.let_pass(3)
    waiting = a.attachment.waiting
    assert waiting > 0
    a.read(stale)
    assert a.attachment.waiting == waiting
    assert len(a.places) == 1


def test_a_node_whose_lease_ended_is_told_when_it_comes_back() -> None:
    post = Post()
    a, b = post.world("a", "b")
    b.deaf = True
    post.remove("b")
    post.let_pass(3)
    b.deaf = False
    b.correspondent.lost("its lease has ended", 0.0)
    b.begin()
    assert b.attachment.waiting > 0
    assert a.attachment.waiting > 0
    a.join()
    b.join()
    post.let_pass(60)
    assert places([a, b]) == [(1, 0, 2), (1, 1, 2)]


def test_r11_a_node_whose_lease_ended_and_that_is_back_at_once_is_not_lost() -> None:
    post = Post()
    a, b = post.world("a", "b")
    for node in (a, b):
        post.remove(node.name)
    post.let_pass(1)
    for node in (a, b):
        node.correspondent.lost("its lease has ended", 0.0)
        node.begin()
    post.let_pass(30)
    assert [node.attachment.waiting for node in (a, b)] == [0, 0]


def test_a_key_that_was_created_again_is_a_new_connection_although_its_end_was_not_seen() -> None:
    post = Post()
    a, _ = post.world("a", "b")
    former = post.keys["a"]
    post.puts["answer"] = 0
    post.mailroom.put("a", NodeKey(former.value, former.created + 1000, 8))
    post.carry()
    assert post.puts["answer"] == 1
    assert a.attachment.waiting == 0


@pytest.mark.parametrize("other_lives", [True, False])
def test_r7_a_lease_is_no_answer_to_whether_others_live(other_lives: bool) -> None:
    post = Post(1, 3)
    a, b = post.world("a", "b")
    b.deaf = True
    asked = a.close("the job failed", FAILED)
    post.let_pass(10)
    assert not a.attachment.closed, "b has not answered, only its lease has"
    if other_lives:
        b.deaf = False
        b.read(post.answers["b"])
        post.carry()
    else:
        post.remove("b")
        post.let_pass(3)
    post.let_pass(3)
    assert post.state.closed is other_lives
    assert Flag(asked, other_lives) in [outcome.answer for outcome in a.outcomes]


def test_r7_words_from_before_the_probe_are_no_answer() -> None:
    post = Post(1, 3)
    a, b = post.world("a", "b")
    b.deaf = True
    before = post.keys["b"].value
    a.close("the job failed", FAILED)
    post.put("b", before)
    post.let_pass(3)
    assert not post.state.closed, "b has died, and what it put before came late"
    b.deaf = False
    b.read(post.answers["b"])
    post.carry()
    assert post.state.closed


def test_r7_a_node_that_begins_anew_is_probed_again() -> None:
    post = Post(1, 3)
    a, b = post.world("a", "b")
    b.deaf = True
    a.close("the job failed", FAILED)
    b.deaf = False
    b.begin()
    assert post.state.closed


def test_r12_an_explicit_node_id_has_one_life_at_a_time() -> None:
    post = Post(1, 3)
    first = post.node("a", node_id="n1")
    first.join()
    post.node("a'", node_id="n1").join()
    assert isinstance(first.errors[0], RendezvousReplacedError)
    first.ask(GetWorld(50))
    assert isinstance(first.errors[-1], RendezvousReplacedError)


def test_r13_other_settings_are_refused_with_both_values() -> None:
    post = Post(2, 3)
    post.node("a")
    other = post.node("b", max_nodes=4)
    assert isinstance(other.attachment.error, RendezvousSettingsError)
    assert "max_nodes is 3 in the run, 4 here" in str(other.attachment.error)


def test_a_node_under_another_name_is_refused() -> None:
    post = Post()
    node = Node(post, "a")
    post.nodes["a"] = node
    node.correspondent.begin("", 0.0)
    post.nodes["b"] = post.nodes.pop("a")
    node.name = "b"
    post.carry()
    assert isinstance(node.attachment.error, RendezvousProtocolError)
    assert RUN not in post.engine.runs


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"", "does not hold what it must"),
        (b"\xc1garbage", "does not hold what it must"),
        (b"x" * 70_000, "70000 bytes"),
        (msgspec.msgpack.encode(Words(1, 0, 0, b"")), "are empty"),
        (msgspec.msgpack.encode(Words(1, 0, 0, frame(b"\xff"))), "malformed"),
        (msgspec.msgpack.encode(Words(1, 0, 0, b"\0\0\0\x09abc")), "in the middle"),
    ],
)
def test_r15_what_is_no_letter_is_left_unread_and_said(value: bytes, words: str) -> None:
    post = Post()
    a, b = post.world("a", "b")
    post.mailroom.put("evil", NodeKey(value, 1, 0))
    post.carry()
    (event,) = post.mailroom.take_events()
    assert "evil" in event
    assert words in event
    a.join()
    b.join()
    post.let_pass(40)
    assert places([a, b]) == [(1, 0, 2), (1, 1, 2)]


def test_r15_a_first_word_that_is_no_hello_is_refused() -> None:
    post = Post()
    said = frame(encode(GetWorld(1))) + frame(encode(Ping(1)))
    post.put("evil", msgspec.msgpack.encode(Words(1, 0, 0, said)))
    post.carry()
    answers = read(post.answers["evil"], Answers)
    assert answers.ended
    assert b"must be a hello" in answers.replies[0][1]


def test_an_answer_that_does_not_fit_into_a_key_becomes_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    post = Post()
    a, _ = post.world("a", "b")
    monkeypatch.setattr(letters, "ANSWER_BYTES_MAX", 64)
    a.ask(GetWorld(77))
    assert isinstance(a.errors[0], RendezvousLimitError)


def test_changes_that_were_missed_are_found_when_all_keys_are_read_again() -> None:
    post = Post(1, 3)
    a, b = post.world("a", "b")
    c = Node(post, "c")
    c.correspondent.begin("", 0.0)
    post.nodes["c"] = c
    c.correspondent.request(1, Join(1, None, 600.0, c.profile), 0.0)
    value = c.correspondent.words()
    b.die()
    del post.keys["b"]
    post.keys["c"] = NodeKey(value, 900, 7)
    post.mailroom.replace(post.keys)
    post.let_pass(3)
    a.join()
    post.let_pass(40)
    assert places([a, c]) == [(1, 0, 2), (1, 1, 2)]


STEPS = st.sampled_from(
    ["join", "join", "join", "die", "leave", "lapse", "seat", "untold", "cut", "late"]
)


@pytest.mark.timeout(60)
@settings(max_examples=60)
@given(st.lists(st.tuples(STEPS, st.integers(0, 3), st.sampled_from([0, 1, 3, 20])), max_size=25))
def test_whatever_happens_a_world_is_one_and_the_living_meet_in_the_end(
    steps: list[tuple[str, int, int]],
) -> None:
    """R1, R2, R11, R17: places of one world agree; those who live get one when all is calm."""
    post = Post(2, 4)
    every = [post.node(f"n{number}") for number in range(4)]
    for step, index, seconds in steps:
        disturb(post, every[index], step)
        post.let_pass(seconds)
    post.take_seat()
    living = [node for node in every if not node.gone]
    post.let_pass(60)
    for _ in range(3):
        for node in living:
            if not joining(node):
                node.join()
        post.let_pass(120)
    if len(living) >= 2:
        last = [node.place for node in living]
        assert len({place.world for place in last}) == 1
        assert sorted(place.rank for place in last) == list(range(len(living)))
    digests: dict[object, set[str]] = {}
    for node in every:
        for place in node.places:
            digests.setdefault(place.world, set()).add(place.digest)
    assert all(len(found) == 1 for found in digests.values())


def joining(node: Node) -> bool:
    """Whether a join of the node is not answered yet."""
    return node.name in node.post.keys and any(isinstance(r, Join) for r in node.said())


def disturb(post: Post, node: Node, step: str) -> None:
    """Do one step to a node, or to who decides."""
    if step == "seat":
        post.take_seat()
    elif step == "untold":
        post.silent = not post.silent
    elif node.gone:
        return
    elif step == "join" and not joining(node):
        node.join()
    elif step == "die":
        node.die()
        post.remove(node.name)
    elif step == "leave":
        node.leave()
        node.die()
        post.remove(node.name)
    elif step in ("lapse", "cut", "late"):
        late = post.keys.get(node.name)
        if step == "lapse":
            post.remove(node.name)
        node.correspondent.lost("etcd did not answer", post.clock.monotonic())
        node.begin()
        if step == "late" and late is not None:
            post.put(node.name, late.value)
            post.carry()
