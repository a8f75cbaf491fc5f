"""A profile of a real step as a run: torch.profiler's Chrome trace, a file a rank, or one written by `to_chrome`.

`time_spent` then says where its time went, as it does of a simulated one. What is known of a kernel is its name, so a
matrix product is one whose name says so. A collective's time on a device holds the wait for the other ranks: the
shortest of all ranks' is taken for the time that its bytes travel, which wants the file of every rank.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

from llmlab.arguments import instance
from llmlab.comm.trace import COLLECTIVES, PRODUCT, STREAMS, Event, Run, Trace

PRODUCTS = re.compile(  # as cuBLAS, CUTLASS, cuDNN, Triton, Tensile (Cijk) and torch's own CPU operations name them
    r"gemm|gemv|cutlass|nvjet|xmma|wgmma|cijk_|conv|flash|fmha|attention|(^|::|_)(addm|baddbm|bm|m)m(_|$)",
    re.IGNORECASE,
)
Clock = Literal["virtual", "wall"]
COMM = re.compile(r"^(nccl|rccl|gloo|llmlab:)", re.IGNORECASE)
# in the words of NCCL's kernels, its annotations, gloo's and shared memory's: letters only, as `allreduce`
CALLED = {name.replace("_", ""): name for name in (*COLLECTIVES, "send", "recv")} | {"sendrecv": "send"}
NOT_COMPUTING = ("autograd::", "c10d::", "record_param_comms", "torch.distributed", "torch::autograd::")
BYTES = {"Byte": 1, "Char": 1, "Half": 2, "BFloat16": 2, "Float": 4, "Int": 4, "Double": 8, "Long": 8}


def read_profile(*paths: str | Path) -> Run:
    """Read the profiles of a run, one of each rank (`.json` or `.json.gz`), as a measured Run.

    Clocks of several machines are set by the ends of the collectives that ranks share. With the kernels of a GPU in the
    file, those are what a rank computes; without, the operations of the CPU. `record_function` names spans, for
    `within`. Raises ValueError for a file that is no profile, and for two of one rank.
    """
    if not paths:
        raise ValueError("read_profile wants the files of a profile, one of each rank; got none")
    ranks: dict[int, list[Event]] = {}
    devices: dict[str, int] = {}
    for number, path in enumerate(paths):
        profile = _load(path)
        rows = [row for row in profile["traceEvents"] if row.get("ph") == "X"]
        if rows and all(row.get("cat") in STREAMS for row in rows):
            if len(paths) > 1:
                raise ValueError(f"a file of to_chrome holds all ranks: give it alone; got {len(paths)} files")
            return _ours(profile["traceEvents"], rows)
        rank = profile.get("distributedInfo", {}).get("rank", number)
        if rank in ranks:
            raise ValueError(f"read_profile wants one file of each rank; got two of rank {rank}, one is {path}")
        ranks[rank] = [*_torch(rows, rank)]
        name = next((device.get("name", "") for device in profile.get("deviceProperties", [])), "CPU")
        devices[name] = devices.get(name, 0) + 1
    if not any(event.stream == "compute" for events in ranks.values() for event in events):
        raise ValueError("a profile wants kernels or operations; got none. Were the steps inside `with profile(...)`?")
    together = _one_clock([ranks[rank] for rank in sorted(ranks)])
    hardware = ", ".join(f"{n} x {name}" if n > 1 else name for name, n in devices.items())
    events = sorted(together, key=lambda event: (event.start, event.rank))
    seconds = max(event.stop for event in events)
    trace = Trace(tuple(events), "wall", hardware)
    return Run([None] * len(ranks), seconds, "wall", trace, [], [], hardware)


def _load(path: str | Path) -> dict[str, Any]:
    instance("read_profile", "path", path, (str, Path))
    file = Path(path)
    try:
        content = file.read_bytes()
        found = json.loads(gzip.decompress(content) if file.suffix == ".gz" else content)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"read_profile wants a Chrome trace in JSON; {file.name}: {error}") from None
    found = {"traceEvents": found} if isinstance(found, list) else found  # both are Chrome's format
    if not isinstance(found, dict) or not isinstance(found.get("traceEvents"), list):
        raise ValueError(f"read_profile wants a Chrome trace, with its traceEvents; {file.name} has none")
    return found


def _ours(everything: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> Run:
    """What `Trace.to_chrome` wrote; each rank's name says the clock."""
    virtual = any("(virtual)" in row.get("args", {}).get("name", "") for row in everything if row.get("ph") == "M")
    events = []
    for row in rows:
        # to the clock's picosecond: what ended together must do so to the last bit
        start, stop = round(row["ts"] / 1e6, 12), round((row["ts"] + row["dur"]) / 1e6, 12)
        args = row.get("args", {})
        sizes = args.get("axis", ""), args.get("nbytes", 0), args.get("flops", 0)
        events.append(Event(row["pid"], row["cat"], row["name"], *sizes, start, stop))
    clock: Clock = "virtual" if virtual else "wall"
    ranks, seconds = 1 + max(event.rank for event in events), max(event.stop for event in events)
    return Run([None] * ranks, seconds, clock, Trace(tuple(events), clock), [], [])


