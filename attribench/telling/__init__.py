"""What is told of results folders: tables, the terminal, cards."""
