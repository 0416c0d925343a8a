"""`python -m app` runs the API under its supervisor; `python -m app.main` runs it bare."""

import sys

from broker.supervisor import supervise

sys.exit(supervise("app", process="api"))
