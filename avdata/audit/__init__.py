"""What a dataset holds, whether it is whole, and how to look at it: what inspect shows.

`opened` finds out what was given and reads its rows; `summary` and `overlaps` compute on them; `verify`,
`deep` and `repair` prove that the bytes are right; `sample` reads one sample, `picture` draws it; `report` makes a page
for the browser.
"""
