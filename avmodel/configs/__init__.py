"""The settings of models, data, optimizers and runs: frozen dataclasses with defaults. No torch is imported here."""
