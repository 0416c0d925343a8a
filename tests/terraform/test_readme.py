"""terraform/README.md and terraform.tfvars.example say what the configuration has."""

import re

import pytest

from local.engine import ROOT
from tests.terraform.readme import Entry, entries, outputs_table, variables_table

README = (ROOT / "terraform" / "README.md").read_text()
EXAMPLE = (ROOT / "terraform" / "terraform.tfvars.example").read_text()
VARIABLES = list(entries("variable"))
UNBOUND = {"deletion_protection", "access_log_bucket"}  # a bool; a name that S3 alone can judge


def test_the_readme_has_every_variable_as_it_is_declared():
    assert variables_table() in README


def test_the_readme_has_every_output_as_it_is_declared():
    assert outputs_table() in README


@pytest.mark.parametrize("entry", [*VARIABLES, *entries("output")], ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_every_variable_and_output_says_what_it_is(entry: Entry):
    assert re.fullmatch(r".{10,}\.", entry.description)


@pytest.mark.parametrize("entry", VARIABLES, ids=lambda entry: entry.name)
def test_every_variable_is_validated(entry: Entry):
    assert entry.validated == (entry.name not in UNBOUND)


def test_the_example_sets_what_has_no_default_and_names_nothing_unknown():
    set_ = re.findall(r"^(\w+) +=", EXAMPLE, re.MULTILINE)
    named = set(re.findall(r"^#? ?(\w+) +=", EXAMPLE, re.MULTILINE))
    assert {entry.name for entry in VARIABLES if entry.default is None} <= set(set_)
    assert named <= {entry.name for entry in VARIABLES}


def test_the_readme_names_files_that_exist():
    files = {file.name for file in (ROOT / "terraform").glob("*.tf")}
    assert set(re.findall(r"`(\w+\.tf)`", README)) - {"backend.tf"} <= files
    assert files - {"versions.tf", "variables.tf", "outputs.tf"} <= set(re.findall(r"`(\w+\.tf)`", README))
