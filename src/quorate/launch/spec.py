"""What an agent runs, and what it tells each worker about its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quorate.api import RendezvousInfo, RendezvousStoreInfo
from quorate.core.state import Place
from quorate.errors import RendezvousSettingsError
from quorate.launch.error_file import ERROR_FILE_VARIABLE
from quorate.launch.health import HealthCheck

__all__ = ["WorkerSpec", "loss_window_s", "place_of", "worker_environment"]


# The end of a process is told within so long with the default grace of 2 s (R8).
LOSS_WINDOW_S = 3.0

# What that takes beyond the grace.
TELLING_S = 1.0


def loss_window_s(reconnect_grace_s: float) -> float:
    """Return within how long, in seconds, the end of another agent's process is told (R8).

    Args:
        reconnect_grace_s: How long that one may take to come back before it is lost, in seconds.
    """
    return max(LOSS_WINDOW_S, reconnect_grace_s + TELLING_S)


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """What an agent runs, and how it looks after it.

    Args:
        command: The program of a worker and its arguments.
        workers: How many workers this node runs.
        run_id: The id of the run.
        environment: The environment that the workers inherit; what `worker_environment` sets goes
            before it.
        endpoint: Where the workers find the coordinator; empty if there is none.
        log_dir: Where the workers' output is kept, see `quorate.launch.files`.
        max_restarts: How often failed workers are restarted. Changes of the membership are free.
        monitor_interval_s: How often the rendezvous is asked for changes, in seconds. A worker
            that ends is noticed at once.
        stop_grace_s: How long workers have between SIGTERM and SIGKILL, in seconds.
        loss_window_s: How long after a worker's failure the loss of another node may still be
            told, which makes the failure a symptom, in seconds; see `loss_window_s`.
        exit_barrier_s: How long a node that has finished waits for the others, in seconds.
        health_check: What has to succeed before the node joins a round; `None` if nothing has to.

    Raises:
        RendezvousSettingsError: A value makes no sense.
    """

    command: tuple[str, ...]
    workers: int
    run_id: str
    environment: Mapping[str, str] = field(default_factory=dict)
    endpoint: str = ""
    log_dir: Path | None = None
    max_restarts: int = 0
    monitor_interval_s: float = 0.1
    stop_grace_s: float = 30.0
    loss_window_s: float = LOSS_WINDOW_S
    exit_barrier_s: float = 300.0
    health_check: HealthCheck | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.command:
            raise RendezvousSettingsError("There is no program to run: name one after the options.")
        if self.workers < 1:
            raise RendezvousSettingsError(
                f"The number of workers per node ({self.workers}) must be greater than zero."
            )
        if self.max_restarts < 0:
            raise RendezvousSettingsError(
                f"The number of restarts ({self.max_restarts}) must not be negative."
            )
        if self.monitor_interval_s <= 0:
            raise RendezvousSettingsError(
                f"The monitor interval ({self.monitor_interval_s} s) must be positive."
            )
        for name in ("stop_grace_s", "loss_window_s", "exit_barrier_s"):
            if getattr(self, name) < 0:
                raise RendezvousSettingsError(
                    f"{name} ({getattr(self, name)}) must not be negative."
                )


def place_of(info: RendezvousInfo, spec: WorkerSpec) -> Place:
    """Return this node's place, made up from rank and size where the handler keeps no records.

    Without a record every node is taken to run as many workers as this one.
    """
    if info.place is not None:
        return info.place
    bootstrap = info.bootstrap_store_info
    return Place(
        epoch="",
        round=0,
        rank=info.rank,
        size=info.world_size,
        digest="",
        leader_addr=bootstrap.master_addr if bootstrap else "",
        leader_port=bootstrap.master_port if bootstrap else 0,
        first_worker=info.rank * spec.workers,
        workers=info.world_size * spec.workers,
    )


def worker_environment(
    spec: WorkerSpec,
    place: Place,
    bootstrap: RendezvousStoreInfo | None,
    local_rank: int,
    restart_count: int,
    use_agent_store: bool,
    error_file: Path | None = None,
) -> dict[str, str]:
    """Return the whole environment of one worker, with the names that torchrun uses.

    Args:
        spec: What the agent runs.
        place: The node's place in the world.
        bootstrap: Where the workers find their own store; the place's leader if it is None.
        local_rank: The worker's number on this node, from 0.
        restart_count: How many restarts of the budget have been used.
        use_agent_store: Whether rank 0's agent serves the workers' store; torch's worker of rank 0
            serves it otherwise.
        error_file: Where it may record its error. The agent's own place for that is not its: its
            scheduler reads what the agent records there.
    """
    rank = str(place.first_worker + local_rank)
    world_size = str(place.workers)
    # NCCL's errors end the process, as torchrun has it: a lost peer would be waited for otherwise.
    defaults = {"PYTHONUNBUFFERED": "1", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"}
    if spec.workers > 1:
        defaults["OMP_NUM_THREADS"] = "1"
    told = {
        "RANK": rank,
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": world_size,
        "LOCAL_WORLD_SIZE": str(spec.workers),
        "GROUP_RANK": str(place.rank),
        "GROUP_WORLD_SIZE": str(place.size),
        "ROLE_RANK": rank,
        "ROLE_WORLD_SIZE": world_size,
        "ROLE_NAME": "default",
        "MASTER_ADDR": bootstrap.master_addr if bootstrap else place.leader_addr,
        "MASTER_PORT": str(bootstrap.master_port if bootstrap else place.leader_port),
        "TORCHELASTIC_RESTART_COUNT": str(restart_count),
        "TORCHELASTIC_MAX_RESTARTS": str(spec.max_restarts),
        "TORCHELASTIC_RUN_ID": spec.run_id,
        "TORCHELASTIC_USE_AGENT_STORE": str(use_agent_store),
        "QUORATE_RUN_ID": spec.run_id,
        "QUORATE_EPOCH": place.epoch,
        "QUORATE_ROUND": str(place.round),
        "QUORATE_RANK": str(place.rank),
    }
    if spec.endpoint:
        told["QUORATE_ENDPOINT"] = spec.endpoint
    environment = {**defaults, **spec.environment, **told}
    environment.pop(ERROR_FILE_VARIABLE, None)
    if error_file is not None:
        environment[ERROR_FILE_VARIABLE] = str(error_file)
    return environment
