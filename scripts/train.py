"""The same as `jaxdt train`."""

import sys

from jaxdt.cli import main


if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
