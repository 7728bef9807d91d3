"""Write a log of a given size in which a database goes away, for log_agent.py.

.venv/bin/python server/examples/sample_log.py 100 big.log
"""

import random
import sys
from pathlib import Path

LINES_PER_S = 300
# The lines of the fault, and the share of them that are errors; elsewhere one in a thousand is one.
FAULT = range(150_000, 152_000)
SHARE = 0.3


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: sample_log.py MEGABYTES FILE")
    size_bytes, rng = int(sys.argv[1]) * 1_000_000, random.Random(1)
    written = number = 0
    with Path(sys.argv[2]).open("w") as file:
        while written < size_bytes:
            line = line_of(number, rng)
            written += file.write(line)
            number += 1


def line_of(number: int, rng: random.Random) -> str:
    second = number // LINES_PER_S
    time = f"2026-11-29 {second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}"
    if rng.random() < (SHARE if number in FAULT else 0.001):
        address = f"10.0.{rng.randrange(256)}.{rng.randrange(256)}:5432"
        return f"{time} ERROR worker {rng.randrange(64)} lost {address} after {rng.random() * 30:.3f} s\n"
    request = f"{rng.getrandbits(64):016x} GET /v1/items/{rng.randrange(10**6)}"
    return f"{time} INFO request {request} 200 {rng.random() * 300:.1f} ms, {rng.randrange(9999)} bytes\n"


if __name__ == "__main__":
    main()
