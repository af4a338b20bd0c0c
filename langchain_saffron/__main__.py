"""`python -m langchain_saffron` is the `saffron` command."""

import sys

from langchain_saffron.cli import main

if __name__ == "__main__":
    sys.exit(main())
