"""Files of torch.save, read without unpickling: tensors, lists, dictionaries, numbers and text, and nothing else.

Such a file is a zip archive without compression (`archive.py`) with a pickle in it, whose instructions are interpreted
here (`machine.py`). A name of a function in them is compared with the few that torch.save needs and never looked up, so
no file can run anything, nor ask for more memory than it has bytes. torch.load(weights_only=True) calls what is on a
list, `bytearray` among it, and versions before 2.6 ran code out of certain files.
"""
