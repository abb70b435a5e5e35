"""Results folders and trained models on disk."""
