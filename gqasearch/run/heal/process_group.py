"""Several processes that train one model, as torchrun or accelerate start them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch

from gqasearch.errors import UserError

# The first process packs the text and runs the parent over it while the others wait: hours, where torch's own limit is
# ten minutes. The launcher ends them all when one fails.
PATIENCE = timedelta(days=2)


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is, on this machine (``local``) and in all."""

    rank: int = 0
    local: int = 0
    world: int = 1

    @classmethod
    def of_environment(cls) -> Ranks:
        """As the launcher says; one process where there is none."""
        return cls(*(int(os.environ.get(name, default)) for name, default in DEFAULTS.items()))

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def device(self, device: str) -> str:
        """This process's own: of several, each takes the GPU of its number."""
        return f"cuda:{self.local}" if device == "cuda" and self.world > 1 else device

    def check(self, device: str) -> None:
        """Raises ``UserError`` for a device that several processes cannot share out."""
        if self.world > 1 and device not in ("cpu", "cuda"):
            raise UserError(f"--device {device} is one device; {self.world} processes take --device cuda, or cpu")

    def join(self, device: str) -> None:
        """Begin to talk with the others."""
        if self.world > 1 and not torch.distributed.is_initialized():
            if device == "cuda":
                torch.cuda.set_device(self.local)
            torch.distributed.init_process_group("gloo" if device == "cpu" else "nccl", timeout=PATIENCE)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            torch.distributed.barrier()

    def leave(self) -> None:
        """End what ``join`` began."""
        if self.world > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


DEFAULTS = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
