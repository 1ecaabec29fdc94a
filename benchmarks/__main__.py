"""Run the benchmarks: ``python -m benchmarks [names] [--quick] [--threads N] [--json FOLDER]``.

A benchmark is a file bench_*.py here with ``rows(quick)``, which yields dictionaries with the same keys, and optionally
``SETTINGS``, a dictionary of sizes, seeds and the like. A table goes to the terminal, table and surroundings to JSON.
"""

import argparse
import importlib
import json
import os
from pathlib import Path

HERE = Path(__file__).parent


def main():
    """Read the arguments and run."""
    known = sorted(path.stem for path in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure sciml against its peers.")
    parser.add_argument("names", nargs="*", help=f"which ones, all by default: {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="fewer problems and repeats")
    parser.add_argument("--threads", type=int, default=1, help="threads of the linear algebra; 1 by default")
    parser.add_argument("--json", type=Path, default=HERE / "results", metavar="FOLDER", help="where the JSON goes")
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.names) - set(known))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(chosen.threads)
    from benchmarks.measure import surroundings  # loads NumPy, which reads the number of threads once

    chosen.json.mkdir(parents=True, exist_ok=True)
    for name in chosen.names or known:
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"\n{name}: {module.__doc__.strip().splitlines()[0]}", flush=True)
        table, widths = [], None
        for row in module.rows(chosen.quick):
            table.append(row)
            if widths is None:
                widths = {key: max(len(key), 12 if not isinstance(value, str) else 26) for key, value in row.items()}
                print("  ".join(key.ljust(width) for key, width in widths.items()))
            print("  ".join(text(row[key]).ljust(width) for key, width in widths.items()), flush=True)
        report = {
            "benchmark": name,
            "quick": chosen.quick,
            "dtype": "float64",
            "settings": getattr(module, "SETTINGS", {}),
            "surroundings": surroundings(),
            "rows": table,
        }
        (chosen.json / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")


def text(value):
    """Return a value as it stands in the table."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
