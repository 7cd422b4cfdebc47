# SPDX-License-Identifier: Apache-2.0
"""How a node's process ends on each of several command lines: one process imports the node, and forks for each."""

import json
import subprocess
import sys
from pathlib import Path

PATIENCE = 300.0  # seconds
EACH = """
import importlib, json, os, sys, tempfile, traceback

name, lines = sys.argv[1], json.loads(sys.argv[2])
module = importlib.import_module(name)
ends = []
for arguments in lines:
    with tempfile.TemporaryFile("w+") as errors:
        if not (child := os.fork()):
            os.dup2(errors.fileno(), 2)
            sys.argv = [name, "--ros-args", *arguments]
            code = 1
            try:
                code = module.main()
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(code)
        status = os.waitpid(child, 0)[1]
        errors.seek(0)
        ends.append((os.waitstatus_to_exitcode(status), errors.read()))
print(json.dumps(ends))
"""


def ends_of(module: str, *lines: list[str]) -> list[tuple[int, str]]:
    """(exit code, standard error) of `module`'s main for each list of arguments after --ros-args."""
    command = [sys.executable, "-c", EACH, module, json.dumps(lines)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return [(code, errors) for code, errors in json.loads(done.stdout.splitlines()[-1])]
