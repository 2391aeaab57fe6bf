"""A process that measures when it is asked: `python -m benchmarking.worker MODULE`.

A request is a line of JSON with `task`, a name in the module's `TASKS`, and its `shapes` and `options`; the answer
is a line with the `value` that the task yields next, or with an `error`. Equal requests go on with the same task.
"""

import importlib
import json
import os
import sys
import traceback

from benchmarking.shapes import Shapes


def main() -> None:
    module = importlib.import_module(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not look like an answer
    running = {}
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if line not in running:
                running[line] = module.TASKS[request["task"]](Shapes(**request["shapes"]), **request["options"])
            answer = {"value": next(running[line])}
        except Exception as error:  # whatever it is, the other process must hear of it
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
