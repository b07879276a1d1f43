"""How much memory is there to load a model into, without a library for it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

UNLIMITED: Final = 1 << 60
"""cgroup v1 writes a number near 2^63 where there is no limit."""


def available_memory(device: torch.device, *, spread: bool = False) -> int | None:
    """Bytes that can be had on a device now; None where that cannot be known.

    Args:
        device: Where the model is to lie.
        spread: Over all GPUs and, behind them, the main memory.
    """
    if device.type == "cuda":
        import torch

        if not spread:
            return int(torch.cuda.mem_get_info(device)[0])
        free = sum(int(torch.cuda.mem_get_info(at)[0]) for at in range(torch.cuda.device_count()))
        return free + (main_memory() or 0)
    return main_memory()


def main_memory(root: Path = Path("/")) -> int | None:
    """Bytes of main memory that this process can still have; None where that cannot be known.

    Args:
        root: Where `proc` and `sys` lie.
    """
    free = _free(root / "proc/meminfo")
    if free is None:
        return None
    return min([free, *_left_in_groups(root)])


def _free(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _left_in_groups(root: Path) -> list[int]:
    """What each control group that holds this process leaves it: the least of them counts."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            base, names = root / "sys/fs/cgroup", _V2
        elif "memory" in controllers.split(","):
            base, names = root / "sys/fs/cgroup/memory", _V1
        else:
            continue
        # Inside a container the path is the host's, and the group's own files lie at the base.
        folder = base / path.strip("/")
        for at in (folder, *folder.parents):
            if at != base and base not in at.parents:
                break
            left += _left(at, *names)
    return left


_V2: Final = ("memory.max", "memory.current", "inactive_file")
_V1: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _left(folder: Path, limit_name: str, used_name: str, cache_name: str) -> list[int]:
    try:
        limit = (folder / limit_name).read_text().strip()
        if limit == "max" or int(limit) >= UNLIMITED:
            return []
        used = int((folder / used_name).read_text())
    except (OSError, ValueError):
        return []
    # Pages of files that nobody is using are given back when memory is asked for.
    with suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == cache_name:
                used -= int(value)
    return [min(max(int(limit) - used, 0), int(limit))]
