"""What `modelvigil doctor` does: look at all that a worker needs, and say what to change.

    gathering.py, machine.py   facts: asked for side by side, each for a bounded time; what is not told is a `Missing`
    *_checks.py                judgements: free functions from facts and settings to findings
    report.py                  findings as a table and as JSON; the exit code

Rule 1: nothing is changed, and nothing is written to a topic.
Rule 2: what cannot be found out is `unknown`, never `ok`.
"""
