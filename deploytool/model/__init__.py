"""What is known of releases, deployments and hosts, and what follows from it. Pure: no clock, no store, no network."""
