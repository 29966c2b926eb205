"""Job scripts: from a bundle and what a user asks of a scheduler to a script that lasts."""
