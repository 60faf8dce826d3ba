"""Tasks that answer with a map: what of a spectrogram, or of a picture, belongs to what the other sense tells."""
