"`python -m genmix` is the `genmix` command."
import sys

from genmix.cli import main

sys.exit(main())
