"""Linear probe: heads on frozen features."""
