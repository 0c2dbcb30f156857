"""Runs the scenario list with the Python client (a C++ core), judges and counts.

Every scenario has a process of its own under a time limit: the core may hang or abort.
"""
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

LABEL = "python-0.4.4"
AT_ONCE = 6


def run_one(run, name, seconds):
    begin = time.monotonic()
    here = os.path.dirname(os.path.abspath(__file__))
    process = subprocess.Popen(
        [sys.executable, os.path.join(here, "scenarios.py"), name, run],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace")
    try:
        out, _ = process.communicate(timeout=seconds)
        verdict = [line for line in out.splitlines() if line.startswith("verdict ")]
        failure = verdict[-1][8:] if verdict else "the process ended with %d" % process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        failure = "no end within %d s" % seconds
    ok = failure == "ok"
    took = "ok %d" % ((time.monotonic() - begin) * 1000) if ok else "FAILED " + failure
    print("case %s %s %s" % (LABEL, name, took), flush=True)
    return ok


def main():
    import scenarios
    run = "P%x" % int(time.time() * 1000)
    only = re.compile(os.environ.get("ONLY") or ".*")
    verdicts = []
    for group, at_once in ((scenarios.TOGETHER, AT_ONCE), (scenarios.ALONE, 1)):
        with ThreadPoolExecutor(at_once) as turns:
            verdicts += turns.map(lambda s: run_one(run, s[0], s[1]),
                                  [s for s in group if only.fullmatch(s[0])])
    failed = verdicts.count(False)
    print("%s: %d passed, %d failed" % (LABEL, len(verdicts) - failed, failed), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
