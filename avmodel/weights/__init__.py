"""Weights from elsewhere: files of other projects read, checked, renamed, and written as checkpoints of ours."""
