"""What a host may run: what `wanted` names by its digest, and, with `trust.signers`, somebody has signed."""
