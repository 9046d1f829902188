"""The benchmarks of scripts/benchmark.py: one module a name, each with ``run(options)`` that returns a flat dict."""
