"""The same as `jaxdt evaluate`."""

import sys

from jaxdt.cli import main


if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
