"""A job: the handle users hold, the record behind it, its outcome and its progress."""
