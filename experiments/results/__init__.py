"""Results beside published figures, one command each; docs/results.md says what came out."""
