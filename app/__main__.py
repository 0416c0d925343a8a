"""`python -m app` runs the API."""

import sys

from app.main import main

sys.exit(main())
