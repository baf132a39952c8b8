"""What both ends do to text. Shipped with the worker: Python 3.8, and the standard library only."""
