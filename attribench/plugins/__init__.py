"""What methods and tasks are, and how they are found."""
