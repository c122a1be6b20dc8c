"""Everything that is measured: ``python -m benchmarks`` lists it."""
