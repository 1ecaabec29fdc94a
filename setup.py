"""Map the top-level folders onto sub-packages of sciml; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = {"sciml": "sciml", "sciml.solvers": "solvers", "sciml.inverse": "inverse", "sciml.stats": "stats"}
packages = set(FOLDERS)
for name, folder in FOLDERS.items():
    packages |= {f"{name}.{sub}" for sub in find_packages(folder)}
setup(
    packages=sorted(packages),
    package_dir=FOLDERS,
    package_data={"sciml": ["py.typed"], "sciml.datasets": ["penguins.csv"]},
)
