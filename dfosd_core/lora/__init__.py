"""The LoRA file: its names, its metadata, reading and writing it, merging it into a network."""
