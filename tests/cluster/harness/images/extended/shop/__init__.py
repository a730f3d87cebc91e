"""A shop for pictures."""
