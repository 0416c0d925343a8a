"""`python -m cli`: the same as `sandbox-broker`."""

import sys

from cli.main import main

sys.exit(main())
