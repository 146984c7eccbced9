"""Exports a trained model so that it stands on its own."""
