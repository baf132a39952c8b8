"""What app servers get: manifests with the scripts that they carry, and what is installed there."""
