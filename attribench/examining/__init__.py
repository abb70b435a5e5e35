"""Is a problem what the harness takes it for?"""
