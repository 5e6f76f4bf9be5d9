"""The A1111 family as hosts: each file loads inside its own program only."""
