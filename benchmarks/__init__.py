"""Measurements on real parts; see docs/performance.md. `make bench` runs them all."""
