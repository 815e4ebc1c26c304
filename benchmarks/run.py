"""Benchmarks, a table each, in `benchmarks/results/`: `make bench`, or some of them: `make bench ARGS="loader epoch"`.

Those that take minutes each, such as five seeds of a recipe, are measured when they are asked for by name, or by
commands of their own (benchmarks/accuracy.py); else their recorded tables are printed.
"""

import importlib
import json
import sys
from pathlib import Path

from common import RESULTS

NAMES = tuple(
    sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("common", "keras_loop", "run"))
)
LONG = {
    *("accuracy", "compile", "decode", "explorer", "fine_tuning", "large_pictures", "many_pictures"),
    *("side_by_side", "step", "sweeps"),
}


def main() -> None:
    chosen = sys.argv[1:] or [name for name in NAMES if name not in LONG]
    if unknown := set(chosen) - set(NAMES):
        sys.exit(f"error: expected names of benchmarks ({', '.join(NAMES)}) but found {', '.join(sorted(unknown))}")
    for name in chosen:
        print(f"\n## {name}\n", flush=True)
        importlib.import_module(name).main()
    recorded = () if sys.argv[1:] else sorted(path.stem for path in RESULTS.glob("*.json") if path.stem not in chosen)
    print("\n# All tables")  # together, after what the runs printed in between
    for name in (*chosen, *recorded):
        heading = f"{name}, recorded earlier" if name in recorded else name
        print(f"\n## {heading}\n\n{(RESULTS / f'{name}.md').read_text()}")
    rows = [row for name in (*chosen, *recorded) for row in json.loads((RESULTS / f"{name}.json").read_text())["rows"]]
    for verdict in ("MISSED", "not measured"):
        questions = [row["question"] for row in rows if row["verdict"] == verdict]
        print(f"\n{len(questions)} {verdict}" + "".join(f"\n- {question}" for question in questions))


if __name__ == "__main__":
    main()
