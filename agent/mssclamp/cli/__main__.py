"""`python -m mssclamp.cli`."""

from mssclamp.cli import main

if __name__ == "__main__":
    main()
