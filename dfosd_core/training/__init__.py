"""The method's training half: imported by train_tools and the tests only, so no host ever pays for it."""
