"""The door for torchrun: registered, light, and leading to our handler."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from quorate.plugin import torchrun_handler


def test_it_is_registered_under_the_name_that_torchrun_asks_for() -> None:
    (entry_point,) = entry_points(group="torchrun.handlers", name="quorate")
    assert entry_point.load() is torchrun_handler


def test_to_load_it_costs_nothing() -> None:
    """torch does so in every training process, whatever its rendezvous."""
    program = (
        "import sys\n"
        "from quorate.plugin import torchrun_handler\n"
        "torchrun_handler()\n"
        "print(*sorted(sys.modules.keys() & {'torch', 'asyncio', 'msgspec', 'click'}))\n"
    )
    output = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert output.split() == []


@pytest.mark.torch
def test_torch_finds_our_handler() -> None:
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

    from quorate.torchrun import TorchRendezvousHandler

    parameters = RendezvousParameters("quorate", "localhost", "job", 1, 2, timeout=900)
    handler = get_rendezvous_handler(parameters)
    assert isinstance(handler, TorchRendezvousHandler)
    # torch's registry refuses a handler that answers to another name.
    assert handler.get_backend() == "quorate"
    assert handler.get_run_id() == "job"
    assert not handler.use_agent_store
