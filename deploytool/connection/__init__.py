"""The line to the build server: who gets in, what becomes of the worker there, and what is asked of it."""