def _torch(rows: Sequence[Mapping[str, Any]], rank: int) -> Iterator[Event]:
    """What a rank computes, says and is told, of the rows of its torch.profiler trace."""
    has_device = any(row.get("cat") == "kernel" for row in rows)
    spans = "gpu_user_annotation" if any(row.get("cat") == "gpu_user_annotation" for row in rows) else "user_annotation"
    for row in rows:
        kind, name = row.get("cat"), row["name"]
        start, stop = row["ts"] / 1e6, (row["ts"] + row.get("dur", 0)) / 1e6
        if COMM.match(name) and kind == ("kernel" if has_device else "user_annotation"):
            args = row.get("args", {})
            group = args.get("Process Group Description") or args.get("Process Group Name") or "world"
            nbytes = args.get("In msg nelems", 0) * BYTES.get(args.get("dtype", ""), 0)
            yield Event(rank, "comm", _collective(name, args), group, nbytes, 0, start, stop)
        elif _computes(kind, name, has_device):
            yield Event(rank, "compute", PRODUCT if PRODUCTS.search(name) else name, "", 0, 0, start, stop)
        elif kind == spans and not COMM.match(name):
            yield Event(rank, "host", name, "", 0, 0, start, stop)


def _computes(kind: str | None, name: str, has_device: bool) -> bool:
    if has_device:
        return kind in ("kernel", "gpu_memcpy", "gpu_memset") and not COMM.match(name)
    return kind == "cpu_op" and not name.startswith(NOT_COMPUTING) and not name.endswith("Backward0")


def _collective(name: str, args: Mapping[str, Any]) -> str:
    """Our word for a collective: of `ncclDevKernel_AllReduce_Sum_bf16_RING_LL(...)`, or `gloo:all_reduce`."""
    said = re.sub("[^a-z]", "", (args.get("Collective name") or COMM.sub("", name)).lower())
    found = [called for called in CALLED if called in said]
    return CALLED[max(found, key=len)] if found else said


def _one_clock(ranks: Sequence[list[Event]]) -> list[Event]:
    """Shift each rank so that the collectives it shares with the first end when they do there; time begins at 0."""
    reference = _ends(ranks[0]) if ranks else {}
    shifts = []
    for events in ranks:
        mine = _ends(events)
        shared = [mine[key] - reference[key] for key in mine.keys() & reference.keys()]
        shifts.append(median(shared) if shared else events[0].start - ranks[0][0].start)
    begin = min(event.start - shift for events, shift in zip(ranks, shifts, strict=True) for event in events)
    return [
        replace(event, start=event.start - shift - begin, stop=event.stop - shift - begin)
        for events, shift in zip(ranks, shifts, strict=True)
        for event in events
    ]


def _ends(events: Iterable[Event]) -> dict[tuple[str, str, int], float]:
    """When each collective of a rank ended: by what it is, its group, and the how manieth of these it is."""
    found: dict[tuple[str, str, int], float] = {}
    counted: dict[tuple[str, str], int] = {}
    for event in sorted(events, key=lambda event: event.start):
        if event.stream == "comm" and event.op in COLLECTIVES:
            number = counted[event.op, event.axis] = counted.get((event.op, event.axis), 0) + 1
            found[event.op, event.axis, number] = event.stop
    return found
