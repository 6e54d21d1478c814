"""What `ukd` prints on stdout."""
