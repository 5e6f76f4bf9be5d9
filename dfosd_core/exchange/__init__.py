"""LoRA files from and for other programs: converting, merging into a base's files, exporting as an ordinary LoRA."""
