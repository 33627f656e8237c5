"""`python -m mtkd_edge` is `mtkd-edge`."""

from mtkd_edge.cli.app import main

if __name__ == "__main__":
    main()
