"""From what the operator asked for to a fleet that serves it."""
