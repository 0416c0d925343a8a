"""What `--help` tells of a running simulator: a line to copy for each kind of fault, and every switch."""

from simulator.faults import MEANINGS, Faults
from simulator.kinds import Call, DeleteGarbage, Fault, ListGarbage

EXAMPLES = """\
In brackets: the environment variable, which a flag wins over, and the default. While it runs, its faults are
switched under /_simulator, from this machine, without a token:

  S=http://127.0.0.1:9100/_simulator; faults() { curl -X PATCH $S/faults -d "$1"; }
  curl $S/faults                         # every switch, and the storm with its seconds left
  curl -X POST $S/reset                  # back to the start: accounts, switches, services, sessions, journal

  faults '{"delete_latency_s": 5, "delete_latency_jitter_s": 5, "delete_slow_rate": 0.02, "delete_slow_s": 50}'
  faults '{"list_latency_s": 1, "list_latency_jitter_s": 1, "list_slow_rate": 0.1, "list_slow_s": 20}'
  faults '{"delete_500_rate": 0.3, "list_500_rate": 0.1}'
  faults '{"delete_429_rate": 0.2, "list_429_rate": 0.2, "retry_after_s": 3}'
  faults '{"max_deletes_per_s": 2, "max_concurrent_deletes": 5}'
  faults '{"fail_next_deletes": 3, "fail_next_lists": 1, "fail_with": "429"}'
  faults '{"failing_accounts": [2009004], "hanging_accounts": ["lab-adventure-0002"], "resetting_accounts": [7]}'
  faults '{"html_accounts": [2009004], "html_status": 200, "list_html_rate": 0.1, "delete_html_rate": 0.1}'
  faults '{"delete_hang_rate": 0.1, "list_hang_rate": 0.1, "hang_deletes": true}'
  faults '{"delete_reset_rate": 0.1, "list_reset_rate": 0.1, "reset_deletes": true}'
  faults '{"delete_garbage": "not_found_html"}'
  faults '{"listing_lag_s": 60, "hidden_accounts": [2009004]}'
  faults '{"empty_listing": true}'
  faults '{"listing_fraction": 0.5, "duplicate_entries": 10, "shuffled_listing": true}'
  faults '{"page_cap": 50, "fail_list_page": 3, "fail_with": "500"}'
  faults '{"ignore_offset": true}'
  faults '{"list_garbage": "wrong_types", "garbage_every": 3}'
  faults '{"list_garbage": "huge_body", "huge_body_mb": 12}'
  faults '{"services_per_account": 2, "services_500_rate": 0.5, "services_hang_rate": 0.1}'
  faults '{"sign_in_rejects": true}'
  faults '{"services_html": true}'

  curl -X POST  $S/storm -d '{"seconds": 16, "kind": "500", "calls": ["delete", "list"]}'   # 0 seconds end it
  curl -X POST  $S/accounts -d '{"count": 50}'
  curl -X PATCH $S/accounts/2009004 -d '{"state": "disabled"}'
  curl "$S/services?csp_id=2009004"      # of one account; of all without csp_id
  curl -X POST  $S/services -d '{"csp_id": 2009004, "name": "lab-vpn-extra"}'
  curl "$S/journal?since=0"              # the provider's calls; a status of null: no answer was begun
"""

ENDING = "Ends with 0 on SIGTERM or SIGINT, 1 when it cannot listen, 2 on an option it does not accept.\n"


def _switches() -> str:
    """Every switch, its default and its meaning."""
    shown = Faults().shown()
    lines = [f"  {name:<24}{_value(shown[name]):<8}{meaning}" for name, meaning in MEANINGS.items()]
    return "switches, with their defaults:\n" + "\n".join(lines) + "\n"


def _value(default: object) -> str:
    if isinstance(default, tuple):
        return "[]"
    return str(default).lower() if isinstance(default, bool) else str(default)


WORDS = f"""\
fail_with, and the kind of a storm: {", ".join(Fault)}
calls of a storm: {", ".join(Call)}
list_garbage: {", ".join(ListGarbage)}
delete_garbage: {", ".join(DeleteGarbage)}
The first that applies wins: a storm, the limits, fail_next_*, named accounts, rates; then garbage.
"""

EPILOG = f"{EXAMPLES}\n{_switches()}\n{WORDS}\n{ENDING}"
