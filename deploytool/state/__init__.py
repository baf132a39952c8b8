"""What the store and Consul hold of an environment: read, and written down."""
