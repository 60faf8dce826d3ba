"""python -m tests.faults.fuzz [--hours H | --count N] [--seed S] [--target NAME ...]"""

import argparse
import sys

from tests.faults.fuzz.runner import main
from tests.faults.fuzz.targets import TARGETS

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.fuzz", description="Read mutants of files from outside."
    )
    parser.add_argument("--hours", type=float, default=0.05, help="how long, if no count is given")
    parser.add_argument("--count", type=int, default=None, help="mutants of each target")
    parser.add_argument("--seed", type=int, default=0, help="of the first mutant; the next ones count up")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="default: all")
    given = parser.parse_args()
    sys.exit(main(given.target or list(TARGETS), given.seed, given.count, given.hours))
