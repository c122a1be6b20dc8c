"""Worker: ``python -m lrp_fx.runtime.worker``, a process that writes shards for the one that started it.

It reads from standard input what `lrp_fx.runtime.workers` sends, and ends when that does.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from typing import Any

import torch

from lrp_fx.datasets.tasks import written
from lrp_fx.errors import LrpError
from lrp_fx.runtime.saved import load


def main() -> None:
    """Load the graph, and write a shard for each task until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that started it is told, and says so
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed is no answer

    def answer(what: Any) -> None:
        pickle.dump(what, answers)
        answers.flush()

    try:
        start = pickle.load(sys.stdin.buffer)
        torch.set_num_threads(start.settings.threads)
        try:
            explain = load(start.file, **start.options)
        except LrpError as error:
            return answer(str(error))
        while True:
            task = pickle.load(sys.stdin.buffer)
            try:
                answer(written(task, explain, explain.for_rows, start.settings, start.folder))
            except LrpError as error:
                return answer(str(error))
    except (EOFError, BrokenPipeError):
        return None


if __name__ == "__main__":
    main()
