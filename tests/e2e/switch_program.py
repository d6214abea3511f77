"""An Ethernet switch with faults: carries the frames between machines, late, or not at all.

    switch_program.py HOLDER...

HOLDER is the process that holds the network namespace of a machine. The machine gets an interface
`eth0`, the other end of which is here: a TAP device, so that the kernel's own TCP is at both ends
and every frame passes through this program. Lines `SOURCE TARGET DELAY_S LOSS` on the standard
input (machines are numbered from 0) say how late frames arrive from now on, and which part of them
does not; each is answered by a line. It ends when its standard input does.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import selectors
import struct
import subprocess
import sys
import time
from itertools import count

# <linux/if_tun.h>
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000

FRAME_BYTES_MAX = 2048
ADDRESS_BYTES = 6
BROADCAST_BIT = 1

# Chance follows from it, but not when each frame is sent: runs are alike, not the same.
SEED = 5


def plug_in(number: int, holder: str) -> int:
    """Give a machine its interface; return the end of it that stays here."""
    name = f"tap{number}"
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    subprocess.run(
        ["ip", "link", "set", name, "netns", holder, "name", "eth0"], check=True, timeout=5.0
    )
    return descriptor


class Switch:
    """Ports by number, what is on its way, and how the ways are."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._ways: dict[tuple[int, int], tuple[float, float]] = {}
        self._places: dict[bytes, int] = {}
        self._flying: list[tuple[float, int, int, bytes]] = []
        self._order = count()
        self._random = random.Random(SEED)

    def arrange(self, source: int, target: int, delay_s: float, loss: float) -> None:
        self._ways[source, target] = (delay_s, loss)

    def take(self, source: int) -> None:
        """Take a frame from a port, and send it on its way to whom it is for."""
        try:
            frame = os.read(self._ports[source], FRAME_BYTES_MAX)
        except OSError:
            # The interface is down, or its frame was taken already.
            return
        receiver, sender = frame[:ADDRESS_BYTES], frame[ADDRESS_BYTES : 2 * ADDRESS_BYTES]
        self._places[sender] = source
        place = None if receiver[0] & BROADCAST_BIT else self._places.get(receiver)
        targets = range(len(self._ports)) if place is None else [place]
        for target in targets:
            delay_s, loss = self._ways.get((source, target), (0.0, 0.0))
            if target != source and self._random.random() >= loss:
                entry = (time.monotonic() + delay_s, next(self._order), target, frame)
                heapq.heappush(self._flying, entry)

    def deliver(self) -> float | None:
        """Deliver what has arrived; return after how many seconds the next frame does."""
        while self._flying:
            due_s = self._flying[0][0] - time.monotonic()
            if due_s > 0:
                return due_s
            _, _, target, frame = heapq.heappop(self._flying)
            try:
                os.write(self._ports[target], frame)
            except OSError:
                # The interface is down: the frame is lost as it would be.
                continue
        return None


def main(holders: list[str]) -> None:
    ports = [plug_in(number, holder) for number, holder in enumerate(holders)]
    switch = Switch(ports)
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    for number, port in enumerate(ports):
        selector.register(port, selectors.EVENT_READ, number)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select(switch.deliver()):
            if key.data is not None:
                switch.take(key.data)
                continue
            line = sys.stdin.readline()
            if not line:
                return
            source, target, delay_s, loss = line.split()
            switch.arrange(int(source), int(target), float(delay_s), float(loss))
            print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
