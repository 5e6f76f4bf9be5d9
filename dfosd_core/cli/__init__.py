"""The `dfosd` command: everything that prints, and everything that knows image files. No method here."""
