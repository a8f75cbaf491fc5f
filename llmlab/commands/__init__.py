"""The command line, a short file for each group of commands; `register(commands)` in it adds them.

Errors are one line on stderr, exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from llmlab.commands import listing, planning, running, serving, simulating
from llmlab.commands.asking import Parser

GROUPS = (planning, listing, simulating, running, serving)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; give its exit code."""
    asked = parser().parse_args(arguments)
    try:
        code = asked.run(asked)
    except ValueError as error:
        print(f"llmlab {asked.command}: {error}", file=sys.stderr)
        return 2
    return code or 0


def parser() -> Parser:
    """Make the parser of all commands."""
    top = Parser(prog="llmlab", description="Plan and predict the training of language models on many GPUs; serve one.")
    commands = top.add_subparsers(dest="command", required=True, parser_class=Parser)
    for group in GROUPS:
        group.register(commands)
    return top
