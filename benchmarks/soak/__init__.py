"""Long and large: what only shows after hours, or at sizes that nobody tests with; see docs/performance.md, "Soak"."""
