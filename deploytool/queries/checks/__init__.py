"""What `fab ENV check` tries, in the order in which a deploy needs it."""
