"""What a meta-step costs, against what else a user could run: one command a benchmark."""
