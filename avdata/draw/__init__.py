"""Drawing: images, charts, HTML pages and WAV bytes.

- `images`: arrays and PNG bytes, such as colored log-mels, and heat maps and masks over frames.
- `figures`, `scores`: matplotlib figures. No other module of avkit imports matplotlib.
- `charts`: inline SVG.
- `page`: a self-contained HTML page; it escapes all text.
- `examples`: the page with the best and the worst samples of an evaluation.
- `audio`: WAV bytes.
- `mel_axis`: the positions of seconds and hertz on a log-mel.
- `output`: writes the files.
"""
