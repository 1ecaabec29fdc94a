"""See the tests fail: apply each wrong line of mutants.toml to a copy of the tree and run its tests there.

Run ``python -m tests.mutate``, or with words that a mutant's name or file must contain; ``-j 2`` takes two at a time.
An entry of tests/mutants.toml is::

    [[mutant]]
    name = "iterate: the criterion is compared with the wrong sign"
    file = "sciml/iterate.py"
    find = "criterion <= tol"          # must occur exactly once
    replace = "criterion >= tol"
    tests = ["tests/test_iterate.py"]
    # expect = "survive"               # a control: a change that is mathematically equivalent

The checkout is never edited: each worker has a copy in a temporary folder, which is put first on the path of the tests.
The exit status is 0 when every mutant is killed, every control survives and every entry could be applied.
"""

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 180  # seconds; a mutant that never ends counts as killed
_IGNORED = shutil.ignore_patterns(
    ".git", ".venv*", "__pycache__", "*.egg-info", "build", "dist", "demo_output", "_build", ".*_cache", ".hypothesis"
)


def run_tests(copy, tests):
    """Return pytest's exit status and output for some tests in a copy of the tree."""
    # Without bytecode: a stale file of the same length and second would hide the wrong line.
    env = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "agg"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return 1, "timed out"
    return done.returncode, done.stdout + done.stderr


def judge(mutant, copy):
    """Apply one mutant to a copy, run its tests, put the line back; return the verdict."""
    path = copy / mutant["file"]
    text = path.read_text()
    times = text.count(mutant["find"])
    if times != 1:
        return f"invalid: find occurs {times} times in {mutant['file']}"
    if mutant["find"] == mutant["replace"]:
        return "invalid: replace changes nothing"
    path.write_text(text.replace(mutant["find"], mutant["replace"]))
    try:
        status, output = run_tests(copy, mutant["tests"])
    finally:
        path.write_text(text)
    if status not in (0, 1) or "ERROR collecting" in output:
        # No test ran: a mutant that cannot even be imported says nothing about the tests.
        return f"invalid: pytest ended with {status}: {output.strip().splitlines()[-1] if output.strip() else ''}"
    return "survived" if status == 0 else "killed"


def read(root):
    """Return the mutants of a tree, each with its defaults."""
    entries = tomllib.loads((root / "tests" / "mutants.toml").read_text())["mutant"]
    return [{"expect": "kill", **entry} for entry in entries]


def main(argv=None, root=ROOT):
    """Run the chosen mutants and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only mutants whose name or file contains one of these")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="how many at a time (default 1)")
    parser.add_argument("-l", "--list", action="store_true", help="list the mutants and stop")
    options = parser.parse_args(argv)
    words = options.words or [""]
    chosen = [m for m in read(root) if any(word in m["name"] or word in m["file"] for word in words)]
    if options.list or not chosen:
        print(*(f"{m['file']}: {m['name']}" for m in chosen), sep="\n")
        return 0 if chosen else 1

    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool:
        copies = queue.SimpleQueue()
        for worker in range(options.jobs):
            copies.put(shutil.copytree(root, Path(scratch) / str(worker), symlinks=True, ignore=_IGNORED))

        def with_copy(work, *arguments):
            copy = copies.get()
            try:
                return work(*arguments, copy)
            finally:
                copies.put(copy)

        # Tests that fail without any mutant would kill them all.
        suites = sorted({tuple(mutant["tests"]) for mutant in chosen})
        for suite, (status, output) in zip(
            suites, pool.map(lambda s: with_copy(lambda tests, copy: run_tests(copy, tests), s), suites), strict=True
        ):
            if status != 0:
                print(output[-3000:])
                print(f"{' '.join(suite)}: does not pass without any mutant")
                return 1
        wrong = 0
        for mutant, verdict in zip(chosen, pool.map(lambda m: with_copy(judge, m), chosen), strict=True):
            good = verdict == {"kill": "killed", "survive": "survived"}[mutant["expect"]]
            wrong += not good
            print(f"{'ok ' if good else 'BAD'} {verdict:<9} {mutant['file']}: {mutant['name']}", flush=True)
    print(f"{len(chosen) - wrong} of {len(chosen)} as expected")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
