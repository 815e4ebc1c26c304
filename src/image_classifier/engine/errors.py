"""The one exception that stands for a mistake of the user's; the command line prints it in one line."""


class UserError(Exception):
    """Bad input, told as: what was expected, what was found, what to type instead."""
