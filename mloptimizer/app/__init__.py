"""What each command does: checks the request, continues a study, puts the parts together, and examines machines.

In: a request. Out: a search that runs, an export, a diagnosis of this machine.
"""
