"""The papers, as pure torch functions."""
