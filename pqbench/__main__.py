"""`python -m pqbench`."""

from pqbench.cli.main import main

if __name__ == "__main__":
    main()
