"""What a simulated vLLM is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass

from services.sim.faults import Fault


@dataclass(frozen=True, slots=True)
class SimConfig:
    """The settings of one simulated vLLM. Names follow vLLM's own flags where it has one. Times are in seconds.

    Raises ValueError, naming the setting, when a value makes no sense.
    """

    host: str = "127.0.0.1"
    #: 0 takes any free port; the address is reported when the server is ready.
    port: int = 8001
    #: Listen on this unix socket instead of host and port.
    uds: str | None = None
    #: The names that the server answers to; metrics carry the first, as vLLM's do.
    models: tuple[str, ...] = ("sim-model",)
    #: Time to first token of a prompt that the prefix cache does not hold.
    ttft_s: float = 0.02
    #: Time from one token of a call to its next; 0 is as fast as the machine can.
    inter_token_s: float = 0.01
    #: Calls that run at once; further ones wait.
    max_num_seqs: int = 256
    #: Calls that may wait; past it the answer is 503. None: no limit, as vLLM's default.
    max_num_queued_reqs: int | None = None
    #: Blocks of 16 tokens that the prefix cache remembers; 0 turns it off.
    prefix_cache_blocks: int = 4096
    #: Tokens of an answer whose request sets no limit.
    max_tokens: int = 64
    max_model_len: int = 32768
    embedding_dimensions: int = 64
    #: Another seed gives other answers to the same requests.
    seed: int = 0
    #: When set, `/v1/*` wants it as a bearer token.
    api_key: str | None = None
    #: Faults that wait for the first calls; more arrive by `POST /sim/faults`.
    faults: tuple[Fault, ...] = ()
    #: How long a stopping server lets its open calls go on.
    grace_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("models: name at least one model")
        for name in ("ttft_s", "inter_token_s", "prefix_cache_blocks", "grace_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must be 0 or more, got {getattr(self, name)}")
        for name in ("max_num_seqs", "max_tokens", "max_model_len", "embedding_dimensions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be 1 or more, got {getattr(self, name)}")
        if self.max_num_queued_reqs is not None and self.max_num_queued_reqs < 0:
            raise ValueError(f"max_num_queued_reqs: must be 0 or more, got {self.max_num_queued_reqs}")
