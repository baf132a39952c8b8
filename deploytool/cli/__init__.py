"""What is typed, and what becomes of it: parser, completion, and one command from its first line to its last."""
