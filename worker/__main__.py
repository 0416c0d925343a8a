"""`python -m worker` runs the worker under its supervisor; `python -m worker.main` runs it bare."""

import sys

from broker.supervisor import supervise

sys.exit(supervise("worker", process="worker"))
