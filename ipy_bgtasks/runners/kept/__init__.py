"""Jobs that outlive the session: their directories, their watchers, and the sessions' view of them.

Each kept job has a directory of its own. What stands in it says at every moment what is true:

- `job.json` says what the job is. A directory without it is being made, or is a leftover.
- `state.json` says how far it is; it is replaced as a whole. Without it the job is queued while
  somebody holds the lock `launching`, the session or the watcher that it has just started; else
  the session is gone, and the job never starts.
- Until `state.json` says how the job ended, the lock `watched` is held by its watcher. If
  nobody holds it, the watcher was killed, and who finds that writes the end.

The system releases both locks when their holders are gone, however they went.
"""
