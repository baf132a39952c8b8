"""The tasks of `fab`: see `fab --list`."""

from deploytool.tasks import namespace

__all__ = ["namespace"]
