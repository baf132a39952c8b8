"""From a branch, tag or SHA to a release in the store. Each module of `stages/` writes what one stage runs there."""
