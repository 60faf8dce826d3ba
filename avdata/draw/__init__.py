"""Everything that is drawn: pictures, charts, pages for a browser, and sounds to listen to.

`images` makes arrays and PNG bytes (colored log-mels, heat maps and masks over frames); `figures` and `scores` make
matplotlib figures, and nothing else in avkit imports matplotlib; `charts` makes inline SVG; `page` is the frame of an
HTML page and escapes what it shows; `examples` is a page of single samples of an evaluation; `audio` makes WAV bytes;
`mel_axis` places seconds and hertz on a log-mel; `output` writes the files.
"""
