"""`python -m landuse`: the same as the command `landuse`."""

from landuse.cli import main

if __name__ == "__main__":
    main()
