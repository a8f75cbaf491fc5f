"""The command line: `python -m llmlab plan --model llama3-70b --gpus 512 --device h100 --global-batch 1024 --seq 8192`.

Everything printed by `plan` and `predict` is modelled, not measured.
"""

from __future__ import annotations

import sys

from llmlab.commands import main

if __name__ == "__main__":
    sys.exit(main())
