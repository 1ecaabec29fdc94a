"""Import every module of the checkout from the installed wheel, and prove that it came from there.

Usage, from outside of the checkout: python import_all.py CHECKOUT
"""

import importlib
import sys
import sysconfig
from pathlib import Path

root = Path(sys.argv[1]).resolve()
folders = {"sciml": "sciml", "solvers": "sciml.solvers", "inverse": "sciml.inverse", "stats": "sciml.stats"}
site = Path(sysconfig.get_path("purelib")).resolve()

names = []
for folder, prefix in folders.items():
    for path in sorted((root / folder).rglob("*.py")):  # rglob does not follow the links
        parts = path.relative_to(root / folder).with_suffix("").parts
        names.append(".".join([prefix, *parts]).removesuffix(".__init__"))

for name in names:
    file = Path(importlib.import_module(name).__file__).resolve()
    if not file.is_relative_to(site):
        sys.exit(f"{name} came from {file}, not from the wheel")
for file in ("py.typed", "datasets/penguins.csv"):
    if not (site / "sciml" / file).is_file():
        sys.exit(f"{file} is missing from the wheel")
for short in ("solvers", "inverse", "stats"):
    try:
        importlib.import_module(short)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{short} can be imported by its short name: the wheel puts more than sciml into site-packages")
sys.stdout.write(f"all {len(names)} modules import from the wheel\n")
