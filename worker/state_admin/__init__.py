"""What `modelvigil state` does with the stored state of a group: look at it, copy it to a file and back, forget it.

Rule 1: nothing is changed while the group has members; the broker checks it again at each commit.
Rule 2: what is written goes through the code that workers use, and is read back before anything points at it.
Rule 3: until the last transaction the old state stands: a command that ends half-way has changed nothing.
"""
