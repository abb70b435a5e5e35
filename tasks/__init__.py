"""Tasks (data, model, gold), one a file; found by discovery."""
