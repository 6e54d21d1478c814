"""`python -m ukd_dist.cli` is `ukd`."""

from ukd_dist.cli import main

if __name__ == "__main__":
    main()
