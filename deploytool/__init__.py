"""deploytool: build once, publish, announce, and show what the fleet really serves."""

__version__ = "0.1.0"
