"""What knows nothing of graphs: errors, seeds, files, progress."""
