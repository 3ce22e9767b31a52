"""Where IMPALA's actors run: one choice, with its checks. Imports nothing heavy."""

import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Literal

SLOTS = 2
"""Unrolls of each actor in a process of its own: one is being filled while the other waits."""
CONNECT_SECONDS, JOIN_SECONDS = 5.0, 30.0
"""Within which a Ray cluster must take a connection, and then a process, which takes 3 as a rule."""
JOIN = "import ray, sys; ray.init(sys.argv[1], logging_level='ERROR', log_to_driver=False)"
FEW_TRIES = {
    "RAY_NUM_REDIS_GET_RETRIES": "1",
    "RAY_gcs_rpc_server_connect_timeout_s": "1",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "2",
}
"""Have Ray give up soon where something else listens."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where actors run, and what is done when they lag or fail.

    Raises:
        ValueError: a value outside its range; the message names field, value and range.
    """

    kind: Literal["sync", "local", "ray"] = "sync"
    """sync: in the learner's process, in lock step with it; local: in processes of their own on this machine; ray: on
    the machines of a Ray cluster."""
    actors: int = 1
    """local, ray: actor processes of each learner, which share its environments."""
    max_policy_lag: int = 20
    """local, ray: an unroll that was begun more than so many updates ago is dropped."""
    max_restarts: int = 10
    """local, ray: how many actors may fail, and be restarted, within 10 minutes; one more ends training."""
    max_silence: float = 600.0
    """local, ray: seconds without an unroll after which an actor is taken to hang, and is restarted."""
    precision: Literal["fp32", "bf16"] | None = None
    """local, ray: of the actors' matrix products, where it differs from policy.precision; null: it does not. With bf16,
    actors are faster, and V-trace corrects for what they round."""
    address: str | None = None
    """ray: HOST:PORT of the cluster's head, as `ray start --head` names it; this machine must be one of the cluster's.
    null: Ray is started on this machine alone, for as long as training lasts."""

    def __post_init__(self) -> None:
        self._check("kind", self.kind in ("sync", "local", "ray"), "'sync', 'local' or 'ray'")
        self._check("actors", isinstance(self.actors, int) and self.actors >= 1, "a whole number of at least 1")
        self._check("max_policy_lag", self.max_policy_lag >= 0, "at least 0")
        self._check("max_restarts", self.max_restarts >= 0, "at least 0")
        self._check("max_silence", self.max_silence > 0, "above 0")
        self._check("precision", self.precision in ("fp32", "bf16", None), "'fp32', 'bf16' or null")
        self._check("address", self.address is None or _is_address(self.address), "HOST:PORT or null")
        self._check("kind", self.kind == "ray" or self.address is None, "'ray' where address is set")
        idle = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        self._check("kind", self.kind != "sync" or not idle, f"'local' or 'ray' where {', '.join(idle)} is set")

    def check_shares(self, num_envs: int, batch_size: int, learners: int = 1) -> None:
        """Raise a ValueError unless learners and actors can share the environments and the batch evenly.

        Args:
            num_envs: environments of all learners together.
            batch_size: unrolls in a batch, of all learners together.
            learners: replicas.
        """
        if batch_size % learners:
            raise ValueError(f"batch_size must be a multiple of the number of replicas, {learners}, got {batch_size}")
        if self.kind == "ray" and learners > 1:
            self._check("address", self.address is not None, f"HOST:PORT where {learners} replicas share a Ray cluster")
        share, parts = batch_size // learners, learners * self.actors
        if num_envs % parts:
            raise ValueError(f"the number of environments must be a multiple of the {parts} actors, got {num_envs}")
        rows = num_envs // parts
        replicas = f" and {learners} replicas" if learners > 1 else ""
        if rows % share and share % rows:
            raise ValueError(
                f"batch_size must be a multiple or divisor of {rows * learners}, which one actor of each learner gives "
                f"({num_envs} environments, {self.actors} actors{replicas}), got {batch_size}"
            )
        most = SLOTS * num_envs
        if self.kind != "sync" and batch_size > most:
            raise ValueError(
                f"batch_size must be at most {most}, which is what the actors can hold ready ({num_envs} environments, "
                f"{SLOTS} unrolls each), got {batch_size}"
            )

    def check_reachable(self) -> None:
        """Raise a ValueError if actors are to run on Ray and it is not installed, or no cluster takes this process."""
        if self.kind == "ray" and find_spec("ray") is None:
            raise ValueError("placement.kind 'ray' needs Ray: pip install 'rmc-rl[ray]'")
        if self.address is not None:
            reason = _why_no_cluster(self.address)
            legal = "that of a running Ray cluster with a node on this machine"
            self._check("address", not reason, legal, f": {reason}")

    def silence(self) -> str:
        """What is said of an actor that hangs."""
        return f"nothing came from it within {self.max_silence:g} seconds, placement.max_silence"

    def _check(self, field: str, holds: bool, legal: str, reason: str = "") -> None:
        if not holds:
            raise ValueError(f"placement.{field} must be {legal}, got {getattr(self, field)!r}{reason}")


def _is_address(text: object) -> bool:
    host, _, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    return bool(host) and "/" not in host and port.isascii() and port.isdecimal() and 0 < int(port) < 2**16


def _why_no_cluster(address: str) -> str:
    """Why a process here could not join a Ray cluster there, in one line; empty if it could.

    Another process tries it: Ray would print a line for each of its many tries, and may even abort the process.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        command, environment = [sys.executable, "-c", JOIN, address], os.environ | FEW_TRIES
        tried = subprocess.run(command, env=environment, timeout=JOIN_SECONDS, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    except subprocess.TimeoutExpired:
        return f"no answer within {JOIN_SECONDS:.0f} seconds"
    if tried.returncode == 0:
        return ""
    reasons = re.findall(r"Failed to .+|\w+Error: .+", tried.stderr)
    return reasons[0].partition(". ")[0] if reasons else f"Ray ended with exit code {tried.returncode}"
