"""A gallery of faults that people met with torch's own parallel code, each with its cure: `lab.gallery.faults()`.

Each is a program of torch.distributed as it was written, and runs on simulated ranks; `examine` finds what is wrong
with it, or with a program of yours, and names the lines.
"""

from llmlab.gallery.catalogue import Fault, faults
from llmlab.gallery.examining import KINDS, Finding, examine

__all__ = ["KINDS", "Fault", "Finding", "examine", "faults"]
