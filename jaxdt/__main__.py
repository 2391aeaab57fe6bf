"""`python -m jaxdt`."""

from jaxdt.cli import main


if __name__ == "__main__":
    main()
