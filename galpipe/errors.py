"""Errors a user can mend: one sentence that says what is wrong, where, and what to do."""


class InputError(Exception):
    """Something given to galpipe is wrong; the command line prints the sentence and exits 2."""


class WorkspaceInUse(InputError):
    """Another run holds the workspace."""


class Interrupted(Exception):
    """The run was asked to stop; everything committed is kept and the command exits 130."""
