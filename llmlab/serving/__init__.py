"""Serving: one model, many users at once, from an engine to be read in an hour.

Read requests.py (what is asked and answered), blocks.py (the paged cache's book-keeping), scheduler.py (who computes
what in a step), paged.py (attention over blocks), engine.py (the loop), then speculation.py and measures.py. On
hardware that is not here the same engine runs on a model of which only the cost is there: `lab.cost.serve`.
"""

from llmlab.serving.blocks import BlockPool
from llmlab.serving.engine import Engine, RanksDisagree, Stats
from llmlab.serving.measures import metrics
from llmlab.serving.requests import Reply, Request, Token
from llmlab.serving.scheduler import Chunk, Scheduler
from llmlab.serving.speculation import Draft, NGram

__all__ = [
    "BlockPool",
    "Chunk",
    "Draft",
    "Engine",
    "NGram",
    "RanksDisagree",
    "Reply",
    "Request",
    "Scheduler",
    "Stats",
    "Token",
    "metrics",
]
