"""Source separation: each sound by its picture."""
