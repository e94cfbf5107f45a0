"""Errors in words for a program's author: what, at which line, and the cure."""
