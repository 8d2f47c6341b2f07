"""Figures, all as ratios: ours against the bare thing and against each peer, in one run.

``python -m tests.benchmarks`` in a checkout, with the extras `test` and `bench` installed.
"""
