"""Commands of the operator's, and notices to others, around the steps of a deployment."""
