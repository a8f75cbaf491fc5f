"""Serving: one model, many users at once, from an engine to be read in an hour.

Read requests.py (what is asked and answered), blocks.py (the paged cache's book-keeping), scheduler.py (who computes
what in a step), paged.py (attention over blocks), engine.py (the loop), then speculation.py and measures.py. On
hardware that is not here the same engine runs on a model of which only the cost is there: `lab.cost.serve`.
Around it: protocol.py (OpenAI's HTTP interface), driver.py (the engine's thread) and server.py.
"""

from typing import Any

from llmlab.serving.blocks import BlockPool
from llmlab.serving.engine import Engine, RanksDisagree, Stats
from llmlab.serving.measures import metrics
from llmlab.serving.protocol import Limits
from llmlab.serving.requests import Reply, Request, Token
from llmlab.serving.scheduler import Chunk, Scheduler
from llmlab.serving.speculation import Draft, NGram

__all__ = [
    "BlockPool",
    "Chunk",
    "Draft",
    "Engine",
    "Limits",
    "NGram",
    "RanksDisagree",
    "Reply",
    "Request",
    "Scheduler",
    "Server",
    "Stats",
    "Token",
    "metrics",
]


def __getattr__(name: str) -> Any:
    if name != "Server":
        raise AttributeError(f"llmlab.serving has no {name!r}")
    from llmlab.serving.server import Server  # here: it alone wants tornado, which comes with JupyterLab

    return Server
