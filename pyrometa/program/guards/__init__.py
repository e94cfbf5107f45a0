"""What must hold of a program, one file a guard: proved on first data, or refused by name and with the cure."""
