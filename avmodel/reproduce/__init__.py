"""The tables of the papers: what each row needs, the commands that give it, and the table that comes out.

PAPER.toml   every row of every table, with the paper's numbers and what is run for it, or why it cannot be run
tiny.toml    how all of it is run on drawn videos in minutes
paper        reads these files
plan         rows -> commands in order
run          carries the commands out, each once
report       results -> a table beside the paper's
estimate     hours and memory of the commands
pages        the tables of docs/reproduce
"""
