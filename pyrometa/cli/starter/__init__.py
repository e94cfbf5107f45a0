"""What ``pyrometa init`` writes: these files, as they are."""
