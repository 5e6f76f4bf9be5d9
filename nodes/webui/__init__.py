"""DFOSD in the A1111 family. Nothing happens here: `register.py` is what the door calls."""
