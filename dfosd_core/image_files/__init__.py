"""Image files: what is read and written, with its metadata."""
