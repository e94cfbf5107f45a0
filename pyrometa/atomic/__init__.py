"""Operations that are done as a whole or not at all, one at a time in a process."""
