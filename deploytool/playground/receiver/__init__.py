"""The built-in receiver: applies stretcher's manifests on one machine, with neither Consul nor stretcher.

`python -m deploytool.playground.receiver` takes the place of the `stretcher` program for pretend hosts; fleets run
stretcher. It does what stretcher's newest version does with every manifest that stretcher accepts; conformance tests
run the same cases on both. The order in which a manifest is read here is the order of the modules: event → download →
go_template → placeholders → manifest → commands → archive → sync, told as one story in `run`.

Left out, or different on purpose:

- of stretcher's options: `--retry`, `--timeout`, `--max-bandwidth`, `--random-delay`, `--rsync-verbose`;
- of its URL schemes: `gs`;
- of its template language: all but literals (see `go_template`);
- a manifest that breaks off while it is read over HTTP is refused: stretcher would execute the part that came.
"""

from deploytool.errors import DeployError


class ReceiverError(DeployError):
    """The manifest can't be had, read or executed."""

    kind = "receiver"
