"""The faces for image programs. Does nothing when imported, not even as top-level `nodes`, as WebUIs could."""
