"""The stages: input files to output files, one module each."""
