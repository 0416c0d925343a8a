"""`python -m worker` runs the worker."""

import sys

from worker.main import main

sys.exit(main())
