"""`python -m experiments.claims`."""

from experiments.claims import main

if __name__ == "__main__":
    main()
