"""Times that can be trusted, and the conditions they were taken under."""
