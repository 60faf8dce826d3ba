"""Fine-tuning: model and heads trained together."""
