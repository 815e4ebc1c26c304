"""All benchmarks, a table each, in `benchmarks/results/`: `make bench` (or `make bench ARGS="loader epoch"`)."""

import importlib
import sys
from pathlib import Path

NAMES = tuple(
    sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("common", "keras_loop", "run"))
)


def main() -> None:
    chosen = sys.argv[1:] or NAMES
    if unknown := set(chosen) - set(NAMES):
        sys.exit(f"error: expected names of benchmarks ({', '.join(NAMES)}) but found {', '.join(sorted(unknown))}")
    missed = []
    for name in chosen:
        print(f"\n## {name}\n", flush=True)
        rows = importlib.import_module(name).main()
        missed += [row.question for row in rows if row.verdict == "MISSED"]
    print(f"\n{len(missed)} targets missed" + "".join(f"\n- {question}" for question in missed))


if __name__ == "__main__":
    main()
