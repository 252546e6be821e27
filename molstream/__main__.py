"""`python -m molstream`: the command."""

from molstream.tools.main import main

if __name__ == "__main__":
    main()
