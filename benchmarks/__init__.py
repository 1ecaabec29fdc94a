"""Measurements of sciml against well tuned peers: ``python -m benchmarks [names] [--quick] [--json FOLDER]``."""
