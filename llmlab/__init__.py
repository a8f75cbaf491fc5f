"""llmlab: how language models work and how they are trained in parallel, by running it.

`import llmlab as lab` loads names only when they are first used, so a notebook's first cell is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from llmlab.tracebacks import hide_library_frames

__version__ = "0.1.0"

_NAMES = {
    "comm.simulator": ["Simulator"],
    "comm.simulated.breaking": ["break_at"],
    "comm.processes": ["Processes", "Ray", "Torchrun"],
    "comm.group": ["Group"],
    "comm.mesh": ["Mesh"],
    "comm.faults": ["Dies", "SlowLink", "Lost"],
    "comm.trace": ["Event", "Trace", "Run"],
    "comm.errors": [
        "RankError", "RankDied", "RankTimeout", "DeadlockError", "MismatchError", "RaceError", "OutOfDeviceMemory",
        "Stopped",
    ],
    "model": ["Classifier", "Config", "Transformer", "add_lora", "lora_state", "merge_lora"],
    "model.pretrained": ["load_pretrained"],
    "finite": ["check_finite"],
    "agreeing": ["check_alike", "RanksDiffer"],
    "generation": ["generate"],
    "parallel.data": ["data_parallel"],
    "parallel.agreement": ["disagreement"],
    "parallel.compose": ["parallelize"],
    "parallel.layout": ["Layout"],
    "parallel.tensor": ["tensor_parallel"],
    "parallel.context": ["context_parallel"],
    "parallel.expert": ["expert_parallel"],
    "parallel.pipeline": ["pipeline_parallel"],
    "parallel.schedules": ["Schedule", "make_schedule"],
    "parallel.zero": ["zero"],
    "parallel.task": ["map_tasks", "TasksFailed"],
    "parallel.cleaning": ["clean_documents"],
    "parallel.server": ["parameter_server"],
    "parallel.local_sgd": ["local_sgd", "diloco", "average_weights"],
    "parallel.compression": ["compress_gradients", "TopK", "EightBit"],
    "parallel.reinforce": ["reinforce", "sync_bytes", "Task"],
    "parallel.inspection": ["describe"],
    "cost": ["predict", "plan", "Prices", "calibrate", "Measured", "Options", "Stack", "stacks"],
    "cost.models": ["find_config"],
    "diagnosing": ["time_spent", "utilization", "within", "between", "exposed_by_axis"],
    "profiles": ["read_profile"],
    "reporting": ["report"],
    "measuring": ["measure"],
    "plot": ["show", "explore"],
    "training": ["Trainer"],
}  # fmt: skip
_HOME = {name: module for module, names in _NAMES.items() for name in names}
_MODULES = (
    "applications", "check", "checkpoint", "comm", "compressing", "cost", "evaluate", "gallery", "generation",
    "hardware", "interpreting", "model", "optim", "parallel", "plot", "serving", "text", "training", "widgets",
)  # fmt: skip

__all__ = sorted([*_HOME, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"llmlab.{name}")
    if name not in _HOME:
        raise AttributeError(f"llmlab has no {name!r}{_nearest(name)}")
    value = getattr(import_module(f"llmlab.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def _nearest(name: str) -> str:
    """Say which name was meant, whatever its case; nothing for Python's own questions, such as `__path__`."""
    from difflib import get_close_matches  # here, so that importing llmlab stays quick

    known = {each.lower(): each for each in __all__}
    near = [] if name.startswith("__") else get_close_matches(name.lower(), known, n=1)
    return f"; did you mean {known[near[0]]!r}?" if near else ""


def __dir__() -> list[str]:
    return __all__


hide_library_frames()  # in a notebook an error shows your lines and its message
