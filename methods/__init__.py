"""Attribution methods, one a file; found by discovery."""
